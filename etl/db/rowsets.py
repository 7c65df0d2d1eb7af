"""A whole batch of rows as one parameter of one statement.

The statement's text stays the same whatever the size of the batch, so that it is compiled once, and the
driver releases the interpreter lock once and not at every row: the fetching threads go on meanwhile.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from functools import partial

from etl.db.types import instant_text

# What each kind of value is called, by database.
_POSTGRESQL = {
    "text": "text",
    "exact": "text",
    "int": "bigint",
    "seconds": "double precision",
    "instant": "timestamptz",
    "money": "numeric",
    "json": "json",
}
_MYSQL = {
    "text": "TEXT CHARACTER SET utf8mb4",
    "exact": "VARCHAR(255) CHARACTER SET utf8mb4",
    "int": "BIGINT",
    "seconds": "DOUBLE",
    "instant": "DATETIME(6)",
    "money": "DECIMAL(38, 18)",
    "json": "TEXT CHARACTER SET utf8mb4",
}


def rowset_sql(dialect_name: str, columns: Mapping[str, str], alias: str = "v") -> str:
    """The SQL of a derived table that reads its rows from the parameter `:rows`.

    Args:
        dialect_name: the database.
        columns: the kind of each column: text, exact, int, seconds, instant, money or json.
        alias: what the derived table is called.
    """
    if dialect_name == "sqlite":
        fields = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in columns)
        return f"(SELECT {fields} FROM json_each(:rows)) AS {alias}"
    if dialect_name == "postgresql":
        fields = ", ".join(f"{name} {_POSTGRESQL[kind]}" for name, kind in columns.items())
        return f"json_to_recordset(CAST(:rows AS json)) AS {alias} ({fields})"
    fields = ", ".join(f"{name} {_MYSQL[kind]} PATH '$.{name}'" for name, kind in columns.items())
    return f"JSON_TABLE(:rows, '$[*]' COLUMNS ({fields})) AS {alias}"


def rowset(dialect_name: str, rows: Iterable[Mapping[str, object]]) -> str:
    """The value of the parameter `:rows`. Nulls are left out, which every database reads as NULL."""
    kept = [{name: value for name, value in row.items() if value is not None} for row in rows]
    return json.dumps(kept, ensure_ascii=False, default=partial(_plain, dialect_name))


def _plain(dialect_name: str, value: object) -> object:
    if isinstance(value, datetime):
        return instant_text(value, dialect_name)
    if isinstance(value, Decimal):
        # SQLite stores a double; the others read the digits.
        return float(value) if dialect_name == "sqlite" else f"{value:f}"
    raise TypeError(f"{type(value).__name__} has no place in a row")
