"""`cdr-sync sync`: one run of the job."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from etl.cli.app import App, pass_app
from etl.cli.crash import tell_crash
from etl.cli.monitoring import monitored
from etl.cli.options import DURATION, account_option, batch_option, json_option
from etl.cli.output import counted, print_json, print_table
from etl.cli.progress import watched
from etl.db.states import LANES
from etl.sync.summary import OUTCOMES

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from etl.settings import Account
    from etl.sync.summary import Limits, Summary


@click.command("sync")
@click.option("--limit", "most", type=click.IntRange(1), metavar="N", help="Claim at most N requests.")
@click.option("--time-limit", type=DURATION, help="Stop claiming after this time, such as 50s.")
@click.option("--workers", type=click.IntRange(1, 256), metavar="N", help="Threads that ask the API.")
@account_option
@batch_option
@click.option("--dry-run", is_flag=True, help="Only tell what is due; ask nothing, change nothing.")
@click.option("--single-instance", is_flag=True, help="Exit 75 where another such run is at work here.")
@click.option("--metrics-file", metavar="FILE", help="Write metrics for node_exporter to FILE at the end.")
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

    Ends when nothing is due any more, or at a limit. Any number of runs may overlap, on any machines. Quiet
    off a terminal unless a person must do something; the exit code tells what.
    """
    app.set_option("workers", workers)
    app.set_option("metrics_file", metrics_file)
    if dry_run:
        names = [account] if account else list(app.settings.accounts)
        _tell_what_is_due(app, names, batch, most, as_json=as_json)
        return
    from etl.sync.summary import Limits  # noqa: PLC0415

    # A run that leaves since another one is at work has not begun: its monitoring hears nothing of it.
    with _only_one(app) if single_instance else nullcontext(), monitored(app) as run:
        summary = _run(app, app.accounts(account), Limits(most, time_limit, batch))
        run.summary, run.text = summary, summary_text(summary)
        tell_problems(app, summary)
        if as_json:
            print_json(summary_document(summary))
        elif sys.stdout.isatty():
            click.echo(run.text)
        raise click.exceptions.Exit(summary.exit_code)


def _only_one(app: App) -> AbstractContextManager[None]:
    from etl.cli.single_instance import only_one  # noqa: PLC0415

    return only_one(app.settings.database_url)


def _run(app: App, accounts: list[Account], limits: Limits) -> Summary:
    from etl.db.idle import run_if_idle  # noqa: PLC0415
    from etl.sync.summary import Summary  # noqa: PLC0415

    names = [one.name for one in accounts]
    idle_run = run_if_idle(app.settings.database_url, names, batch=limits.batch)
    return Summary(idle_run) if idle_run else _work(app, accounts, limits)


def _work(app: App, accounts: list[Account], limits: Limits) -> Summary:
    from etl.sync.start import run_sync  # noqa: PLC0415
    from etl.sync.stopping import stop_on_signals  # noqa: PLC0415

    names = [one.name for one in accounts]
    engine = app.engine()
    with (
        stop_on_signals() as stop,
        watched(engine, accounts=names, batch=limits.batch, most=limits.most) as on_progress,
    ):
        summary = run_sync(engine, app.settings, accounts, limits=limits, stop=stop, on_progress=on_progress)
    _tell_of_strangers(app, engine)
    _tell_of_dangers(app, engine)
    return summary


def summary_document(summary: Summary) -> dict[str, object]:
    """A run as one document: every count is there, zeros included."""
    names = (
        "claimed",
        *OUTCOMES,
        "api_calls",
        "legs_inserted",
        "legs_updated",
        "legs_unchanged",
    )
    counts = {name: summary.counts[name] for name in names}
    return {"run": summary.run_id, "outcome": summary.outcome, **counts}


def summary_text(summary: Summary) -> str:
    """A run for people: the outcomes add up to the claims."""
    counts = summary.counts
    outcomes = ", ".join(f"{counts[name]:,} {words}" for name, words in OUTCOMES.items() if counts[name])
    new, changed, same = (counts[f"legs_{what}"] for what in ("inserted", "updated", "unchanged"))
    legs = f"{new:,} new, {changed:,} changed, {same:,} as before"
    return (
        f"Run {summary.run_id}: {counted(counts['claimed'], 'claim')} = {outcomes or 'nothing was due'}\n"
        f"{counted(counts['api_calls'], 'API call')}; legs: {legs}"
    )


def tell_problems(app: App, summary: Summary) -> None:
    """One line for each thing that a person must do something about, with what to do."""
    log = app.log
    log.bind(run=summary.run_id)
    for name, reason in summary.refused.items():
        log.error(
            f"PIOPIY refuses the credentials of account {name!r} ({reason}). Check its app ID and secret; "
            "every request was given back, and no attempt was used.",
            account=name,
        )
    for name, reason in summary.api_down.items():
        log.error(
            f"The API does not work for account {name!r} ({reason}). Nothing is lost: every request was "
            "given back, and the next run tries again.",
            account=name,
        )
    if summary.dead:
        log.error(
            f"{counted(summary.dead, 'request')} became dead: see `cdr-sync requests list --state dead`."
        )
    if lost := summary.counts["lost_leases"]:
        log.warning(
            f"{counted(lost, 'answer')} came after the lease had run out and another run had taken over, and "
            "nothing of that was stored. If it happens often, raise CDR_SYNC_LEASE."
        )
    for crash in summary.crashes[:1]:
        tell_crash(crash)


def _tell_of_strangers(app: App, engine: Engine) -> None:
    """Warn of requests that nobody asks for: their account has no credentials here."""
    from etl.db.accounts import waiting_accounts  # noqa: PLC0415
    from etl.db.connection import reading  # noqa: PLC0415

    with reading(engine) as connection:
        strangers = [name for name in waiting_accounts(connection) if name not in app.settings.accounts]
    for name in strangers:
        app.log.warning(
            f"Requests wait for account {name!r}, for which there are no credentials: add [accounts.{name}] "
            "to the settings, or cancel them.",
            account=name,
        )


def _tell_of_dangers(app: App, engine: Engine) -> None:
    from etl.db.connection import sqlite_path  # noqa: PLC0415

    if path := sqlite_path(app.settings.database_url):
        from etl.db.sqlite_files import sqlite_dangers  # noqa: PLC0415

        for danger in sqlite_dangers(engine, path):
            app.log.warning(danger)


def _tell_what_is_due(
    app: App, accounts: list[str], batch: str | None, most: int | None, *, as_json: bool
) -> None:
    from etl.db.selection import Selection, count_requests  # noqa: PLC0415

    selection = Selection(accounts=accounts, batch=batch, only_due=True)
    with app.reading() as connection:
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
