"""Long reads with flat memory: rows for exports, and the calls of a period for reports."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    Connection,
    Row,
    Select,
    Text,
    cast,
    func,
    select,
    text,
)
from sqlalchemy.exc import DBAPIError

from etl.db.bulk import Kind, kind_of
from etl.db.dialects import Instant
from etl.db.selection import Selection, Span, count_states, is_within
from etl.db.states import PENDING, RUNNING
from etl.db.tables import call_legs, cdr_requests
from etl.db.views import calls, data_quality

_CHUNK = 1_000  # rows
# By time; no two rows are equal in all of these columns.
_SUBJECTS = {
    "legs": (call_legs, ("call_time", "account", "request_id", "leg", "to_number", "occurrence")),
    "calls": (calls, ("call_time", "account", "request_id")),
}
_leg = call_legs.c
_request = cdr_requests.c


@dataclass(frozen=True, slots=True)
class Field:
    """A column of an export."""

    name: str
    kind: Kind
    is_nullable: bool
    comment: str


def fields_of(subject: str) -> tuple[Field, ...]:
    """The columns of an export of legs or calls."""
    table, _ = _SUBJECTS[subject]
    return tuple(
        Field(
            column.name,
            "text" if isinstance(column.type, JSON) else kind_of(column),
            bool(column.nullable),
            column.comment or "",
        )
        for column in table.columns
    )


def stream_rows(connection: Connection, subject: str, span: Span) -> Generator[Sequence[Row[Any]]]:
    """The rows in chunks, ordered by the call's time; close the generator if you do not take all of them.

    The connection comes from `long_reading`. Instants are aware, in UTC; money is Decimal, JSON is its text.
    """
    number = None
    if connection.dialect.name == "mysql":
        number = connection.scalars(text("SELECT CONNECTION_ID()")).one()
    result = connection.execute(_statement(subject, span), execution_options={"stream_results": True})
    try:
        yield from result.partitions(_CHUNK)
    except BaseException:
        if number is not None:  # MySQL's driver would fetch all other rows and drop them
            with suppress(DBAPIError), connection.engine.connect() as other:
                other.execute(text(f"KILL QUERY {number}"))
        raise
    finally:
        result.close()


def _statement(subject: str, span: Span) -> Select[Any]:
    table, order = _SUBJECTS[subject]
    column = table.columns
    condition = is_within(column.call_time, span.since, span.until)
    if span.account is not None:
        condition &= column.account == span.account
    shown = [cast(one, Text).label(one.name) if isinstance(one.type, JSON) else one for one in column]
    return select(*shown).where(condition).order_by(*(column[name] for name in order))


class Call(NamedTuple):
    """One row of the view `calls`: the columns that a report needs."""

    account: str
    request_id: str
    call_time: datetime
    b_leg_count: int
    leg_count: int
    a_to: str | None
    b_to: str | None
    a_status: str | None
    b_status: str | None
    a_duration_seconds: int | None
    b_duration_seconds: int | None
    to_country: str | None
    answered: bool
    talk_seconds: int
    billed_rate_total: Decimal | None
    legs_without_rate: int


class BalanceLeg(NamedTuple):
    """The account's balance after a leg, which began at `call_time`."""

    account: str
    call_time: datetime
    duration_seconds: int | None
    balance: Decimal | None


class Finding(NamedTuple):
    """One row of the view `data_quality`."""

    check_name: str
    account: str
    request_id: str
    leg: str | None
    number: str | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class RequestCount:
    """How many requests of an account are in a state."""

    account: str
    state: str
    count: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """The requests of an account that are not finished yet."""

    account: str
    count: int
    since: datetime  # the earliest enqueued_at


def stream_calls(connection: Connection, since: datetime, until: datetime) -> Iterator[Call]:
    """The calls that began at or after `since` and before `until`, in no order."""
    columns = (calls.c[name] for name in Call._fields)
    began = select(*columns).where(is_within(calls.c.call_time, since, until))
    yield from map(Call._make, _streamed(connection, began))


def stream_balance_legs(connection: Connection, since: datetime, until: datetime) -> Iterator[BalanceLeg]:
    """The legs that began in a period, by account and time."""
    columns = (_leg.account, _leg.call_time, _leg.duration_seconds, _leg.balance)
    legs = select(*columns).where(_leg.missing_since.is_(None), is_within(_leg.call_time, since, until))
    yield from map(BalanceLeg._make, _streamed(connection, legs.order_by(_leg.account, _leg.call_time)))


def stream_findings(connection: Connection, since: datetime, until: datetime) -> Iterator[Finding]:
    """The findings on calls that began in a period, by check and request."""
    yield from map(Finding._make, _streamed(connection, findings_of(since, until)))


def findings_of(since: datetime, until: datetime) -> Select[Any]:
    """The query of `stream_findings`, which looks up each call by its key.

    A call begins with its earliest leg that is not missing, or with its earliest leg if all are missing. A
    request without legs counts by when it was enqueued.
    """
    finding = data_quality.c
    first = select(func.min(_leg.call_time)).where(
        _leg.account == finding.account, _leg.request_id == finding.request_id
    )
    enqueued = select(_request.enqueued_at).where(
        _request.account == finding.account, _request.request_id == finding.request_id
    )
    began = func.coalesce(
        first.where(_leg.missing_since.is_(None)).scalar_subquery(),
        first.scalar_subquery(),
        enqueued.scalar_subquery(),
        type_=Instant,
    )
    dated = select(data_quality, began.label("began")).subquery().c
    columns = [dated[name] for name in Finding._fields]
    return select(*columns).where(is_within(dated.began, since, until)).order_by(*columns)


def count_missing_legs(connection: Connection, since: datetime, until: datetime) -> int:
    """How many legs of a period a later answer no longer contained. The views leave them out."""
    legs = select(func.count()).where(
        _leg.missing_since.is_not(None), is_within(_leg.call_time, since, until)
    )
    return connection.scalar(legs) or 0


def count_requests(connection: Connection, since: datetime, until: datetime) -> list[RequestCount]:
    """How many requests were enqueued in a period, by account and state."""
    counted = count_states(connection, Selection(since=since, until=until))
    return [RequestCount(*key, count) for key, count in sorted(counted.items())]


def list_waiting(connection: Connection) -> list[Waiting]:
    """The accounts with unfinished requests; all requests before `since` are finished."""
    waiting = (
        select(_request.account, func.count(), func.min(_request.enqueued_at))
        .where(_request.state.in_((PENDING, RUNNING)))
        .group_by(_request.account)
        .order_by(_request.account)
    )
    return [Waiting(*row) for row in connection.execute(waiting)]


def last_enqueued_at(connection: Connection) -> datetime | None:
    """When the latest request was enqueued; None if there is none."""
    latest: datetime | None = connection.scalar(select(func.max(_request.enqueued_at)))
    return latest


def last_change_at(connection: Connection) -> datetime | None:
    """When requests or legs changed last: the instant whose data a report shows."""
    changes = (connection.scalar(select(func.max(at))) for at in (_request.updated_at, _leg.updated_at))
    return max((at for at in changes if at is not None), default=None)


def _streamed(connection: Connection, query: Select[Any]) -> Iterator[Sequence[Any]]:
    with connection.execute(query, execution_options={"yield_per": _CHUNK}) as rows:
        yield from rows.tuples()
