"""`--single-instance`: one run at a time on this machine, for those who want it so.

Overlapping runs are safe without it. The lock is the operating system's, which gives it up when its
process ends, however it ends.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from etl.errors import AlreadyRunningError


@contextmanager
def only_one(database_url: str) -> Iterator[None]:
    """Hold the lock of this database while this lasts.

    Raises:
        AlreadyRunningError: another process on this machine holds it.
    """
    import fcntl  # noqa: PLC0415 (not there on Windows)

    from etl.db.engine import sqlite_path  # noqa: PLC0415

    file_path = sqlite_path(database_url)
    subject = str(file_path.resolve()) if file_path else database_url
    name = hashlib.sha256(subject.encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"cdr-sync-{os.getuid()}-{name}.lock"
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunningError(
                "Another run of --single-instance is at work; this one leaves"
            ) from None
        yield
