"""`cdr-sync backfill`: fetch many known requests again, after live requests."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import click
from click.shell_completion import CompletionItem

from etl.backfill import Backfill, WorkedOff
from etl.cli.app import App, pass_app
from etl.cli.completion import complete_listed
from etl.cli.known_names import require_known_names, warn_about_unconfigured_account
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
from etl.cli.output import counted, format_states, format_value, print_json
from etl.cli.running import report_problems, run_job, summary_document, summary_text
from etl.db.engine import reading
from etl.db.selection import BatchFigures
from etl.db.states import DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.errors import UsageError
from etl.id_files import RequestIds
from etl.replay import ChangeResult
from etl.settings import DEFAULT_ACCOUNT
from etl.sync.summary import Limits, Summary

# A cancelled request was taken out by a person. Only its ID brings it back: `requests retry ID`.
_STATES = (PENDING, DONE, EMPTY, DEAD)
_ALL = "all"
_WHICH = (
    "Give IDs, --from-file, --since, --until, --error-kind, --only STATES (`--only all` takes everything), "
    "or --batch LABEL for the requests that have it"
)
_SPEEDS = {"rate_limit": "rate limit", "latest_runs": "speed of the latest runs"}
_NOTICE_SECONDS = 5.0  # between two progress lines while requests are marked


class _States(click.ParamType[tuple[str, ...]]):
    """Some states with commas between them, or all."""

    name = "states"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """Read them, or report what is wrong."""
        if isinstance(value, tuple):
            return value
        words = [word.strip() for word in value.split(",")]
        if wrong := [word for word in words if word not in (*_STATES, _ALL)]:
            self.fail(f"{wrong[0]!r} is not one of {', '.join(_STATES)}, {_ALL}", param, ctx)
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
@click.option(
    "--only",
    type=_States(),
    metavar="STATES",
    help=f"Only these states: some of {', '.join(_STATES)}, separated by commas, or all.",
)
@period_options(
    since="Only requests enqueued at this time or later.", until="Only requests enqueued before this time."
)
@error_kind_option
@account_option
@label_option("--batch", help_text="Label to give them. Alone, it selects the requests that have it.")
@label_option("--resume", help_text="Continue the backfill with this label.")
@dry_run_option
@click.option("--no-run", is_flag=True, help="Only make them due; any sync then fetches them.")
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
    """Fetch many known requests again, after live requests, and store what changed.

    Selects requests by ID (unknown IDs are enqueued), by the time they were enqueued, by state or by error,
    makes them due under a label, and works them off. Stopped or killed, it continues with --resume LABEL, on
    any machine. Times are UTC. FILE is read as by enqueue.
    """
    app.set_option("workers", workers)
    is_listed = bool(request_ids) or from_file is not None
    is_narrowed = is_listed or any(given is not None for given in (only, since, until, error_kind))
    _check_usage(is_narrowed=is_narrowed, batch=batch, resume=resume, no_run=no_run)
    accounts = _account_names(app, account, is_run=not (dry_run or no_run), is_anywhere=no_run)
    ids = RequestIds(request_ids, from_file, report=partial(click.echo, err=True)) if is_listed else None
    engine = app.engine(creates=is_listed and not dry_run)
    with reading(engine) as connection:
        # The account of listed IDs may be new: unknown IDs are enqueued for it. A label may be new as well.
        known = None if is_listed or resume is not None else account
        require_known_names(app, connection, account=known, batch=None if is_narrowed else resume or batch)
    if resume is not None:
        backfill = Backfill(engine, resume, accounts)
    else:
        backfill = Backfill.begin(
            engine,
            label=batch,
            account=account,
            accounts=accounts,
            states=only or _STATES,
            error_kind=error_kind,
            batch=None if is_narrowed else batch,
            since=since,
            until=until,
        )
    marked = _mark(app, backfill, ids, account=account or DEFAULT_ACCOUNT, is_dry_run=dry_run)
    if dry_run:
        _print_forecast(app, backfill, marked, as_json=as_json)
        return
    if no_run:
        _print_marked(backfill, marked, as_json=as_json)
        return
    outcome = backfill.work_off(
        partial(_run, app, backfill, marked, account),
        time_limit=time_limit,
        max_failures=max_failures.of if max_failures else None,
    )
    _print_outcome(app, backfill, marked, outcome, as_json=as_json)
    raise click.exceptions.Exit(outcome.exit_code)


def _check_usage(*, is_narrowed: bool, batch: str | None, resume: str | None, no_run: bool) -> None:
    if resume is not None and (is_narrowed or batch is not None or no_run):
        raise UsageError(
            "--resume continues what its label has left", remedy="Leave out options that select or mark"
        )
    if resume is None and not is_narrowed and batch is None:
        raise UsageError("Nothing is selected", remedy=_WHICH)


def _account_names(app: App, account: str | None, *, is_run: bool, is_anywhere: bool) -> list[str]:
    """The accounts to select from; an empty list means any. A run needs credentials."""
    if is_run:
        return [one.name for one in app.accounts(account)]
    if account is not None:
        return [account]
    return [] if is_anywhere else list(app.settings.accounts)


def _mark(
    app: App, backfill: Backfill, ids: RequestIds | None, *, account: str, is_dry_run: bool
) -> ChangeResult:
    """Mark what is selected, or for a dry run only count it."""
    if is_dry_run:
        marked = backfill.preview(ids)
    else:
        marked = backfill.mark(
            ids,
            on_chunk=_marking_progress(app, backfill.label),
            on_interruption=partial(_print_interruption, app, backfill.label),
        )
    if ids is not None:
        ids.require_any()
    if marked.enqueued:
        warn_about_unconfigured_account(app, account)
    return marked


def _run(app: App, backfill: Backfill, marked: ChangeResult, account: str | None, limits: Limits) -> Summary:
    if marked.total:
        _notify(app, _marked_text(marked), batch=backfill.label)
    accounts = app.accounts(account)
    summary = run_job(app, accounts, limits, engine=backfill.engine, command="backfill", logs_progress=True)
    report_problems(app, summary)
    return summary


# --- What it prints ----------------------------------------------------------------------------------


def _notify(app: App, message: str, *, batch: str) -> None:
    """Print on stderr what goes on: a plain line on a terminal, elsewhere a line of the log."""
    if sys.stderr.isatty():
        click.echo(message, err=True)
    else:
        app.log.notice(message, batch=batch)


def _resuming(label: str) -> str:
    return f"`cdr-sync backfill --resume {shlex.quote(label)}`"


def _marking_progress(app: App, label: str) -> Callable[[ChangeResult], None]:
    """Print the label and how to resume after the first chunk, before any kill, and then the progress."""
    printed_at: list[float] = []

    def on_chunk(marked: ChangeResult) -> None:
        if not printed_at:
            _notify(
                app,
                f"Batch {label}. To resume after an interruption: {_resuming(label)}. (If it stops during "
                f"marking, repeat this command with --batch {shlex.quote(label)} first.)",
                batch=label,
            )
        elif time.monotonic() - printed_at[-1] >= _NOTICE_SECONDS:
            _notify(app, f"{marked.total:,} requests marked so far", batch=label)
        else:
            return
        printed_at.append(time.monotonic())

    return on_chunk


def _print_interruption(app: App, label: str) -> None:
    if sys.stderr.isatty():
        click.echo(err=True)  # the terminal has put ^C on the line
    _notify(
        app,
        f"Stopped during marking. To mark the rest, repeat this command with --batch {shlex.quote(label)}; "
        f"{_resuming(label)} would leave out what is not marked yet.",
        batch=label,
    )


def _print_forecast(app: App, backfill: Backfill, marked: ChangeResult, *, as_json: bool) -> None:
    forecast = backfill.forecast(marked, rate_limit=app.settings.rate_limit)
    if as_json:
        print_json({**backfill.document(marked), **forecast.document()})
        return
    if marked.total or marked.already_marked or not forecast.calls:
        click.echo(_marked_text(marked, is_dry_run=True))
    if not forecast.calls:
        return
    click.echo(f"API calls: {forecast.calls:,}, plus one for each retry")
    if forecast.seconds is None or forecast.basis is None:
        click.echo("Expected duration: unknown, because no run has called the API yet")
        return
    whole = round(forecast.seconds)
    duration = timedelta(seconds=whole) if whole else "under a second"
    speed = f"{forecast.per_second:,.1f}/s ({_SPEEDS[forecast.basis]})"
    click.echo(f"Expected duration: {duration} at {speed}")


def _print_outcome(
    app: App, backfill: Backfill, marked: ChangeResult, outcome: WorkedOff, *, as_json: bool
) -> None:
    """Print what the run did, if there was one, and how the batch stands."""
    label, summary = backfill.label, outcome.summary
    if summary is not None and summary.has_too_many_failures:
        app.log.error(_too_many_failures(label, outcome.limits.max_failures or 0), batch=label)
    if as_json:
        run = summary_document(summary or Summary()) | ({} if summary else {"run": None})
        print_json({"batch": label, **backfill.document(marked), **run, **outcome.document()})
        return
    click.echo(summary_text(summary) if summary else _marked_text(marked))
    if outcome.figures.states:
        click.echo(_batch_text(label, outcome.figures))


def _print_marked(backfill: Backfill, marked: ChangeResult, *, as_json: bool) -> None:
    """Print what was marked, where nothing is run."""
    if as_json:
        print_json({"batch": backfill.label, **backfill.document(marked)})
        return
    click.echo(_marked_text(marked))
    if marked.total:
        only = _resuming(backfill.label)
        click.echo(f"Any `cdr-sync sync` fetches them, after live requests. To fetch only them: {only}")


def _marked_text(marked: ChangeResult, *, is_dry_run: bool = False) -> str:
    lines = []
    if marked.total:
        words = "would be fetched again" if is_dry_run else "marked"
        lines.append(f"{counted(marked.total, 'request')} {words} ({format_states(marked.states)})")
    elif not marked.already_marked:
        lines.append("Nothing to fetch: no request is selected")
    if marked.skipped:
        lines.append(f"Skipped: {format_states(marked.skipped)}")
    if count := marked.already_marked:
        verb = "is" if count == 1 else "are"
        lines.append(
            f"{count:,} {verb} already in this batch and will be skipped. "
            "To fetch them again, use another label"
        )
    return "\n".join(lines)


def _too_many_failures(label: str, most: int) -> str:
    return (
        f"Stopped by --max-failures: {counted(most, 'request')} failed. To see them: `cdr-sync requests list "
        f"--batch {shlex.quote(label)}`. To continue: {_resuming(label)}"
    )


def _batch_text(label: str, figures: BatchFigures) -> str:
    lines = [f"Batch {label}: {counted(figures.states.total(), 'request')} = {format_states(figures.states)}"]
    if figures.states[PENDING] or figures.states[RUNNING]:
        due = f". The first is due at {format_value(figures.next_due_at)}" if figures.next_due_at else ""
        lines.append(f"To fetch what is left: {_resuming(label)}{due}")
    # Of any run, not only of this one: with the API down, this run has no answers.
    agreeing = figures.counted - figures.mismatches
    answers = counted(figures.counted, "stored answer")
    lines.append(f"The API's count agrees with the legs of {agreeing:,} of {answers}")
    if figures.mismatches:
        more = ", …" if figures.mismatches > len(figures.examples) else ""
        lines[-1] += f", but not of {', '.join(figures.examples)}{more}"
    return "\n".join(lines)
