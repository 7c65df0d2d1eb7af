"""The ledger: one row per run, written at its start and updated in each of its transactions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, exists, func, select, text, update

from etl import __version__
from etl.db.dialects import db_now, later_sql
from etl.db.states import RUNNING
from etl.db.tables import RUN_COUNTS, cdr_requests, sync_runs

_RECENT = 10  # runs that the current rate is measured by


@dataclass(frozen=True, slots=True)
class Process:
    """A process on a machine. `pid` is valid only within `pid_scope`: a boot and a process namespace."""

    host: str
    pid: int
    pid_scope: str | None


def start_run(connection: Connection, *, command: str, batch: str | None, process: Process) -> int:
    """Add a run to the ledger; returns its number."""
    values = {"command": command, "batch": batch, "version": __version__, **asdict(process)}
    key = connection.execute(sync_runs.insert().values(values)).inserted_primary_key
    return int(key[0]) if key else 0


def is_run_of(connection: Connection, run_id: int, process: Process) -> bool:
    """Whether the ledger has this run, started by this process."""
    column = sync_runs.c
    is_its_row = and_(column.id == run_id, column.host == process.host, column.pid == process.pid)
    return bool(connection.scalar(select(exists().where(is_its_row))))


# Built once: it runs in every transaction, and building it takes longer than running it.
_COUNT = (
    update(sync_runs)
    .where(sync_runs.c.id == bindparam("run"))
    .values(
        {name: sync_runs.c[name] + bindparam(f"added_{name}") for name in RUN_COUNTS}
        | {"transactions": bindparam("transaction"), "seen_at": db_now()}
    )
)


def count_run(connection: Connection, run_id: int, counts: Mapping[str, int], *, transaction: int) -> None:
    """Add to a run's counts in the transaction of what is counted, so that a kill loses neither."""
    added = {f"added_{name}": counts.get(name, 0) for name in RUN_COUNTS}
    connection.execute(_COUNT, {"run": run_id, "transaction": transaction, **added})


def last_transaction(connection: Connection, run_id: int) -> int:
    """The number of a run's last committed transaction, even if the reply to its commit was lost.

    The lock waits for such a transaction if the database is still working on it.
    """
    number: int | None = connection.scalar(
        select(sync_runs.c.transactions).where(sync_runs.c.id == run_id).with_for_update()
    )
    return number or 0


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
    """Close the runs that were killed.

    If the process is gone from this machine, the run's leases end now. They would expire anyway; this only
    saves waiting. A worker that is wrongly taken for dead writes nothing, because every claim is fenced.
    A run on another machine is closed once it was silent for the length of a lease. If it is still alive, it
    corrects its row at its end.
    """
    column = sync_runs.c
    limit = text(later_sql(connection.dialect.name, ":seconds")).bindparams(seconds=-lease.total_seconds())
    is_silent = func.coalesce(column.seen_at, column.started_at) < limit
    shown = (column.id, column.host, column.pid, column.pid_scope, is_silent.label("is_silent"))
    open_runs = select(*shown).where(column.outcome == text("'running'"))
    for run_id, host, pid, pid_scope, was_silent in connection.execute(open_runs).all():
        if (host, pid_scope) != (process.host, process.pid_scope):
            if was_silent:
                error = "The run wrote nothing for the length of a lease"
                finish_run(connection, run_id, outcome="abandoned", error=error)
        elif not is_alive(pid):
            finish_run(connection, run_id, outcome="abandoned", error="The process was gone")
            connection.execute(
                update(cdr_requests)
                .where(cdr_requests.c.state == text(f"'{RUNNING}'"), cdr_requests.c.run_id == run_id)
                .values(lease_until=cdr_requests.c.updated_at)
            )


def held_claims(connection: Connection) -> dict[int, int]:
    """How many requests are claimed right now, by the run that claimed them."""
    column = cdr_requests.c
    claims = select(column.run_id, func.count()).where(column.state == text(f"'{RUNNING}'"))
    return dict(connection.execute(claims.group_by(column.run_id)).tuples().all())


def recent_call_rate(connection: Connection) -> float | None:
    """API calls per second in the latest runs that made any; None if no run did."""
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
    """One run; None if there is no run with that number."""
    return connection.execute(select(sync_runs).where(sync_runs.c.id == run_id)).one_or_none()
