"""Figures about the queue, for `cdr-sync status` and for monitoring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, func, select, text

from etl.db.dialects import Instant, database_now, now_sql
from etl.db.states import DEAD, STATES
from etl.db.tables import api_accounts, call_legs, cdr_requests, sync_runs

# A request whose lease ran out is due, too: its worker died, and it has not been taken back yet.
_OLDEST_DUE = """
SELECT MIN(due) AS oldest FROM (
    SELECT MIN(run_after) AS due FROM cdr_requests WHERE state = 'pending' AND run_after <= {now}
    UNION ALL
    SELECT MIN(lease_until) FROM cdr_requests WHERE state = 'running' AND lease_until <= {now}
) AS waiting"""


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """The queue at an instant, as monitoring wants to know it."""

    now: datetime
    last_success_at: datetime | None  # end of the latest run with the outcome "ok"
    oldest_due_seconds: float | None
    running: int
    dead: Mapping[str, int]  # requests, by error kind
    breakers: Mapping[str, bool]  # by account: whether it is open


def queue_figures(connection: Connection) -> QueueFigures:
    """Read the figures that monitoring shows."""
    column = sync_runs.c
    # A run that calls no API does not show whether the job works.
    is_success = and_(column.outcome == "ok", column.command != "reprocess")
    last_success = select(column.finished_at).where(is_success).order_by(column.id.desc()).limit(1)
    running = text("SELECT COUNT(*) FROM cdr_requests WHERE state = 'running'")
    return QueueFigures(
        now=database_now(connection),
        last_success_at=connection.scalar(last_success),
        oldest_due_seconds=oldest_due_seconds(connection),
        running=connection.scalar(running) or 0,
        dead=dead_by_error_kind(connection),
        breakers={row.account: row.breaker_opened_at is not None for row in list_accounts(connection)},
    )


def requests_by_state(connection: Connection) -> dict[str, int]:
    """How many requests are in each state, with 0 for states that none is in."""
    column = cdr_requests.c.state
    counted = dict(connection.execute(select(column, func.count()).group_by(column)).tuples().all())
    return {state: counted.get(state, 0) for state in STATES}


def dead_by_error_kind(connection: Connection) -> dict[str, int]:
    """How many requests are dead, by error kind, the most frequent first."""
    column = cdr_requests.c
    statement = (
        select(column.last_error_kind, func.count())
        .where(column.state == text(f"'{DEAD}'"))  # a literal, because the index has it
        .group_by(column.last_error_kind)
        .order_by(func.count().desc(), column.last_error_kind)
    )
    return {kind or "unknown": count for kind, count in connection.execute(statement)}


def oldest_due_seconds(connection: Connection) -> float | None:
    """For how long the oldest due request has been due; None if none is due."""
    statement = text(_OLDEST_DUE.format(now=now_sql(connection.dialect.name))).columns(oldest=Instant)
    oldest = connection.scalar(statement)
    return None if oldest is None else max(0.0, (database_now(connection) - oldest).total_seconds())


def list_accounts(connection: Connection) -> list[Row[Any]]:
    """The row of each account."""
    return list(connection.execute(select(api_accounts).order_by(api_accounts.c.account)))


def count_legs(connection: Connection) -> int:
    """How many legs are stored, without those that a later answer no longer contained."""
    return connection.scalar(select(func.count()).where(call_legs.c.missing_since.is_(None))) or 0


def first_rows(connection: Connection, table: str, columns: str, *, most: int) -> list[Row[Any]]:
    """The first rows of a table or view; `table` and `columns` must not come from a user."""
    return list(connection.execute(text(f"SELECT {columns} FROM {table} ORDER BY 1, 2 LIMIT {most:d}")))
