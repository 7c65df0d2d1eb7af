"""Request IDs from arguments, files and pipes, read as a stream.

A file has one ID per line, or is CSV with a `request_id` column, or JSON lines. Its first line that is not
blank decides which. An entry that cannot be a request ID is reported with its line number and skipped.
"""

from __future__ import annotations

import csv
import itertools
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from etl.errors import UsageError

LONGEST_ID = 255  # characters, as the columns of the tables have them
_MOST_REPORTED = 20
_COLUMN = "request_id"
_NEVER_IN_AN_ID = frozenset(' \ufffd,;|"{}[]')  # they belong to other formats, or stand for lost characters
_DELIMITERS = (",", ";", "\t", "|")
# The name of another column, such as `Call ID` or `requestid`, but not an ID such as `grid`.
_OTHER_COLUMN = re.compile(
    r"([a-z]{1,12}[ _.-]|request|req|call|cdr|unique|session|record)?(id|uuid|guid)s?", re.IGNORECASE
)
_LONGEST_HEADER = 100_000  # characters; the CSV reader refuses a value of 131,072
_ACCEPTED = "Use one ID per line, CSV with a column request_id, or JSON lines (one object per line)"


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a file: a request ID, or what is wrong with it, as the end of "line 3 …"."""

    line: int
    request_id: str = ""
    problem: str | None = None


class RequestIds:
    """The valid request IDs given to a command, as an iterator that can be read once.

    `report` is called with one line for each of the first entries that cannot be an ID; `valid` and `invalid`
    count what was read so far.

    Raises:
        UsageError: an argument is the name of a file; or the file cannot be read, or its first line shows
            another format. Both are raised before anything is read from the iterator, so that a wrong file
            changes nothing.
    """

    def __init__(
        self, arguments: Sequence[str], from_file: str | None, *, report: Callable[[str], None]
    ) -> None:
        _refuse_file_names(arguments)
        self.valid = 0
        self.invalid = 0
        self._report = report
        listed = _read_file(from_file) if from_file is not None else iter(())
        first = list(itertools.islice(listed, 1))  # opens the file, and decides on its format
        self._ids = self._valid_ids(arguments, itertools.chain(first, listed))

    def __iter__(self) -> Iterator[str]:
        return self._ids

    def require_any(self) -> None:
        """Refuse a list without any valid ID, after everything is read.

        Raises:
            UsageError: all entries were invalid.
        """
        if self.invalid and not self.valid:
            raise UsageError("None of the entries is a valid request ID", remedy=_ACCEPTED)

    def _valid_ids(self, arguments: Sequence[str], listed: Iterator[Entry]) -> Iterator[str]:
        typed = (check_request_id(n, text.strip()) for n, text in enumerate(arguments, start=1))
        entries = itertools.chain(
            (("argument", entry) for entry in typed), (("line", entry) for entry in listed)
        )
        for place, entry in entries:
            if entry.problem is None:
                self.valid += 1
                yield entry.request_id
                continue
            self.invalid += 1
            if self.invalid <= _MOST_REPORTED:
                self._report(f"{place} {entry.line} {entry.problem}")
        if self.invalid > _MOST_REPORTED:
            self._report(f"… and {self.invalid - _MOST_REPORTED:,} more")


def check_request_id(line: int, text: str) -> Entry:
    """Make an entry of a text: a request ID, or a problem."""
    if not text:
        return Entry(line, problem="is empty")
    if len(text) > LONGEST_ID:
        return Entry(line, problem=f"is longer than {LONGEST_ID} characters")
    if not text.isprintable() or _NEVER_IN_AN_ID.intersection(text):
        return Entry(line, problem=f"has characters that no request ID has: {text[:40]!r}")
    return Entry(line, text)


def _refuse_file_names(arguments: Sequence[str]) -> None:
    for text in arguments:
        # `Path.is_file` fails for a text that is longer than a file name can be.
        if text == "-" or (("." in text or "/" in text) and os.path.isfile(text)):  # noqa: PTH113
            raise UsageError(
                f"{text!r} is a file, not a request ID", remedy=f"Use --from-file {shlex.quote(text)}"
            )


def _read_file(name: str) -> Iterator[Entry]:
    """The entries of a file, or of standard input for `-`."""
    if name == "-":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]  # a text stream
        yield from read_request_ids(sys.stdin)
        return
    try:
        with open(name, encoding="utf-8", errors="replace", newline=None) as file:  # noqa: PTH123 (a name is enough)
            yield from read_request_ids(file)
    except OSError as error:
        raise UsageError(f"Cannot read {name}: {error.strerror}") from error


def read_request_ids(lines: Iterable[str]) -> Iterator[Entry]:
    """Read the entries of a file from its lines. Blank lines do not count.

    Raises:
        UsageError: the first line shows a format that is not supported, so that every line would be misread.
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1))
    first = next(((number, line) for number, line in numbered if line.strip("\ufeff \t\r\n")), None)
    if first is None:
        return
    number, header = first[0], first[1].lstrip("\ufeff")
    rest = itertools.chain([(number, header)], numbered)
    _refuse_other_formats(number, header)
    if header.lstrip().startswith("{"):
        yield from _from_json(rest)
        return
    # Prefer the delimiter that yields a request_id column, then the one that yields most columns.
    tables = [(_columns(header, delimiter), delimiter) for delimiter in _DELIMITERS]
    columns, delimiter = max(tables, key=lambda one: (_COLUMN in map(str.lower, one[0]), len(one[0])))
    if _COLUMN in (lower := [name.lower() for name in columns]):
        yield from _from_csv(rest, delimiter, lower.index(_COLUMN), number)
        return
    # A tab after an ID does not make a table.
    _refuse_other_columns(number, _columns(header.rstrip(" \t\r\n"), delimiter))
    yield from (check_request_id(number, line.strip()) for number, line in rest if line.strip())


