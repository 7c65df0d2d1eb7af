"""The queue, as people use it: select requests, count and list them, change them by hand.

Listings, dry runs and changes share one selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Row,
    and_,
    bindparam,
    exists,
    false,
    func,
    select,
    true,
    update,
)

from etl.db.dialects import database_now, db_now
from etl.db.states import BACKFILL, CANCELLED, PENDING
from etl.db.tables import cdr_requests, sync_runs

_column = cdr_requests.c


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests are meant; None and empty mean any."""

    states: Sequence[str] = ()
    error_kind: str | None = None
    accounts: Sequence[str] = ()
    batch: str | None = None
    only_due: bool = False
    since: datetime | None = None  # when it was enqueued: half-open, so that months follow one another
    until: datetime | None = None
    request_ids: Sequence[str] | None = None  # a bounded list
    lane: int | None = None
    unmarked_by: str | None = None  # leaves out what this backfill has marked already

    def condition(self) -> ColumnElement[bool]:
        """The same as an SQL condition on `cdr_requests`."""
        parts: list[ColumnElement[bool]] = [true()]
        if self.states:
            parts.append(_column.state.in_(self.states))
        if self.accounts:
            parts.append(_column.account.in_(self.accounts))
        wanted = {"last_error_kind": self.error_kind, "batch": self.batch, "lane": self.lane}
        parts += [_column[name] == value for name, value in wanted.items() if value is not None]
        if self.only_due:
            parts.append(and_(_column.state == PENDING, _column.run_after <= db_now()))
        if self.since is not None:
            parts.append(_column.enqueued_at >= self.since)
        if self.until is not None:
            parts.append(_column.enqueued_at < self.until)
        if self.request_ids is not None:
            parts.append(_column.request_id.in_(self.request_ids) if self.request_ids else false())
        if self.unmarked_by is not None:
            # A batch is null for most, and null is not unequal to anything.
            has_label = func.coalesce(_column.batch, "") == self.unmarked_by
            parts.append(~and_(_column.lane == BACKFILL, has_label))
        return and_(*parts)


def count_requests(connection: Connection, selection: Selection) -> dict[tuple[str, int], int]:
    """How many requests are selected, by account and lane."""
    rows = connection.execute(
        select(_column.account, _column.lane, func.count())
        .where(selection.condition())
        .group_by(_column.account, _column.lane)
    )
    return {(account, lane): count for account, lane, count in rows}


def count_states(connection: Connection, selection: Selection) -> Counter[tuple[str, str]]:
    """How many requests are selected, by account and state."""
    rows = connection.execute(
        select(_column.account, _column.state, func.count())
        .where(selection.condition())
        .group_by(_column.account, _column.state)
    )
    return Counter({(account, state): count for account, state, count in rows})


def list_requests(connection: Connection, selection: Selection, *, most: int) -> list[Row[Any]]:
    """The selected requests, the latest change first."""
    return list(
        connection.execute(
            select(cdr_requests)
            .where(selection.condition())
            .order_by(_column.updated_at.desc(), _column.id.desc())
            .limit(most)
        )
    )


def select_rows(connection: Connection, selection: Selection) -> list[Row[Any]]:
    """What is selected by a bounded list of IDs: who it is, and how it stands."""
    columns = (_column.id, _column.account, _column.request_id, _column.state, _column.lane, _column.batch)
    return list(connection.execute(select(*columns).where(selection.condition()).order_by(_column.id)))


def select_page(
    connection: Connection, selection: Selection, *, after: int, up_to: int, most: int
) -> list[int]:
    """The next rows of a selection, by their number: a bounded page of any number of them."""
    statement = (
        select(_column.id)
        .where(_column.id > after, _column.id <= up_to, selection.condition())
        .order_by(_column.id)
        .limit(most)
    )
    return list(connection.scalars(statement))


def any_selected(connection: Connection, selection: Selection, ids: Sequence[int]) -> bool:
    """Whether any of some rows is selected."""
    return bool(ids) and connection.scalar(
        select(func.count()).where(_column.id.in_(ids), selection.condition())
    ) not in (None, 0)


def newest_row(connection: Connection) -> int:
    """The number of the request that arrived last; 0 where there is none."""
    return connection.scalar(select(func.max(_column.id))) or 0


