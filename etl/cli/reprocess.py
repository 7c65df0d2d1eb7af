"""`cdr-sync reprocess`: derive legs again from the archived answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import click

from etl.cli.app import App, pass_app
from etl.cli.known_names import require_known_names
from etl.cli.options import account_option, dry_run_option, json_option, period_options
from etl.cli.output import counted, print_json
from etl.db.engine import reading
from etl.db.selection import Span
from etl.reprocess import Reprocessing, Result
from etl.sync.signals import stop_on_signals

_LEGS = {
    "legs_inserted": "new",
    "legs_updated": "changed",
    "legs_missing": "now missing",
    "legs_unchanged": "unchanged",
}
_REVIVED = {
    "done": "done",
    "without_legs": "without legs",
    "put_off": "to be fetched again by `cdr-sync sync`",
}
_SKIPPED = {
    "running": "running: a run stores a new answer",
    "unreadable": "still cannot be parsed",
    "refused": "rejected by the database",
}


@click.command("reprocess")
@period_options(
    since="Only answers stored at this time or later.", until="Only answers stored before this time."
)
@account_option
@dry_run_option
@json_option
@pass_app
def command(
    app: App,
    *,
    since: datetime | None,
    until: datetime | None,
    account: str | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Derive legs again from the archived answers, without calling the API.

    For a new version that reads more, or another CDR_SYNC_DEFAULT_REGION. Takes the latest answer of each
    request. A request that is dead because its answer could not be parsed is settled if it can be parsed now.
    Stopped or killed, the same command does the rest. Times are UTC.
    """
    engine = app.engine(creates=False)
    with reading(engine) as connection:
        require_known_names(app, connection, account=account)
    span = Span(account, since, until)
    with stop_on_signals() as stop, _progress() as on_chunk:
        work = Reprocessing(engine, app.settings, span, stop=stop, on_chunk=on_chunk)
        result = work.preview() if dry_run else work.apply()
    if as_json:
        print_json(_document(result))
    else:
        click.echo(_text(result))
    raise click.exceptions.Exit(result.exit_code)


@contextmanager
def _progress() -> Iterator[Callable[[Result], None]]:
    """Show on a terminal how far it is."""
    if not sys.stderr.isatty():
        yield lambda _result: None
        return
    from rich.console import Console  # noqa: PLC0415 (only on a terminal)

    with Console(stderr=True).status("reprocess") as status:

        def on_chunk(result: Result) -> None:
            requests, changed = counted(result.counts["requests"], "request"), result.counts["changed"]
            status.update(f"reprocess: {requests} read, {changed:,} changed")

        yield on_chunk


def _document(result: Result) -> dict[str, object]:
    names = ("requests", "changed", *_LEGS, *_REVIVED, *_SKIPPED)
    return {
        "run": result.run_id,
        "outcome": result.outcome,
        "dry_run": result.run_id is None,
        **{name: result.counts[name] for name in names},
        "left_alone": [one._asdict() for one in result.skipped],
    }


def _text(result: Result) -> str:
    counts = result.counts
    begin, verb = (
        ("Dry run", "would change") if result.run_id is None else (f"Run {result.run_id}", "changed")
    )
    requests = counted(counts["requests"], "request")
    lines = [f"{begin}: {requests} with an archived answer, {counts['changed']:,} {verb}"]
    lines.append(f"Legs: {', '.join(f'{counts[name]:,} {words}' for name, words in _LEGS.items())}")
    for title, words_of in (("No longer dead", _REVIVED), ("Skipped", _SKIPPED)):
        if parts := [f"{counts[name]:,} {words}" for name, words in words_of.items() if counts[name]]:
            lines.append(f"{title}: {', '.join(parts)}")
    lines += [f"  {one.request_id} of account {one.account}: {one.reason}" for one in result.skipped]
    return "\n".join(lines)
