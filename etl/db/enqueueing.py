"""Enqueueing: the one way in which request IDs come into the queue, but for plain SQL."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import cache

from sqlalchemy import Connection

from etl.db.clock import later_sql
from etl.db.rowsets import RowsStatement
from etl.db.states import LIVE
from etl.db.types import unless_known_sql

_ENQUEUE = """
INSERT INTO cdr_requests (account, request_id, batch, lane, run_after)
SELECT v.account, v.request_id, v.batch, v.lane, {due} FROM {rows}
LEFT JOIN cdr_requests AS known ON known.account = v.account AND known.request_id = v.request_id
WHERE known.id IS NULL
"""


def enqueue_requests(
    connection: Connection,
    request_ids: Sequence[str],
    *,
    account: str,
    batch: str | None,
    delay: timedelta,
    lane: int = LIVE,
) -> int:
    """Add request IDs to the queue, leaving those that are known as they are; returns how many were new."""
    seconds = delay.total_seconds()
    rows = [(account, request_id, batch, lane, seconds) for request_id in dict.fromkeys(request_ids)]
    results = _enqueue_statement(connection.dialect.name).execute(connection, rows)
    return sum(result.rowcount for result in results)


@cache
def _enqueue_statement(dialect: str) -> RowsStatement:
    insert = _ENQUEUE.format(due=later_sql(dialect, "v.delay"), rows="{rows}")
    # Somebody else may enqueue the same ID at this instant: that it is there then is all that is wanted.
    insert += unless_known_sql(dialect, "cdr_requests", "account", "request_id")
    columns = {"account": "exact", "request_id": "exact", "batch": "text", "lane": "int", "delay": "seconds"}
    return RowsStatement(dialect, insert, columns)
