"""`cdr-sync status`: the state of the queue, for people, programs and probes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import click

from etl.cli.app import App, pass_app
from etl.cli.options import DURATION, json_option
from etl.cli.output import (
    format_duration,
    format_value,
    print_json,
    print_table,
    row_as_dict,
)
from etl.cli.runs import format_claims, run_document
from etl.db import figures, runs
from etl.errors import FailedCheckError

_RUNS = 5
_LISTED = ("id", "started_at", "outcome")  # with the claims, these fit a terminal of 80 columns


@click.command("status")
@json_option
@click.option("--max-lag", type=DURATION, help="Exit 1 if a request has been due for longer than this.")
@pass_app
def command(app: App, *, as_json: bool, max_lag: timedelta | None) -> None:
    """Show the state of the queue: states, lag, dead requests, last runs, accounts."""
    document = _read(app)
    if as_json:
        print_json(document)
    else:
        _print(document)
    lag = document["oldest_due_seconds"]
    if max_lag is not None and lag is not None and lag > max_lag.total_seconds():
        raise _too_late(lag, max_lag.total_seconds(), document["accounts"])


def _read(app: App) -> dict[str, Any]:

    with app.reading() as connection:
        held = runs.held_claims(connection)
        return {
            "requests": figures.requests_by_state(connection),
            "oldest_due_seconds": figures.oldest_due_seconds(connection),
            "dead_by_error_kind": figures.dead_by_error_kind(connection),
            "accounts": [
                {
                    **row_as_dict(row),
                    "rate_limit": app.settings.rate_limit,
                    "breaker": "closed" if row.breaker_opened_at is None else "open",
                }
                for row in figures.list_accounts(connection)
            ],
            "last_runs": [run_document(row, held) for row in runs.list_runs(connection, most=_RUNS)],
        }


def _too_late(lag: float, limit: float, accounts: Sequence[Mapping[str, Any]]) -> FailedCheckError:
    """What --max-lag reports, with the cause as far as the database shows it."""
    late = f"A request has been due for {format_duration(lag)}, longer than {format_duration(limit)}"
    down = [
        f"the API does not work for account {row['account']!r} ({row['breaker_reason']})"
        for row in accounts
        if row["breaker_opened_at"]
    ]
    if down:
        return FailedCheckError(f"{late}: {'; '.join(down)}")
    return FailedCheckError(late, remedy="Check that `cdr-sync sync` runs")


def _print(document: Mapping[str, Any]) -> None:
    lag, dead, last_runs = (
        document[name] for name in ("oldest_due_seconds", "dead_by_error_kind", "last_runs")
    )
    requests = ", ".join(f"{count:,} {state}" for state, count in document["requests"].items())
    click.echo(f"Requests: {requests}")
    click.echo("Oldest due request: " + ("none" if lag is None else f"{format_duration(lag)} late"))
    if dead:
        click.echo("Dead: " + ", ".join(f"{count:,} {kind}" for kind, count in dead.items()))
    for row in document["accounts"]:
        click.echo(_account_line(row))
    click.echo("\nLast runs:")
    print_table(
        [[*(run[name] for name in _LISTED), format_claims(run)] for run in last_runs], (*_LISTED, "claims")
    )


def _account_line(row: Mapping[str, Any]) -> str:
    limit = f"{row['rate_limit']:g}/s" if row["rate_limit"] else "unlimited"
    line = f"Account {row['account']}: rate {limit}, breaker {row['breaker']}"
    if row["breaker_opened_at"]:
        line += f" since {format_value(row['breaker_opened_at'])} ({row['breaker_reason']})"
    if row["paused_until"]:
        line += f", paused until {format_value(row['paused_until'])}"
    return line
