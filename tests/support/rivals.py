"""Another worker, in a thread and with a connection of its own, that can be seen waiting for a lock."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import event, text

from etl.db.engine import open_engine, reading
from support.operators import wait_until
from support.systems import guard
from support.unguarded import take_out

_WAITING = {
    "postgresql": "SELECT COUNT(*) FROM pg_stat_activity"
    " WHERE datname = current_database() AND wait_event_type = 'Lock'",
    # Not `innodb_trx`, which is kept as it was for as long as somebody looks at it often.
    "mysql": "SELECT CAST(variable_value AS INT) FROM information_schema.global_status"
    " WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS'",
}


class Rival:
    """Does something in a transaction of its own, begun as soon as it is made."""

    def __init__(self, url, work, *, without=()):
        self.engine = open_engine(url)
        self.taken_out = take_out(self.engine, dict(without))
        self._work = work
        self._sent = []
        self._outcome = {}
        event.listen(self.engine, "before_cursor_execute", self._note)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait_until_blocked(self):
        """Return once it waits for a lock that somebody else holds."""
        wait_until(lambda: not self._thread.is_alive() or self._is_blocked())
        if not self._thread.is_alive():
            pytest.fail(f"nobody made it wait: {self._outcome}")

    def finish(self):
        """Wait for its end; gives what it returned, or raises what it raised."""
        guard(self._thread.join)
        self.engine.dispose()
        if "error" in self._outcome:
            raise self._outcome["error"]
        return self._outcome["value"]

    def _run(self):
        try:
            with self.engine.begin() as connection:
                self._outcome["value"] = self._work(connection)
        except Exception as error:  # noqa: BLE001 (raised again in `finish`)
            self._outcome["error"] = error

    def _note(self, _connection, _cursor, statement, *_):
        self._sent.append(statement)

    def _is_blocked(self):
        dialect = self.engine.dialect.name
        if dialect == "sqlite":  # it has one lock, with which a writing transaction begins
            return "BEGIN IMMEDIATE" in self._sent
        with reading(self.engine) as connection:
            return connection.scalar(text(_WAITING[dialect])) > 0
