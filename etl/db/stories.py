"""One request's story: its row, the answers that differed, its legs, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, Row, select

from etl.db.selection import Selection, known_accounts
from etl.db.tables import call_legs, cdr_requests, cdr_responses


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


def findings_on(request: Row[Any], legs: Sequence[Row[Any]]) -> list[dict[str, str]]:
    """What is odd about a request's data, by the names of the checks in `data_quality`."""
    findings = []
    if request.api_count is not None and request.api_count != request.leg_count:
        detail = f"count says {request.api_count}, and the last valid answer has {request.leg_count} legs"
        findings.append({"check_name": "count_mismatch", "detail": detail})
    findings += [
        {
            "check_name": "missing_leg",
            "detail": f"leg {leg.leg} to {leg.to_number or 'nobody'} is not in a later answer",
        }
        for leg in legs
        if leg.missing_since is not None
    ]
    return findings
