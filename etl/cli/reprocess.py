"""`cdr-sync reprocess`: legs derived again from the archived answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

import click

from etl.cli.app import App, pass_app
from etl.cli.naming import require_known
from etl.cli.options import account_option, dry_run_option, json_option, period_options
from etl.cli.output import counted, print_json

if TYPE_CHECKING:
    from etl.reprocess import Result

_LEGS = {
    "legs_inserted": "new",
    "legs_updated": "changed",
    "legs_missing": "missing now",
    "legs_unchanged": "as before",
}
_REVIVED = {
    "done": "done",
    "without_legs": "without legs",
    "put_off": "to be asked for again by `cdr-sync sync`",
}
_LEFT = {
    "running": "running: a run stores a fresh answer",
    "unreadable": "not readable still",
    "refused": "refused by the database",
}


@click.command("reprocess")
@period_options(
    since="Only answers stored at this instant or later.", until="Only answers stored before this instant."
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
    """Derive legs again from the archived answers, with no call of the API.

    For a new version that reads more, or another CDR_SYNC_DEFAULT_REGION. Takes the latest answer of each
    request; a request that is dead since its answer could not be read is settled where it can be now. Stopped
    or killed, the same command does the rest. Times are UTC.
    """
    from etl.db.archive import Span  # noqa: PLC0415
    from etl.db.engine import reading  # noqa: PLC0415
    from etl.reprocess import Reprocessing  # noqa: PLC0415
    from etl.sync.signals import stop_on_signals  # noqa: PLC0415

    engine = app.engine(creates=False)
    with reading(engine) as connection:
        require_known(app, connection, account=account)
    span = Span(account, since, until)
    with stop_on_signals() as stop, _shown() as on_page:
        work = Reprocessing(engine, app.settings, span, stop=stop, on_page=on_page)
        result = work.foresee() if dry_run else work.carry_out()
    if as_json:
        print_json(_document(result))
    else:
        click.echo(_text(result))
    raise click.exceptions.Exit(result.exit_code)


@contextmanager
def _shown() -> Iterator[Callable[[Result], None]]:
    """How far it is, on a terminal."""
    if not sys.stderr.isatty():
        yield lambda _result: None
        return
    from rich.console import Console  # noqa: PLC0415 (only on a terminal)

    with Console(stderr=True).status("reprocess") as status:
        yield lambda result: status.update(
            f"reprocess: {result.counts['requests']:,} read again, {result.counts['changed']:,} changed"
        )


def _document(result: Result) -> dict[str, object]:
    names = ("request_id", "account", "reason")
    counts = {name: result.counts[name] for name in ("requests", "changed", *_LEGS, *_REVIVED, *_LEFT)}
    return {
        "run": result.run_id,
        "outcome": result.outcome,
        "dry_run": result.run_id is None,
        **counts,
        "left_alone": [dict(zip(names, one, strict=True)) for one in result.left],
    }


def _text(result: Result) -> str:
    counts = result.counts
    begin = "Dry run" if result.run_id is None else f"Run {result.run_id}"
    changed = f"{counts['changed']:,} {'would change' if result.run_id is None else 'changed'}"
    lines = [f"{begin}: of {counted(counts['requests'], 'request')} with an archived answer, {changed}"]
    lines.append(f"Legs: {', '.join(f'{counts[name]:,} {words}' for name, words in _LEGS.items())}")
    for title, words_of in (("Dead no more", _REVIVED), ("Left alone", _LEFT)):
        if told := [f"{counts[name]:,} {words}" for name, words in words_of.items() if counts[name]]:
            lines.append(f"{title}: {', '.join(told)}")
    lines += [f"  {request_id} of account {account}: {why}" for request_id, account, why in result.left]
    return "\n".join(lines)
