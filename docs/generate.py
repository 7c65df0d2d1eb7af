"""Docs made from the code: `make docs` writes the dictionary, and the outputs of the queries in data.md.

The dictionary comes from the models of tables and views. The queries run on a database that `cdr-sync demo`
makes, whose calls are the same each time. Tests compare both pages with what this would write.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    Dialect,
    Float,
    Integer,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.types import TypeEngine

from etl.db.dialects import ExactText, Instant, LongText, Money, db_now
from etl.db.tables import metadata
from etl.db.views import VIEWS

DOCS = Path(__file__).parent
DICTIONARY = DOCS / "dictionary.md"
DATA = DOCS / "data.md"

WORDS: dict[type[TypeEngine[Any]], str] = {
    BigInteger: "big integer",
    Boolean: "boolean",
    Date: "day",
    ExactText: "exact text",
    Float: "double",
    Instant: "instant",
    Integer: "integer",
    JSON: "JSON",
    LongText: "long text",
    Money: "money",
    SmallInteger: "small integer",
    String: "text",
}

# --- The dictionary ----------------------------------------------------------------------------------

DIALECTS: dict[str, Dialect] = {
    "SQLite": sqlite.dialect(),
    "PostgreSQL": postgresql.dialect(),
    "MariaDB": mysql.dialect(is_mariadb=True),
}
HEADER = """\
# The dictionary

Every table and view. `make docs` writes this page from the models in `etl/db/`, and a test fails when it is
out of date. [data.md](data.md) explains the words, and has queries to start with.

## Types

