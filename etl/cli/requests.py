"""`cdr-sync requests`: look into single requests, and change what becomes of them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import click

from etl.cli.app import App, pass_app
from etl.cli.id_lists import LOT
from etl.cli.naming import require_known
from etl.cli.options import (
    account_option,
    batch_option,
    dry_run_option,
    error_kind_option,
    json_option,
    limit_option,
)
from etl.cli.output import counted, print_json, print_table, row_as_dict, shown, told_states
from etl.db.states import CANCELLED, DEAD, DONE, EMPTY, LANES, PENDING, RUNNING, STATES
from etl.errors import FailedCheckError, UsageError
from etl.settings import DEFAULT_ACCOUNT

if TYPE_CHECKING:
    from etl.replay import Order, Result


_REPLAYABLE = (DEAD, EMPTY, DONE, CANCELLED)
_CANCELLABLE = (PENDING, DEAD)
_WHY_LEFT = {RUNNING: "running: a run asks for it right now", PENDING: "pending already"}


@click.command()
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@error_kind_option
@click.option("--all-dead", is_flag=True, help="All that are dead.")
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
    """Make requests pending again, with all attempts before them.

    They are due now, and the next `cdr-sync sync` asks for them. Takes IDs (dead, empty, done or cancelled
    ones), or dead requests by --error-kind or --all-dead. Their history stays: legs, answers, and the last
    error. What is pending or running is left alone.
    """
    from etl.db.selection import REPLAY, Selection  # noqa: PLC0415
    from etl.replay import Order  # noqa: PLC0415

    if not request_ids and error_kind is None and not all_dead:
        raise UsageError("Which requests? Give IDs, or --error-kind KIND, or --all-dead")
    states = _REPLAYABLE if request_ids and error_kind is None and not all_dead else (DEAD,)
    selection = Selection(states, error_kind, (account,) if account else (), batch)
    result = _follow(app, Order(selection, REPLAY, account), request_ids, is_dry_run=dry_run)
    _tell(result, ("to be replayed", "would be replayed"), is_dry_run=dry_run, as_json=as_json)
    _refuse_unknown(result)


@click.command()
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@click.option("--all-pending", is_flag=True, help="All pending ones of an account or a batch.")
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

    Takes IDs (pending or dead ones), or by --all-pending all pending requests of an --account or a --batch,
    such as those that were enqueued for a wrong one. `requests retry ID` brings one back. An ID that is being
    asked for right now is refused: it is settled within seconds.
    """
    from etl.db.selection import CANCEL, Selection  # noqa: PLC0415
    from etl.replay import Order  # noqa: PLC0415

    is_told = bool(request_ids) or (all_pending and not (account is None and batch is None))
    if not is_told:  # nothing brings back a whole queue but the names of its requests
        raise UsageError("Which requests? Give IDs, or --all-pending with --account or --batch")
    states = (PENDING,) if all_pending else _CANCELLABLE
    selection = Selection(states, accounts=(account,) if account else (), batch=batch)
    result = _follow(app, Order(selection, CANCEL, account), request_ids, is_dry_run=dry_run)
    _tell(result, ("cancelled", "would be cancelled"), is_dry_run=dry_run, as_json=as_json)
    _refuse_unknown(result)
    if running := result.left[RUNNING]:
        raise FailedCheckError(
            f"{counted(running, 'request')} cannot be cancelled while a run asks for it: repeat this later"
        )


def _follow(app: App, order: Order, request_ids: Sequence[str], *, is_dry_run: bool) -> Result:
    from etl.db.engine import reading  # noqa: PLC0415
    from etl.replay import carry_out, foresee  # noqa: PLC0415

    engine = app.engine(creates=False)
    with reading(engine) as connection:
        require_known(app, connection, account=order.account, batch=order.selection.batch)
    listed = _lots(request_ids) if request_ids else None
    return foresee(engine, order, listed) if is_dry_run else carry_out(engine, order, listed)


