"""The comments: every column of every table and view has one, also in the database."""

from __future__ import annotations

import pytest
from sqlalchemy import text

from etl.db.engine import reading
from etl.db.tables import call_legs, metadata
from etl.db.views import VIEWS

COMMENTS = """
SELECT c.relname, a.attname, COALESCE(col_description(c.oid, a.attnum), obj_description(c.oid, 'pg_class'))
FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid AND (a.attnum > 0 OR a.attname = 'tableoid')
WHERE c.relkind = 'v' AND c.relnamespace = current_schema()::regnamespace
UNION ALL
SELECT relname, '', obj_description(oid, 'pg_class') FROM pg_class
WHERE relkind = 'v' AND relnamespace = current_schema()::regnamespace
"""


def test_every_column_of_every_view_is_described_in_its_order(engine):
    with reading(engine) as connection:
        found = {
            view.name: list(connection.execute(text(f"SELECT * FROM {view.name} WHERE 1 = 0")).keys())  # noqa: S608
            for view in VIEWS
        }

    assert found == {view.name: [column.name for column in view.columns] for view in VIEWS}
    assert all(column.comment for view in VIEWS for column in view.columns)
    assert all(view.comment for view in VIEWS)


@pytest.mark.databases("postgresql")  # the one that keeps comments on views
def test_the_comments_on_views_reach_the_database(engine):
    with reading(engine) as connection:
        found = {(view, column): said for view, column, said in connection.execute(text(COMMENTS))}
    expected = {(view.name, column.name): column.comment for view in VIEWS for column in view.columns}
    expected |= {(view.name, ""): view.comment for view in VIEWS}

    assert found == expected


@pytest.mark.databases("postgresql", "mariadb")
def test_the_comments_on_tables_reach_every_database_that_has_comments(engine):
    catalogue = {
        "postgresql": "SELECT relname, obj_description(oid, 'pg_class') FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = current_schema()::regnamespace",
        "mysql": "SELECT table_name, table_comment FROM information_schema.tables"
        " WHERE table_schema = database() AND table_type = 'BASE TABLE'",
    }[engine.dialect.name]
    with reading(engine) as connection:
        found = dict(connection.execute(text(catalogue)).tuples().all())

    assert found | {"alembic_version": None} == {
        "alembic_version": None,
        **{table.name: table.comment for table in metadata.sorted_tables},
    }


def test_select_star_does_not_show_the_hidden_column(engine):
    with reading(engine) as connection:
        found = list(connection.execute(text("SELECT * FROM call_legs WHERE 1 = 0")).keys())

    assert found == [column.name for column in call_legs.columns]
