"""`cdr-sync requests`: looking into single requests, and changing what is to become of them."""

from __future__ import annotations

import sys

import click

from etl.cli.app import App, pass_app
from etl.cli.naming import require_known
from etl.cli.options import account_option, batch_option, error_kind_option, json_option, limit_option
from etl.cli.output import print_json, print_table, row_as_dict
from etl.cli.replays import cancel, retry
from etl.cli.stories import print_story
from etl.db.states import PENDING, STATES
from etl.errors import UsageError

_LISTED = (
    "request_id",
    "state",
    "last_error_kind",
    "attempts",
    "leg_count",
    "updated_at",
    "run_after",
    "account",
)
_ALWAYS_LISTED = 3  # of these; the others where there is place
_TOKENS = ("lease_token", "done_token")


@click.group("requests")
def command() -> None:
    """Look into single requests, replay or cancel them."""


command.add_command(retry)
command.add_command(cancel)


@command.command("list")
@click.option("--state", type=click.Choice(list(STATES)), help="Only those in this state.")
@error_kind_option
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
        require_known(app, connection, account=account, batch=batch)
        rows = [row_as_dict(row, without=_TOKENS) for row in list_requests(connection, selection, most=most)]
    if len(rows) == most and sys.stderr.isatty():
        click.echo(f"The latest {most} at most; --limit N lists more.", err=True)
    if as_json:
        print_json(rows)
    else:
        print_table([[row[name] for name in _LISTED] for row in rows], _LISTED, needed=_ALWAYS_LISTED)


@command.command()
@click.argument("request_id", metavar="ID")
@account_option
@json_option
@pass_app
def show(app: App, request_id: str, *, account: str | None, as_json: bool) -> None:
    """Tell the story of request ID.

    That is its state, its errors, its answers, its legs, and what comes next.
    """
    from etl.db.stories import find_requests, findings_on, legs_of, responses_of  # noqa: PLC0415

    stories = []
    with app.reading() as connection:
        require_known(app, connection, account=account)
        for row in find_requests(connection, request_id):
            if account not in (None, row.account):
                continue
            stories.append(
                {
                    **row_as_dict(row, without=_TOKENS),
                    "next_try_at": row.run_after if row.state == PENDING else None,
                    "findings": [row_as_dict(f) for f in findings_on(connection, row.account, request_id)],
                    "responses": [row_as_dict(r) for r in responses_of(connection, row.account, request_id)],
                    "legs": [row_as_dict(leg) for leg in legs_of(connection, row.account, request_id)],
                }
            )
    if not stories:
        raise UsageError(f"Request {request_id!r} is not known: `cdr-sync enqueue` adds it")
    if as_json:
        print_json(stories[0] if len(stories) == 1 else stories)
        return
    for number, story in enumerate(stories):
        if number:
            click.echo()
        print_story(story)