def _refuse_other_formats(number: int, header: str) -> None:
    if "\x00" in header or header.startswith("PK\x03\x04"):
        raise UsageError(f"Line {number} is not UTF-8 text", remedy="Save a spreadsheet as CSV in UTF-8")
    if header.lstrip().startswith("[") or header.strip() == "{":
        raise UsageError(f"Line {number} starts a JSON document of several lines", remedy=_ACCEPTED)


def _columns(header: str, delimiter: str) -> list[str]:
    # Without its line end, which would be a part of the name after a quote that is never closed.
    row = next(csv.reader([header[:_LONGEST_HEADER].rstrip("\r\n")], delimiter=delimiter))
    return [name.strip() for name in row]


def _refuse_other_columns(number: int, columns: Sequence[str]) -> None:
    """Refuse a table without a column of IDs: by its header, or by a first line of several values."""
    if len(columns) > 1 or _OTHER_COLUMN.fullmatch(columns[0]):
        named = ", ".join(repr(name[:40]) for name in columns[:8]) + (", …" if len(columns) > 8 else "")  # noqa: PLR2004
        raise UsageError(f"Line {number} has the columns {named}, and none is {_COLUMN!r}", remedy=_ACCEPTED)


def _from_csv(
    rest: Iterator[tuple[int, str]], delimiter: str, column: int, header_line: int
) -> Iterator[Entry]:
    reader = csv.reader((line for _, line in rest), delimiter=delimiter, strict=True)
    next(reader)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Entry(reader.line_num + header_line - 1, problem=f"is not valid CSV: {error}")
            continue
        if any(cell.strip() for cell in row):
            text = row[column].strip() if column < len(row) else ""
            yield check_request_id(reader.line_num + header_line - 1, text)


def _from_json(rest: Iterator[tuple[int, str]]) -> Iterator[Entry]:
    for number, line in rest:
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            yield Entry(number, problem="is not valid JSON")
            continue
        value = content.get(_COLUMN) if isinstance(content, dict) else None
        if value is None and isinstance(content, dict) and isinstance(content.get("data"), dict):
            value = content["data"].get(_COLUMN)
        if isinstance(value, str):
            yield check_request_id(number, value.strip())
        else:
            yield Entry(number, problem=f"has no text in {_COLUMN!r}, neither at the top level nor in `data`")