def _lots(request_ids: Sequence[str]) -> Iterator[list[str]]:
    distinct = iter(dict.fromkeys(text.strip() for text in request_ids))
    while lot := list(islice(distinct, LOT)):
        yield lot


def _tell(result: Result, words: tuple[str, str], *, is_dry_run: bool, as_json: bool) -> None:
    """Tell how many were changed, and of those left alone, why."""
    if as_json:
        names = ("request_id", "account", "state")
        print_json(
            {
                "dry_run": is_dry_run,
                "changed": result.total,
                "by_state": result.states,
                "left_by_state": dict(result.left),
                "left_alone": [dict(zip(names, one, strict=True)) for one in result.examples],
                "unknown": result.unknown,
            }
        )
        return
    if result.total:
        states = told_states(result.states)
        click.echo(f"{counted(result.total, 'request')} {words[is_dry_run]} ({states})")
    elif not result.left and not result.unknown:
        click.echo("No request is selected: nothing to do")
    for request_id, account, state in result.examples:
        click.echo(f"Left alone: {request_id} of account {account} is {_WHY_LEFT.get(state, state)}")
    if (more := result.left.total() - len(result.examples)) > 0:
        click.echo(f"… and {more:,} more")


def _refuse_unknown(result: Result) -> None:
    if result.unknown:
        names = ", ".join(repr(name) for name in result.unknown[:20])
        more = f" and {len(result.unknown) - 20:,} more" if len(result.unknown) > 20 else ""  # noqa: PLR2004
        raise UsageError(f"Not known: {names}{more}. `cdr-sync enqueue` adds request IDs")


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


def print_story(story: Mapping[str, Any]) -> None:
    """Print what `cdr-sync requests show --json` tells, laid out to be read."""
    click.echo(f"Request {story['request_id']} of account {story['account']}")
    click.echo(f"State: {story['state']} ({STATES[story['state']]})")
    click.echo(f"Next: {_next(story)}")
    click.echo(
        f"So far: {counted(story['fetches'], 'valid answer')}, {counted(story['attempts'], 'attempt')} used, "
        f"taken back from a dead worker {counted(story['reclaims'], 'time')}"
    )
    click.echo(f"Lane: {LANES[story['lane']]}; batch: {story['batch'] or 'none'}")
    if story["last_error_kind"]:
        status = f", HTTP {story['last_http_status']}" if story["last_http_status"] else ""
        click.echo(f"Last error: {story['last_error_kind']}{status}: {story['last_error']}")
    for finding in story["findings"]:
        click.echo(f"Finding: {finding['check_name']}: {finding['detail']}")
    click.echo("\nAnswers that differ from the one before:")
    print_table([[answer[name] for name in _ANSWER] for answer in story["responses"]], _ANSWER)
    click.echo("\nLegs:")
    print_table([[leg[name] for name in _LEG] for leg in story["legs"]], _LEG)
    click.echo("\nThe row in cdr_requests:")
    columns = [(name, shown(value)) for name, value in story.items() if name not in _LISTS]
    print_table(columns, ("column", "value"))


def _next(story: Mapping[str, Any]) -> str:
    if story["state"] == PENDING:
        return f"it is asked for by the first run after {shown(story['run_after'])}"
    if story["state"] == RUNNING:
        return f"{story['worker']} asks for it, and holds it until {shown(story['lease_until'])}"
    nothing = f"nothing: it was settled at {shown(story['finished_at'])}"
    if story["state"] != DEAD:
        return nothing
    account = "" if story["account"] == DEFAULT_ACCOUNT else f" --account {shlex.quote(story['account'])}"
    return f"{nothing}; `cdr-sync requests retry {shlex.quote(story['request_id'])}{account}` replays it"


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
    from etl.db.selection import find_requests, findings_on, legs_of, responses_of  # noqa: PLC0415

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
