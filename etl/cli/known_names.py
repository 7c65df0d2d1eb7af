"""Check the accounts and labels that a person types: a misspelt one would select nothing, silently."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from etl.cli.app import App
from etl.errors import UsageError

if TYPE_CHECKING:
    from sqlalchemy import Connection


def require_known_names(
    app: App, connection: Connection, *, account: str | None = None, batch: str | None = None
) -> None:
    """Refuse an account that neither settings nor database have, and a label that no request has.

    Raises:
        UsageError: the remedy names the known accounts, or labels with a similar spelling.
    """
    from etl.db.selection import known_accounts  # noqa: PLC0415 (imports SQLAlchemy)

    if account is not None and account not in app.settings.accounts:
        in_database = known_accounts(connection)
        if account not in in_database:
            known = ", ".join(dict.fromkeys([*app.settings.accounts, *in_database]))
            raise UsageError(
                f"There is no account {account!r}", remedy=f"Known accounts: {known or 'none yet'}"
            )
    if batch is not None and (problem := _unused_label(app, connection, batch)):
        raise problem


def warn_about_unused_label(app: App, connection: Connection, batch: str | None) -> None:
    """Warn that no request has a label, where requests with it may still come."""
    if batch is not None and (problem := _unused_label(app, connection, batch)):
        click.echo(f"cdr-sync: {problem}", err=True)


def _unused_label(app: App, connection: Connection, batch: str) -> UsageError | None:
    from difflib import get_close_matches  # noqa: PLC0415 (only where something is wrong)

    from etl.db.idle import recent_labels  # noqa: PLC0415 (only where something is wrong)
    from etl.db.selection import is_label_used  # noqa: PLC0415 (imports SQLAlchemy)

    if is_label_used(connection, batch):
        return None
    similar = get_close_matches(batch, recent_labels(app.settings.database_url))
    used = [repr(label) for label in similar if is_label_used(connection, label)]  # a run may have found none
    remedy = f"Did you mean {' or '.join(used)}?" if used else ""
    return UsageError(f"No request has the label {batch!r}", remedy=remedy)


def warn_about_unconfigured_account(app: App, account: str) -> None:
    """Warn that no account configured here will fetch the requests that were just enqueued.

    Without any credentials, this machine may be one that only enqueues: then there is no warning.
    """
    known = app.settings.accounts
    if known and account not in known:
        click.echo(
            f"cdr-sync: No credentials are configured for account {account!r}, only for {', '.join(known)}. "
            f"Add [accounts.{account}] to the settings, or cancel these requests: `cdr-sync requests cancel "
            f"--all-pending --account {shlex.quote(account)}`",
            err=True,
        )
