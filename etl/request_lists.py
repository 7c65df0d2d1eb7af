"""Lists of request IDs as people have them: one a line, CSV, or JSON lines; read as a stream."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

LONGEST = 255
_COLUMN = "request_id"
_FOREIGN = frozenset(' \ufffd,;|"{}[]')  # of other formats, of lost characters: never of an ID
_DELIMITERS = (",", ";", "\t", "|")


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
    """
    numbered = ((number, line) for number, line in enumerate(lines, start=1))
    first = next(((number, line) for number, line in numbered if line.strip("\ufeff \t\r\n")), None)
    if first is None:
        return
    head = first[1].lstrip("\ufeff")
    rest = itertools.chain([(first[0], head)], numbered)
    if head.lstrip().startswith("{"):
        yield from _from_json(rest)
        return
    for delimiter in _DELIMITERS:
        names = [name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])]
        if _COLUMN in names:
            yield from _from_csv(rest, delimiter, names.index(_COLUMN), first[0])
            return
    yield from (check_request_id(number, line.strip()) for number, line in rest if line.strip())


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
