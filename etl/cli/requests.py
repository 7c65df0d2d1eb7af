"""`cdr-sync requests`: inspect single requests, retry or cancel them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from etl import replay
from etl.cli.app import App, pass_app
from etl.cli.known_names import require_known_names
from etl.cli.options import (
    account_option,
    batch_option,
    dry_run_option,
    error_kind_option,
    json_option,
    limit_option,
)
from etl.cli.output import counted, format_states, format_value, print_json, print_table, row_as_dict
from etl.db.engine import reading
from etl.db.selection import Selection, find_requests, findings_on, legs_of, list_requests, responses_of
from etl.db.states import DEAD, LANES, PENDING, RUNNING, STATES
from etl.errors import FailedCheckError, UsageError
from etl.replay import CANCELLABLE, RETRYABLE, BulkChange, ChangeResult
from etl.settings import DEFAULT_ACCOUNT

_MOST_UNKNOWN = 20  # IDs named in one message
_SKIPPED_BECAUSE = {RUNNING: "running: a run is fetching it now", PENDING: "already pending"}
_TOKENS = ("lease_token", "done_token")
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
_ALWAYS_LISTED = 3  # of these; a narrow terminal leaves out the others
_ANSWER = ("revision", "fetched_at", "http_status", "run_id")
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
_LISTS = ("findings", "responses", "legs")


@click.group("requests")
def command() -> None:
    """Inspect single requests, retry or cancel them."""


# --- Changing requests -------------------------------------------------------------------------------


@command.command()
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@error_kind_option
@click.option("--all-dead", is_flag=True, help="All dead requests.")
@account_option
@batch_option
@dry_run_option
@json_option
@pass_app
def retry(
    app: App,
    *,
    request_ids: tuple[str, ...],
    error_kind: str | None,
    all_dead: bool,
    account: str | None,
    batch: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make requests pending again, with all their attempts left.

    They are due now, and the next `cdr-sync sync` fetches them. Takes IDs (of dead, empty, done or cancelled
    requests), or dead requests by --error-kind or --all-dead. Their history stays: legs, answers, and the
    last error. Pending and running requests are skipped.
    """
    if not request_ids and error_kind is None and not all_dead:
        raise UsageError("No request is selected", remedy="Give IDs, or --error-kind KIND, or --all-dead")
    states = RETRYABLE if request_ids and error_kind is None and not all_dead else (DEAD,)
    change = BulkChange.to_retry(states, error_kind=error_kind, account=account, batch=batch)
    result = _apply(app, change, request_ids, is_dry_run=dry_run)
    words = "would be retried" if dry_run else "will be retried"
    _print_changes(result, words, is_dry_run=dry_run, as_json=as_json)
    _require_no_unknown(result)


