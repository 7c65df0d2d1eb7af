"""`cdr-sync export`: legs or calls as CSV or Parquet."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from etl.cli.app import App, pass_app
from etl.cli.known_names import require_known_names
from etl.cli.options import account_option, file_option, period_options
from etl.cli.output import counted, output_to
from etl.errors import UsageError

if TYPE_CHECKING:
    from etl.db.streams import Field, Portion
    from etl.export.csv_text import CsvWriter
    from etl.export.parquet import ParquetWriter

_NOUNS = {"legs": "leg", "calls": "call"}
_FORMS = _CSV, _PARQUET = "csv", "parquet"


@click.command("export")
@click.argument("subject", type=click.Choice(list(_NOUNS)))
@period_options(since="Only calls at this instant or later.", until="Only calls before this instant.")
@account_option
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMS),
    help="What to write; by default as FILE ends, or else csv.",
)
@file_option("--output", help_text="Write FILE, whole or not at all, and not standard output.")
@click.option("--raw", is_flag=True, help="Write text into CSV as it is, not as spreadsheets need it.")
@pass_app
def command(
    app: App,
    *,
    subject: str,
    since: datetime | None,
    until: datetime | None,
    account: str | None,
    form: str | None,
    output: str | None,
    raw: bool,
) -> None:
    """Write all legs, or all calls, as CSV or Parquet, in the order of time.

    Calls are taken by their time, in UTC, the first instant included and the second not. Runs may store
    meanwhile: what is written is the data as they were when it began. In CSV, text that a spreadsheet would
    run as a formula or change has an apostrophe in front, unless --raw is given.
    """
    from etl.db.streams import Portion  # noqa: PLC0415
    from etl.sync.signals import exit_on_sigterm  # noqa: PLC0415

    form = _form(form, output)
    if raw and form == _PARQUET:
        raise UsageError("--raw is for CSV: in Parquet, text always stands as it is")
    if form == _PARQUET and output is None and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal: add --output FILE")
    with exit_on_sigterm(), output_to(output) as sink:
        count = _write(app, sink, subject, Portion(account, since, until), form, is_raw=raw)
    told = f"{counted(count, _NOUNS[subject])} written to {output or 'standard output'}"
    if not sys.stderr.isatty():
        app.log.info(told)
    elif output is not None or not sys.stdout.isatty():
        click.echo(told, err=True)


def _form(form: str | None, output: str | None) -> str:
    """What to write: as it was said, else as the name of the file ends; refused where these disagree."""
    ending = Path(output or "").suffix.lower().removeprefix(".")
    if form is None and ending.isalpha() and ending not in _FORMS:
        raise UsageError(f"{output} would hold CSV: call it .csv or .parquet, or add --format to have it so")
    if form is not None and ending in _FORMS and ending != form:
        raise UsageError(f"{output} would hold {form}: change its ending, or --format")
    return form or (ending if ending in _FORMS else _CSV)


def _write(app: App, sink: BinaryIO, subject: str, portion: Portion, form: str, *, is_raw: bool) -> int:
    from etl.db.streams import fields_of, stream_rows  # noqa: PLC0415

    count = 0
    with app.long_reading() as connection:
        require_known_names(app, connection, account=portion.account)
        writer = _writer(form, sink, fields_of(subject), is_raw=is_raw)
        try:
            with closing(stream_rows(connection, subject, portion)) as lots:
                for rows in lots:
                    writer.write(rows)
                    count += len(rows)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise
    return count


def _writer(form: str, sink: BinaryIO, fields: Sequence[Field], *, is_raw: bool) -> CsvWriter | ParquetWriter:
    if form == _PARQUET:
        from etl.export.parquet import ParquetWriter  # noqa: PLC0415

        return ParquetWriter(sink, fields)
    from etl.export.csv_text import CsvWriter  # noqa: PLC0415

    return CsvWriter(sink, fields, is_raw=is_raw)
