"""A whole batch of rows in one statement.

The driver then releases the interpreter lock once and not at every row, so that the fetching threads go on
meanwhile; and no statement is compiled anew for each batch. On SQLite the rows are one list of VALUES, whose
text is kept for each number of rows: it takes a fifth of the time of JSON there. Elsewhere they are one
parameter of JSON, so that the text is always the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any

import msgspec
from sqlalchemy import Connection, CursorResult, TextClause, text

from etl.db.dialects import instant_text

_SQLITE_PARAMETERS = 32_000  # of 32,766 that one statement may have
_POSTGRESQL = {
    "text": "text",
    "exact": "text",
    "int": "bigint",
    "seconds": "double precision",
    "instant": "timestamptz",
    "money": "numeric",
    "json": "text",
}
_MYSQL = {
    "text": "MEDIUMTEXT CHARACTER SET utf8mb4",
    "exact": "VARCHAR(255) CHARACTER SET utf8mb4",
    "int": "BIGINT",
    "seconds": "DOUBLE",
    "instant": "DATETIME(6)",
    "money": "DECIMAL(38, 18)",
    "json": "TEXT CHARACTER SET utf8mb4",
}


@dataclass(frozen=True, slots=True, eq=False)
class RowsStatement:
    """A statement that reads its rows from a derived table `v`.

    `sql` has `{rows}` where that table belongs, and no other parameter; `columns` are the kinds of its
    columns in their order: text, exact, int, seconds, instant, money or json.
    """

    dialect: str
    sql: str
    columns: Mapping[str, str]

    def execute(self, connection: Connection, rows: Sequence[Sequence[object]]) -> list[CursorResult[Any]]:
        """Run it for all rows, each in the order of the columns: at once, unless they are too many."""
        if self.dialect != "sqlite":
            document = [dict(zip(self.columns, row, strict=True)) for row in rows]
            return [connection.execute(_with_json(self), {"rows": msgspec.json.encode(document).decode()})]
        most = _SQLITE_PARAMETERS // len(self.columns)
        return [
            connection.exec_driver_sql(
                _with_values(self, len(rows[first : first + most])),
                tuple(value for row in rows[first : first + most] for value in row),
            )
            for first in range(0, len(rows), most)
        ]


@lru_cache(maxsize=512)
def _with_values(statement: RowsStatement, count: int) -> str:
    names = ", ".join(f"column{n} AS {name}" for n, name in enumerate(statement.columns, start=1))
    one = f"({', '.join('?' * len(statement.columns))})"
    return statement.sql.format(rows=f"(SELECT {names} FROM (VALUES {', '.join([one] * count)})) AS v")


@lru_cache(maxsize=64)
def _with_json(statement: RowsStatement) -> TextClause:
    if statement.dialect == "postgresql":
        fields = ", ".join(f"{name} {_POSTGRESQL[kind]}" for name, kind in statement.columns.items())
        # JSON stands in the document as text, which must be read again, or it would be stored as a string.
        values = ", ".join(
            f"CAST({name} AS json) AS {name}" if kind == "json" else name
            for name, kind in statement.columns.items()
        )
        rows = f"(SELECT {values} FROM json_to_recordset(CAST(:rows AS json)) AS r ({fields})) AS v"
        return text(statement.sql.format(rows=rows))
    fields = ", ".join(f"{name} {_MYSQL[kind]} PATH '$.{name}'" for name, kind in statement.columns.items())
    return text(statement.sql.format(rows=f"JSON_TABLE(:rows, '$[*]' COLUMNS ({fields})) AS v"))


def stored_value(dialect: str, value: object) -> object:
    """An instant or an amount as it stands in a row: what the database reads as the same value."""
    if isinstance(value, datetime):
        return instant_text(value, dialect)
    if isinstance(value, Decimal):
        # SQLite stores a double; the others read the digits.
        return float(value) if dialect == "sqlite" else f"{value:f}"
    return value
