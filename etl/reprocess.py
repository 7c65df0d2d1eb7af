"""Derive legs again from the archived answers, without calling the API.

The archive is read in chunks, and each chunk commits on its own. After a kill, the same command does the
rest: what agrees with its answer already is left as it is. A preview compares by the same code and writes
nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row

from etl.cdr.answers import SUCCESS, read_answer
from etl.cdr.legs import ClaimedRequest, Leg, LegChanges
from etl.cdr.outcomes import Done, Empty, decide_answer
from etl.cdr.parsing import parse_legs
from etl.db.archive import (
    MALFORMED,
    ArchivedAnswer,
    Rereading,
    archived_accounts,
    archived_page,
    ids_in_span,
    latest_answers,
    requests_by_id,
    write_rereadings,
)
from etl.db.engine import reading
from etl.db.errors import is_bad_value
from etl.db.legs import RequestKey, stored_legs, upsert_legs
from etl.db.selection import Span
from etl.db.states import DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.errors import ExitCode, MalformedError, RequestError
from etl.settings import Settings
from etl.sync.ledger import Ledger
from etl.sync.settle import leg_changes, waiting_rules
from etl.sync.signals import Stop

CHUNK = 200  # requests per transaction, whose legs are compared and written together
_BODIES = 20  # in memory at a time: each may have 4 MB
_MOST_EXAMPLES = 20
_REVIVED_AS = {DONE: "done", EMPTY: "without_legs", PENDING: "put_off"}  # state to column of the ledger


class Skipped(NamedTuple):
    """A request whose answer cannot be used."""

    request_id: str
    account: str
    reason: str


@dataclass(slots=True)
class Result:
    """What a run did, or would do: `counts` by the ledger's columns, and some of the requests it skipped."""

    counts: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    run_id: int | None = None  # None for a preview
    signal: int | None = None

    @property
    def outcome(self) -> str:
        """The outcome as the ledger calls it."""
        return "ok" if self.signal is None else "interrupted"

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return ExitCode.OK if self.signal is None else 128 + self.signal

    def add(self, other: Result) -> None:
        """Add the counts and examples of a chunk."""
        self.counts.update(other.counts)
        self.skipped += other.skipped[: _MOST_EXAMPLES - len(self.skipped)]

    def skip(self, key: RequestKey, reason: object, *, counted_as: str) -> None:
        """Note a request whose answer cannot be used."""
        account, request_id = key
        self.counts.update(("requests", counted_as))
        self.skipped.append(Skipped(request_id, account, " ".join(str(reason).split())[:300]))


@dataclass(slots=True)
class _Derived:
    """What the answers of a chunk come to: its result, and what is to be written."""

    result: Result = field(default_factory=Result)
    changes: dict[RequestKey, LegChanges] = field(default_factory=dict)
    rereadings: list[Rereading] = field(default_factory=list)

    def add(self, key: RequestKey, changes: LegChanges, rereading: Rereading | None) -> None:
        self.result.counts.update(
            requests=1,
            changed=int(rereading is not None or not changes.is_same),
            legs_inserted=len(changes.inserted),
            legs_updated=len(changes.updated),
            legs_missing=len(changes.vanished),
            legs_unchanged=changes.unchanged,
        )
        if not changes.is_same:
            self.changes[key] = changes
        if rereading is not None:
            self.rereadings.append(rereading)
            if rereading.state is not None:
                self.result.counts[_REVIVED_AS[rereading.state]] += 1