def known_accounts(
    connection: Connection, column: Column[str] = _column.account, *conditions: ColumnElement[bool]
) -> list[str]:
    """The accounts that have requests, by one index look-up each however many requests there are."""
    names: list[str] = []
    statement = select(func.min(column)).where(*conditions)
    while True:
        name = connection.scalar(statement.where(column > names[-1]) if names else statement)
        if name is None:
            return names
        names.append(name)


Change = Mapping[str, Any]  # column to value

# On MySQL a statement locks what it comes by on its way: by the index of a state, the rows of others too.
BY_NUMBER = "FORCE INDEX (PRIMARY)"

# Its history stays: fetches, legs, answers, reclaims, and the last error until a valid answer ends it.
REPLAY: Change = {
    "state": PENDING,
    "run_after": db_now(),
    "attempts": 0,
    "finished_at": None,
    "updated_at": db_now(),
}
CANCEL: Change = {"state": CANCELLED, "finished_at": db_now(), "updated_at": db_now()}


def marking(label: str) -> Change:
    """The change that puts a request into a backfill: replayed, behind all live ones, under a label."""
    return {**REPLAY, "lane": BACKFILL, "batch": label}


def change_requests(
    connection: Connection, ids: Sequence[int], selection: Selection, change: Change
) -> list[Row[Any]]:
    """Change those of some rows that are still selected; returns them as they were before."""
    column = cdr_requests.c
    # In the order of their numbers, as the fence of the claims takes them, so that nobody waits crosswise.
    look = (
        select(column.id, column.account, column.request_id, column.state)
        .where(column.id.in_(ids), selection.condition())
        .order_by(column.id)
        .with_for_update()
    )
    for dialect in ("mysql", "mariadb"):
        look = look.with_hint(cdr_requests, BY_NUMBER, dialect)
    before = connection.execute(look).all()
    if before:
        still = [row.id for row in before]
        statement = update(cdr_requests).where(column.id.in_(still), selection.condition()).values(change)
        for dialect in ("mysql", "mariadb"):
            statement = statement.with_hint(BY_NUMBER, dialect_name=dialect)
        connection.execute(statement)
    return list(before)


_EXAMPLES = 5
_column = cdr_requests.c


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """How a batch stands."""

    states: Counter[str]
    next_due_at: datetime | None  # of what is pending
    counted: int  # requests whose last valid answer had a `count`
    mismatches: int  # those of them where it says another number of legs
    examples: Sequence[str]  # some request IDs of these


def new_label(connection: Connection) -> str:
    """A label that no request carries yet, and no run was limited to, by the database's clock."""
    first = label = f"backfill-{database_now(connection):%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    has_run = exists().where(sync_runs.c.batch == bindparam("label"))
    while is_label_used(connection, label) or connection.scalar(select(has_run), {"label": label}):
        number += 1
        label = f"{first}-{number}"
    return label


def is_label_used(connection: Connection, label: str) -> bool:
    """Whether any request carries a label."""
    return bool(connection.scalar(select(exists().where(_column.batch == label))))


def batch_states(connection: Connection, label: str, accounts: Sequence[str] = ()) -> Counter[str]:
    """How many requests of a batch are in each state."""
    states: Counter[str] = Counter()
    for (_, state), count in count_states(connection, Selection(accounts=accounts, batch=label)).items():
        states[state] += count
    return states


def batch_figures(connection: Connection, label: str) -> BatchFigures:
    """Read how a batch stands, and hold the API's own counts against the legs of its answers."""
    is_in_it = _column.batch == label
    differs = (_column.api_count != _column.leg_count) & is_in_it
    return BatchFigures(
        states=batch_states(connection, label),
        next_due_at=connection.scalar(
            select(func.min(_column.run_after)).where(is_in_it, _column.state == PENDING)
        ),
        counted=connection.scalar(select(func.count(_column.api_count)).where(is_in_it)) or 0,
        mismatches=connection.scalar(select(func.count()).where(differs)) or 0,
        examples=connection.scalars(
            select(_column.request_id).where(differs).order_by(_column.id).limit(_EXAMPLES)
        ).all(),
    )
