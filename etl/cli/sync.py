"""`cdr-sync sync`: one run of the job."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from etl.cli.app import App, only_one, pass_app
from etl.cli.known_names import require_known_names, warn_about_unused_label
from etl.cli.main import at_its_end
from etl.cli.options import (
    account_option,
    batch_option,
    file_option,
    json_option,
    time_limit_option,
    workers_option,
)
from etl.cli.output import counted, print_json, print_table
from etl.cli.running import report_problems, run_job, summary_document, summary_text
from etl.db.states import LANES
from etl.monitoring import monitored

if TYPE_CHECKING:
    from etl.settings import Account
    from etl.sync.summary import Limits, Summary


@click.command("sync")
@click.option("--limit", "most", type=click.IntRange(1), metavar="N", help="Claim at most N requests.")
@time_limit_option
@workers_option
@account_option
@batch_option
@click.option("--dry-run", is_flag=True, help="Only print what is due; call no API, change nothing.")
@click.option("--single-instance", is_flag=True, help="Exit with 75 if another such run is active here.")
@file_option("--metrics-file", help_text="Write metrics for node_exporter to FILE at the end.")
@json_option
@pass_app
def command(
    app: App,
    *,
    most: int | None,
    time_limit: timedelta | None,
    workers: int | None,
    account: str | None,
    batch: str | None,
    dry_run: bool,
    single_instance: bool,
    metrics_file: str | None,
    as_json: bool,
) -> None:
    """Ask the API for every request that is due, and store its legs.

    Ends when nothing is due any more, or at a limit. Any number of runs may overlap, on any machines. Off a
    terminal it prints nothing unless a person must act; the exit code says why.
    """
    app.set_option("workers", workers)
    app.set_option("metrics_file", metrics_file)
    if dry_run:
        _print_what_is_due(app, account, batch, most, as_json=as_json)
        return
    from etl.sync.summary import Limits  # noqa: PLC0415

    # A run that exits because another one is active has not begun: its monitoring reports nothing.
    alone = only_one(app.settings.database_url) if single_instance else nullcontext()
    monitoring = monitored(app.settings, app.log, reading=app.reading, at_its_end=at_its_end)
    with alone, monitoring as run:
        summary = _run(app, app.accounts(account), Limits(most, time_limit, batch))
        run.summary, run.text = summary, summary_text(summary)
        report_problems(app, summary)
        if as_json:
            print_json(summary_document(summary))
        elif sys.stdout.isatty():
            click.echo(run.text)
        if batch is not None and not summary.counts["claimed"] and sys.stderr.isatty():
            with app.reading() as connection:
                warn_about_unused_label(app, connection, batch)
        raise click.exceptions.Exit(summary.exit_code)


def _run(app: App, accounts: list[Account], limits: Limits) -> Summary:
    from etl.db.idle import run_if_idle  # noqa: PLC0415
    from etl.sync.summary import Summary  # noqa: PLC0415

    names = [one.name for one in accounts]
    idle_run = run_if_idle(app.settings.database_url, names, batch=limits.batch)
    return Summary(idle_run) if idle_run else run_job(app, accounts, limits)


def _print_what_is_due(
    app: App, account: str | None, batch: str | None, most: int | None, *, as_json: bool
) -> None:
    from etl.db.selection import Selection, count_requests  # noqa: PLC0415

    accounts = [account] if account else list(app.settings.accounts)
    selection = Selection(accounts=accounts, batch=batch, only_due=True)
    with app.reading() as connection:
        require_known_names(app, connection, account=account)
        warn_about_unused_label(app, connection, batch)
        due = count_requests(connection, selection)
    total = sum(due.values()) if most is None else min(most, sum(due.values()))
    rows = [(name, LANES[lane], count) for (name, lane), count in sorted(due.items())]
    if as_json:
        print_json(
            {
                "due": total,
                "by": [dict(zip(("account", "lane", "due"), row, strict=True)) for row in rows],
            }
        )
    else:
        click.echo(f"{counted(total, 'request')} due")
        if rows:
            print_table(rows, ("account", "lane", "due"))
