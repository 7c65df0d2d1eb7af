"""Quick reads of a SQLite file with the standard library, because importing SQLAlchemy takes longer.

They serve a run with nothing to do, as most runs of a cron job are, and shell completion.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from etl import __version__
from etl.db import SCHEMA_REVISION
from etl.db.states import BACKFILL, LIVE

_PREFIX = "sqlite:///"
_BUSY_SECONDS = 0.3  # that shell completion waits for a writer
_LATEST = 20_000  # rows in which labels are looked up: the runs of two weeks, at one per minute
_NOW = "strftime('%Y-%m-%d %H:%M:%f000', 'now')"
_HAS_WORK = """
SELECT EXISTS (SELECT 1 FROM cdr_requests WHERE state = 'running')
    OR EXISTS (SELECT 1 FROM sync_runs WHERE outcome = 'running')
    OR EXISTS (SELECT 1 FROM api_accounts WHERE breaker_opened_at IS NOT NULL)"""
# In the order of the index, so that a hundred thousand pending requests cost no more than one.
_NEXT_ACCOUNT = "SELECT MIN(account) FROM cdr_requests WHERE state = 'pending' AND account > ?"
_HAS_DUE = f"""
SELECT EXISTS (
    SELECT 1 FROM cdr_requests
    WHERE state = 'pending' AND account = ? AND lane = ? AND run_after <= {_NOW})"""
_WRITE_RUN = f"""
INSERT INTO sync_runs (command, batch, host, pid, version, outcome, finished_at)
VALUES ('sync', ?, ?, ?, ?, 'ok', {_NOW})"""


def run_if_idle(database_url: str, accounts: Collection[str], *, batch: str | None) -> int | None:
    """Write a run with nothing to do into the ledger; returns its number, or None if there may be work.

    `accounts` are those that have credentials. Anything unusual counts as work: the real run reports it.
    """
    path = Path(database_url.removeprefix(_PREFIX))
    if not database_url.startswith(_PREFIX) or "?" in database_url or not path.is_file():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
            return _run(connection, accounts, batch)
    except sqlite3.Error:
        return None


def _run(connection: sqlite3.Connection, accounts: Collection[str], batch: str | None) -> int | None:
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("BEGIN IMMEDIATE")
    (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    (has_work,) = connection.execute(_HAS_WORK).fetchone()
    if revision != SCHEMA_REVISION or has_work or not _all_wait(connection, accounts):
        return None
    cursor = connection.execute(_WRITE_RUN, (batch, socket.gethostname(), os.getpid(), __version__))
    connection.execute("COMMIT")
    return cursor.lastrowid


def _all_wait(connection: sqlite3.Connection, accounts: Collection[str]) -> bool:
    """Whether nothing is due, and no request is pending for an account without credentials."""
    name = ""
    while True:
        (name,) = connection.execute(_NEXT_ACCOUNT, (name,)).fetchone()
        if name is None:
            return True
        if name not in accounts or any(
            connection.execute(_HAS_DUE, (name, lane)).fetchone() == (1,) for lane in (LIVE, BACKFILL)
        ):
            return False


_LABELS = f"""
SELECT batch FROM (SELECT id, batch FROM {{table}} ORDER BY id DESC LIMIT {_LATEST}) AS latest
WHERE batch IS NOT NULL GROUP BY batch ORDER BY MAX(id) DESC LIMIT 100"""
_RECENT_RUNS = "SELECT id, command, outcome FROM sync_runs ORDER BY id DESC LIMIT 50"


def recent_labels(database_url: str) -> list[str]:
    """The labels of the latest runs and requests, the latest first."""
    found = [_read(database_url, _LABELS.format(table=table)) for table in ("sync_runs", "cdr_requests")]
    return list(dict.fromkeys(label for rows in found for (label,) in rows))


def recent_runs(database_url: str) -> list[tuple[int, str, str]]:
    """The number, command and outcome of the latest runs, the latest first."""
    return [(number, command, outcome) for number, command, outcome in _read(database_url, _RECENT_RUNS)]


def _read(database_url: str, statement: str) -> Sequence[Any]:
    """The rows of a statement without parameters."""
    if database_url.startswith(_PREFIX) and "?" not in database_url:
        # `rw`: a file that does not exist is not created.
        place = Path(database_url.removeprefix(_PREFIX)).resolve().as_uri()
        with closing(sqlite3.connect(f"{place}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as connection:
            return connection.execute(statement).fetchall()
    from etl.db.engine import open_engine, reading  # noqa: PLC0415 (slow to import)

    engine = open_engine(database_url)
    try:
        with reading(engine) as connection:
            return connection.exec_driver_sql(statement).fetchall()
    finally:
        engine.dispose()
