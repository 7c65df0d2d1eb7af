"""docs/data.md and docs/dictionary.md: queries that give on every database what is shown, and no old word.

The queries run on the database that a real demo made; on the servers, on a copy of its rows.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import sqlite3
import subprocess
from contextlib import closing
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import insert, select
from support.operators import PATIENCE, Operator
from support.servers import do_without

from etl.db.engine import open_engine, reading
from etl.db.tables import metadata

DOCS = Path(__file__).parents[2] / "docs"


def _load():
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


docs = _load()
PAGE = docs.DATA.read_text()
EXAMPLES = docs.examples(PAGE)
SHOWN = [pytest.param(example, id=example.title) for example in EXAMPLES if example.output is not None]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Make the demo as the page says, in a process of its own, and give its database."""
    someone = Operator(tmp_path_factory.mktemp("page"))
    finished = someone.run(*docs.demo_arguments(PAGE))
    assert (finished.code, finished.stderr) == (0, "")
    (path,) = someone.home.glob("tmp/*/demo.sqlite3")
    return path


def plain(row):
    """Values as they compare between databases: digits without padding, instants and days as text."""
    return tuple(_plain(value) for value in row)


def _plain(value):
    match value:
        case float():
            return Decimal(f"{value:.15g}").normalize()
        case Decimal() | int():
            return Decimal(value).normalize()
        case datetime():
            return value.replace(tzinfo=None).isoformat(" ", "microseconds")
        case date():
            return value.isoformat()
    return value


def test_the_dictionary_is_up_to_date_with_the_models():
    assert docs.DICTIONARY.read_text() == docs.dictionary(), "run `make docs`"


def test_the_dictionary_has_every_table_and_view_with_all_columns(demo):
    with closing(sqlite3.connect(demo)) as connection:
        columns = connection.execute(
            "SELECT parts.name, columns.name"
            " FROM sqlite_master AS parts, pragma_table_info(parts.name) AS columns"
            " WHERE parts.type IN ('table', 'view') AND parts.name NOT LIKE 'sqlite_%'"
            " AND parts.name <> 'alembic_version'"
        ).fetchall()
    sections = {text.split("`")[1]: text for text in docs.DICTIONARY.read_text().split("\n### ")[1:]}

    assert {table for table, _ in columns} == sections.keys()
    assert [(table, name) for table, name in columns if f"\n| `{name}` | " not in sections[table]] == []


def test_there_are_twenty_queries():
    assert [example.title.partition(".")[0] for example in EXAMPLES if example.output] == [
        str(number) for number in range(1, 21)
    ]


def test_the_page_says_which_queries_the_role_for_analysts_cannot_run():
    private = re.compile(r"\b(cdr_requests|cdr_responses|sync_runs|api_accounts)\b")
    queries = {example.title.partition(".")[0]: example.statements.values() for example in EXAMPLES}
    owners = [name for name, statements in queries.items() if any(map(private.search, statements))]

    assert f"may run all except {' and '.join(owners)}," in PAGE


@pytest.mark.parametrize("example", SHOWN)
def test_a_query_gives_on_the_demo_what_the_page_shows(demo, example):
    with closing(sqlite3.connect(demo)) as connection:
        given = docs.box(connection.execute(example.on("sqlite")))

    assert given == example.output, "run `make docs`, and look at what has changed"


def test_the_shell_of_sqlite_prints_what_the_page_shows(demo):
    program = shutil.which("sqlite3")
    if program is None:
        do_without("no sqlite3: run `apt-get install sqlite3`")
    typed = "".join(example.on("sqlite") for example in EXAMPLES if example.output)
    done = subprocess.run(
        [program, "-box", demo], input=typed, check=True, capture_output=True, text=True, timeout=PATIENCE
    )

    shown = "".join(example.output for example in EXAMPLES if example.output)
    assert re.sub(" +", " ", done.stdout) == re.sub(" +", " ", shown)  # versions differ in how they align


@pytest.mark.databases("postgresql", "mariadb")
def test_the_queries_give_the_same_values_on_a_server(demo, engine):
    source = open_engine(f"sqlite:///{demo}")
    with reading(source) as connection, engine.begin() as copy:
        for table in metadata.tables.values():
            if rows := [dict(row) for row in connection.execute(select(table)).mappings()]:
                copy.execute(insert(table), rows)
    source.dispose()
    given, wanted = {}, {}
    with closing(sqlite3.connect(demo)) as file, reading(engine) as connection:
        for example in EXAMPLES:
            sql = example.on(engine.dialect.name.replace("mysql", "mariadb"))
            given[example.title] = [plain(row) for row in connection.exec_driver_sql(sql)]
            wanted[example.title] = [plain(row) for row in file.execute(example.on("sqlite"))]

    assert given == wanted
