"""`cdr-sync requests`: looking into single requests, and changing what is to become of them."""

from __future__ import annotations

import sys

import click

from etl.cli.app import App, pass_app
from etl.cli.options import account_option, batch_option, json_option, limit_option
from etl.cli.output import print_json, print_table, row_as_dict, shown
from etl.cli.replays import cancel, retry
from etl.db.states import STATES
from etl.errors import UsageError

_LISTED = (
    "request_id",
    "account",
    "state",
    "attempts",
    "leg_count",
    "last_error_kind",
    "updated_at",
    "run_after",
)
_TOKENS = ("lease_token", "done_token")
_LEG = (
    "leg",
    "occurrence",
    "from_number",
    "to_number",
    "call_time",
    "duration_seconds",
    "status",
    "rate",
    "revision",
    "missing_since",
)


@click.group("requests")
def command() -> None:
    """Look into single requests, replay or cancel them."""


command.add_command(retry)
command.add_command(cancel)


@command.command("list")
@click.option("--state", type=click.Choice(list(STATES)), help="Only those in this state.")
@click.option("--error-kind", metavar="KIND", help="Only those whose last claim failed so, such as timeout.")
@account_option
@batch_option
@limit_option
@json_option
@pass_app
def list_(
    app: App,
    *,
    state: str | None,
    error_kind: str | None,
    account: str | None,
    batch: str | None,
    most: int,
    as_json: bool,
) -> None:
    """List requests, the latest change first."""
    from etl.db.selection import Selection, list_requests  # noqa: PLC0415

    selection = Selection((state,) if state else (), error_kind, (account,) if account else (), batch)
    with app.reading() as connection:
        rows = [row_as_dict(row, without=_TOKENS) for row in list_requests(connection, selection, most=most)]
    if len(rows) == most and sys.stderr.isatty():
        click.echo(f"The latest {most} at most; --limit N lists more.", err=True)
    if as_json:
        print_json(rows)
    else:
        print_table([[row[name] for name in _LISTED] for row in rows], _LISTED)


@command.command()
@click.argument("request_id", metavar="ID")
@account_option
@json_option
@pass_app
def show(app: App, request_id: str, *, account: str | None, as_json: bool) -> None:
    """Tell the story of request ID: its state, its errors, its answers and its legs."""
    from etl.db.stories import find_requests, legs_of, responses_of  # noqa: PLC0415

    with app.reading() as connection:
        documents = [
            {
                **row_as_dict(row, without=_TOKENS),
                "responses": [row_as_dict(r) for r in responses_of(connection, row.account, request_id)],
                "legs": [row_as_dict(leg) for leg in legs_of(connection, row.account, request_id)],
            }
            for row in find_requests(connection, request_id)
            if account in (None, row.account)
        ]
    if not documents:
        raise UsageError(f"Request {request_id!r} is not known: `cdr-sync enqueue` adds it")
    if as_json:
        print_json(documents[0] if len(documents) == 1 else documents)
        return
    for document in documents:
        legs, responses = document.pop("legs"), document.pop("responses")
        print_table([(name, shown(value)) for name, value in document.items()], ("column", "value"))
        click.echo("\nAnswers that differ from the one before:")
        names = ("revision", "fetched_at", "http_status", "run_id")
        print_table([[response[name] for name in names] for response in responses], names)
        click.echo("\nLegs:")
        print_table([[leg[name] for name in _LEG] for leg in legs], _LEG)
