"""The ledger: one row for every run, written at its start and kept true at every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, select, text, update

from etl import __version__
from etl.db.tables import RUN_COUNTS, cdr_requests, sync_runs
from etl.db.types import db_now

_ADDED = ", ".join(f"{name} = {name} + :{name}" for name in RUN_COUNTS)
_COUNT = text(f"UPDATE sync_runs SET {_ADDED} WHERE id = :run_id")


def start_run(connection: Connection, *, command: str, batch: str | None, host: str, pid: int) -> int:
    """Write a run into the ledger; returns its number."""
    result = connection.execute(
        sync_runs.insert().values(command=command, batch=batch, host=host, pid=pid, version=__version__)
    )
    key = result.inserted_primary_key
    return int(key[0]) if key else 0


def count_run(connection: Connection, run_id: int, counts: Mapping[str, int]) -> None:
    """Add to a run's counts, in the transaction of what is counted, so that they outlive a kill."""
    if any(counts.values()):
        connection.execute(_COUNT, {"run_id": run_id, **{name: counts.get(name, 0) for name in RUN_COUNTS}})


def finish_run(connection: Connection, run_id: int, *, outcome: str, error: str | None) -> None:
    """Close a run."""
    connection.execute(
        update(sync_runs)
        .where(sync_runs.c.id == run_id)
        .values(outcome=outcome, error=error, finished_at=db_now())
    )


def abandon_dead_runs(connection: Connection, *, host: str, is_alive: Callable[[int], bool]) -> list[int]:
    """Close the runs of this host whose process is gone, and end the leases that they held.

    A lease would run out by itself; this only saves waiting for it. Fenced as every claim is, a worker
    wrongly taken for dead writes nothing.
    """
    open_runs = select(sync_runs.c.id, sync_runs.c.pid).where(
        sync_runs.c.outcome == "running", sync_runs.c.host == host
    )
    gone = [row.id for row in connection.execute(open_runs) if not is_alive(row.pid)]
    for run_id in gone:
        finish_run(connection, run_id, outcome="abandoned", error="The process was gone")
        connection.execute(
            update(cdr_requests)
            .where(cdr_requests.c.state == "running", cdr_requests.c.run_id == run_id)
            .values(lease_until=cdr_requests.c.updated_at)
        )
    return gone


def list_runs(connection: Connection, *, most: int) -> list[Row[Any]]:
    """The latest runs, the newest first."""
    return list(connection.execute(select(sync_runs).order_by(sync_runs.c.id.desc()).limit(most)))


def find_run(connection: Connection, run_id: int) -> Row[Any] | None:
    """One run; None where there is none of that number."""
    return connection.execute(select(sync_runs).where(sync_runs.c.id == run_id)).one_or_none()
