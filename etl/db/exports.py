"""Legs or calls of a period, as a stream of any length: what `cdr-sync export` writes.

It is one statement, which sees the data as it was at its start, whatever runs store meanwhile; and its rows
come by the lot, so that ten million take no more memory than a thousand.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    Text,
    cast,
    select,
    text,
    true,
)
from sqlalchemy.exc import DBAPIError

from etl.db.tables import call_legs
from etl.db.types import Instant, Money
from etl.db.views import calls

_LOT = 1_000  # rows
_MYSQL = ("mysql", "mariadb")
# In the order of time, and no two rows are equal in all of these.
_SUBJECTS = {
    "legs": (call_legs, ("call_time", "account", "request_id", "leg", "to_number", "occurrence")),
    "calls": (calls, ("call_time", "account", "request_id")),
}
Kind = Literal["text", "integer", "money", "instant", "boolean"]


@dataclass(frozen=True, slots=True)
class Field:
    """A column of an export: what its values are, and what is said of it."""

    name: str
    kind: Kind
    is_nullable: bool
    comment: str


@dataclass(frozen=True, slots=True)
class Portion:
    """Which rows: of one account or of all, by the call's time, half-open. None means any."""

    account: str | None = None
    since: datetime | None = None
    until: datetime | None = None


def fields_of(subject: str) -> tuple[Field, ...]:
    """The columns of an export of legs or calls."""
    table, _ = _SUBJECTS[subject]
    return tuple(
        Field(column.name, _kind(column), bool(column.nullable), column.comment or "")
        for column in table.columns
    )


def stream_rows(connection: Connection, subject: str, portion: Portion) -> Generator[Sequence[Row[Any]]]:
    """The rows, some at a time, in the order of the call's time; close it where not all of them are taken.

    The connection is one of `long_reading`. Instants are aware and UTC, money is Decimal, JSON is its text.
    """
    is_mysql = connection.dialect.name in _MYSQL
    number = connection.scalars(text("SELECT CONNECTION_ID()")).one() if is_mysql else None
    result = connection.execute(_statement(subject, portion), execution_options={"stream_results": True})
    is_whole = False
    try:
        yield from result.partitions(_LOT)
        is_whole = True
    finally:
        if number is not None and not is_whole:
            _end_query(connection, number)
        result.close()


def _statement(subject: str, portion: Portion) -> Select[Any]:
    table, order = _SUBJECTS[subject]
    column = table.columns
    condition: ColumnElement[bool] = true()
    if portion.account is not None:
        condition &= column.account == portion.account
    if portion.since is not None:
        condition &= column.call_time >= portion.since
    if portion.until is not None:
        condition &= column.call_time < portion.until
    shown = [cast(one, Text).label(one.name) if _is_json(one) else one for one in column]
    return select(*shown).where(condition).order_by(*(column[name] for name in order))


def _end_query(connection: Connection, number: int) -> None:
    """End a query whose rows nobody wants any more: MySQL's driver would fetch all of them to throw away."""
    with suppress(DBAPIError), connection.engine.connect() as other:
        other.execute(text(f"KILL QUERY {number}"))


def _kind(column: Column[Any]) -> Kind:
    kinds: tuple[tuple[type, Kind], ...] = (
        (Instant, "instant"),
        (Money, "money"),
        (Boolean, "boolean"),
        (Integer, "integer"),
    )
    return next((kind for type_, kind in kinds if isinstance(column.type, type_)), "text")


def _is_json(column: Column[Any]) -> bool:
    return isinstance(column.type, JSON)
