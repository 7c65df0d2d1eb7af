"""Output: JSON for programs, tables for people."""

from __future__ import annotations

import itertools
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

import click
import msgspec

from etl.errors import CdrSyncError, UsageError


@contextmanager
def output_to(name: str | None) -> Iterator[BinaryIO]:
    """Where to write: a file that is there whole or not at all, or standard output.

    Raises:
        UsageError: there can be no such file.
        CdrSyncError: it cannot be written to its end.
    """
    from etl.atomic_file import whole_file  # noqa: PLC0415 (most commands write none)

    failure: type[CdrSyncError] = UsageError
    try:
        if name is None:
            failure = CdrSyncError
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        with whole_file(Path(name)) as file:
            failure = CdrSyncError
            yield file
    except BrokenPipeError:
        raise  # whoever read it has enough
    except OSError as error:
        raise failure(f"{name or 'Standard output'} cannot be written: {error.strerror or error}") from error


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


def print_table(
    rows: Sequence[Sequence[object]], headings: Sequence[str], *, needed: int | None = None
) -> None:
    """Print rows as a table, whose values stay whole so that they can be copied.

    Where a terminal is too narrow for it, the last columns are left out, down to the first `needed` (by
    default all). Where even those are too wide, each row becomes a block of lines, one a column.
    """
    if not rows:
        click.echo("(none)")
        return
    cells = [[shown(value) for value in row] for row in rows]
    is_number = [
        all(isinstance(row[i], int | float | Decimal | None) for row in rows) for i in range(len(headings))
    ]
    widths = [max(len(heading), *(len(row[i]) for row in cells)) for i, heading in enumerate(headings)]
    fitting = _fitting(widths) if sys.stdout.isatty() else len(widths)
    if fitting < (len(widths) if needed is None else needed):
        _print_blocks(cells, headings)
        return
    del widths[fitting:]
    click.echo("  ".join(_padded(*one) for one in zip(headings, widths, is_number, strict=False)).rstrip())
    click.echo("  ".join("─" * width for width in widths))
    for row in cells:
        click.echo("  ".join(_padded(*one) for one in zip(row, widths, is_number, strict=False)).rstrip())
    if fitting < len(headings) and sys.stderr.isatty():
        click.echo(f"A wider terminal shows {', '.join(headings[fitting:])} too; so does --json.", err=True)


def _fitting(widths: Sequence[int]) -> int:
    """How many columns the terminal has place for."""
    columns = shutil.get_terminal_size().columns
    ends = itertools.accumulate(widths, lambda end, width: end + 2 + width)
    return sum(end <= columns for end in ends)


def _padded(text: str, width: int, is_number: bool) -> str:  # noqa: FBT001
    return text.rjust(width) if is_number else text.ljust(width)


def _print_blocks(cells: Sequence[Sequence[str]], headings: Sequence[str]) -> None:
    width = max(len(heading) for heading in headings)
    for number, row in enumerate(cells):
        if number:
            click.echo()
        for heading, text in zip(headings, row, strict=True):
            click.echo(f"{heading.ljust(width)}  {text}".rstrip())


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


def told_states(states: Mapping[str, int]) -> str:
    """Counts by state, in a line."""
    return ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
