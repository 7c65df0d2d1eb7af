"""The queue, as people use it: select requests, count and list them, show one, change them, follow a batch.

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
    exists,
    false,
    func,
    select,
    true,
    update,
)

from etl.db.dialects import database_now, db_now
from etl.db.states import BACKFILL, CANCELLED, PENDING
from etl.db.tables import call_legs, cdr_requests, cdr_responses, sync_runs
from etl.db.views import data_quality

_EXAMPLES = 5
_column = cdr_requests.c


@dataclass(frozen=True, slots=True)
class Span:
    """Which rows: of one account, and from `since` until just before `until`; None means any."""

    account: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def is_within(
    at: ColumnElement[datetime], since: datetime | None, until: datetime | None
) -> ColumnElement[bool]:
    """The condition that an instant is at or after `since` and before `until`; None means any."""
    condition: ColumnElement[bool] = true()
    if since is not None:
        condition &= at >= since
    if until is not None:
        condition &= at < until
    return condition


@dataclass(frozen=True, slots=True)
class Selection:
    """Which requests to select; None and empty mean any."""

    states: Sequence[str] = ()
    error_kind: str | None = None
    accounts: Sequence[str] = ()
    batch: str | None = None
    only_due: bool = False
    since: datetime | None = None  # enqueued at or after
    until: datetime | None = None  # and before
    request_ids: Sequence[str] | None = None  # at most ID_CHUNK of them
    lane: int | None = None
    unmarked_by: str | None = None  # a label: without the requests that this backfill has marked

    def condition(self) -> ColumnElement[bool]:
        """The selection as an SQL condition on `cdr_requests`."""
        parts = [is_within(_column.enqueued_at, self.since, self.until)]
        if self.states:
            parts.append(_column.state.in_(self.states))
        if self.accounts:
            parts.append(_column.account.in_(self.accounts))
        wanted = {"last_error_kind": self.error_kind, "batch": self.batch, "lane": self.lane}
        parts += [_column[name] == value for name, value in wanted.items() if value is not None]
        if self.only_due:
            parts.append(and_(_column.state == PENDING, _column.run_after <= db_now()))
        if self.request_ids is not None:
            parts.append(_column.request_id.in_(self.request_ids) if self.request_ids else false())
        if self.unmarked_by is not None:
            # The batch of most is null, and a comparison with null is never true.
            has_label = func.coalesce(_column.batch, "") == self.unmarked_by
            parts.append(~and_(_column.lane == BACKFILL, has_label))
        return and_(*parts)


def count_requests(connection: Connection, selection: Selection) -> Counter[tuple[str, int]]:
    """How many requests are selected, by account and lane."""
    return _count_by(connection, selection, _column.lane)


def count_states(connection: Connection, selection: Selection) -> Counter[tuple[str, str]]:
    """How many requests are selected, by account and state."""
    return _count_by(connection, selection, _column.state)


def _count_by(connection: Connection, selection: Selection, column: Column[Any]) -> Counter[tuple[str, Any]]:
    counted = select(_column.account, column, func.count()).where(selection.condition())
    rows = connection.execute(counted.group_by(_column.account, column))
    return Counter({(account, value): count for account, value, count in rows})


def list_requests(connection: Connection, selection: Selection, *, most: int) -> list[Row[Any]]:
    """The selected requests, the one that changed last first."""
    order = (_column.updated_at.desc(), _column.id.desc())
    listed = select(cdr_requests).where(selection.condition()).order_by(*order).limit(most)
    return list(connection.execute(listed))


def select_rows(connection: Connection, selection: Selection) -> list[Row[Any]]:
    """The selected requests of a chunk of IDs: what identifies each, its state, lane and batch."""
    columns = (_column.id, _column.account, _column.request_id, _column.state, _column.lane, _column.batch)
    return list(connection.execute(select(*columns).where(selection.condition()).order_by(_column.id)))


def select_page(
    connection: Connection, selection: Selection, *, after: int, up_to: int, most: int
) -> list[int]:
    """The next page of a selection, by row number."""
    is_it = and_(_column.id > after, _column.id <= up_to, selection.condition())
    return list(connection.scalars(select(_column.id).where(is_it).order_by(_column.id).limit(most)))


def any_selected(connection: Connection, selection: Selection, ids: Sequence[int]) -> bool:
    """Whether any of some rows is selected."""
    selected = select(exists().where(_column.id.in_(ids), selection.condition()))
    return bool(ids) and bool(connection.scalar(selected))


def newest_row(connection: Connection) -> int:
    """The row number of the request that arrived last; 0 where there is none."""
    return connection.scalar(select(func.max(_column.id))) or 0


def known_accounts(
    connection: Connection, column: Column[str] = _column.account, *conditions: ColumnElement[bool]
) -> list[str]:
    """The accounts that have requests, by one index look-up each, no matter how many requests they have."""
    names: list[str] = []
    statement = select(func.min(column)).where(*conditions)
    while True:
        name = connection.scalar(statement.where(column > names[-1]) if names else statement)
        if name is None:
            return names
        names.append(name)


def find_requests(connection: Connection, request_id: str) -> list[Row[Any]]:
    """The rows of one request ID: one per account that has it."""
    # With the accounts named, the index by account and request ID serves.
    selection = Selection(accounts=known_accounts(connection), request_ids=(request_id,))
    found = select(cdr_requests).where(selection.condition()).order_by(_column.account)
    return list(connection.execute(found))


def legs_of(connection: Connection, account: str, request_id: str) -> list[Row[Any]]:
    """All legs of a request, including those that a later answer no longer contained."""
    column = call_legs.c
    order = (column.leg, column.call_time, column.to_number, column.occurrence)
    return _rows_of(connection, account, request_id, list(column), order)


def responses_of(connection: Connection, account: str, request_id: str) -> list[Row[Any]]:
    """The archived answers of a request, the oldest first, without their bodies."""
    column = cdr_responses.c
    shown = (column.revision, column.run_id, column.fetched_at, column.http_status, column.sha256)
    return _rows_of(connection, account, request_id, shown, (column.revision,))


def findings_on(connection: Connection, account: str, request_id: str) -> list[Row[Any]]:
    """The rows of `data_quality` of a request."""
    column = data_quality.c
    shown = (column.check_name, column.leg, column.detail)
    return _rows_of(connection, account, request_id, shown, (column.check_name, column.detail))


def _rows_of(
    connection: Connection,
    account: str,
    request_id: str,
    shown: Sequence[Column[Any]],
    order: Sequence[Column[Any]],
) -> list[Row[Any]]:
    column = shown[0].table.c
    is_of_request = and_(column.account == account, column.request_id == request_id)
    return list(connection.execute(select(*shown).where(is_of_request).order_by(*order)))


Change = Mapping[str, Any]  # column to value

# MySQL locks every row that a statement reads. By the index of a state it would lock those of others, too.
_BY_PRIMARY_KEY = "FORCE INDEX (PRIMARY)"

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
    """The change that puts a request into a backfill: replayed, after all live ones, under a label."""
    return {**REPLAY, "lane": BACKFILL, "batch": label}


def change_requests(
    connection: Connection, ids: Sequence[int], selection: Selection, change: Change
) -> list[Row[Any]]:
    """Change the rows that are still selected; returns them as they were before."""
    before = lock_requests(connection, ids, selection.condition())
    if before:
        is_it = and_(_column.id.in_([row.id for row in before]), selection.condition())
        changed = update(cdr_requests).where(is_it).values(change)
        connection.execute(changed.with_hint(_BY_PRIMARY_KEY, dialect_name="mysql"))
    return before


def lock_requests(
    connection: Connection, ids: Sequence[int], condition: ColumnElement[bool] | None = None
) -> list[Row[Any]]:
    """Read some rows and lock them until the commit, in the order that the fence locks them.

    As every writer locks requests in this order, none can deadlock with another.
    """
    is_it = and_(_column.id.in_(ids), true() if condition is None else condition)
    rows = select(cdr_requests).where(is_it).order_by(_column.id).with_for_update()
    return list(connection.execute(rows.with_hint(cdr_requests, _BY_PRIMARY_KEY, "mysql")))


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """The progress of a batch."""

    states: Counter[str]
    next_due_at: datetime | None  # of its pending requests
    counted: int  # requests whose last valid answer had a `count`
    mismatches: int  # of these, those whose answer had another number of legs
    examples: Sequence[str]  # some request IDs of these


def new_label(connection: Connection) -> str:
    """A new label, by the database's clock: no request carries it, and no run was limited to it."""
    first = label = f"backfill-{database_now(connection):%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    while is_label_used(connection, label) or connection.scalar(
        select(exists().where(sync_runs.c.batch == label))
    ):
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
    """Read the progress of a batch, and compare the API's own counts with the legs of its answers."""
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
