"""`cdr-sync db`: the database schema."""

from __future__ import annotations

import click

from etl.cli.app import App, pass_app
from etl.db import schema
from etl.db.engine import LONG_READ_SECONDS, create_sqlite_file, reading, schema_revision, shown_url


@click.group("db")
def command() -> None:
    """Create the tables, bring them up to date, and check them."""


@command.command()
@click.argument("revision", default="head")
@pass_app
def upgrade(app: App, revision: str) -> None:
    """Upgrade the schema to REVISION, by default the newest. Safe to repeat."""
    create_sqlite_file(app.settings.database_url)
    engine = app.engine_as_it_is(read_seconds=LONG_READ_SECONDS)
    schema.upgrade(engine, revision)
    with reading(engine) as connection:
        reached = schema_revision(connection)
    click.echo(f"The schema of {shown_url(app.settings.database_url)} is at revision {reached}.", err=True)


@command.command(context_settings={"ignore_unknown_options": True})  # -1 is a revision
@click.argument("revision")
@pass_app
def downgrade(app: App, revision: str) -> None:
    """Downgrade the schema to REVISION.

    Data that only the newer schema can store is lost.

    REVISION is a number such as 0001, or base, or -1 for one step.
    """
    schema.downgrade(app.engine_as_it_is(read_seconds=LONG_READ_SECONDS), revision)


@command.command()
@pass_app
def current(app: App) -> None:
    """Print the revision of the database."""
    with reading(app.engine_as_it_is()) as connection:
        click.echo(schema_revision(connection) or "none")


@command.command()
@pass_app
def check(app: App) -> None:
    """Check that the schema is the one that this version needs.

    Exits with 1 if the schema is behind, or if a table differs from what this version expects.
    """
    schema.check(app.engine_as_it_is())
    click.echo("The schema is current.")
