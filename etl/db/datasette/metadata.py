"""The metadata of Datasette: every description that the tables and views carry, questions, a dashboard."""

from __future__ import annotations

import re
from html import escape
from typing import Any

from etl.db.datasette.dashboard import dashboard
from etl.db.datasette.questions import QUESTIONS, Question
from etl.db.tables import metadata
from etl.db.views import view_metadata

# What Datasette lists only where it is asked to: Alembic's own, and answers that are long and raw.
_HIDDEN = ("alembic_version", "cdr_responses", "sqlite_sequence")
_NEWEST_FIRST = {
    "cdr_requests": "id",
    "call_legs": "call_time",
    "cdr_responses": "fetched_at",
    "sync_runs": "id",
}


def can_have_dashboard(database: str) -> bool:
    """Whether the plugin's charts find a database of this name: they put it into addresses as it is."""
    return re.fullmatch(r"[A-Za-z0-9_-]+", database) is not None


def datasette_metadata(database: str) -> dict[str, Any]:
    """Describe a database for Datasette, which calls it by the stem of its file's name."""
    plugins = {"datasette-dashboards": {"calls": dashboard(database)}} if can_have_dashboard(database) else {}
    return {
        "title": "PIOPIY call records",
        "databases": {
            database: {
                "description": "Call records of PIOPIY (TeleCMI), kept complete by cdr-sync. Begin with the "
                "view calls, one row a call. Instants and days are UTC; null is not sent, and never 0.",
                "tables": _tables(),
                "queries": {name: _query(question) for name, question in QUESTIONS.items()},
            }
        },
        "plugins": plugins,
    }


def _query(question: Question) -> dict[str, Any]:
    blanks = "".join(f"<li><b>{name}</b>: {escape(words)}</li>" for name, words in question.blanks.items())
    return {
        "title": question.title,
        "description_html": f"<p>{escape(question.description)}</p><ul>{blanks}</ul>",
        "params": list(question.blanks),
        "sql": question.sql.strip(),
        "hide_sql": True,
    }


def _tables() -> dict[str, dict[str, Any]]:
    described: dict[str, dict[str, Any]] = {name: {} for name in _HIDDEN}
    for table in (*metadata.sorted_tables, *view_metadata.sorted_tables):
        described.setdefault(table.name, {}).update(
            description=table.comment, columns={column.name: column.comment for column in table.columns}
        )
    for name in _HIDDEN:
        described[name]["hidden"] = True
    for name, column in _NEWEST_FIRST.items():
        described[name]["sort_desc"] = column
    return described
