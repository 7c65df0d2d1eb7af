"""`cdr-sync metadata`: what Datasette is told about the database."""

from __future__ import annotations

import click
import msgspec

from etl.cli.app import App, pass_app
from etl.cli.options import file_option
from etl.cli.output import output_to
from etl.errors import UsageError


@click.command("metadata")
@file_option("--output", help_text="Write FILE, whole or not at all, and not standard output.")
@pass_app
def command(app: App, *, output: str | None) -> None:
    """Print metadata for Datasette: descriptions, ready questions, a dashboard.

    Datasette shows the SQLite file in a browser: cdr-sync metadata --output metadata.json, and then
    datasette FILE --metadata metadata.json. The dashboard needs its plugin datasette-dashboards.
    """
    from etl.db.engine import sqlite_path  # noqa: PLC0415

    path = sqlite_path(app.settings.database_url)
    if path is None:
        raise UsageError(
            "Datasette reads SQLite files, and the database is none: deploy/grafana has dashboards for "
            "PostgreSQL"
        )
    from etl.db.datasette.metadata import can_have_dashboard, datasette_metadata  # noqa: PLC0415

    with app.reading():  # what is said holds for the present schema alone
        document = datasette_metadata(path.stem)
    if not can_have_dashboard(path.stem):
        click.echo(
            f"cdr-sync: There is no dashboard for {path.name}, since its charts would stay empty: it needs a "
            "file name of letters, digits, - and _ before the ending",
            err=True,
        )
    with output_to(output) as sink:
        sink.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")
