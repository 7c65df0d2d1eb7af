"""Selecting requests: the one place that turns what a person asks for into a condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, select, true

from etl.db.states import PENDING
from etl.db.tables import call_legs, cdr_requests, cdr_responses
from etl.db.types import db_now


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests are meant; None and empty mean any."""

    states: Sequence[str] = ()
    error_kind: str | None = None
    accounts: Sequence[str] = ()
    batch: str | None = None
    only_due: bool = False

    def condition(self) -> ColumnElement[bool]:
        """The same as an SQL condition on `cdr_requests`."""
        column = cdr_requests.c
        parts: list[ColumnElement[bool]] = [true()]
        if self.states:
            parts.append(column.state.in_(self.states))
        if self.error_kind is not None:
            parts.append(column.last_error_kind == self.error_kind)
        if self.accounts:
            parts.append(column.account.in_(self.accounts))
        if self.batch is not None:
            parts.append(column.batch == self.batch)
        if self.only_due:
            parts.append(and_(column.state == PENDING, column.run_after <= db_now()))
        return and_(*parts)


def count_requests(connection: Connection, selection: Selection) -> dict[tuple[str, int], int]:
    """How many requests are selected, by account and lane."""
    column = cdr_requests.c
    rows = connection.execute(
        select(column.account, column.lane, func.count())
        .where(selection.condition())
        .group_by(column.account, column.lane)
    )
    return {(account, lane): count for account, lane, count in rows}


def list_requests(connection: Connection, selection: Selection, *, most: int) -> list[Row[Any]]:
    """The selected requests, the latest change first."""
    column = cdr_requests.c
    return list(
        connection.execute(
            select(cdr_requests)
            .where(selection.condition())
            .order_by(column.updated_at.desc(), column.id.desc())
            .limit(most)
        )
    )


def find_requests(connection: Connection, request_id: str) -> list[Row[Any]]:
    """The rows of one request ID, one an account."""
    return list(
        connection.execute(
            select(cdr_requests)
            .where(cdr_requests.c.request_id == request_id)
            .order_by(cdr_requests.c.account)
        )
    )


def legs_of(connection: Connection, account: str, request_id: str) -> list[Row[Any]]:
    """All legs of a request, those that a later answer no longer held included."""
    column = call_legs.c
    return list(
        connection.execute(
            select(call_legs)
            .where(column.account == account, column.request_id == request_id)
            .order_by(column.leg, column.call_time, column.to_number, column.occurrence)
        )
    )


def responses_of(connection: Connection, account: str, request_id: str) -> list[Row[Any]]:
    """The archived answers of a request, the oldest first, without their bodies."""
    column = cdr_responses.c
    return list(
        connection.execute(
            select(column.revision, column.run_id, column.fetched_at, column.http_status, column.sha256)
            .where(column.account == account, column.request_id == request_id)
            .order_by(column.revision)
        )
    )
