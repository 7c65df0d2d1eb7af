"""Accounts and labels as somebody names them: one that is misspelt would select nothing, and say nothing."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from etl.cli.app import App
from etl.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection


def require_known(
    app: App, connection: Connection, *, account: str | None = None, batch: str | None = None
) -> None:
    """Refuse an account that neither settings nor database know, and a label that no request has.

    Raises:
        UsageError: the message names those that there are.
    """
    from etl.db.selection import known_accounts  # noqa: PLC0415

    if account is not None and account not in app.settings.accounts:
        names = known_accounts(connection)
        if account not in names:
            known = ", ".join(dict.fromkeys([*app.settings.accounts, *names]))
            raise UsageError(f"No account is called {account!r}: there is {known or 'none yet'}")
    if batch is not None and (problem := _label_problem(app, connection, batch)):
        raise UsageError(problem)


def tell_of_unknown_label(app: App, connection: Connection, batch: str | None) -> None:
    """Say of a label that no request has it, where that is no mistake yet: they may still come."""
    if batch is not None and (problem := _label_problem(app, connection, batch)):
        click.echo(f"cdr-sync: {problem}", err=True)


def _label_problem(app: App, connection: Connection, batch: str) -> str | None:
    """What to say of a label that no request has, with those spelled alike; None where one has it."""
    from difflib import get_close_matches  # noqa: PLC0415 (only where something is wrong)

    from etl.db.idle import recent_labels  # noqa: PLC0415
    from etl.db.selection import is_label_used  # noqa: PLC0415

    if is_label_used(connection, batch):
        return None
    alike = get_close_matches(batch, recent_labels(app.settings.database_url))
    used = [repr(label) for label in alike if is_label_used(connection, label)]  # a run may have had none
    return f"No request has the label {batch!r}" + (f": did you mean {' or '.join(used)}?" if used else "")


def warn_of_stranger(app: App, account: str) -> None:
    """Say of requests that came into the queue that no run from here asks for them.

    A machine without any credentials may be one that only enqueues.
    """
    known = app.settings.accounts
    if known and account not in known:
        click.echo(
            f"cdr-sync: There are no credentials for account {account!r} here, but for {', '.join(known)}: "
            f"add [accounts.{account}] to the settings, or take the requests back by `cdr-sync requests "
            f"cancel --all-pending --account {shlex.quote(account)}`",
            err=True,
        )
