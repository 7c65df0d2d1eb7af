"""`cdr-sync enqueue`: request IDs into the queue, from arguments, files or a pipe."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

import click

from etl.cli.app import App, pass_app
from etl.cli.id_lists import IdList
from etl.cli.naming import warn_of_stranger
from etl.cli.options import DURATION, account_option, from_file_option, label_option
from etl.cli.output import counted
from etl.errors import UsageError
from etl.settings import DEFAULT_ACCOUNT


@click.command("enqueue")
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@from_file_option
@account_option
@label_option("--batch", help_text="Label to give them, by which other commands select them.")
@click.option("--delay", type=DURATION, default="0", help="Ask for them only after this time, such as 90s.")
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
    """Add request IDs to the queue; one that is known is left as it is.

    FILE has one ID a line, or is CSV with a column request_id, or JSON lines in which request_id stands at
    the top or in data. Files of any size are read as a stream.
    """
    from etl.db.engine import in_transaction  # noqa: PLC0415
    from etl.db.queue import enqueue_requests  # noqa: PLC0415

    account = account or DEFAULT_ACCOUNT
    if not request_ids and from_file is None:
        raise UsageError("There is nothing to enqueue: give IDs, or --from-file FILE")
    ids = IdList(request_ids, from_file)
    lots = ids.lots()  # a list that cannot be read makes no database
    engine = app.engine()
    enqueue = partial(enqueue_requests, account=account, batch=batch, delay=delay)
    new = sum(in_transaction(engine, partial(enqueue, request_ids=lot)) for lot in lots if lot)
    click.echo(f"{counted(new, 'new request')}, {ids.valid - new:,} already known, {ids.invalid:,} invalid")
    ids.require_any()
    if new:
        warn_of_stranger(app, account)
