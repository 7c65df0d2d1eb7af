"""Migrations that are stopped half-way: by whatever it is, the same command ends what it began."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from sqlalchemy import event, exc

from etl.db.engine import reading, require_current_schema
from etl.db.errors import user_error
from etl.db.schema import check, downgrade, upgrade
from etl.errors import DatabaseUnavailableError, SchemaError

VERBS = ("CREATE", "ALTER", "DROP", "INSERT", "UPDATE", "DELETE", "COMMENT")


class StoppedError(Exception):
    """Somebody stopped the migration here."""


def stopped_after_each_statement(engine, migrate):
    """Migrate again and again, each time until one more statement is through; give their number."""
    through = set()

    def stop(_connection, _cursor, statement, parameters, *_):
        step = (statement, str(parameters))
        if statement.lstrip().startswith(VERBS) and step not in through:
            through.add(step)
            raise StoppedError

    event.listen(engine, "after_cursor_execute", stop)
    try:
        for _ in range(1_000):
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


# --- The connection is lost, or somebody is in the way ----------------------------------------------

KILL = {
    "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
    "mysql": ("SELECT CONNECTION_ID()", "KILL {}"),
}


def kill_before(engine, beginning):
    """Let the server end the connection just before the first statement that begins so."""
    who_am_i, kill = KILL[engine.dialect.name]
    killed = []

    def listen(_connection, cursor, statement, *_):
        if statement.lstrip().startswith(beginning) and not killed:
            killed.append(statement)
            cursor.execute(who_am_i)
            with engine.connect() as other:
                other.execute(sa.text(kill.format(cursor.fetchone()[0])))

    event.listen(engine, "before_cursor_execute", listen)


@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.parametrize(
    "beginning", ["CREATE TABLE alembic_version", "CREATE INDEX", "CREATE VIEW", "UPDATE alembic_version"]
)
def test_a_connection_that_is_lost_in_an_upgrade_is_told_as_such_and_the_next_one_ends_it(
    unmigrated_engine, beginning
):
    kill_before(unmigrated_engine, beginning)
    with pytest.raises(exc.DBAPIError) as caught:
        upgrade(unmigrated_engine)

    assert isinstance(user_error(caught.value), DatabaseUnavailableError)
    upgrade(unmigrated_engine)
    check(unmigrated_engine)


@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.parametrize("migrate", [upgrade, downgrade])
def test_a_reader_who_holds_a_table_is_not_waited_for_without_end(engine, guard, migrate):
    """All others would queue up behind a migration that waits."""
    downgrade(engine, "0003")
    target = {upgrade: "head", downgrade: "base"}[migrate]
    with engine.connect() as reader:
        reader.execute(sa.text("SELECT COUNT(*) FROM calls"))  # in a transaction that goes on
        with pytest.raises(DatabaseUnavailableError, match="Another session holds a table"):
            guard(lambda: migrate(engine, target, patience=1), seconds=15)
        with engine.connect() as other:  # nobody is held up
            other.execute(sa.text("SELECT COUNT(*) FROM call_legs"))
    upgrade(engine)

    check(engine)


@pytest.mark.databases("postgresql", "mariadb")
def test_a_session_that_migrated_waits_for_tables_as_long_as_before(engine):
    setting = {
        "postgresql": "SHOW lock_timeout",
        "mysql": "SELECT @@session.lock_wait_timeout",
    }[engine.dialect.name]
    with engine.connect() as connection:
        before = connection.scalar(sa.text(setting))
    upgrade(engine, patience=7)
    with engine.connect() as connection:
        after = connection.scalar(sa.text(setting))

    assert after == before


# --- Another application's database -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("theirs", "told_of"),
    [
        ("CREATE TABLE cdr_requests (id INTEGER)", "cdr_requests"),
        ("CREATE TABLE calls (id INTEGER)", "calls"),
        ("CREATE VIEW calls_daily AS SELECT 1 AS calls", "calls_daily"),
        ("CREATE VIEW call_legs AS SELECT 1 AS legs", "call_legs"),
    ],
)
def test_a_database_in_which_another_application_has_our_names_is_refused_untouched(
    unmigrated_engine, theirs, told_of
):
    with unmigrated_engine.begin() as connection:
        for statement in theirs.split("; "):
            connection.execute(sa.text(statement))
    before = str(schema_of(unmigrated_engine))

    with pytest.raises(SchemaError, match=rf"The database has {told_of} of another application's"):
        upgrade(unmigrated_engine)
    assert str(schema_of(unmigrated_engine)) == before


def test_a_table_of_another_application_is_found_before_a_later_migration_meets_it(engine):
    downgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE destinations (id INTEGER)"))

    with pytest.raises(SchemaError, match="destinations of another application's"):
        upgrade(engine)


def test_tables_of_another_application_that_have_other_names_are_no_matter(unmigrated_engine):
    with unmigrated_engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE customers (id INTEGER)"))

    upgrade(unmigrated_engine)

    with reading(unmigrated_engine) as connection:
        require_current_schema(connection)


def test_a_downgrade_that_was_stopped_is_to_be_ended_before_an_upgrade(engine):
    downgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE api_accounts"))

    with pytest.raises(SchemaError, match="noted as 0001, but lacks api_accounts"):
        upgrade(engine)
