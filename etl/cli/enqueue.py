"""`cdr-sync enqueue`: add request IDs to the queue, from arguments, files or a pipe."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import click

from etl import replay
from etl.cli.app import App, pass_app
from etl.cli.known_names import warn_about_unconfigured_account
from etl.cli.options import DURATION, account_option, from_file_option, label_option
from etl.cli.output import counted
from etl.errors import UsageError
from etl.id_files import RequestIds
from etl.settings import DEFAULT_ACCOUNT


@click.command("enqueue")
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@from_file_option
@account_option
@label_option("--batch", help_text="Label for these requests, by which other commands select them.")
@click.option("--delay", type=DURATION, default="0", help="Fetch them only after this time, such as 90s.")
@pass_app
def command(
    app: App,
    *,
    request_ids: tuple[str, ...],
    from_file: str | None,
    account: str | None,
    batch: str | None,
    delay: timedelta,
) -> None:
    """Add request IDs to the queue. A known ID is left as it is.

    FILE has one ID per line, or is CSV with a column request_id, or JSON lines with request_id at the top
    level or in data. Files of any size are read as a stream.
    """
    if not request_ids and from_file is None:
        raise UsageError("There is nothing to enqueue", remedy="Give IDs, or --from-file FILE")
    account = account or DEFAULT_ACCOUNT
    ids = RequestIds(request_ids, from_file, report=partial(click.echo, err=True))
    new = replay.enqueue(app.engine(), ids, account=account, batch=batch, delay=delay)
    click.echo(f"{counted(new, 'new request')}, {ids.valid - new:,} already known, {ids.invalid:,} invalid")
    ids.require_any()
    if new:
        warn_about_unconfigured_account(app, account)
