"""Output of the commands: JSON for programs, tables and lines for people."""

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
    """A stream to write to: standard output, or a file that is written completely or not at all.

    Raises:
        UsageError: the file cannot be created.
        CdrSyncError: the output cannot be written completely.
    """
    from etl.atomic_file import whole_file  # noqa: PLC0415 (few commands write a file)

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
        raise  # the reader has read enough
    except OSError as error:
        raise failure(f"{name or 'Standard output'} cannot be written: {error.strerror or error}") from error


def print_json(document: object) -> None:
    """Print one JSON document on stdout. Times are ISO 8601 in UTC; money is a string with exact digits."""
    click.echo(msgspec.json.format(msgspec.json.encode(document, enc_hook=_plain), indent=2))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be written as JSON")


def row_as_dict(row: Any, *, without: Iterable[str] = ()) -> dict[str, Any]:
    """A row as a JSON object, in the order of its columns."""
    return {name: value for name, value in row._mapping.items() if name not in set(without)}  # noqa: SLF001 (SQLAlchemy's public name)


def print_table(
    rows: Sequence[Sequence[object]], headings: Sequence[str], *, needed: int | None = None
) -> None:
    """Print rows as a table. Values are never cut, because people copy them.

    On a terminal that is too narrow, the last columns are left out, down to the first `needed` (by default
    all). If even those are too wide, each row becomes a block with one line per column. rich's tables wrap or
    cut values instead, and take 50 ms to import.
    """
    if not rows:
        click.echo("(none)")
        return
    cells = [[format_value(value) for value in row] for row in rows]
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
        click.echo(
            f"Not shown: {', '.join(headings[fitting:])}. Widen the terminal, or use --json.", err=True
        )


def _fitting(widths: Sequence[int]) -> int:
    """How many columns fit the terminal."""
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


def format_value(value: object) -> str:
    """One value for people: times in UTC to the second, an empty string for null."""
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}Z"
    if isinstance(value, Decimal):
        return f"{value:f}"
    return str(value)


def counted(number: int, noun: str) -> str:
    """A number with its noun, in the singular or plural."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_duration(seconds: float) -> str:
    """A duration for people, in its two largest units, such as `1 min 6 s`."""
    left = round(seconds)
    parts: list[str] = []
    for unit, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        if left >= size or (unit == "s" and not parts):
            parts.append(f"{left // size:,} {unit}")
        left %= size
    return " ".join(parts[:2])


def format_states(states: Mapping[str, int]) -> str:
    """Counts by state in one line, without zeros."""
    return ", ".join(f"{count:,} {state}" for state, count in states.items() if count)
