"""What a person at a shell is likely to name: the labels and runs of late, for completion.

Somebody waits at a key, so that only the latest rows are looked at, however many there are, and a SQLite file
is read by the standard library: SQLAlchemy takes longer to import than the whole answer may.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

_PREFIX = "sqlite:///"
_BUSY_SECONDS = 0.3
_LATEST = 20_000  # rows that are looked at: runs of two weeks where one starts every minute
_LABELS = f"""
SELECT batch FROM (SELECT id, batch FROM {{table}} ORDER BY id DESC LIMIT {_LATEST}) AS latest
WHERE batch IS NOT NULL GROUP BY batch ORDER BY MAX(id) DESC LIMIT 100"""
_RUNS = "SELECT id, command, outcome FROM sync_runs ORDER BY id DESC LIMIT 50"


def recent_labels(database_url: str) -> list[str]:
    """The labels of the latest runs and of the latest requests, the latest first."""
    found = [_read(database_url, _LABELS.format(table=table)) for table in ("sync_runs", "cdr_requests")]
    return list(dict.fromkeys(label for rows in found for (label,) in rows))


def recent_runs(database_url: str) -> list[tuple[int, str, str]]:
    """The latest runs: their number, command and outcome, the latest first."""
    return [(number, command, outcome) for number, command, outcome in _read(database_url, _RUNS)]


def _read(database_url: str, statement: str) -> Sequence[Any]:
    """The rows of a statement that has no parameters; whatever is wrong with the database is raised."""
    if database_url.startswith(_PREFIX) and "?" not in database_url:
        # Opened as it is, a file that is not there would be made.
        place = Path(database_url.removeprefix(_PREFIX)).resolve().as_uri()
        with closing(sqlite3.connect(f"{place}?mode=rw", uri=True, timeout=_BUSY_SECONDS)) as connection:
            return connection.execute(statement).fetchall()
    from etl.db.connection import open_engine, reading  # noqa: PLC0415 (as above)

    engine = open_engine(database_url)
    try:
        with reading(engine) as connection:
            return connection.exec_driver_sql(statement).fetchall()
    finally:
        engine.dispose()