What the words in the column “type” are on each database. On SQLite an instant and a day are text in one
format, `2021-11-16 13:33:29.000000` and `2021-11-16`, a boolean is 0 or 1, and money is a double. On
PostgreSQL money has the digits that were sent. Exact text compares by its bytes. `call_legs` has one more
index, on the UTC day of `call_time`, which the views per day use.
"""


def dictionary() -> str:
    """The whole page."""
    tables = list(metadata.tables.values())
    columns = [column for table in (*tables, *VIEWS) for column in table.columns]
    types = {re.sub("[0-9]+", "n", _word(column)): column for column in columns}
    rows = [(word, *_types_of(types[word])) for word in sorted(types)]
    parts = [HEADER, *_markdown(("word", *DIALECTS), rows), "\n## Tables"]
    for table in tables:
        parts += [f"\n### `{table.name}`\n\n{table.comment}.\n", *_table(table), "", *_keys_of(table)]
    parts.append("\n## Views")
    for view in VIEWS:
        parts += [f"\n### `{view.name}`\n\n{view.comment}.\n", *_view(view)]
    return "\n".join(parts) + "\n"


def _table(table: Table) -> Iterator[str]:
    rows = [
        (
            f"`{column.name}`",
            _word(column),
            "" if column.nullable else "no",
            _default_of(column),
            column.comment,
        )
        for column in table.columns
    ]
    return _markdown(("column", "type", "null", "default", "what it is"), rows)


def _view(view: Table) -> Iterator[str]:
    rows = [(f"`{column.name}`", _word(column), column.comment) for column in view.columns]
    return _markdown(("column", "type", "what it is"), rows)


def _keys_of(table: Table) -> Iterator[str]:
    yield f"- primary key: {_names(table.primary_key.columns)}"
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            yield f"- unique: {_names(constraint.columns)}"
    for index in sorted(table.indexes, key=lambda index: str(index.name)):
        where = index.dialect_options["postgresql"]["where"]
        limit = "" if where is None else f"; on SQLite and PostgreSQL only of rows with `{where}`"
        yield f"- index `{index.name}`: {_names(index.columns)}{limit}"


def _names(columns: Any) -> str:
    return ", ".join(f"`{column.name}`" for column in columns)


def _word(column: Column[Any]) -> str:
    """The type, in a word for all databases."""
    return next(WORDS[kind] for kind in type(column.type).__mro__ if kind in WORDS) + _length(column)


def _length(column: Column[Any]) -> str:
    length = getattr(column.type, "length", None)
    return f" ({length})" if length else ""


def _types_of(column: Column[Any]) -> Iterator[str]:
    for dialect in DIALECTS.values():
        yield f"`{re.sub(r'(?<=CHAR)[(][0-9]+[)]', '(n)', column.type.compile(dialect=dialect))}`"


def _default_of(column: Column[Any]) -> str:
    if column.autoincrement is True:
        return "the next"
    if column.server_default is None:
        return ""
    default = column.server_default.arg  # type: ignore[attr-defined]
    return "now" if isinstance(default, db_now) else f"`{default}`"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield f"|{'---|' * len(header)}"
    for row in rows:
        yield f"| {' | '.join('' if cell is None else str(cell) for cell in row)} |"


# --- The queries -------------------------------------------------------------------------------------

_HEADING = re.compile(r"^##+ (.+)$", re.MULTILINE)
_TITLE = re.compile(r"[0-9]+\. |Yesterday$")
_SQL = re.compile(
    r"^```sql\n(?:-- (?P<database>SQLite|PostgreSQL|MariaDB)\n)?(?P<sql>.*?)^```$", re.MULTILINE | re.DOTALL
)
_OUTPUT = re.compile(r"(?<=^```text\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)


class Example(NamedTuple):
    """A query of data.md with its output, as the page shows them."""

    title: str
    statements: dict[str, str]  # by database
    output: str | None  # None where it depends on the current day

    def on(self, database: str) -> str:
        """The query for a database, whose name is in lower case."""
        return self.statements[database]


def examples(page: str) -> list[Example]:
    """All queries of the page, in its order."""
    _, *parts = _HEADING.split(page)
    sections = zip(parts[::2], parts[1::2], strict=True)
    return [_example(title, text) for title, text in sections if _TITLE.match(title)]


def _example(title: str, text: str) -> Example:
    statements = {}
    for block in _SQL.finditer(text):
        for database in [block["database"]] if block["database"] else DIALECTS:
            statements[database.lower()] = block["sql"]
    output = _OUTPUT.search(text)
    return Example(title, statements, output and output[0])


def with_outputs(page: str, path: Path) -> str:
    """The page with what its queries give on a SQLite database."""
    with closing(sqlite3.connect(path)) as connection:
        for example in examples(page):
            if example.output is not None:
                output = box(connection.execute(example.on("sqlite")))
                start = page.index(f"### {example.title}\n")
                page = page[:start] + _OUTPUT.sub(lambda _: output, page[start:], count=1)  # noqa: B023
    return page


def box(cursor: sqlite3.Cursor) -> str:
    """What `sqlite3 -box` prints of a query."""
    names = [name for name, *_ in cursor.description]
    rows = [[_shown(value) for value in row] for row in cursor]
    widths = [max(map(len, cells)) for cells in zip(names, *rows, strict=True)]

    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + right

    def line(cells: Sequence[str]) -> str:
        return "│ " + " │ ".join(cells) + " │"

    header = [
        " " * ((width - len(name)) // 2) + name + " " * ((width - len(name) + 1) // 2)
        for name, width in zip(names, widths, strict=True)
    ]
    body = [line([cell.ljust(width) for cell, width in zip(row, widths, strict=True)]) for row in rows]
    return (
        "\n".join([rule("┌", "┬", "┐"), line(header), rule("├", "┼", "┤"), *body, rule("└", "┴", "┘")]) + "\n"
    )


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        text = f"{value:.15g}"
        return text if set(text) & set(".en") else f"{text}.0"
    return str(value)


def demo_arguments(page: str) -> list[str]:
    """The words after `cdr-sync` that make the database of the page."""
    (command,) = re.findall(r"^\$ cdr-sync (demo .*?)(?: +#.*)?$", page, re.MULTILINE)
    return str(command).split()


def main() -> None:
    """Write both pages."""
    DICTIONARY.write_text(dictionary())
    page = DATA.read_text()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "etl", *demo_arguments(page)]
        subprocess.run(command, check=True, env={**os.environ, "TMPDIR": folder}, stdout=subprocess.DEVNULL)  # noqa: S603
        (path,) = Path(folder).glob("*/demo.sqlite3")
        DATA.write_text(with_outputs(page, path))


if __name__ == "__main__":
    main()
