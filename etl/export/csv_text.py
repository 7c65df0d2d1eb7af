"""CSV as RFC 4180 has it, in UTF-8, that a spreadsheet opens without running or changing what stands in it.

A cell that begins like a formula is one to a spreadsheet, whoever sent the text, and a number with a leading
zero or more than 15 digits is another number there. Such text gets an apostrophe in front, as OWASP advises
(CSV injection); so does text that begins with an apostrophe, so that whoever takes one away wherever there is
one gets back what is stored. Amounts and counts are numbers, also negative ones, and stay as they are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from etl.db.exports import Field

_APOSTROPHE = "'"
# The last four are the same signs in the width of Chinese characters.
_BEGINNINGS = ("=", "+", "-", "@", "\t", "\r", "\n", _APOSTROPHE, "\uff1d", "\uff0b", "\uff0d", "\uff20")
_ANOTHER_NUMBER = re.compile(r"0\d+|\d{16,}|\d+[eE]\d+")


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
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\r\n").writerows(rows)
        self._sink.write(text.getvalue().encode())


def safe_text(text: str) -> str:
    """Text that a spreadsheet takes for text."""
    is_formula = text.startswith(_BEGINNINGS) or text.lstrip().startswith(_BEGINNINGS)
    return _APOSTROPHE + text if is_formula or _ANOTHER_NUMBER.fullmatch(text) else text


def stored_text(cell: str) -> str:
    """The text that `safe_text` made a cell of."""
    return cell.removeprefix(_APOSTROPHE)


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
