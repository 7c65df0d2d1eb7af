"""`cdr-sync status`: how the queue stands, for people, programs and probes."""

from __future__ import annotations

from datetime import timedelta

import click

from etl.cli.app import App, pass_app
from etl.cli.options import DURATION, json_option
from etl.cli.output import print_json, print_table, row_as_dict, shown
from etl.cli.runs import run_document, told_claims
from etl.errors import FailedCheckError

_RUNS = 5
_LISTED = ("id", "started_at", "outcome")  # as few as fit a terminal of 80 columns


@click.command("status")
@json_option
@click.option("--max-lag", type=DURATION, help="Exit 1 where something due has waited longer than this.")
@pass_app
def command(app: App, *, as_json: bool, max_lag: timedelta | None) -> None:
    """Tell how the queue stands: states, lag, dead letters, last runs, accounts."""
    from etl.db import figures as status  # noqa: PLC0415
    from etl.db import runs  # noqa: PLC0415

    with app.reading() as connection:
        held = runs.held_claims(connection)
        lag = status.oldest_due_seconds(connection)
        document: dict[str, object] = {
            "requests": status.requests_by_state(connection),
            "oldest_due_seconds": lag,
            "dead_by_error_kind": status.dead_by_error_kind(connection),
            "accounts": [
                {
                    **row_as_dict(row),
                    "rate_limit": app.settings.rate_limit,
                    "breaker": _breaker(row.breaker_opened_at),
                }
                for row in status.list_accounts(connection)
            ],
            "last_runs": [run_document(row, held) for row in runs.list_runs(connection, most=_RUNS)],
        }
    if as_json:
        print_json(document)
    else:
        _print(document)
    if max_lag is not None and lag is not None and lag > max_lag.total_seconds():
        raise FailedCheckError(
            f"A request has been due for {_age(lag)}, longer than {_age(max_lag.total_seconds())}: "
            f"{_why_late(document['accounts'])}"
        )


def _why_late(accounts: object) -> str:
    """What may hold requests up, as far as the database tells."""
    assert isinstance(accounts, list)  # noqa: S101 (for the type checker)
    down = [row for row in accounts if row["breaker_opened_at"]]
    if not down:
        return "is `cdr-sync sync` running?"
    return "; ".join(
        f"the API does not work for account {row['account']!r} ({row['breaker_reason']})" for row in down
    )


def _breaker(opened_at: object) -> str:
    return "closed" if opened_at is None else "open"


def _age(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def _print(document: dict[str, object]) -> None:
    requests, lag, dead = document["requests"], document["oldest_due_seconds"], document["dead_by_error_kind"]
    accounts, last_runs = document["accounts"], document["last_runs"]
    assert isinstance(requests, dict) and isinstance(dead, dict)  # noqa: S101, PT018 (for the type checker)
    assert isinstance(accounts, list) and isinstance(last_runs, list)  # noqa: S101, PT018
    click.echo("Requests: " + ", ".join(f"{count:,} {state}" for state, count in requests.items()))
    click.echo("Due: " + (f"for {_age(lag)} at the longest" if isinstance(lag, float) else "nothing"))
    if dead:
        click.echo("Dead: " + ", ".join(f"{count:,} {kind}" for kind, count in dead.items()))
    for row in accounts:
        limit = f"{row['rate_limit']:g}/s" if row["rate_limit"] else "unlimited"
        pause = f", paused until {shown(row['paused_until'])}" if row["paused_until"] else ""
        reason = (
            f" since {shown(row['breaker_opened_at'])} ({row['breaker_reason']})"
            if row["breaker_opened_at"]
            else ""
        )
        click.echo(f"Account {row['account']}: rate {limit}, breaker {row['breaker']}{reason}{pause}")
    click.echo("\nLast runs:")
    print_table(
        [[*(run[name] for name in _LISTED), told_claims(run)] for run in last_runs], (*_LISTED, "claims")
    )
