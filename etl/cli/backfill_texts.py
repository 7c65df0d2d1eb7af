"""What a backfill says, for people and for programs."""

from __future__ import annotations

import shlex
import sys
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from etl.cli.output import counted, format_states, format_value
from etl.db.states import PENDING, RUNNING

if TYPE_CHECKING:
    from etl.backfill import Forecast
    from etl.cli.app import App
    from etl.db.selection import BatchFigures
    from etl.replay import Result

_BASES = {"rate_limit": "the rate limit", "latest_runs": "the speed of the latest runs"}


def notify(app: App, message: str, *, batch: str) -> None:
    """Tell on stderr what goes on: a plain line on a terminal, one of the log elsewhere."""
    if sys.stderr.isatty():
        click.echo(message, err=True)
    else:
        app.log.notice(message, batch=batch)


def begun(label: str) -> str:
    """Said before all else, so that a kill leaves somebody who knows how to go on."""
    return (
        f"Batch {label}. Stopped while it marks, the same command with --batch {shlex.quote(label)} does the "
        f"rest; stopped later, {_resuming(label)} goes on."
    )


def cut_short(label: str) -> str:
    """Said where a signal ended the marking: who resumes now would take the part that is marked for all."""
    return (
        f"Stopped while it marked. The same command with --batch {shlex.quote(label)} marks the rest; "
        f"{_resuming(label)} would leave the rest out."
    )


def how_to_go_on(label: str) -> str:
    """Said where requests are marked and not asked for."""
    return f"Any `cdr-sync sync` asks for them behind live ones; {_resuming(label)} asks for them alone."


def too_many_failures(label: str, most: int | None) -> str:
    """Said where --max-failures ended a run."""
    return (
        f"{counted(most or 0, 'request')} failed, which --max-failures does not allow, so the run stopped "
        f"claiming. See `cdr-sync requests list --batch {shlex.quote(label)}`; {_resuming(label)} goes on."
    )


def _resuming(label: str) -> str:
    return f"`cdr-sync backfill --resume {shlex.quote(label)}`"


def result_document(result: Result) -> dict[str, object]:
    """What was marked, or would be; a run and its dry run say the same."""
    return {
        "selected": result.total,
        "by_state": result.states,
        "left_alone": dict(result.left),
        "already_marked": result.marked,
    }


def result_text(result: Result, *, is_dry_run: bool = False) -> str:
    """The same for people."""
    words = "would be asked for again" if is_dry_run else "marked"
    lines = []
    if result.total:
        lines.append(f"{counted(result.total, 'request')} {words} ({format_states(result.states)})")
    elif not result.marked:
        lines.append("Nothing to fetch: no request is selected")
    if result.left:
        lines.append(f"Left alone: {format_states(result.left)}")
    if result.marked:
        lines.append(
            f"In this batch already, and left as they are: {result.marked:,}; another label, or none, "
            "has them asked for again"
        )
    return "\n".join(lines)


def forecast_document(ahead: Forecast) -> dict[str, object]:
    """What it would cost; null where nobody can know."""
    return {
        "api_calls": ahead.calls,
        "expected_seconds": None if ahead.seconds is None else round(ahead.seconds, 1),
        "calls_per_second": None if ahead.per_second is None else round(ahead.per_second, 3),
        "speed_from": ahead.basis,
    }


def forecast_text(ahead: Forecast) -> str:
    """The same for people."""
    calls = f"API calls: {ahead.calls:,}, and one more for each that has to be repeated"
    if ahead.seconds is None or ahead.basis is None:
        return f"{calls}\nExpected duration: unknown, since no run has called the API yet"
    whole = round(ahead.seconds)
    duration = timedelta(seconds=whole) if whole else "under a second"
    return f"{calls}\nExpected duration: {duration} at {ahead.per_second:,.1f}/s, {_BASES[ahead.basis]}"


def batch_document(figures: BatchFigures) -> dict[str, object]:
    """How the batch stands in the end, and whether the API's counts agree."""
    return {
        "batch_by_state": dict(figures.states),
        "next_due_at": figures.next_due_at,
        "counts_compared": figures.counted,
        "count_mismatches": figures.mismatches,
        "mismatched": list(figures.examples),
    }


def batch_text(label: str, figures: BatchFigures) -> str:
    """The same for people."""
    lines = [f"Batch {label}: {counted(figures.states.total(), 'request')} = {format_states(figures.states)}"]
    if figures.states[PENDING] or figures.states[RUNNING]:
        due = f", the first due at {format_value(figures.next_due_at)}" if figures.next_due_at else ""
        lines.append(f"{_resuming(label)} goes on with what is left{due}.")
    agreeing = figures.counted - figures.mismatches
    # Whatever run they came by: where the API is down, none is of this one.
    answers = counted(figures.counted, "stored answer")
    lines.append(f"The API's count agrees with the legs of {agreeing:,} of {answers}")
    if figures.mismatches:
        more = ", …" if figures.mismatches > len(figures.examples) else ""
        lines[-1] += f"; it does not for {', '.join(figures.examples)}{more}"
    return "\n".join(lines)
