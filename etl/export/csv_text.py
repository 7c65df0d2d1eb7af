"""CSV as RFC 4180 has it, in UTF-8, that a spreadsheet opens without running or changing what stands in it.

Text gets an apostrophe in front, after OWASP's advice on CSV injection, where it is

- what begins like a formula, whoever sent it, or with an apostrophe, a tab or a line's end;
- what a spreadsheet takes for a number, date, time, amount or truth, and shows or saves as another text:
  `0447`, `12-11`, `5/6`, `1.5e10`, `Mar-21`, `TRUE`, blanks round a number, and any number of 12 digits and
  more, which Excel saves as 9.1E+11. Of the names of months and truths, the English ones are known;
- what begins like a formula behind a `;`, a tab or a line's end within the text, since a spreadsheet of
  another country begins a new cell there, quoted or not.

`stored_text` takes them away again, and gives back exactly what is stored. Amounts and counts are numbers,
also negative ones, and stay as they are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from etl.db.streams import Field

# The last four are the same signs in the width of Chinese characters.
_SIGNS = "=+@'\uff1d\uff0b\uff0d\uff20-"
_FORMULA = re.compile(rf"[\t\r\n]|\s*[{_SIGNS}]")
_FORMULA_WITHIN = re.compile(rf"(?<=[;\t\r\n])(?=\s*[{_SIGNS}])")
_GUARD = re.compile(r"(\A|[;\t\r\n])'")
# The same in a spreadsheet, whatever it is taken for there.
_SAME_NUMBER = re.compile(r"0|[1-9]\d{0,10}")
# Digits and marks alone, or before at most two words; or behind the name of a weekday or a month.
_ANOTHER_VALUE = re.compile(
    r"\W*+\d[\W\d]*+(?:[^\W\d_]++[\W\d]*+){0,2}"
    r"|\s*(?:mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W*\d.*"
    r"|\s*(?:true|false)\s*",
    re.IGNORECASE | re.DOTALL,
)
_TO_BE_QUOTED = re.compile(r'[,;"\t\r\n]|\A\s|\s\Z')


class CsvWriter:
    """Writes a header, and then rows."""

    def __init__(self, sink: BinaryIO, fields: Sequence[Field], *, is_raw: bool) -> None:
        self._sink = sink
        as_text = str if is_raw else safe_text
        self._shown = [_SHOWN.get(field.kind, as_text) for field in fields]
        self._put([[field.name for field in fields]])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write some rows. Null is an empty cell."""
        self._put(
            [
                [None if value is None else show(value) for show, value in zip(self._shown, row, strict=True)]
                for row in rows
            ]
        )

    def finish(self) -> None:
        """There is nothing to add."""

    def abandon(self) -> None:
        """There is nothing to undo."""

    def _put(self, rows: Sequence[Sequence[str | None]]) -> None:
        lines = (",".join("" if cell is None else _quoted(cell) for cell in row) for row in rows)
        self._sink.write("".join(f"{line}\r\n" for line in lines).encode())


def _quoted(cell: str) -> str:
    """A cell in quotes where anything in it could end it: the csv module knows of one separator alone."""
    return '"{}"'.format(cell.replace('"', '""')) if _TO_BE_QUOTED.search(cell) else cell


def safe_text(text: str) -> str:
    """Text that a spreadsheet takes for text."""
    is_another = _ANOTHER_VALUE.fullmatch(text) and not _SAME_NUMBER.fullmatch(text)
    guard = "'" if is_another or _FORMULA.match(text) else ""
    return guard + _FORMULA_WITHIN.sub("'", text)


def stored_text(cell: str) -> str:
    """The text that `safe_text` made a cell of."""
    return _GUARD.sub(r"\1", cell)


def _instant(value: datetime) -> str:
    """ISO 8601, always with microseconds, so that the order of the text is that of time."""
    return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def _money(value: Decimal) -> str:
    return f"{value:f}"


def _boolean(value: bool) -> str:  # noqa: FBT001
    return "true" if value else "false"


_SHOWN: dict[str, Callable[[Any], str]] = {
    "integer": lambda value: str(int(value)),
    "money": _money,
    "instant": _instant,
    "boolean": _boolean,
}
