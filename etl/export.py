"""Legs and calls as files: CSV that a spreadsheet neither runs nor changes, and exact Parquet.

CSV follows RFC 4180, in UTF-8. After OWASP's advice on CSV injection, text gets an apostrophe in front if it

- begins like a formula, from any sender, or with an apostrophe, a tab or a line break;
- is what a spreadsheet reads as a number, date, time, amount or boolean, and then shows or saves differently:
  `0447`, `12-11`, `5/6`, `1.5e10`, `Mar-21`, `TRUE`, blanks around a number, and any number of 12 digits or
  more, which Excel saves as 9.1E+11. Of the names of months and booleans, only the English ones are covered;
- continues like a formula after a `;`, a tab or a line break, because a spreadsheet set to another country
  starts a new cell there, quoted or not.

Without one apostrophe at its start, and one after each `;`, tab or line break, a cell is exactly what is
stored. Amounts and counts are numbers and stay as they are, also negative ones.

Parquet has instants in UTC to the microsecond, each column's comment, and money as decimal(38, 18): the
widest type that readers take as a decimal. DuckDB reads a wider one as an inexact double. A sum of amounts
that each fit can be too large for it; then the export ends with an error that names the row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from etl.errors import CdrSyncError, UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from etl.db.selection import Span
    from etl.db.streams import Field

CSV, PARQUET = FORMATS = ("csv", "parquet")
_ROW_GROUP = 50_000  # rows that a Parquet reader takes at once, and that are kept in memory here

# The last four are the same characters in the full width of East Asian text.
_FORMULA_STARTS = "=+@'\uff1d\uff0b\uff0d\uff20-"
_FORMULA = re.compile(rf"[\t\r\n]|\s*[{_FORMULA_STARTS}]")
_FORMULA_WITHIN = re.compile(rf"(?<=[;\t\r\n])(?=\s*[{_FORMULA_STARTS}])")
_UNCHANGED_NUMBER = re.compile(r"0|[1-9]\d{0,10}")  # the same text after a spreadsheet read it as a number
# Digits and punctuation alone, or before at most two words; or after the name of a weekday or a month.
_CHANGED_VALUE = re.compile(
    r"\W*+\d[\W\d]*+(?:[^\W\d_]++[\W\d]*+){0,2}"
    r"|\s*(?:mon|tue|wed|thu|fri|sat|sun|jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\W*\d.*"
    r"|\s*(?:true|false)\s*",
    re.IGNORECASE | re.DOTALL,
)
_NEEDS_QUOTES = re.compile(r'[,;"\t\r\n]|\A\s|\s\Z')


def choose_format(requested: str | None, file_name: str | None) -> str:
    """The format to write: the requested one, else the one that the file's name ends in, else CSV.

    Raises:
        UsageError: the name ends in another format than the requested one, or in an unknown one.
    """
    suffix = Path(file_name or "").suffix
    ending = suffix.lower().removeprefix(".")
    if requested is None and ending.isalpha() and ending not in FORMATS:
        raise UsageError(f"Unknown file type {suffix}", remedy="Use .csv or .parquet, or add --format")
    if requested is not None and ending in FORMATS and ending != requested:
        raise UsageError(
            f"{file_name} does not match --format {requested}",
            remedy=f"Use .{requested}, or change --format",
        )
    return requested or (ending if ending in FORMATS else CSV)


def write_export(
    connection: Connection,
    sink: BinaryIO,
    *,
    subject: str,
    span: Span,
    file_format: str,
    is_raw: bool = False,
) -> int:
    """Write all rows of a span in the order of call time, with flat memory.

    Args:
        connection: one of `long_reading`; all rows come from its snapshot.
        sink: the file to write. If an error ends the export, what is in it cannot be read as whole Parquet.
        subject: `legs` or `calls`.
        span: which rows.
        file_format: one of `FORMATS`.
        is_raw: whether CSV has text exactly as stored, unsafe for spreadsheets.

    Returns:
        The number of rows.

    Raises:
        UsageError: pyarrow is not installed.
        CdrSyncError: Parquet cannot hold an amount.
    """
    from etl.db.streams import fields_of, stream_rows  # noqa: PLC0415 (SQLAlchemy, which --help does not need)

    fields = fields_of(subject)
    writer = ParquetWriter(sink, fields) if file_format == PARQUET else CsvWriter(sink, fields, is_raw=is_raw)
    count = 0
    try:
        with closing(stream_rows(connection, subject, span)) as chunks:
            for rows in chunks:
                writer.write(rows)
                count += len(rows)
        writer.finish()
    except BaseException:
        writer.abandon()
        raise
    return count


class CsvWriter:
    """Writes a header line, then rows. Each value is complete once `write` returns."""

    def __init__(self, sink: BinaryIO, fields: Sequence[Field], *, is_raw: bool) -> None:
        self._sink = sink
        as_text = str if is_raw else safe_text
        self._formatters = [_FORMATTERS.get(field.kind, as_text) for field in fields]
        self._put([[field.name for field in fields]])

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Write some rows. Null is an empty cell."""
        cells = (zip(self._formatters, row, strict=True) for row in rows)
        self._put([["" if value is None else formatted(value) for formatted, value in row] for row in cells])

    def finish(self) -> None:
        """Do nothing: CSV has no end mark."""

    def abandon(self) -> None:
        """Do nothing: what was written stays."""

    def _put(self, rows: Sequence[Sequence[str]]) -> None:
        self._sink.write("".join(f"{','.join(map(_quoted, row))}\r\n" for row in rows).encode())


