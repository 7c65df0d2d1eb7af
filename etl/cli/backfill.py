"""`cdr-sync backfill`: many known requests once more, behind the live ones."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click
from click.shell_completion import CompletionItem

from etl.cli.app import App, pass_app
from etl.cli.backfilling import Backfill
from etl.cli.completion import complete_listed
from etl.cli.id_lists import IdList
from etl.cli.options import (
    NUMBER_OR_PERCENT,
    Share,
    account_option,
    dry_run_option,
    error_kind_option,
    from_file_option,
    json_option,
    label_option,
    period_options,
    time_limit_option,
    workers_option,
)
from etl.db.states import DEAD, DONE, EMPTY, PENDING
from etl.errors import UsageError

# A cancelled request was taken out by a person, and is brought back by name alone: `requests retry ID`.
_STATES = (PENDING, DONE, EMPTY, DEAD)
_ALL = "all"
_ONLY = f"Only those that are {', '.join(_STATES)} (some with commas between them), or all."
_WHICH = (
    "Which requests? Give IDs, --from-file, --since, --until, --error-kind, --only STATES (`--only all` "
    "takes everything), or --batch LABEL for those that have it"
)


class _States(click.ParamType[tuple[str, ...]]):
    """Some states with commas between them, or all."""

    name = "states"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read them, or say what is wrong."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",")]
        if wrong := [word for word in words if word not in (*_STATES, _ALL)]:
            self.fail(f"{wrong[0]!r} is none of {', '.join(_STATES)}, {_ALL}", param, ctx)
        return _STATES if _ALL in words else tuple(words)

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002
        param: click.Parameter,  # noqa: ARG002
        incomplete: str,
    ) -> list[CompletionItem[str]]:
        """The states that are not named yet."""
        return complete_listed((*_STATES, _ALL), incomplete)


@click.command("backfill")
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@from_file_option
@click.option("--only", type=_States(), metavar="STATES", help=_ONLY)
@period_options(
    since="Only those enqueued at this instant or later.", until="Only those enqueued before this instant."
)
@error_kind_option
@account_option
@label_option("--batch", help_text="Label to give them; alone, it takes those that have it.")
@label_option("--resume", help_text="Go on with what is left of a backfill.")
@dry_run_option
@click.option("--no-run", is_flag=True, help="Only make them due; any sync then asks for them.")
@click.option("--max-failures", type=NUMBER_OR_PERCENT, metavar="N|P%", help="Stop when so many have failed.")
@time_limit_option
@workers_option
@json_option
@pass_app
def command(
    app: App,
    *,
    request_ids: tuple[str, ...],
    from_file: str | None,
    only: tuple[str, ...] | None,
    since: datetime | None,
    until: datetime | None,
    error_kind: str | None,
    account: str | None,
    batch: str | None,
    resume: str | None,
    dry_run: bool,
    no_run: bool,
    max_failures: Share | None,
    time_limit: timedelta | None,
    workers: int | None,
    as_json: bool,
) -> None:
    """Ask again for many known requests, behind the live ones, and store what changed.

    Takes requests by ID (those that are unknown are enqueued), by the time at which they were enqueued, by
    state or by error, makes them due under a label, and works them off. Stopped or killed, it goes on with
    --resume LABEL, on any machine. Times are UTC; FILE is read as by enqueue.
    """
    from etl.db.selection import Selection  # noqa: PLC0415

    app.set_option("workers", workers)
    ids = IdList(request_ids, from_file) if request_ids or from_file is not None else None
    is_narrowed = any(given is not None for given in (ids, only, since, until, error_kind))
    if resume is not None and (is_narrowed or batch is not None or no_run):
        raise UsageError("--resume takes what its label has left: leave out what else selects or marks")
    if resume is None and not is_narrowed and batch is None:
        raise UsageError(_WHICH)
    names = _account_names(app, account, is_run=not (dry_run or no_run), is_anywhere=no_run)
    backfill = Backfill(app, account, names, time_limit, max_failures, is_dry_run=dry_run, as_json=as_json)
    if resume is not None:
        backfill.resume(resume)
        return
    selection = Selection(
        only or _STATES, error_kind, names, None if is_narrowed else batch, since=since, until=until
    )
    backfill.begin(selection, ids, batch, is_run=not no_run)


def _account_names(app: App, account: str | None, *, is_run: bool, is_anywhere: bool) -> list[str]:
    """The accounts whose requests are meant; none stands for any. What is to run needs credentials."""
    if is_run:
        return [one.name for one in app.accounts(account)]
    if account is not None:
        return [account]
    return [] if is_anywhere else list(app.settings.accounts)
