"""Many rows in one statement.

The driver then releases the interpreter lock once instead of once per row, so fetching threads go on
meanwhile, and no statement is compiled again for each batch. On SQLite the rows are one list of VALUES, whose
text is cached for each number of rows: it takes a fifth of the time of JSON there. Elsewhere they are one
JSON parameter, so that the text is always the same.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Literal

import msgspec
from sqlalchemy import JSON, Boolean, Column, Connection, CursorResult, Integer, TextClause, text

from etl.db.dialects import Instant, Money, instant_text

# How many IDs a statement's list may hold. From 1,000 on, MariaDB reads and locks the whole table.
ID_CHUNK = 500
_SQLITE_PARAMETERS = 32_000  # one statement may have 32,766
Kind = Literal["text", "exact", "integer", "seconds", "instant", "money", "boolean", "json"]
REQUEST_KEY: Mapping[str, Kind] = {"account": "exact", "request_id": "exact"}
_TYPES: Mapping[Kind, tuple[str, str]] = {  # on PostgreSQL, and on MySQL and MariaDB
    "text": ("text", "MEDIUMTEXT CHARACTER SET utf8mb4"),
    "exact": ("text", "VARCHAR(255) CHARACTER SET utf8mb4"),  # short, so that an index can be searched for it
    "integer": ("bigint", "BIGINT"),
    "seconds": ("double precision", "DOUBLE"),
    "instant": ("timestamptz", "DATETIME(6)"),
    "money": ("numeric", "DECIMAL(38, 18)"),
    "json": ("text", "TEXT CHARACTER SET utf8mb4"),
}


def kind_of(column: Column[Any]) -> Kind:
    """The kind of a table's column."""
    kinds: dict[type, Kind] = {
        Instant: "instant",
        Money: "money",
        Integer: "integer",
        JSON: "json",
        Boolean: "boolean",
    }
    return next((kind for type_, kind in kinds.items() if isinstance(column.type, type_)), "text")


@dataclass(frozen=True, slots=True, eq=False)
class RowsStatement:
    """A statement that reads its rows from a derived table `v`.

    `sql` writes it for a dialect, with that table where it belongs, and with no other parameter. `columns`
    are the names and kinds of the table's columns, in order.
    """

    sql: Callable[[str, str], str]
    columns: Mapping[str, Kind]

    def execute(self, connection: Connection, rows: Sequence[Sequence[object]]) -> list[CursorResult[Any]]:
        """Run it for all rows, each in the order of the columns: at once, unless there are too many."""
        dialect = connection.dialect.name
        if dialect != "sqlite":
            document = [dict(zip(self.columns, row, strict=True)) for row in rows]
            values = {"rows": msgspec.json.encode(document).decode()}
            return [connection.execute(_with_json(self, dialect), values)]
        most = _SQLITE_PARAMETERS // len(self.columns)
        chunks = [rows[first : first + most] for first in range(0, len(rows), most)]
        return [
            connection.exec_driver_sql(
                _with_values(self, len(chunk)), tuple(value for row in chunk for value in row)
            )
            for chunk in chunks
        ]


@lru_cache(maxsize=512)
def _with_values(statement: RowsStatement, count: int) -> str:
    names = ", ".join(f"column{n} AS {name}" for n, name in enumerate(statement.columns, start=1))
    one = f"({', '.join('?' * len(statement.columns))})"
    return statement.sql("sqlite", f"(SELECT {names} FROM (VALUES {', '.join([one] * count)})) AS v")


@lru_cache(maxsize=64)
def _with_json(statement: RowsStatement, dialect: str) -> TextClause:
    columns = statement.columns.items()
    if dialect == "postgresql":
        fields = ", ".join(f"{name} {_TYPES[kind][0]}" for name, kind in columns)
        # JSON is in the document as text: without the cast it would be stored as a JSON string.
        values = ", ".join(
            f"CAST({name} AS json) AS {name}" if kind == "json" else name for name, kind in columns
        )
        rows = f"(SELECT {values} FROM json_to_recordset(CAST(:rows AS json)) AS r ({fields})) AS v"
    else:
        fields = ", ".join(f"{name} {_TYPES[kind][1]} PATH '$.{name}'" for name, kind in columns)
        rows = f"JSON_TABLE(:rows, '$[*]' COLUMNS ({fields})) AS v"
    return text(statement.sql(dialect, rows))


def stored_value(dialect: str, value: object) -> object:
    """A value as a row holds it: what the database reads back as the same value."""
    if isinstance(value, datetime):
        return instant_text(value, dialect)
    if isinstance(value, Decimal):
        # SQLite stores a double; the others read the digits.
        return float(value) if dialect == "sqlite" else f"{value:f}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping) else value


def on_conflict_sql(dialect: str, key: Sequence[str], *, update: Sequence[str] = ()) -> str:
    """The end of an INSERT: where the key exists already, even uncommitted, update the row or leave it."""
    if dialect == "mysql":
        # To set a part of the key to itself leaves the row as it is, and does not count it.
        changes = ", ".join(f"{name} = VALUES({name})" for name in update or key[:1])
        return f"ON DUPLICATE KEY UPDATE {changes}"
    changes = ", ".join(f"{name} = excluded.{name}" for name in update)
    return f"ON CONFLICT ({', '.join(key)}) DO {f'UPDATE SET {changes}' if update else 'NOTHING'}"