def _quoted(cell: str) -> str:
    """A cell, in quotes if it has any country's separator; the csv module looks for one of them only."""
    return '"{}"'.format(cell.replace('"', '""')) if _NEEDS_QUOTES.search(cell) else cell


def safe_text(text: str) -> str:
    """Text that a spreadsheet reads as that text."""
    is_changed = _CHANGED_VALUE.fullmatch(text) and not _UNCHANGED_NUMBER.fullmatch(text)
    apostrophe = "'" if is_changed or _FORMULA.match(text) else ""
    return apostrophe + _FORMULA_WITHIN.sub("'", text)


def _instant(value: datetime) -> str:
    """ISO 8601, always with microseconds: sorting the text sorts by time."""
    return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


_FORMATTERS: dict[str, Callable[[Any], str]] = {
    "integer": lambda value: str(int(value)),
    "money": lambda value: f"{value:f}",
    "instant": _instant,
    "boolean": lambda value: "true" if value else "false",
}
# A database can return a sum as a decimal, and a boolean as a number; Arrow takes neither.
_CONVERTERS: dict[str, Callable[[Any], Any]] = {"integer": int, "boolean": bool}


class ParquetWriter:
    """Writes rows in groups of 50,000."""

    def __init__(self, sink: BinaryIO, fields: Sequence[Field]) -> None:
        """Begin a file.

        Raises:
            UsageError: pyarrow is not installed.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 (an extra of the product, and slow to import)
            from pyarrow import parquet  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise UsageError(
                "Parquet needs pyarrow, which is not installed",
                remedy="Run `pip install 'piopiy-cdr-sync[parquet]'`",
            ) from error
        types = {
            "text": pa.string(),
            "integer": pa.int64(),
            "money": pa.decimal128(38, 18),
            "instant": pa.timestamp("us", tz="UTC"),
            "boolean": pa.bool_(),
        }
        self._arrow = pa
        self._schema = pa.schema(
            pa.field(one.name, types[one.kind], one.is_nullable, {"comment": one.comment}) for one in fields
        )
        self._converters = [_CONVERTERS.get(field.kind) for field in fields]
        self._batches: list[Any] = []  # the row group that is being filled
        self._writer = parquet.ParquetWriter(sink, self._schema)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Add some rows.

        Raises:
            CdrSyncError: an amount has more digits than its column holds.
        """
        columns = zip(*rows, strict=True)
        arrays = [self._array(position, values, rows) for position, values in enumerate(columns)]
        self._batches.append(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
        if sum(map(len, self._batches)) >= _ROW_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write the last group, and the index at the end, without which the file cannot be read."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Write no index, or half a file would look whole; pyarrow would write one when collected."""
        self._writer.is_open = False

    def _array(self, position: int, values: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Any:
        """The values of one column, as Arrow takes them."""
        field, convert = self._schema.field(position), self._converters[position]
        if convert is not None:
            values = [None if value is None else convert(value) for value in values]
        try:
            return self._arrow.array(values, type=field.type)
        except self._arrow.ArrowInvalid as error:
            if not self._arrow.types.is_decimal(field.type):
                raise
            row = next(row for row in rows if not self._fits(row[position], field.type))
            key = ", ".join(f"{name} {row[n]}" for n, name in enumerate(self._schema.names[:2]))
            raise CdrSyncError(
                f"Parquet cannot hold the {field.name} {row[position]:f} ({key}): it has more than 20 digits "
                "before the decimal point or 18 after it",
                remedy="Export CSV instead",
            ) from error

    def _fits(self, value: Any, type_: Any) -> bool:
        try:
            self._arrow.scalar(value, type=type_)
        except self._arrow.ArrowInvalid:
            return False
        return True

    def _flush(self) -> None:
        if self._batches:
            self._writer.write_table(self._arrow.Table.from_batches(self._batches))
            self._batches = []
