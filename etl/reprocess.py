"""Derive legs again from the archived answers, without calling the API.

Pages of the archive are committed one by one. After a kill, the same command does the rest, because what
agrees with its answer already is left as it is. A dry run compares by the same code and writes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, Row

from etl.cdr.answers import SUCCESS, read_answer
from etl.cdr.legs import ClaimedRequest, Leg, LegChanges
from etl.cdr.outcomes import Done, Empty, decide_answer
from etl.cdr.parsing import parse_legs
from etl.db import runs
from etl.db.archive import (
    MALFORMED,
    ArchivedAnswer,
    Rereading,
    Span,
    archived_accounts,
    archived_page,
    ids_in_span,
    latest_answers,
    requests_by_id,
    write_rereadings,
)
from etl.db.engine import in_transaction, reading
from etl.db.errors import is_bad_value
from etl.db.legs import RequestKey, stored_legs, upsert_legs
from etl.db.states import DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.errors import MalformedError, RequestError
from etl.settings import Settings
from etl.sync.ledger import is_alive, this_process
from etl.sync.settle import leg_changes, waiting_rules
from etl.sync.signals import Stop

SHOWN = 20
REVIVED_AS = {DONE: "done", EMPTY: "empty", PENDING: "put_off"}  # by the names of the ledger's columns
_BODIES = 20  # in memory at a time: each may have 4 MB


@dataclass(slots=True)
class Page:
    """What some answers come to; of a whole run in the end."""

    counts: Counter[str] = field(default_factory=Counter)
    left: list[tuple[str, str, str]] = field(default_factory=list)  # some left alone: ID, account, why
    changes: dict[RequestKey, LegChanges] = field(default_factory=dict)  # to be written; not added up
    rereadings: list[Rereading] = field(default_factory=list)  # likewise

    def leave(self, key: RequestKey, why: object, *, counted_as: str) -> None:
        """Note an answer of which nothing can be made."""
        account, request_id = key
        self.counts["requests"] += 1
        self.counts[counted_as] += 1
        self.left.append((request_id, account, " ".join(str(why).split())[:300]))

    def add(self, other: Page) -> None:
        """Take over what another page came to."""
        self.counts.update(other.counts)
        self.left += other.left[: SHOWN - len(self.left)]


def read_page(
    connection: Connection,
    account: str,
    request_ids: Sequence[str],
    *,
    span: Span,
    settings: Settings,
    locks: bool,
) -> Page:
    """Read the latest answers of some requests of an account, and tell what they change.

    What is running is left to its run. With `locks`, no other request becomes so until the commit. The legs
    of a request that is not in the queue any more are derived all the same.
    """
    page = Page()
    held = requests_by_id(connection, account, request_ids, locks=locks)
    running = {request_id for request_id in request_ids if _state(held.get(request_id)) == RUNNING}
    page.counts.update(requests=len(running), running=len(running))
    wanted = [request_id for request_id in request_ids if request_id not in running]
    for first in range(0, len(wanted), _BODIES):
        answers = latest_answers(connection, account, wanted[first : first + _BODIES], span)
        stored = stored_legs(connection, [(account, answer.request_id) for answer in answers])
        for answer in answers:
            key = (account, answer.request_id)
            try:
                legs, count = _derive(answer, region=settings.default_region)
            except RequestError as error:
                page.leave(key, error, counted_as="unreadable")
                continue
            changes = leg_changes(connection, stored.get(key), legs)
            row = held.get(answer.request_id)
            rereading = None if row is None else _reread(row, answer, legs, count, changes, settings=settings)
            _note(page, key, changes, rereading)
    return page


def _state(row: Row[Any] | None) -> str | None:
    return None if row is None else row.state


def _derive(answer: ArchivedAnswer, *, region: str) -> tuple[tuple[Leg, ...], int | None]:
    """The legs of an archived answer, and how many the API said there are."""
    if not answer.is_as_received:
        raise MalformedError("the archive does not hold the bytes that came: they were no text")
    sent = read_answer(answer.http_status or SUCCESS, answer.body.encode())
    return parse_legs(sent, region=region), sent.count


def _reread(
    row: Row[Any],
    answer: ArchivedAnswer,
    legs: Sequence[Leg],
    count: int | None,
    changes: LegChanges,
    *,
    settings: Settings,
) -> Rereading | None:
    """What the queue's row must say now; None where it says so already.

    An answer that made its request dead, since it could not be read, is settled as it would have been when
    it came: one that was not final then is asked for again.
    """
    said = Rereading(row.id, changes.leg_count, count)
    if row.state == DEAD and row.last_error_kind == MALFORMED:
        request = ClaimedRequest(
            row.id, row.account, row.request_id, "", row.attempts, row.fetches, row.enqueued_at
        )
        rules = waiting_rules(settings)
        outcome = decide_answer(request, legs, count, changes, now=answer.fetched_at, rules=rules, chance=1.0)
        return replace(said, state={Done: DONE, Empty: EMPTY}.get(type(outcome), PENDING))
    return None if (row.leg_count, row.api_count) == (said.leg_count, said.api_count) else said


def _note(page: Page, key: RequestKey, changes: LegChanges, rereading: Rereading | None) -> None:
    page.counts.update(
        requests=1,
        changed=int(rereading is not None or not changes.is_same),
        legs_inserted=len(changes.inserted),
        legs_updated=len(changes.updated),
        legs_missing=len(changes.vanished),
        legs_unchanged=changes.unchanged,
    )
    if not changes.is_same:
        page.changes[key] = changes
    if rereading is not None:
        page.rereadings.append(rereading)
        if rereading.state is not None:
            page.counts[REVIVED_AS[rereading.state]] += 1


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
                    meant = ids_in_span(connection, account, page, self._span) if page else []
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
            runs.count_run(connection, self._run_id, page.counts, transaction=number)
            return page

        return in_transaction(
            self._engine,
            work,
            was_done=lambda connection, _: runs.last_transaction(connection, self._run_id) >= number,
        )

    def _read(self, connection: Connection, account: str, request_ids: Sequence[str], *, locks: bool) -> Page:
        return read_page(
            connection, account, request_ids, span=self._span, settings=self._settings, locks=locks
        )
