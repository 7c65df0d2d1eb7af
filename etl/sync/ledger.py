"""A run's row in the ledger, and its numbered transactions.

The row holds the number of the run's last transaction, written in that transaction. If the reply to a commit
is lost, the run looks there whether it happened, so nothing is done or counted twice.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, Engine

from etl.db import runs
from etl.db.engine import in_transaction
from etl.db.runs import Process

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")

T = TypeVar("T")


class Ledger:
    """One run's row in `sync_runs`.

    Args:
        engine: the database.
        command: what the ledger calls the run.
        lease: for how long a run elsewhere may be silent before it counts as dead.
        batch: the label that the run is limited to.
    """

    def __init__(self, engine: Engine, *, command: str, lease: timedelta, batch: str | None = None) -> None:
        self.run_id = 0
        self.process = this_process()
        self._engine = engine
        self._command = command
        self._lease = lease
        self._batch = batch
        self._number = 0

    def open(self, prepare: Callable[[Connection], T]) -> T:
        """Write the run's row, and close the rows of runs that died; `prepare` is part of the transaction."""

        def work(connection: Connection) -> T:
            runs.abandon_dead_runs(connection, process=self.process, is_alive=is_alive, lease=self._lease)
            self.run_id = runs.start_run(
                connection, command=self._command, batch=self._batch, process=self.process
            )
            return prepare(connection)

        return in_transaction(
            self._engine,
            work,
            was_done=lambda connection, _: runs.is_run_of(connection, self.run_id, self.process),
        )

    def transact(self, work: Callable[[Connection], T], counts_of: Callable[[T], Mapping[str, int]]) -> T:
        """Run and count `work` in one transaction. It takes effect once, even if the commit reply is lost.

        Args:
            work: what to do; done again for each try.
            counts_of: what to add to the run's counts, from what `work` returned.
        """
        number = self._number = self._number + 1

        def numbered(connection: Connection) -> T:
            result = work(connection)
            runs.count_run(connection, self.run_id, counts_of(result), transaction=number)
            return result

        return in_transaction(
            self._engine,
            numbered,
            was_done=lambda connection, _: runs.last_transaction(connection, self.run_id) >= number,
        )

    def close(
        self, outcome: str, error: str | None, finish: Callable[[Connection], object] = lambda _: None
    ) -> None:
        """Close the run; `finish` is part of the transaction."""

        def work(connection: Connection) -> None:
            finish(connection)
            runs.finish_run(connection, self.run_id, outcome=outcome, error=error)

        in_transaction(self._engine, work)

    def fail(self, reason: str, work: Callable[[Connection], Mapping[str, int]] = lambda _: {}) -> None:
        """Close the run as failed, if the database allows it: it may be what failed."""
        with suppress(Exception), self._engine.begin() as connection:
            runs.count_run(connection, self.run_id, work(connection), transaction=self._number)
            runs.finish_run(connection, self.run_id, outcome="failed", error=reason)


def this_process() -> Process:
    """This process. Machines or containers can share a name; the scope of their process IDs differs."""
    try:
        scope = f"{_BOOT_ID.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:  # not Linux
        scope = None
    return Process(socket.gethostname(), os.getpid(), scope)


def is_alive(pid: int) -> bool:
    """Whether a process with this ID runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