@command.command()
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@click.option("--all-pending", is_flag=True, help="All pending requests of an account or a batch.")
@account_option
@batch_option
@dry_run_option
@json_option
@pass_app
def cancel(
    app: App,
    *,
    request_ids: tuple[str, ...],
    all_pending: bool,
    account: str | None,
    batch: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Take requests out of the queue.

    Takes IDs (of pending or dead requests), or with --all-pending all pending requests of an --account or a
    --batch, such as those enqueued for a wrong account. `requests retry ID` brings one back. A request that a
    run is fetching now is refused: it is settled within seconds.
    """
    is_bounded = bool(request_ids) or (all_pending and (account is not None or batch is not None))
    if not is_bounded:  # a whole queue could only be brought back by the IDs of its requests
        raise UsageError(
            "No request is selected", remedy="Give IDs, or --all-pending with --account or --batch"
        )
    states = (PENDING,) if all_pending else CANCELLABLE
    change = BulkChange.to_cancel(states, account=account, batch=batch)
    result = _apply(app, change, request_ids, is_dry_run=dry_run)
    words = "would be cancelled" if dry_run else "cancelled"
    _print_changes(result, words, is_dry_run=dry_run, as_json=as_json)
    _require_no_unknown(result)
    if running := result.skipped[RUNNING]:
        raise FailedCheckError(
            f"{counted(running, 'request')} cannot be cancelled while a run is fetching it",
            remedy="Repeat this command later",
        )


def _apply(app: App, change: BulkChange, request_ids: Sequence[str], *, is_dry_run: bool) -> ChangeResult:

    engine = app.engine(creates=False)
    with reading(engine) as connection:
        require_known_names(app, connection, account=change.account, batch=change.selection.batch)
    listed = dict.fromkeys(text.strip() for text in request_ids) if request_ids else None
    return replay.preview(engine, change, listed) if is_dry_run else replay.apply(engine, change, listed)


def _print_changes(result: ChangeResult, words: str, *, is_dry_run: bool, as_json: bool) -> None:
    """Print how many requests were changed, and why others were skipped."""
    if as_json:
        print_json(
            {
                "dry_run": is_dry_run,
                "changed": result.total,
                "by_state": result.states,
                "left_by_state": dict(result.skipped),
                "left_alone": [one._asdict() for one in result.examples],
                "unknown": result.unknown,
            }
        )
        return
    if result.total:
        click.echo(f"{counted(result.total, 'request')} {words} ({format_states(result.states)})")
    elif not result.skipped and not result.unknown:
        click.echo("Nothing to do: no request is selected")
    for request_id, account, state in result.examples:
        click.echo(f"Skipped: {request_id} of account {account} is {_SKIPPED_BECAUSE.get(state, state)}")
    if (more := result.skipped.total() - len(result.examples)) > 0:
        click.echo(f"… and {more:,} more")


def _require_no_unknown(result: ChangeResult) -> None:
    if result.unknown:
        names = ", ".join(repr(name) for name in result.unknown[:_MOST_UNKNOWN])
        more = len(result.unknown) - _MOST_UNKNOWN
        rest = f" and {more:,} more" if more > 0 else ""
        raise UsageError(f"Unknown request IDs: {names}{rest}", remedy="Add them with `cdr-sync enqueue`")


# --- Looking at requests -----------------------------------------------------------------------------


@command.command("list")
@click.option("--state", type=click.Choice(list(STATES)), help="Only requests in this state.")
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
    selection = Selection((state,) if state else (), error_kind, (account,) if account else (), batch)
    with app.reading() as connection:
        require_known_names(app, connection, account=account, batch=batch)
        rows = [row_as_dict(row, without=_TOKENS) for row in list_requests(connection, selection, most=most)]
    if len(rows) == most and sys.stderr.isatty():
        click.echo(f"Only the latest {most}. To list more, add --limit N.", err=True)
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
    """Show all about request ID.

    That is its state, its errors, answers and legs, and what comes next.
    """
    details = _read_details(app, request_id, account)
    if not details:
        raise UsageError(f"Unknown request ID: {request_id!r}", remedy="Add it with `cdr-sync enqueue`")
    if as_json:
        print_json(details[0] if len(details) == 1 else details)
        return
    for number, one in enumerate(details):
        if number:
            click.echo()
        _print_details(one)


def _read_details(app: App, request_id: str, account: str | None) -> list[dict[str, Any]]:
    """A request ID in every account that has it, as `requests show --json` prints it."""
    with app.reading() as connection:
        require_known_names(app, connection, account=account)
        return [
            {
                **row_as_dict(row, without=_TOKENS),
                "next_try_at": row.run_after if row.state == PENDING else None,
                "findings": [row_as_dict(f) for f in findings_on(connection, row.account, request_id)],
                "responses": [row_as_dict(r) for r in responses_of(connection, row.account, request_id)],
                "legs": [row_as_dict(leg) for leg in legs_of(connection, row.account, request_id)],
            }
            for row in find_requests(connection, request_id)
            if account in (None, row.account)
        ]


def _print_details(request: Mapping[str, Any]) -> None:
    click.echo(f"Request {request['request_id']} of account {request['account']}")
    click.echo(f"State: {request['state']} ({STATES[request['state']]})")
    click.echo(f"Next: {_next_step(request)}")
    click.echo(
        f"So far: {counted(request['fetches'], 'valid answer')}, {counted(request['attempts'], 'attempt')} "
        f"used, reclaimed from a dead worker {counted(request['reclaims'], 'time')}"
    )
    click.echo(f"Lane: {LANES[request['lane']]}; batch: {request['batch'] or 'none'}")
    if request["last_error_kind"]:
        status = f", HTTP {request['last_http_status']}" if request["last_http_status"] else ""
        click.echo(f"Last error: {request['last_error_kind']}{status}: {request['last_error']}")
    for finding in request["findings"]:
        leg = f" (leg {finding['leg']} to {finding['number'] or 'no number'})" if finding["leg"] else ""
        click.echo(f"Finding: {finding['check_name']}{leg}: {finding['detail']}")
    click.echo("\nAnswers that differ from the one before:")
    print_table([[answer[name] for name in _ANSWER] for answer in request["responses"]], _ANSWER)
    click.echo("\nLegs:")
    print_table([[leg[name] for name in _LEG] for leg in request["legs"]], _LEG)
    click.echo("\nThe row in cdr_requests:")
    columns = [(name, format_value(value)) for name, value in request.items() if name not in _LISTS]
    print_table(columns, ("column", "value"))


def _next_step(request: Mapping[str, Any]) -> str:
    if request["state"] == PENDING:
        return f"the first run after {format_value(request['run_after'])} fetches it"
    if request["state"] == RUNNING:
        return (
            f"{request['worker']} is fetching it, and holds it until {format_value(request['lease_until'])}"
        )
    finished = f"none. It was settled at {format_value(request['finished_at'])}"
    if request["state"] != DEAD:
        return finished
    account = "" if request["account"] == DEFAULT_ACCOUNT else f" --account {shlex.quote(request['account'])}"
    return f"{finished}. To retry: `cdr-sync requests retry {shlex.quote(request['request_id'])}{account}`"
