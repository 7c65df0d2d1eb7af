"""Changing many requests by hand, in bounded pages that each commit.

A kill between two pages leaves whole pages behind, and the same command again does the rest: what is changed
already is no longer selected. A dry run counts by the same selection, and changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import partial
from typing import Any

from sqlalchemy import Connection, Engine, Row

from etl.db.engine import in_transaction, reading
from etl.db.queue import enqueue_requests
from etl.db.selection import (
    Change,
    Selection,
    any_selected,
    change_requests,
    count_states,
    known_accounts,
    newest_row,
    select_page,
    select_rows,
)
from etl.db.states import BACKFILL, RUNNING
from etl.settings import DEFAULT_ACCOUNT

PAGE = 500  # requests in one transaction; from 1,000 in a list, MariaDB reads and locks the whole table
NEW = "new"  # in place of a state: it was not known before
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Order:
    """What is to become of which requests."""

    selection: Selection
    change: Change
    account: str | None = None  # the one whose IDs were listed; None for any
    label: str | None = None  # of a backfill, which also enqueues the listed IDs that are unknown


@dataclass(slots=True)
class Result:
    """What an order came to, or would."""

    changed: Counter[tuple[str, str]] = field(default_factory=Counter)  # by account and state before
    left: Counter[str] = field(default_factory=Counter)  # known and left alone, by state
    marked: int = 0  # known, and in this backfill already
    examples: list[tuple[str, str, str]] = field(
        default_factory=list
    )  # some of those left: ID, account, state
    unknown: list[str] = field(default_factory=list)  # listed, and neither known nor enqueued

    @property
    def total(self) -> int:
        """How many requests it changed, or would."""
        return self.changed.total()

    @property
    def states(self) -> dict[str, int]:
        """How many it changed, by the state that they were in."""
        states: Counter[str] = Counter()
        for (_, state), count in self.changed.items():
            states[state] += count
        return dict(sorted(states.items()))

    @property
    def accounts(self) -> Counter[str]:
        """How many it changed, by account."""
        accounts: Counter[str] = Counter()
        for (account, _), count in self.changed.items():
            accounts[account] += count
        return accounts


def foresee(engine: Engine, order: Order, listed: Iterable[Sequence[str]] | None = None) -> Result:
    """Find out what an order would change, and change nothing.

    Args:
        engine: the database.
        order: what is to become of which requests.
        listed: the IDs in question, in lots of at most `PAGE` and none of them twice; None where the
            selection says it all.
    """
    result = Result()
    if listed is None:
        with reading(engine) as connection:
            result.changed += count_states(connection, order.selection)
            _note_left(connection, order, result)
    for request_ids in listed or ():
        with reading(engine) as connection:
            chosen, unknown = _look(connection, order, request_ids, result)
        result.changed.update((row.account, row.state) for row in chosen)
        if order.label is not None and unknown:
            result.changed[order.account or DEFAULT_ACCOUNT, NEW] += len(unknown)
    return result


def carry_out(
    engine: Engine,
    order: Order,
    listed: Iterable[Sequence[str]] | None = None,
    *,
    on_page: Callable[[Result], None] = lambda _result: None,
) -> Result:
    """Do what an order says, page by page; the arguments are those of `foresee`."""
    result = Result()
    pages = _pages(engine, order, result) if listed is None else _listed(engine, order, listed, result)
    for ids in pages:
        changed = in_transaction(
            engine,
            partial(change_requests, ids=ids, selection=order.selection, change=order.change),
            was_done=lambda connection, rows: (
                not any_selected(  # what is changed is not selected any more
                    connection, order.selection, [row.id for row in rows]
                )
            ),
        )
        result.changed.update((row.account, row.state) for row in changed)
        on_page(result)
    return result


def _pages(engine: Engine, order: Order, result: Result) -> Iterator[list[int]]:
    """The selected rows by their numbers. What arrives meanwhile is left alone: it is on its way as it is."""
    with reading(engine) as connection:
        _note_left(connection, order, result)
        newest = newest_row(connection)
    after = 0
    while True:
        with reading(engine) as connection:
            ids = select_page(connection, order.selection, after=after, up_to=newest, most=PAGE)
        if not ids:
            return
        yield ids
        after = ids[-1]


def _listed(
    engine: Engine, order: Order, listed: Iterable[Sequence[str]], result: Result
) -> Iterator[list[int]]:
    """The rows of listed IDs; in a backfill, those that are unknown are enqueued first."""
    for request_ids in listed:
        with reading(engine) as connection:
            chosen, unknown = _look(connection, order, request_ids, result)
        if order.label is not None and unknown:
            account = order.account or DEFAULT_ACCOUNT
            enqueue = partial(
                enqueue_requests,
                request_ids=unknown,
                account=account,
                batch=order.label,
                delay=timedelta(0),
                lane=BACKFILL,
            )
            result.changed[account, NEW] += in_transaction(engine, enqueue)
        yield [row.id for row in chosen]


def _look(
    connection: Connection, order: Order, request_ids: Sequence[str], result: Result
) -> tuple[list[Row[Any]], list[str]]:
    """Look listed IDs up, noting what is left alone; returns the selected rows, and the unknown IDs."""
    accounts = [order.account] if order.account else known_accounts(connection)
    known = select_rows(connection, Selection(accounts=accounts, request_ids=request_ids))
    narrowed = replace(
        order.selection, accounts=order.selection.accounts or accounts, request_ids=request_ids
    )
    chosen = select_rows(connection, narrowed)
    chosen_ids = {row.id for row in chosen}
    for row in known:
        if row.id in chosen_ids:
            continue
        if order.label is not None and (row.lane, row.batch) == (BACKFILL, order.label):
            result.marked += 1
            continue
        result.left[row.state] += 1
        if len(result.examples) < _SHOWN:
            result.examples.append((row.request_id, row.account, row.state))
    there = {row.request_id for row in known}
    unknown = [request_id for request_id in request_ids if request_id not in there]
    if order.label is None:
        result.unknown += unknown
    return chosen, unknown


def _note_left(connection: Connection, order: Order, result: Result) -> None:
    """Count what a backfill leaves alone: what is being asked for right now, and what is in it already."""
    if order.label is None:
        return
    others = replace(order.selection, unmarked_by=None, states=())
    in_it = replace(others, batch=order.label, lane=BACKFILL)
    result.marked += count_states(connection, in_it).total()
    running = count_states(connection, replace(others, states=(RUNNING,), unmarked_by=order.label)).total()
    if running:
        result.left[RUNNING] += running
