"""Legs: reading what is stored of a request, and writing what an answer changed."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, Row, select

from etl.cdr.legs import Leg, LegChanges, NumberedLeg, StoredLeg
from etl.db.bulk import RowsStatement, stored_value
from etl.db.dialects import digits_of_double, now_sql
from etl.db.tables import call_legs

RequestKey = tuple[str, str]  # account and request ID

_KEY = {
    "account": "exact",
    "request_id": "exact",
    "leg": "text",
    "to_number": "text",
    "call_time": "instant",
    "occurrence": "int",
}
_CONTENT = {
    "from_number": "text",
    "from_e164": "text",
    "to_e164": "text",
    "to_country": "text",
    "duration_seconds": "int",
    "rate": "money",
    "balance": "money",
    "direction": "text",
    "status": "text",
    "extra": "json",
    "revision": "int",
    "run_id": "int",
}
_COLUMNS = (*_KEY, *_CONTENT)

_KNOWN = """
SELECT account, request_id FROM {rows} WHERE EXISTS (
    SELECT 1 FROM call_legs WHERE call_legs.account = v.account AND call_legs.request_id = v.request_id)"""
_INSERT = """
INSERT INTO call_legs ({columns}, first_seen_at, updated_at, missing_since)
SELECT {values}, {now}, {now}, CASE WHEN v.vanished = 1 THEN {now} END FROM {rows} WHERE 1 = 1
"""
_ON_CONFLICT = "ON CONFLICT (account, request_id, leg, to_number, call_time, occurrence) DO UPDATE SET"


def stored_legs(connection: Connection, requests: Iterable[RequestKey]) -> dict[RequestKey, list[StoredLeg]]:
    """All stored legs of some requests, by request; requests without any are left out."""
    found: dict[RequestKey, list[StoredLeg]] = defaultdict(list)
    # Most requests have none yet, and to learn that much costs little.
    results = _known_statement(connection.dialect.name).execute(connection, list(requests))
    known = [(account, request_id) for result in results for account, request_id in result]
    # An account at a time: for a list of pairs, SQLite reads the whole table.
    for account in sorted({account for account, _ in known}):
        ids = [request_id for owner, request_id in known if owner == account]
        column = call_legs.c
        legs = select(call_legs).where(column.account == account, column.request_id.in_(ids))
        for row in connection.execute(legs):
            found[row.account, row.request_id].append(_stored(row))
    return found


@cache
def _known_statement(dialect: str) -> RowsStatement:
    return RowsStatement(dialect, _KNOWN, {"account": "exact", "request_id": "exact"})


def _stored(row: Row[Any]) -> StoredLeg:
    content = Leg(
        leg=row.leg,
        from_number=row.from_number,
        to_number=row.to_number,
        from_e164=row.from_e164,
        to_e164=row.to_e164,
        to_country=row.to_country,
        call_time=row.call_time,
        duration_seconds=row.duration_seconds,
        rate=row.rate,
        balance=row.balance,
        direction=row.direction,
        status=row.status,
        extra=row.extra,
    )
    return StoredLeg(content, row.occurrence, row.revision, row.missing_since is not None)


def as_stored(connection: Connection, legs: Sequence[Leg]) -> list[Leg]:
    """Legs as this database would give them back, so that they compare with stored ones.

    SQLite has no decimals: of an amount it gives back 15 significant digits.
    """
    if connection.dialect.name != "sqlite":
        return list(legs)
    return [
        replace(
            leg,
            rate=None if leg.rate is None else digits_of_double(leg.rate),
            balance=None if leg.balance is None else digits_of_double(leg.balance),
        )
        for leg in legs
    ]


def upsert_legs(
    connection: Connection, changes: Mapping[RequestKey, LegChanges], *, run_id: int | None
) -> None:
    """Write what answers changed: new and changed legs, and the mark on those that vanished.

    The rows go in the order of their key, so that two writers whose rows overlap wait for one another
    and never for each other.
    """
    dialect = connection.dialect.name
    rows = [
        _row(dialect, request, leg, run_id=run_id, vanished=vanished)
        for request, change in sorted(changes.items(), key=itemgetter(0))
        for leg, vanished in sorted(_touched(change), key=lambda touched: touched[0].key)
    ]
    if rows:
        _upsert_statement(dialect).execute(connection, rows)


def _touched(change: LegChanges) -> Iterator[tuple[NumberedLeg, bool]]:
    yield from ((leg, False) for leg in change.inserted)
    yield from ((leg, False) for leg in change.updated)
    yield from ((leg, True) for leg in change.vanished)


def _row(
    dialect: str, request: RequestKey, leg: NumberedLeg, *, run_id: int | None, vanished: bool
) -> tuple[object, ...]:
    """A row in the order of `_KEY`, `_CONTENT` and the mark."""
    content = leg.content
    return (
        *request,
        leg.key.leg,
        leg.key.to_number,
        stored_value(dialect, leg.key.call_time),
        leg.key.occurrence,
        content.from_number,
        content.from_e164,
        content.to_e164,
        content.to_country,
        content.duration_seconds,
        stored_value(dialect, content.rate),
        stored_value(dialect, content.balance),
        content.direction,
        content.status,
        None if content.extra is None else json.dumps(content.extra, ensure_ascii=False),
        leg.revision,
        run_id,
        int(vanished),
    )


@cache
def _upsert_statement(dialect: str) -> RowsStatement:
    insert = _INSERT.format(
        columns=", ".join(_COLUMNS),
        values=", ".join(f"v.{name}" for name in _COLUMNS),
        now=now_sql(dialect),
        rows="{rows}",
    )
    updated = [*_CONTENT, "updated_at", "missing_since"]
    if dialect in ("mysql", "mariadb"):
        changes = ", ".join(f"{name} = VALUES({name})" for name in updated)
        insert += f"ON DUPLICATE KEY UPDATE {changes}"
    else:
        changes = ", ".join(f"{name} = excluded.{name}" for name in updated)
        insert += f"{_ON_CONFLICT} {changes}"
    return RowsStatement(dialect, insert, {**_KEY, **_CONTENT, "vanished": "int"})
