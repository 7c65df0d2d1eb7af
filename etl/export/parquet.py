"""Parquet: exact decimals, UTC instants to the microsecond, and each column's comment beside it.

Money is decimal(38, 18), the widest that readers take for a decimal: DuckDB makes inexact doubles of a wider
one. A sum of amounts that each fit can be too large for it, and is told as an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from etl.errors import CdrSyncError, UsageError

if TYPE_CHECKING:
    from etl.db.streams import Field

_GROUP = 50_000  # rows: what a reader takes at once, and what is kept in memory here


class ParquetWriter:
    """Writes rows, in groups of some ten thousand."""

    def __init__(self, sink: BinaryIO, fields: Sequence[Field]) -> None:
        """Begin a file.

        Raises:
            UsageError: the library is not installed.
        """
        try:
            import pyarrow as pa  # noqa: PLC0415 (an extra of the product, and slow to import)
            from pyarrow import parquet  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise UsageError(
                "Parquet needs pyarrow, which is not installed: run `pip install 'piopiy-cdr-sync[parquet]'`"
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
        self._makers = [
            bool if one.kind == "boolean" else int if one.kind == "integer" else None for one in fields
        ]
        self._lots: list[Any] = []
        self._writer = parquet.ParquetWriter(sink, self._schema)

    def write(self, rows: Sequence[Sequence[Any]]) -> None:
        """Take some rows over.

        Raises:
            CdrSyncError: an amount has more digits than its column holds.
        """
        columns = zip(*rows, strict=True)
        arrays = [self._array(number, values, rows) for number, values in enumerate(columns)]
        self._lots.append(self._arrow.RecordBatch.from_arrays(arrays, schema=self._schema))
        if sum(len(lot) for lot in self._lots) >= _GROUP:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and the index at the end, without which the file cannot be read."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Write no index, which the library else does as late as it can: half a file would look whole."""
        self._writer.is_open = False

    def _array(self, number: int, values: Sequence[Any], rows: Sequence[Sequence[Any]]) -> Any:
        """The values of one column."""
        field, made = self._schema.field(number), _made(self._makers[number], values)
        try:
            return self._arrow.array(made, type=field.type)
        except self._arrow.ArrowInvalid as error:
            if not self._arrow.types.is_decimal(field.type):
                raise
            row = next(row for row in rows if not self._fits(row[number], field.type))
            key = ", ".join(
                f"{name} {value}" for name, value in zip(self._schema.names[:2], row, strict=False)
            )
            raise CdrSyncError(
                f"Parquet cannot hold the {field.name} {row[number]:f} ({key}), which needs more than 20 "
                "digits before the point or 18 behind it: write CSV instead"
            ) from error

    def _fits(self, value: Any, type_: Any) -> bool:
        try:
            self._arrow.scalar(value, type=type_)
        except self._arrow.ArrowInvalid:
            return False
        return True

    def _flush(self) -> None:
        if self._lots:
            self._writer.write_table(self._arrow.Table.from_batches(self._lots))
            self._lots = []


def _made(maker: type | None, values: Sequence[Any]) -> Sequence[Any]:
    """Values as Arrow wants them: a database can give a sum as a decimal, and a truth as a number."""
    return values if maker is None else [None if value is None else maker(value) for value in values]
