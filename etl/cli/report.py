"""`cdr-sync report`: the calls of a period as one HTML file, or as bars in the terminal."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl.cli.app import App, pass_app
from etl.cli.options import LOCAL_INSTANT, file_option
from etl.cli.output import counted, output_to
from etl.errors import UsageError

if TYPE_CHECKING:
    from etl.report.reading import Report

_NEEDED = ("jinja2", "markupsafe", "matplotlib")
_OTHER_FORMS = (".pdf", ".csv", ".json", ".md", ".parquet", ".png", ".svg", ".xlsx")


@click.command("report")
@click.option("--since", type=LOCAL_INSTANT, metavar="T", help="Only calls that begin then or later.")
@click.option("--until", type=LOCAL_INSTANT, metavar="T", help="Only calls that begin before.")
@click.option(
    "--tz",
    "zone_name",
    metavar="ZONE",
    default="UTC",
    show_default=True,
    help="Time zone whose days and hours count, such as Asia/Kolkata.",
)
@file_option("--output", help_text="Write a page of HTML into FILE, whole or not at all.")
@click.option(
    "--mask", is_flag=True, help="Hide phone numbers and agent IDs, but for the country and two digits."
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
    """Report on the calls of a period: coverage, answer rates, talk time, spend, balance, odd data.

    With --output it is one HTML file with plots that needs nothing else, on screen, phone or paper; without,
    it is bars in the terminal. Alone it tells the last 30 whole days, with --since alone all until now, with
    --until alone the 30 days before. Times without a zone of their own are in --tz, and a period holds its
    beginning and not its end. Money stays apart by account, since each has its own currency.
    """
    if Path(output or "").suffix.lower() in _OTHER_FORMS:
        raise UsageError(f"{output} would hold HTML: call it .html")
    render_page = None if output is None else _renderer()
    from etl.report.reading import read_report  # noqa: PLC0415

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
        from etl.report.terminal import print_report  # noqa: PLC0415

        print_report(report)
        return
    page = render_page(report).encode()
    with output_to(output) as file:
        file.write(page)
    click.echo(f"{output}: {counted(report.traffic.all.calls, 'call')}, {len(page) / 1e6:.2f} MB", err=True)


def _renderer() -> Callable[[Report], str]:
    # Matplotlib warns where it cannot write its cache, as a job under systemd or cron often cannot.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        from etl.report.page import render_page  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in _NEEDED:
            raise
        raise UsageError(
            f"--output needs {error.name}: run `pip install 'piopiy-cdr-sync[report]'`, or leave "
            "--output out for bars in the terminal"
        ) from None
    return render_page
