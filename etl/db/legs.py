"""Legs: read what is stored of a request, and write what an answer changed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter, itemgetter

from sqlalchemy import Connection, select

from etl.cdr.legs import Leg, LegChanges, StoredLeg
from etl.db.bulk import REQUEST_KEY, RowsStatement, kind_of, on_conflict_sql, stored_value
from etl.db.dialects import digits_of_double, now_sql
from etl.db.tables import call_legs

RequestKey = tuple[str, str]  # account and request ID

_CONTENT = tuple(field.name for field in fields(Leg))  # columns and fields have the same names
_content_of = attrgetter(*_CONTENT)
_KEY = tuple(call_legs.primary_key.columns.keys())
_COLUMNS = (*REQUEST_KEY, *_CONTENT, "occurrence", "revision", "run_id")
_KINDS = {**{name: kind_of(call_legs.c[name]) for name in _COLUMNS}, **REQUEST_KEY}


def stored_legs(connection: Connection, requests: Iterable[RequestKey]) -> dict[RequestKey, list[StoredLeg]]:
    """All stored legs of some requests, by request; requests without any are left out."""
    found: dict[RequestKey, list[StoredLeg]] = defaultdict(list)
    # Most requests have none yet, and to learn that much costs little.
    results = _KNOWN.execute(connection, list(requests))
    known = [(account, request_id) for result in results for account, request_id in result]
    # One account at a time: for a list of pairs, SQLite reads the whole table.
    for account in sorted({account for account, _ in known}):
        ids = [request_id for owner, request_id in known if owner == account]
        column = call_legs.c
        legs = select(call_legs).where(column.account == account, column.request_id.in_(ids))
        for row in connection.execute(legs):
            leg = StoredLeg(
                Leg(*_content_of(row)), row.occurrence, row.revision, row.missing_since is not None
            )
            found[row.account, row.request_id].append(leg)
    return found


def _known_sql(_dialect: str, rows: str) -> str:
    return f"""
SELECT account, request_id FROM {rows} WHERE EXISTS (
    SELECT 1 FROM call_legs WHERE call_legs.account = v.account AND call_legs.request_id = v.request_id)"""


_KNOWN = RowsStatement(_known_sql, REQUEST_KEY)


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
    instead of ending in a deadlock.
    """
    rows = []
    for request, change in sorted(changes.items(), key=itemgetter(0)):
        marks = [(leg, 0) for leg in (*change.inserted, *change.updated)] + [
            (leg, 1) for leg in change.vanished
        ]
        for leg, mark in sorted(marks, key=lambda marked: marked[0].key):
            content = (stored_value(connection.dialect.name, value) for value in _content_of(leg.content))
            rows.append((*request, *content, leg.key.occurrence, leg.revision, run_id, mark))
    if rows:
        _UPSERT.execute(connection, rows)


def _upsert_sql(dialect: str, rows: str) -> str:
    updated = [*(name for name in _COLUMNS if name not in _KEY), "updated_at", "missing_since"]
    values = ", ".join(f"v.{name}" for name in _COLUMNS)
    now = now_sql(dialect)
    # SQLite takes ON CONFLICT for a join's ON where no WHERE comes before it.
    return f"""
INSERT INTO call_legs ({", ".join(_COLUMNS)}, first_seen_at, updated_at, missing_since)
SELECT {values}, {now}, {now}, CASE WHEN v.vanished = 1 THEN {now} END FROM {rows} WHERE 1 = 1
{on_conflict_sql(dialect, _KEY, update=updated)}"""


_UPSERT = RowsStatement(_upsert_sql, {**_KINDS, "vanished": "integer"})
