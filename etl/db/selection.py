"""Selecting requests: the one place that turns what a person asks for into a condition.

What only looks, what only tells (`--dry-run`) and what changes something all select by it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Row, and_, false, func, select, true

from etl.db.clock import db_now
from etl.db.states import BACKFILL, PENDING
from etl.db.tables import cdr_requests

_column = cdr_requests.c


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests are meant; None and empty mean any."""

    states: Sequence[str] = ()
    error_kind: str | None = None
    accounts: Sequence[str] = ()
    batch: str | None = None
    only_due: bool = False
    since: datetime | None = None  # when it was enqueued: half-open, so that months follow one another
    until: datetime | None = None
    request_ids: Sequence[str] | None = None  # a bounded list
    lane: int | None = None
    unmarked_by: str | None = None  # leaves out what this backfill has marked already

    def condition(self) -> ColumnElement[bool]:
        """The same as an SQL condition on `cdr_requests`."""
        parts: list[ColumnElement[bool]] = [true()]
        if self.states:
            parts.append(_column.state.in_(self.states))
        if self.accounts:
            parts.append(_column.account.in_(self.accounts))
        wanted = {"last_error_kind": self.error_kind, "batch": self.batch, "lane": self.lane}
        parts += [_column[name] == value for name, value in wanted.items() if value is not None]
        if self.only_due:
            parts.append(and_(_column.state == PENDING, _column.run_after <= db_now()))
        if self.since is not None:
            parts.append(_column.enqueued_at >= self.since)
        if self.until is not None:
            parts.append(_column.enqueued_at < self.until)
        if self.request_ids is not None:
            parts.append(_column.request_id.in_(self.request_ids) if self.request_ids else false())
        if self.unmarked_by is not None:
            # A batch is null for most, and null is not unequal to anything.
            has_label = func.coalesce(_column.batch, "") == self.unmarked_by
            parts.append(~and_(_column.lane == BACKFILL, has_label))
        return and_(*parts)


def count_requests(connection: Connection, selection: Selection) -> dict[tuple[str, int], int]:
    """How many requests are selected, by account and lane."""
    rows = connection.execute(
        select(_column.account, _column.lane, func.count())
        .where(selection.condition())
        .group_by(_column.account, _column.lane)
    )
    return {(account, lane): count for account, lane, count in rows}


def count_states(connection: Connection, selection: Selection) -> Counter[tuple[str, str]]:
    """How many requests are selected, by account and state."""
    rows = connection.execute(
        select(_column.account, _column.state, func.count())
        .where(selection.condition())
        .group_by(_column.account, _column.state)
    )
    return Counter({(account, state): count for account, state, count in rows})


def list_requests(connection: Connection, selection: Selection, *, most: int) -> list[Row[Any]]:
    """The selected requests, the latest change first."""
    return list(
        connection.execute(
            select(cdr_requests)
            .where(selection.condition())
            .order_by(_column.updated_at.desc(), _column.id.desc())
            .limit(most)
        )
    )


def select_rows(connection: Connection, selection: Selection) -> list[Row[Any]]:
    """What is selected by a bounded list of IDs: who it is, and how it stands."""
    columns = (_column.id, _column.account, _column.request_id, _column.state, _column.lane, _column.batch)
    return list(connection.execute(select(*columns).where(selection.condition()).order_by(_column.id)))


def select_page(
    connection: Connection, selection: Selection, *, after: int, up_to: int, most: int
) -> list[int]:
    """The next rows of a selection, by their number: a bounded page of any number of them."""
    statement = (
        select(_column.id)
        .where(_column.id > after, _column.id <= up_to, selection.condition())
        .order_by(_column.id)
        .limit(most)
    )
    return list(connection.scalars(statement))


def any_selected(connection: Connection, selection: Selection, ids: Sequence[int]) -> bool:
    """Whether any of some rows is selected."""
    return bool(ids) and connection.scalar(
        select(func.count()).where(_column.id.in_(ids), selection.condition())
    ) not in (None, 0)


def newest_row(connection: Connection) -> int:
    """The number of the request that arrived last; 0 where there is none."""
    return connection.scalar(select(func.max(_column.id))) or 0


def known_accounts(
    connection: Connection, column: Column[str] = _column.account, *conditions: ColumnElement[bool]
) -> list[str]:
    """The accounts that have requests, by one index look-up each however many requests there are."""
    names: list[str] = []
    statement = select(func.min(column)).where(*conditions)
    while True:
        name = connection.scalar(statement.where(column > names[-1]) if names else statement)
        if name is None:
            return names
        names.append(name)
