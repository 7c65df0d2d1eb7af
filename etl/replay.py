"""Change many requests by hand: retry, cancel, mark for a backfill, enqueue.

Every chunk commits on its own. A kill between two of them leaves whole chunks changed, and the same command
does the rest, because what is changed is no longer selected. A preview counts by the same selection and
changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, Row

from etl.db.engine import in_transaction, reading
from etl.db.queue import enqueue_requests
from etl.db.selection import (
    CANCEL,
    REPLAY,
    Change,
    Selection,
    any_selected,
    change_requests,
    count_states,
    known_accounts,
    marking,
    newest_row,
    select_page,
    select_rows,
)
from etl.db.states import BACKFILL, CANCELLED, DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.settings import DEFAULT_ACCOUNT

CHUNK = 500  # requests per transaction. From 1,000 IDs in a list on, MariaDB reads and locks the whole table
NEW = "new"  # in place of a state: the request was unknown and was enqueued
RETRYABLE = (DEAD, EMPTY, DONE, CANCELLED)
CANCELLABLE = (PENDING, DEAD)
_MOST_EXAMPLES = 20


@dataclass(frozen=True, slots=True)
class BulkChange:
    """A change of all selected requests; or of those among listed IDs that are selected."""

    selection: Selection
    values: Change
    account: str | None = None  # of the listed IDs; None for any
    label: str | None = None  # of a backfill, which also enqueues listed IDs that are unknown

    @classmethod
    def to_retry(
        cls, states: Sequence[str], *, error_kind: str | None, account: str | None, batch: str | None
    ) -> BulkChange:
        """Make requests pending and due, with all their attempts left."""
        return cls(Selection(states, error_kind, (account,) if account else (), batch), REPLAY, account)

    @classmethod
    def to_cancel(cls, states: Sequence[str], *, account: str | None, batch: str | None) -> BulkChange:
        """Take requests out of the queue."""
        return cls(Selection(states, accounts=(account,) if account else (), batch=batch), CANCEL, account)

    @classmethod
    def to_backfill(cls, selection: Selection, label: str, *, account: str | None) -> BulkChange:
        """Make requests due in the backfill lane, under a label, once."""
        return cls(replace(selection, unmarked_by=label), marking(label), account, label)


class Skipped(NamedTuple):
    """A listed request that is left as it is, because of its state."""

    request_id: str
    account: str
    state: str


@dataclass(slots=True)
class ChangeResult:
    """How many requests a change reached, or would reach."""

    changed: Counter[tuple[str, str]] = field(default_factory=Counter)  # by account and state before
    skipped: Counter[str] = field(default_factory=Counter)  # by state
    examples: list[Skipped] = field(default_factory=list)
    already_marked: int = 0  # in this backfill before
    unknown: list[str] = field(default_factory=list)  # listed IDs that are neither known nor enqueued

    @property
    def total(self) -> int:
        """How many requests are changed."""
        return self.changed.total()

    @property
    def states(self) -> dict[str, int]:
        """How many requests are changed, by their state before."""
        states: Counter[str] = Counter()
        for (_, state), count in self.changed.items():
            states[state] += count
        return dict(sorted(states.items()))

    @property
    def accounts(self) -> Counter[str]:
        """How many requests are changed, by account."""
        accounts: Counter[str] = Counter()
        for (account, _), count in self.changed.items():
            accounts[account] += count
        return accounts

    @property
    def enqueued(self) -> int:
        """How many of the listed IDs were unknown, and were enqueued."""
        return self.states.get(NEW, 0)


def preview(
    engine: Engine, change: BulkChange, listed: Iterable[str] | None = None, *, chunk: int = CHUNK
) -> ChangeResult:
    """Count what a change would reach, and change nothing.

    Args:
        engine: the database.
        change: what to do with which requests.
        listed: the request IDs to look at; None for all that the change selects.
        chunk: how many requests are read at a time.
    """
    result = ChangeResult()
    if listed is None:
        with reading(engine) as connection:
            result.changed += count_states(connection, change.selection)
            _count_left_by_backfill(connection, change, result)
        return result
    for request_ids in _chunks(_distinct(listed), chunk):
        with reading(engine) as connection:
            selected, unknown = _look_up(connection, change, request_ids, result)
        result.changed.update((row.account, row.state) for row in selected)
        if change.label is not None and unknown:
            result.changed[change.account or DEFAULT_ACCOUNT, NEW] += len(unknown)
    return result


def apply(
    engine: Engine,
    change: BulkChange,
    listed: Iterable[str] | None = None,
    *,
    on_chunk: Callable[[ChangeResult], None] = lambda _result: None,
    chunk: int = CHUNK,
) -> ChangeResult:
    """Change requests chunk by chunk; the other arguments are those of `preview`.

    `on_chunk` is called with what is reached so far, after each commit.
    """
    result = ChangeResult()
    if listed is None:
        chunks = _selected_chunks(engine, change, result, chunk)
    else:
        chunks = _listed_chunks(engine, change, _chunks(listed, chunk), result)
    for ids in chunks:
        changed = in_transaction(
            engine,
            partial(change_requests, ids=ids, selection=change.selection, change=change.values),
            was_done=lambda connection, rows: (
                not any_selected(  # what is changed is no longer selected
                    connection, change.selection, [row.id for row in rows]
                )
            ),
        )
        result.changed.update((row.account, row.state) for row in changed)
        on_chunk(result)
    return result


def enqueue(
    engine: Engine, request_ids: Iterable[str], *, account: str, batch: str | None, delay: timedelta
) -> int:
    """Enqueue request IDs, chunk by chunk; returns how many were new."""
    add = partial(enqueue_requests, account=account, batch=batch, delay=delay)
    chunks = _chunks(request_ids, CHUNK)
    return sum(in_transaction(engine, partial(add, request_ids=chunk)) for chunk in chunks)


def _chunks(request_ids: Iterable[str], size: int) -> Iterator[list[str]]:
    remaining = iter(request_ids)
    while chunk := list(islice(remaining, size)):
        yield chunk


def _distinct(request_ids: Iterable[str]) -> Iterator[str]:
    """Each ID once. A preview leaves no mark on a request by which it would be recognised the second time."""
    seen: set[int] = set()  # hashes take a fraction of the memory of long IDs
    for request_id in request_ids:
        if (key := hash(request_id)) not in seen:
            seen.add(key)
            yield request_id


def _selected_chunks(
    engine: Engine, change: BulkChange, result: ChangeResult, size: int
) -> Iterator[list[int]]:
    """The selected rows by `id`. Requests that arrive meanwhile are left alone: they are due anyway."""
    with reading(engine) as connection:
        _count_left_by_backfill(connection, change, result)
        newest = newest_row(connection)
    after = 0
    while True:
        with reading(engine) as connection:
            ids = select_page(connection, change.selection, after=after, up_to=newest, most=size)
        if not ids:
            return
        yield ids
        after = ids[-1]


def _listed_chunks(
    engine: Engine, change: BulkChange, chunks: Iterable[Sequence[str]], result: ChangeResult
) -> Iterator[list[int]]:
    """The selected rows among listed IDs; a backfill enqueues those that are unknown."""
    for request_ids in chunks:
        with reading(engine) as connection:
            selected, unknown = _look_up(connection, change, request_ids, result)
        if change.label is not None and unknown:
            account = change.account or DEFAULT_ACCOUNT
            add = partial(
                enqueue_requests,
                request_ids=unknown,
                account=account,
                batch=change.label,
                delay=timedelta(0),
                lane=BACKFILL,
            )
            result.changed[account, NEW] += in_transaction(engine, add)
        yield [row.id for row in selected]


def _look_up(
    connection: Connection, change: BulkChange, request_ids: Sequence[str], result: ChangeResult
) -> tuple[list[Row[Any]], list[str]]:
    """Look listed IDs up, and note what is skipped; returns the selected rows and the unknown IDs."""
    accounts = [change.account] if change.account else known_accounts(connection)
    known = select_rows(connection, Selection(accounts=accounts, request_ids=request_ids))
    narrowed = replace(
        change.selection, accounts=change.selection.accounts or accounts, request_ids=request_ids
    )
    selected = select_rows(connection, narrowed)
    selected_ids = {row.id for row in selected}
    for row in known:
        if row.id in selected_ids:
            continue
        if change.label is not None and (row.lane, row.batch) == (BACKFILL, change.label):
            result.already_marked += 1
            continue
        result.skipped[row.state] += 1
        if len(result.examples) < _MOST_EXAMPLES:
            result.examples.append(Skipped(row.request_id, row.account, row.state))
    there = {row.request_id for row in known}
    unknown = [request_id for request_id in request_ids if request_id not in there]
    if change.label is None:
        result.unknown += unknown
    return selected, unknown


def _count_left_by_backfill(connection: Connection, change: BulkChange, result: ChangeResult) -> None:
    """Count what a backfill leaves alone: what a run is fetching now, and what is in the backfill already."""
    if change.label is None:
        return
    others = replace(change.selection, unmarked_by=None, states=())
    in_it = replace(others, batch=change.label, lane=BACKFILL)
    result.already_marked += count_states(connection, in_it).total()
    running = replace(others, states=(RUNNING,), unmarked_by=change.label)
    if count := count_states(connection, running).total():
        result.skipped[RUNNING] += count
