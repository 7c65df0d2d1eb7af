"""Lists of request IDs as people have them: one a line, CSV, or JSON lines; read as a stream."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from etl.errors import UsageError

LONGEST = 255
_COLUMN = "request_id"
_FOREIGN = frozenset(' \ufffd,;|"{}[]')  # of other formats, of lost characters: never of an ID
_DELIMITERS = (",", ";", "\t", "|")
# The name of a column, such as `Call ID` or `requestid`; no ID that ends in these letters, such as `grid`.
_OTHER_COLUMN = re.compile(
    r"([a-z]{1,12}[ _.-]|request|req|call|cdr|unique|session|record)?(id|uuid|guid)s?", re.IGNORECASE
)
_LONGEST_HEAD = 100_000  # characters: less than the reader of CSV takes for one value
_ACCEPTED = "a list has one ID a line, or is CSV with a column request_id, or JSON lines (one object a line)"


@dataclass(frozen=True, slots=True)
class Listed:
    """One entry of a list: a request ID, or what is wrong with the entry."""

    line: int
    request_id: str = ""
    problem: str | None = None


def read_request_ids(lines: Iterable[str]) -> Iterator[Listed]:
    """Read request IDs from the lines of a file.

    A file is JSON lines where its first line with anything in it begins with `{`, CSV where that line is a
    header with a column `request_id`, and else has one ID a line. Blank lines do not count.

    Raises:
        UsageError: that line says that it is none of these, so that every line would be taken for what it is
            not.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1))
    first = next(((number, line) for number, line in numbered if line.strip("\ufeff \t\r\n")), None)
    if first is None:
        return
    head = first[1].lstrip("\ufeff")
    rest = itertools.chain([(first[0], head)], numbered)
    if "\x00" in head or head.startswith("PK\x03\x04"):
        raise UsageError(f"line {first[0]} is not text in UTF-8: save a spreadsheet as CSV, in UTF-8")
    if head.lstrip().startswith("[") or head.strip() == "{":
        raise UsageError(f"line {first[0]} begins a JSON document of many lines: {_ACCEPTED}")
    if head.lstrip().startswith("{"):
        yield from _from_json(rest)
        return
    # Of the signs that may part columns, one that brings the column out, and then the one that makes most.
    tables = [(_names_in(head, sign), sign) for sign in _DELIMITERS]
    names, delimiter = max(tables, key=lambda one: (_COLUMN in map(str.lower, one[0]), len(one[0])))
    if _COLUMN in (lower := [name.lower() for name in names]):
        yield from _from_csv(rest, delimiter, lower.index(_COLUMN), first[0])
        return
    # A tab behind an ID makes no table.
    _refuse_other_columns(first[0], _names_in(head.rstrip(" \t\r\n"), delimiter))
    yield from (check_request_id(number, line.strip()) for number, line in rest if line.strip())


def _names_in(head: str, delimiter: str) -> list[str]:
    # Without its end: inside quotes that nobody closed, the reader would take that for a part of the name.
    row = next(csv.reader([head[:_LONGEST_HEAD].rstrip("\r\n")], delimiter=delimiter))
    return [name.strip() for name in row]


def _refuse_other_columns(line: int, names: Sequence[str]) -> None:
    """Refuse what is a table by its first line, or the header of one, and has no column of IDs."""
    if len(names) > 1 or _OTHER_COLUMN.fullmatch(names[0]):
        told = ", ".join(repr(name[:40]) for name in names[:8]) + (", …" if len(names) > 8 else "")  # noqa: PLR2004
        raise UsageError(f"line {line} has the columns {told}, and none is called {_COLUMN!r}: {_ACCEPTED}")


def check_request_id(line: int, text: str) -> Listed:
    """Take a text for a request ID, unless it cannot be one."""
    if not text:
        return Listed(line, problem="is empty")
    if len(text) > LONGEST:
        return Listed(line, problem=f"is longer than {LONGEST} characters")
    if not text.isprintable() or _FOREIGN.intersection(text):
        return Listed(line, problem=f"{text[:40]!r} has characters that no request ID has")
    return Listed(line, text)


def _from_csv(rest: Iterator[tuple[int, str]], delimiter: str, column: int, skipped: int) -> Iterator[Listed]:
    reader = csv.reader((line for _, line in rest), delimiter=delimiter, strict=True)
    next(reader)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Listed(reader.line_num + skipped - 1, problem=f"is no CSV: {error}")
            continue
        if any(cell.strip() for cell in row):
            text = row[column].strip() if column < len(row) else ""
            yield check_request_id(reader.line_num + skipped - 1, text)


def _from_json(rest: Iterator[tuple[int, str]]) -> Iterator[Listed]:
    for number, line in rest:
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            yield Listed(number, problem="is not JSON")
            continue
        value = content.get(_COLUMN) if isinstance(content, dict) else None
        if value is None and isinstance(content, dict) and isinstance(content.get("data"), dict):
            value = content["data"].get(_COLUMN)
        if isinstance(value, str):
            yield check_request_id(number, value.strip())
        else:
            yield Listed(number, problem=f"has no text {_COLUMN!r}, neither at the top nor in `data`")
