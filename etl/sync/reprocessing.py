"""Deriving legs again from the archived answers, with no call of the API.

It goes through the archive in bounded pages that each commit. A kill between two leaves whole pages behind,
and the same again does the rest, since what agrees with its answer already is left as it is. A dry run reads
and compares by the same code, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection, Engine

from etl.db import runs
from etl.db.archive import Span, archived_accounts, archived_page, meant_ids, write_rereadings
from etl.db.call_legs import upsert_legs
from etl.db.connection import reading
from etl.db.failures import is_bad_value
from etl.settings import Settings
from etl.sync.rereading import Page, read_page
from etl.sync.stopping import Stop
from etl.sync.transactions import in_transaction
from etl.sync.whereabouts import is_alive, this_process

PAGE = 200  # requests in one transaction; from 1,000 in a list, MariaDB reads and locks the whole table


@dataclass(slots=True)
class Result(Page):
    """What a run came to, or would."""

    run_id: int | None = None  # None for a dry run
    signal: int | None = None

    @property
    def outcome(self) -> str:
        """The outcome as the ledger calls it."""
        return "ok" if self.signal is None else "interrupted"

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return 0 if self.signal is None else 128 + self.signal


class Reprocessing:
    """One run of `reprocess`, or what it would do."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        span: Span,
        *,
        stop: Stop,
        on_page: Callable[[Result], None] = lambda _result: None,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._span = span
        self._stop = stop
        self._on_page = on_page
        self._process = this_process()
        self._run_id = 0
        self._number = 0  # of the transaction, by which a commit whose reply was lost is known

    def foresee(self) -> Result:
        """Find out what a run would change, and change nothing."""

        def look(account: str, request_ids: Sequence[str]) -> Page:
            with reading(self._engine) as connection:
                return self._read(connection, account, request_ids, locks=False)

        return self._go_through(Result(), look)

    def carry_out(self) -> Result:
        """Derive legs again, page by page, until the end or a signal."""
        in_transaction(
            self._engine,
            self._open,
            was_done=lambda connection, _: runs.is_run_of(connection, self._run_id, self._process),
        )
        try:
            result = self._go_through(Result(run_id=self._run_id), self._take)
        except BaseException as error:
            with suppress(Exception), self._engine.begin() as connection:
                runs.finish_run(connection, self._run_id, outcome="failed", error=type(error).__name__)
            raise
        finish = partial(runs.finish_run, run_id=self._run_id, outcome=result.outcome, error=None)
        in_transaction(self._engine, finish)
        return result

    def _open(self, connection: Connection) -> None:
        runs.abandon_dead_runs(
            connection, process=self._process, is_alive=is_alive, lease=self._settings.lease
        )
        self._run_id = runs.start_run(connection, command="reprocess", batch=None, process=self._process)

    def _go_through(self, result: Result, take: Callable[[str, Sequence[str]], Page]) -> Result:
        for account, request_ids in self._pages():
            result.add(take(account, request_ids))
            self._on_page(result)
        result.signal = self._stop.signal
        return result

    def _pages(self) -> Iterator[tuple[str, list[str]]]:
        """What is meant, some requests of one account at a time. A page without any costs no transaction."""
        with reading(self._engine) as connection:
            accounts = archived_accounts(connection, self._span)
        for account in accounts:
            last: str | None = None
            while not self._stop.is_wanted:
                with reading(self._engine) as connection:
                    page = archived_page(connection, account, after=last, most=PAGE)
                    meant = meant_ids(connection, account, page, self._span) if page else []
                if not page:
                    break
                last = page[-1]
                if meant:
                    yield account, meant

    def _take(self, account: str, request_ids: Sequence[str]) -> Page:
        """Derive a page again; one by one where the database refuses a value, so that it hits only one."""
        try:
            return self._write(account, request_ids)
        except Exception as error:
            if not is_bad_value(error):
                raise
            page = Page()
            if len(request_ids) == 1:
                why = f"the database refuses it: {getattr(error, 'orig', error)}"
                page.leave((account, request_ids[0]), why, counted_as="refused")
                return page
        for request_id in request_ids:
            page.add(self._take(account, [request_id]))
        return page

    def _write(self, account: str, request_ids: Sequence[str]) -> Page:
        number = self._number = self._number + 1

        def work(connection: Connection) -> Page:
            page = self._read(connection, account, request_ids, locks=True)
            upsert_legs(connection, page.changes, run_id=self._run_id)
            write_rereadings(connection, page.rereadings)
            runs.count_run(connection, self._run_id, page.counts, turn=number)
            return page

        return in_transaction(
            self._engine,
            work,
            was_done=lambda connection, _: runs.last_turn(connection, self._run_id) >= number,
        )

    def _read(self, connection: Connection, account: str, request_ids: Sequence[str], *, locks: bool) -> Page:
        return read_page(
            connection, account, request_ids, span=self._span, settings=self._settings, locks=locks
        )
