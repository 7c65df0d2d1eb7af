"""`cdr-sync enqueue`: request IDs into the queue, from arguments, files or a pipe."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from datetime import timedelta
from functools import partial

import click

from etl.cli.app import App, pass_app
from etl.cli.options import DURATION, account_option, batch_option
from etl.cli.output import counted
from etl.errors import UsageError
from etl.request_lists import LONGEST, Listed, check_request_id, read_request_ids
from etl.settings import DEFAULT_ACCOUNT, LONGEST_NAME

_CHUNK = 1_000
_SHOWN = 20


@click.command("enqueue")
@click.argument("request_ids", nargs=-1, metavar="[ID]...")
@click.option("--from-file", metavar="FILE", help="Read IDs from FILE, or from - for standard input.")
@account_option
@batch_option
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
    from etl.db.request_queue import enqueue_requests  # noqa: PLC0415
    from etl.sync.transactions import in_transaction  # noqa: PLC0415

    if len(account or "") > LONGEST_NAME or len(batch or "") > LONGEST:
        raise UsageError(f"An account has up to {LONGEST_NAME} characters, a batch up to {LONGEST}")
    if not request_ids and from_file is None:
        raise UsageError("There is nothing to enqueue: give IDs, or --from-file FILE")
    listed = itertools.chain(
        (("argument", check_request_id(n, text.strip())) for n, text in enumerate(request_ids, start=1)),
        (("line", entry) for entry in _from_file(from_file)),
    )
    new = seen = invalid = 0
    chunk = list(itertools.islice(listed, _CHUNK))  # a list that cannot be read makes no database
    engine = app.engine()
    while chunk:
        good = [entry.request_id for _, entry in chunk if entry.problem is None]
        for place, entry in chunk:
            if entry.problem is not None:
                invalid += 1
                if invalid <= _SHOWN:
                    click.echo(f"{place} {entry.line}: {entry.problem}", err=True)
        if good:
            new += in_transaction(
                engine,
                partial(
                    enqueue_requests,
                    request_ids=good,
                    account=account or DEFAULT_ACCOUNT,
                    batch=batch,
                    delay=delay,
                ),
            )
        seen += len(good)
        chunk = list(itertools.islice(listed, _CHUNK))
    if invalid > _SHOWN:
        click.echo(f"… and {invalid - _SHOWN:,} more", err=True)
    click.echo(f"{counted(new, 'new request')}, {seen - new:,} already known, {invalid:,} invalid")
    if invalid and not seen:
        raise click.exceptions.Exit(1)


def _from_file(name: str | None) -> Iterator[Listed]:
    if name is None:
        return
    if name == "-":
        sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # type: ignore[union-attr]  # a text stream
        yield from read_request_ids(sys.stdin)
        return
    try:
        with open(name, encoding="utf-8", errors="replace", newline=None) as file:  # noqa: PTH123 (a name is enough)
            yield from read_request_ids(file)
    except OSError as error:
        raise UsageError(f"{name} cannot be read: {error.strerror}") from error
