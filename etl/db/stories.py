"""One request's story: its row, the answers that differed, its legs, and what is odd about them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Row, select

from etl.db.selection import Selection, known_accounts
from etl.db.tables import call_legs, cdr_requests, cdr_responses
from etl.db.views import data_quality


def find_requests(connection: Connection, request_id: str) -> list[Row[Any]]:
    """The rows of one request ID, one an account."""
    # With the accounts named, the index by account and request ID serves.
    selection = Selection(accounts=known_accounts(connection), request_ids=(request_id,))
    return list(
        connection.execute(select(cdr_requests).where(selection.condition()).order_by(cdr_requests.c.account))
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


def findings_on(connection: Connection, account: str, request_id: str) -> list[Row[Any]]:
    """What is odd about a request's data: its rows of `data_quality`."""
    column = data_quality.c
    return list(
        connection.execute(
            select(column.check_name, column.leg, column.number, column.detail)
            .where(column.account == account, column.request_id == request_id)
            .order_by(column.check_name, column.detail)
        )
    )