class Reprocessing:
    """One run over the latest answers that were received in a span of time."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        span: Span,
        *,
        stop: Stop,
        on_chunk: Callable[[Result], None] = lambda _result: None,
        chunk: int = CHUNK,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._span = span
        self._stop = stop
        self._on_chunk = on_chunk
        self._chunk = chunk
        self._ledger = Ledger(engine, command="reprocess", lease=settings.lease)

    def preview(self) -> Result:
        """Find out what a run would change, and change nothing."""

        def look(account: str, request_ids: Sequence[str]) -> Result:
            with reading(self._engine) as connection:
                return self._derive_chunk(connection, account, request_ids, locks=False).result

        return self._go_through(Result(), look)

    def apply(self) -> Result:
        """Derive legs again, chunk by chunk, until the end or a signal."""
        self._ledger.open(lambda _connection: None)
        try:
            result = self._go_through(Result(run_id=self._ledger.run_id), self._apply_chunk)
        except BaseException as error:
            self._ledger.fail(type(error).__name__)
            raise
        self._ledger.close(result.outcome, None)
        return result

    def _go_through(self, result: Result, take: Callable[[str, Sequence[str]], Result]) -> Result:
        for account, request_ids in self._chunks():
            result.add(take(account, request_ids))
            self._on_chunk(result)
        result.signal = self._stop.signal
        return result

    def _chunks(self) -> Iterator[tuple[str, list[str]]]:
        """The requests in question, some of one account at a time."""
        with reading(self._engine) as connection:
            accounts = archived_accounts(connection, self._span)
        for account in accounts:
            last: str | None = None
            while not self._stop.is_wanted:
                with reading(self._engine) as connection:
                    page = archived_page(connection, account, after=last, most=self._chunk)
                    wanted = ids_in_span(connection, account, page, self._span) if page else []
                if not page:
                    break
                last = page[-1]
                if wanted:  # or else it would cost a transaction that does nothing
                    yield account, wanted

    def _apply_chunk(self, account: str, request_ids: Sequence[str]) -> Result:
        """Derive a chunk again, or its requests one by one where the database rejects a value of one."""
        try:
            return self._write_chunk(account, request_ids)
        except Exception as error:
            if not is_bad_value(error):
                raise
            result = Result()
            if len(request_ids) == 1:
                reason = f"the database rejects it: {getattr(error, 'orig', error)}"
                result.skip((account, request_ids[0]), reason, counted_as="refused")
                return result
        for request_id in request_ids:
            result.add(self._apply_chunk(account, [request_id]))
        return result

    def _write_chunk(self, account: str, request_ids: Sequence[str]) -> Result:
        def work(connection: Connection) -> Result:
            derived = self._derive_chunk(connection, account, request_ids, locks=True)
            upsert_legs(connection, derived.changes, run_id=self._ledger.run_id)
            write_rereadings(connection, derived.rereadings)
            return derived.result

        return self._ledger.transact(work, lambda result: result.counts)

    def _derive_chunk(
        self, connection: Connection, account: str, request_ids: Sequence[str], *, locks: bool
    ) -> _Derived:
        """Read the latest answers of some requests of an account, and compare them with what is stored.

        A running request is left to its run. With `locks`, no other request starts to run until the commit.
        The legs of a request that was removed from the queue are derived all the same.
        """
        derived = _Derived()
        held = requests_by_id(connection, account, request_ids, locks=locks)
        idle = [one for one in request_ids if one not in held or held[one].state != RUNNING]
        running = len(request_ids) - len(idle)
        derived.result.counts.update(requests=running, running=running)
        for first in range(0, len(idle), _BODIES):
            answers = latest_answers(connection, account, idle[first : first + _BODIES], self._span)
            stored = stored_legs(connection, [(account, answer.request_id) for answer in answers])
            for answer in answers:
                key = (account, answer.request_id)
                try:
                    legs, count = _read_legs(answer, region=self._settings.default_region)
                except RequestError as error:
                    derived.result.skip(key, error, counted_as="unreadable")
                    continue
                changes = leg_changes(connection, stored.get(key), legs)
                row = held.get(answer.request_id)
                rereading = None
                if row is not None:
                    rereading = _reread(row, answer, legs, count, changes, settings=self._settings)
                derived.add(key, changes, rereading)
        return derived


def _read_legs(answer: ArchivedAnswer, *, region: str) -> tuple[tuple[Leg, ...], int | None]:
    """The legs of an archived answer, and the number of legs that it states."""
    if not answer.is_as_received:
        raise MalformedError("the archive does not hold the bytes received, because they were not text")
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
    """What to write to the row in the queue; None where it says the same already.

    A request that is dead because its answer could not be read is settled as it would have been when the
    answer came: one that was not final then is fetched again.
    """
    rereading = Rereading(row.id, changes.leg_count, count)
    if row.state == DEAD and row.last_error_kind == MALFORMED:
        request = ClaimedRequest(
            row.id, row.account, row.request_id, "", row.attempts, row.fetches, row.enqueued_at
        )
        rules = waiting_rules(settings)
        outcome = decide_answer(request, legs, count, changes, now=answer.fetched_at, rules=rules, chance=1.0)
        return replace(rereading, state={Done: DONE, Empty: EMPTY}.get(type(outcome), PENDING))
    is_same = (row.leg_count, row.api_count) == (rereading.leg_count, rereading.api_count)
    return None if is_same else rereading
