"""`cdr-sync metadata`: what it prints, what it writes, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest

from etl.db.tables import metadata
from etl.db.views import view_metadata

TOP = Path(__file__).parents[2]


def test_the_file_is_up_to_date():
    spec = importlib.util.spec_from_file_location("script", TOP / "docs" / "datasette_metadata.py")
    script = importlib.util.module_from_spec(spec)
    sys.modules["script"] = script  # where dataclasses look for it
    spec.loader.exec_module(script)

    assert (TOP / "etl" / "datasette.json").read_text() == script.text(), "run `make docs`"


def test_everything_in_the_database_is_described_with_the_comments_of_the_schema(operator):
    document = json.loads(operator.type("metadata").stdout)
    tables = document["databases"]["cdr-sync"]["tables"]
    (there,) = zip(
        *operator.rows("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')"), strict=True
    )

    assert tables.keys() == set(there)
    for table in (*metadata.sorted_tables, *view_metadata.sorted_tables):
        assert tables[table.name]["description"] == table.comment
        assert tables[table.name]["columns"] == {column.name: column.comment for column in table.columns}
        assert all(tables[table.name]["columns"].values())


def test_tables_that_analysts_do_not_need_are_hidden(operator):
    tables = json.loads(operator.type("metadata").stdout)["databases"]["cdr-sync"]["tables"]

    assert {name for name, table in tables.items() if table.get("hidden")} == {
        "alembic_version",
        "cdr_responses",
        "sqlite_sequence",
    }


def test_the_database_is_named_after_its_file(operator):
    renamed = shutil.copy(operator.database, operator.home / "calls_2026-11.db")
    document = json.loads(operator.type("--database-url", f"sqlite:///{renamed}", "metadata").stdout)
    (dashboard,) = document["plugins"]["datasette-dashboards"].values()

    assert list(document["databases"]) == ["calls_2026-11"]
    assert {chart["db"] for chart in dashboard["charts"].values()} == {"calls_2026-11"}


def test_a_dashboard_that_would_stay_empty_is_left_out_with_a_warning(operator):
    renamed = shutil.copy(operator.database, operator.home / "Calls 2026.11.db")
    result = operator.type("--database-url", f"sqlite:///{renamed}", "metadata")
    document = json.loads(result.stdout)

    assert (list(document["databases"]), document["plugins"]) == (["Calls 2026.11"], {})
    assert "There is no dashboard for Calls 2026.11.db" in result.stderr


def test_a_file_is_written_whole_or_not_at_all(operator):
    target = operator.home / "metadata.json"
    target.write_text("the old one")
    result = operator.type("metadata", "--output", target)

    assert (result.exit_code, result.output) == (0, "")
    assert target.read_text() == operator.type("metadata").stdout
    assert sorted(operator.home.glob("*metadata*")) == [target]


def test_a_file_that_cannot_be_written_is_reported(operator):
    result = operator.type("metadata", "--output", operator.home / "nowhere" / "metadata.json")

    assert result.exit_code == 2
    assert "nowhere/metadata.json cannot be written: No such file or directory" in result.stderr


@pytest.mark.parametrize(
    "url",
    ["postgresql://analyst:hidden@127.0.0.1:1/cdr", "mysql://analyst:hidden@127.0.0.1:1/cdr", "sqlite://"],
)
def test_a_database_that_datasette_cannot_read_is_refused_without_connecting(operator, url):
    result = operator.type("--database-url", url, "metadata")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "Datasette reads SQLite files" in result.stderr
    assert "hidden" not in result.stderr


def test_a_schema_of_another_version_is_not_described(operator):
    operator.rows("UPDATE alembic_version SET version_num = '0001'")
    result = operator.type("metadata")

    assert (result.exit_code, result.stdout) == (78, "")
    assert "`cdr-sync db upgrade`" in result.stderr
