"""`cdr-sync report`: the calls of a period as one HTML file, or as tables and bars in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import click

from etl.cli.app import App, pass_app
from etl.cli.options import LOCAL_INSTANT, file_option
from etl.cli.output import counted, output_to
from etl.errors import UsageError
from etl.report.reading import Report, read_report

_EXTRA = ("jinja2", "markupsafe", "matplotlib")
_OTHER_FILE_TYPES = (".pdf", ".csv", ".json", ".md", ".parquet", ".png", ".svg", ".xlsx")


@click.command("report")
@click.option("--since", type=LOCAL_INSTANT, metavar="T", help="Only calls at T or later.")
@click.option("--until", type=LOCAL_INSTANT, metavar="T", help="Only calls before T.")
@click.option(
    "--tz",
    "zone_name",
    metavar="ZONE",
    default="UTC",
    show_default=True,
    help="Time zone of days and hours, such as Asia/Kolkata.",
)
@file_option("--output", help_text="Write an HTML page to FILE, complete or not at all.")
@click.option(
    "--mask",
    is_flag=True,
    help="Hide phone numbers and agent IDs, except country code and last two digits.",
)
@pass_app
def command(
    app: App,
    *,
    since: datetime | None,
    until: datetime | None,
    zone_name: str,
    output: str | None,
    mask: bool,
) -> None:
    """Report on the calls of a period: completeness, ASR, ACD, spend, balances, data quality.

    With --output, the report is one HTML file with charts, for screen, phone and paper, which loads nothing
    from elsewhere. Without, it is tables and bars in the terminal. Default: the last 30 full days. With only
    --since: until now. With only --until: the 30 days before it. Times without a zone are in --tz. Amounts
    are not added up across accounts, because each account has its own currency.
    """
    suffix = Path(output or "").suffix
    if suffix.lower() in _OTHER_FILE_TYPES:
        raise UsageError(f"A report cannot be written as {suffix}", remedy="Use .html")
    render_page = None if output is None else _page_renderer()

    with app.long_reading() as connection:
        report = read_report(
            connection,
            since,
            until,
            zone_name=zone_name,
            region=app.settings.default_region,
            is_masked=mask,
        )
    if output is None or render_page is None:
        from etl.report.terminal import print_report  # noqa: PLC0415 (rich is slow to import)

        print_report(report)
        return
    page = render_page(report).encode()
    with output_to(output) as file:
        file.write(page)
    click.echo(f"{output}: {counted(report.traffic.total.calls, 'call')}, {len(page) / 1e6:.2f} MB", err=True)


def _page_renderer() -> Callable[[Report], str]:
    """The renderer of the HTML page, whose libraries are an extra."""
    # Matplotlib warns if it cannot write its cache, as jobs under systemd or cron often cannot.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from etl.report.page import render_page  # noqa: PLC0415 (an extra, and slow to import)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _EXTRA:
            raise
        raise UsageError(
            f"--output needs {error.name}, which is not installed",
            remedy="Run `pip install 'piopiy-cdr-sync[report]'`, or leave out --output",
        ) from None
    return render_page
