"""`cdr-sync metadata`: describes the database for Datasette."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import msgspec

from etl.cli.app import App, pass_app
from etl.cli.options import file_option
from etl.cli.output import output_to
from etl.db.engine import sqlite_path
from etl.errors import UsageError

_FILE = Path(__file__).parent.parent / "datasette.json"  # docs/datasette_metadata.py writes it


@click.command("metadata")
@file_option("--output", help_text="Write FILE instead of standard output, complete or not at all.")
@pass_app
def command(app: App, *, output: str | None) -> None:
    """Print metadata for Datasette: descriptions, ready questions, a dashboard.

    Datasette shows the SQLite file in a browser: cdr-sync metadata --output metadata.json, and then
    datasette FILE --metadata metadata.json. The dashboard needs its plugin datasette-dashboards.
    """
    path = sqlite_path(app.settings.database_url)
    if path is None:
        raise UsageError(
            "Datasette reads SQLite files, and this database is not one",
            remedy="For PostgreSQL, use the dashboards in deploy/grafana",
        )
    with app.reading():  # fails unless the schema is the one that the metadata describe
        document = datasette_metadata(path.stem)
    if not document["plugins"]:
        click.echo(
            f"cdr-sync: There is no dashboard for {path.name}, because its charts would stay empty. It needs "
            "a file name of letters, digits, - and _ before the ending",
            err=True,
        )
    with output_to(output) as sink:
        sink.write(msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def datasette_metadata(database: str) -> dict[str, Any]:
    """The metadata of a database, which Datasette calls by the stem of its file's name.

    The dashboard is left out if its plugin could not find the database: it puts the name into URLs unescaped.
    """
    name = msgspec.json.encode(database).decode()
    text = _FILE.read_text(encoding="utf-8").replace('"{database}"', name)
    document: dict[str, Any] = msgspec.json.decode(text)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", database):
        document["plugins"] = {}
    return document
