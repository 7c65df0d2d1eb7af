"""`cdr-sync requests retry` and `cancel`: what a person changes about requests that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import click

from etl.cli.app import App, pass_app
from etl.cli.id_lists import LOT
from etl.cli.naming import require_known
from etl.cli.options import account_option, batch_option, dry_run_option, error_kind_option, json_option
from etl.cli.output import counted, print_json, told_states
from etl.db.states import CANCELLED, DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.errors import FailedCheckError, UsageError

if TYPE_CHECKING:
    from etl.sync.replaying import Order, Result

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
    from etl.db.replays import REPLAY  # noqa: PLC0415
    from etl.db.selection import Selection  # noqa: PLC0415
    from etl.sync.replaying import Order  # noqa: PLC0415

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
    from etl.db.replays import CANCEL  # noqa: PLC0415
    from etl.db.selection import Selection  # noqa: PLC0415
    from etl.sync.replaying import Order  # noqa: PLC0415

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
    from etl.db.connection import reading  # noqa: PLC0415
    from etl.sync.replaying import carry_out, foresee  # noqa: PLC0415

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
