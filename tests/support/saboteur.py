"""Runs `cdr-sync` in a process that sends itself a signal at an exact place in a transaction.

Typed as `python saboteur.py PLACE SIGNAL WORDS…`, such as `after-claim-commit KILL sync`. The places are
`before-` or `after-` the commit of the first transaction that holds a `claim` or a `settle` statement, or a
`mark`, which puts requests into a backfill; and `before-settle-begin`, where answers are in hand. With
`WITHOUT_FENCE` in its environment, it has no fence.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import Engine, event
from sqlalchemy.engine.default import DefaultDialect

from etl.cli.main import main
from etl.sync.run import Run
from support.unguarded import take_out_fence

MARKS = {"claim": "attempts = attempts + 1", "settle": "done_token = v.token", "mark": "SET state="}


def lay_trap(place: str, number: int) -> None:
    """Let this process send itself the signal at the place."""
    when, what, _ = place.split("-")
    mark = MARKS[what]
    seen: set[object] = set()

    @event.listens_for(Engine, "before_cursor_execute")
    def note(connection, _cursor, statement, *_) -> None:
        # MySQL's driver qualifies the columns of an UPDATE … JOIN.
        if mark in statement.replace("cdr_requests.", ""):
            seen.add(connection.connection.dbapi_connection)

    commit = DefaultDialect.do_commit

    def do_commit(self, dbapi_connection) -> None:
        real = getattr(dbapi_connection, "dbapi_connection", dbapi_connection)
        is_there = real in seen
        if is_there:  # once: a process that is stopped here goes on later
            event.remove(Engine, "before_cursor_execute", note)
            seen.clear()
        if is_there and when == "before":
            os.kill(os.getpid(), number)
        commit(self, dbapi_connection)
        if is_there and when == "after":
            os.kill(os.getpid(), number)

    DefaultDialect.do_commit = do_commit


def lay_trap_before_settling(number: int) -> None:
    """Let this process send itself the signal when it has answers and no transaction yet."""
    write = Run._write

    def write_later(self, to_settle, **options):
        if to_settle:
            Run._write = write
            os.kill(os.getpid(), number)
        write(self, to_settle, **options)

    Run._write = write_later


if __name__ == "__main__":
    trap, name, *words = sys.argv[1:]
    signal_number = signal.Signals[f"SIG{name}"]
    if trap == "before-settle-begin":
        lay_trap_before_settling(signal_number)
    else:
        lay_trap(trap, signal_number)
    if os.environ.get("WITHOUT_FENCE"):
        take_out_fence()
    sys.argv = ["cdr-sync", *words]
    main()
