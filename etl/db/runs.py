"""The ledger: one row for every run, written at its start and kept true at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from typing import Any

from sqlalchemy import Connection, Row, TextClause, func, select, text, update

from etl import __version__
from etl.db.dialects import db_now, now_sql, seconds_ago
from etl.db.states import RUNNING
from etl.db.tables import RUN_COUNTS, cdr_requests, sync_runs

_RECENT = 10  # runs by which the present speed is told
_ADDED = ", ".join(f"{name} = {name} + :{name}" for name in RUN_COUNTS)
_COUNT = f"UPDATE sync_runs SET {_ADDED}, transactions = :turn, seen_at = {{now}} WHERE id = :run_id"


@dataclass(frozen=True, slots=True)
class Process:
    """A process of some machine. Its number means something only within its scope."""

    host: str
    pid: int
    pid_scope: str | None


def start_run(connection: Connection, *, command: str, batch: str | None, process: Process) -> int:
    """Write a run into the ledger; returns its number."""
    result = connection.execute(
        sync_runs.insert().values(
            command=command,
            batch=batch,
            host=process.host,
            pid=process.pid,
            pid_scope=process.pid_scope,
            version=__version__,
        )
    )
    key = result.inserted_primary_key
    return int(key[0]) if key else 0


def is_run_of(connection: Connection, run_id: int, process: Process) -> bool:
    """Whether the ledger holds this run, and as one of this process."""
    column = sync_runs.c
    return bool(
        connection.scalar(
            select(func.count()).where(
                column.id == run_id, column.host == process.host, column.pid == process.pid
            )
        )
    )


def count_run(connection: Connection, run_id: int, counts: Mapping[str, int], *, turn: int) -> None:
    """Add to a run's counts, in the transaction of what is counted, so that they outlive a kill."""
    added = {name: counts.get(name, 0) for name in RUN_COUNTS}
    connection.execute(_count_statement(connection.dialect.name), {"run_id": run_id, "turn": turn, **added})


@cache
def _count_statement(dialect: str) -> TextClause:
    return text(_COUNT.format(now=now_sql(dialect)))


def last_turn(connection: Connection, run_id: int) -> int:
    """The number of a run's last transaction that was committed, one whose reply was lost included.

    The lock waits for such a transaction where it is still on its way through the database.
    """
    turns: int | None = connection.scalar(
        select(sync_runs.c.transactions).where(sync_runs.c.id == run_id).with_for_update()
    )
    return turns or 0


def finish_run(connection: Connection, run_id: int, *, outcome: str, error: str | None) -> None:
    """Close a run."""
    connection.execute(
        update(sync_runs)
        .where(sync_runs.c.id == run_id)
        .values(outcome=outcome, error=error, finished_at=db_now())
    )


def abandon_dead_runs(
    connection: Connection, *, process: Process, is_alive: Callable[[int], bool], lease: timedelta
) -> None:
    """Close the runs that ended without a word.

    Of a process that is gone from this machine, the leases end as well. They would run out by themselves;
    this only saves waiting for it. Fenced as every claim is, a worker wrongly taken for dead writes nothing.
    A run elsewhere is closed once it was silent for as long as a lease lasts; should it be alive, it says so
    at its end.
    """
    column = sync_runs.c
    is_silent = func.coalesce(column.seen_at, column.started_at) < seconds_ago(lease)
    open_runs = select(
        column.id, column.host, column.pid, column.pid_scope, is_silent.label("is_silent")
    ).where(column.outcome == text("'running'"))
    for run_id, host, pid, pid_scope, was_silent in connection.execute(open_runs).all():
        if (host, pid_scope) == (process.host, process.pid_scope):
            if not is_alive(pid):
                finish_run(connection, run_id, outcome="abandoned", error="The process was gone")
                _end_leases(connection, run_id)
        elif was_silent:
            finish_run(connection, run_id, outcome="abandoned", error="It was not heard of any more")


def _end_leases(connection: Connection, run_id: int) -> None:
    connection.execute(
        update(cdr_requests)
        .where(cdr_requests.c.state == text(f"'{RUNNING}'"), cdr_requests.c.run_id == run_id)
        .values(lease_until=cdr_requests.c.updated_at)
    )


def held_claims(connection: Connection) -> dict[int, int]:
    """How many requests are claimed at the moment, by the run that claimed them."""
    column = cdr_requests.c
    claims = select(column.run_id, func.count()).where(column.state == text(f"'{RUNNING}'"))
    return dict(connection.execute(claims.group_by(column.run_id)).tuples().all())


def recent_call_rate(connection: Connection) -> float | None:
    """API calls a second in the latest runs that made any; None where no run has yet."""
    column = sync_runs.c
    latest = (
        select(column.api_calls, column.started_at, column.finished_at)
        .where(column.api_calls > 0, column.finished_at.is_not(None))
        .order_by(column.id.desc())
        .limit(_RECENT)
    )
    rows = connection.execute(latest).all()
    seconds = sum((row.finished_at - row.started_at).total_seconds() for row in rows)
    return sum(row.api_calls for row in rows) / seconds if seconds > 0 else None


def list_runs(connection: Connection, *, most: int) -> list[Row[Any]]:
    """The latest runs, the newest first."""
    return list(connection.execute(select(sync_runs).order_by(sync_runs.c.id.desc()).limit(most)))


def find_run(connection: Connection, run_id: int) -> Row[Any] | None:
    """One run; None where there is none of that number."""
    return connection.execute(select(sync_runs).where(sync_runs.c.id == run_id)).one_or_none()
