"""One request's story, for people: where it stands, what comes next, and all that is known of it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

import click

from etl.cli.output import counted, print_table, shown
from etl.db.states import DEAD, LANES, PENDING, RUNNING, STATES
from etl.settings import DEFAULT_ACCOUNT

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
