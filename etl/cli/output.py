"""Output: JSON for programs, tables for people."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import click
import msgspec


def print_json(document: object) -> None:
    """Print one JSON document on stdout. Instants are ISO 8601 in UTC, money is text, exact."""
    click.echo(msgspec.json.format(msgspec.json.encode(document, enc_hook=_plain), indent=2))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} has no place in JSON")


def row_as_dict(row: Any, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """A row as a document, in the order of its columns."""
    return {name: value for name, value in row._mapping.items() if name not in set(without)}  # noqa: SLF001 (SQLAlchemy's public name)


def print_table(rows: Sequence[Sequence[object]], headings: Sequence[str]) -> None:
    """Print rows as a table; on a terminal no wider than it is, elsewhere never cut."""
    if not rows:
        click.echo("(none)")
        return
    from rich.box import SIMPLE_HEAD  # noqa: PLC0415 (only where a table is printed)
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 1_000
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    numeric = [
        all(isinstance(row[i], int | float | Decimal | None) for row in rows) for i in range(len(headings))
    ]
    for heading, is_number in zip(headings, numeric, strict=True):
        table.add_column(heading, justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row))
    Console(file=sys.stdout, width=width, highlight=False).print(table)


def shown(value: object) -> str:
    """One value for people: UTC to the second, nothing for null."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it needs one."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
