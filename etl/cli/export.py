"""`cdr-sync export`: legs or calls as CSV or Parquet."""

from __future__ import annotations

import sys
from datetime import datetime

import click

from etl.cli.app import App, pass_app
from etl.cli.known_names import require_known_names
from etl.cli.options import account_option, file_option, period_options
from etl.cli.output import counted, output_to
from etl.db.selection import Span
from etl.errors import UsageError
from etl.export import FORMATS, PARQUET, choose_format, write_export
from etl.sync.signals import exit_on_sigterm


@click.command("export")
@click.argument("subject", type=click.Choice(["legs", "calls"]))
@period_options(since="Only calls at T or later.", until="Only calls before T.")
@account_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(FORMATS),
    help="File format. Default: as the name of FILE ends, else csv.",
)
@file_option("--output", help_text="Write FILE, complete or not at all, instead of standard output.")
@click.option("--raw", is_flag=True, help="Write text to CSV exactly as stored, unsafe for spreadsheets.")
@pass_app
def command(
    app: App,
    *,
    subject: str,
    since: datetime | None,
    until: datetime | None,
    account: str | None,
    file_format: str | None,
    output: str | None,
    raw: bool,
) -> None:
    """Export all legs or all calls as CSV or Parquet, ordered by call time.

    --since and --until select by call time, in UTC; --since is included, --until is not. Runs may store data
    at the same time: the file has the data as of the start of the export. In CSV, text that a spreadsheet
    would run as a formula, or change, gets an apostrophe in front; --raw turns this off.
    """
    file_format = choose_format(file_format, output)
    if raw and file_format == PARQUET:
        raise UsageError("--raw is only for CSV", remedy="Leave it out: Parquet always has text as stored")
    if file_format == PARQUET and output is None and sys.stdout.isatty():
        raise UsageError("Parquet cannot be shown on a terminal", remedy="Add --output FILE")
    with exit_on_sigterm(), output_to(output) as sink, app.long_reading() as connection:
        require_known_names(app, connection, account=account)
        span = Span(account, since, until)
        count = write_export(
            connection, sink, subject=subject, span=span, file_format=file_format, is_raw=raw
        )
    message = f"{counted(count, subject.removesuffix('s'))} written to {output or 'standard output'}"
    if not sys.stderr.isatty():
        app.log.info(message)
    elif output is not None or not sys.stdout.isatty():
        click.echo(message, err=True)
