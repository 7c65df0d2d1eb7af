"""Migrations that are stopped half-way: by whatever it is, the same command ends what it began."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from etl.db.connection import reading, schema_revision
from etl.db.failures import told
from etl.db.schema import check, downgrade, upgrade
from etl.db.views import VIEWS
from etl.errors import DatabaseUnavailableError

VERBS = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "COMMENT")


class StoppedError(Exception):
    """Somebody stopped the migration here."""


def stopped_after_each_statement(engine, migrate):
    """Migrate again and again, each time until one more statement than before is through; give their number."""
    through = set()

    def stop(_connection, _cursor, statement, parameters, *_):
        step = (statement, str(parameters))
        if statement.lstrip().startswith(VERBS) and step not in through:
            through.add(step)
            raise StoppedError

    event.listen(engine, "after_cursor_execute", stop)
    try:
        for _ in range(200):
            try:
                migrate()
            except StoppedError:
                continue
            return len(through)
    finally:
        event.remove(engine, "after_cursor_execute", stop)
    raise AssertionError("it never ends")


def schema_of(engine):
    """All that the database itself tells of its tables and views."""
    with reading(engine) as connection:
        if engine.dialect.name == "sqlite":
            return connection.execute(sa.text("SELECT name, sql FROM sqlite_master ORDER BY name")).all()
        seen = sa.inspect(connection)
        tables = {name: columns_and_indexes(seen, name) for name in sorted(seen.get_table_names())}
        return tables, {view: seen.get_view_definition(view) for view in sorted(seen.get_view_names())}


def columns_and_indexes(seen, table):
    columns = [{**each, "type": repr(each["type"])} for each in seen.get_columns(table)]
    indexes = sorted(seen.get_indexes(table), key=lambda index: index["name"])
    checks = sorted(seen.get_check_constraints(table), key=lambda constraint: constraint["name"])
    return columns, indexes, checks, seen.get_table_comment(table)


def without_name(engine, schema):
    """MariaDB writes the database's own name into the text of a view."""
    return str(schema).replace(f"`{engine.url.database}`.", "")


def test_an_upgrade_that_was_stopped_after_each_of_its_statements_ends_as_an_undisturbed_one(
    engine, unmigrated_engine
):
    stops = stopped_after_each_statement(unmigrated_engine, lambda: upgrade(unmigrated_engine))

    assert stops > 30
    check(unmigrated_engine)
    assert without_name(unmigrated_engine, schema_of(unmigrated_engine)) == without_name(
        engine, schema_of(engine)
    )


def test_a_downgrade_that_was_stopped_after_each_of_its_statements_ends_too(engine):
    stops = stopped_after_each_statement(engine, lambda: downgrade(engine, "base"))
    with reading(engine) as connection:
        left = sa.inspect(connection)
        tables, views = left.get_table_names(), left.get_view_names()

    assert stops > 20
    assert (tables, views) == (["alembic_version"], [])
    upgrade(engine)
    check(engine)
