"""Migrations that are stopped half-way: the same command, run again, completes them."""

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
    """The migration is stopped here."""


def stopped_after_each_statement(engine, migrate):
    """Migrate until nothing stops it, each time one statement further; returns their number."""
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
    """The tables and views in the words of the database itself."""
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


def test_an_upgrade_stopped_after_each_statement_gives_the_same_schema_in_the_end(engine, unmigrated_engine):
    stops = stopped_after_each_statement(unmigrated_engine, lambda: upgrade(unmigrated_engine))

    assert stops >= 30
    check(unmigrated_engine)
    assert without_name(unmigrated_engine, schema_of(unmigrated_engine)) == without_name(
        engine, schema_of(engine)
    )


def test_a_downgrade_stopped_after_each_statement_completes_in_the_end(engine):
    stops = stopped_after_each_statement(engine, lambda: downgrade(engine, "base"))
    with reading(engine) as connection:
        left = sa.inspect(connection)
        tables, views = left.get_table_names(), left.get_view_names()

    assert stops >= 14
    assert (tables, views) == (["alembic_version"], [])
    upgrade(engine)
    check(engine)


# --- The connection is lost, or another session is in the way ----------------------------------------

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
def test_a_connection_lost_in_an_upgrade_is_reported_and_the_next_upgrade_completes_it(
    unmigrated_engine, beginning
):
    kill_before(unmigrated_engine, beginning)
    with pytest.raises(exc.DBAPIError) as caught:
        upgrade(unmigrated_engine)

    assert isinstance(user_error(caught.value), DatabaseUnavailableError)
    upgrade(unmigrated_engine)
    check(unmigrated_engine)


@pytest.mark.databases("postgresql", "mariadb")
def test_a_downgrade_does_not_wait_forever_for_a_reader(engine, guard):
    """All other sessions would queue behind a migration that waits."""
    with engine.connect() as reader:
        reader.execute(sa.text("SELECT COUNT(*) FROM calls"))  # in a transaction that stays open
        with pytest.raises(DatabaseUnavailableError, match="Another session holds a table"):
            guard(lambda: downgrade(engine, "base", patience=1))
        with engine.connect() as other:  # no other session has to wait
            other.execute(sa.text("SELECT COUNT(*) FROM call_legs"))
    downgrade(engine, "base")  # the same command completes it
    upgrade(engine)

    check(engine)


LOCK = {"postgresql": "LOCK TABLE call_legs IN ACCESS EXCLUSIVE MODE", "mysql": "LOCK TABLES call_legs WRITE"}


@pytest.mark.databases("postgresql", "mariadb")
def test_an_upgrade_does_not_wait_forever_for_a_session_that_locked_a_table(engine, guard):
    downgrade(engine, "0001")
    with engine.connect() as other:
        other.execute(sa.text(LOCK[engine.dialect.name]))
        with pytest.raises(DatabaseUnavailableError, match="Another session holds a table"):
            guard(lambda: upgrade(engine, patience=1))
        other.invalidate()  # a lock of MariaDB does not end with its transaction
    upgrade(engine)

    check(engine)


@pytest.mark.databases("postgresql", "mariadb")
def test_after_a_migration_a_session_waits_for_tables_as_long_as_before(engine):
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
    ("theirs", "named"),
    [
        ("CREATE TABLE cdr_requests (id INTEGER)", "cdr_requests"),
        ("CREATE TABLE calls (id INTEGER)", "calls"),
        ("CREATE VIEW calls_daily AS SELECT 1 AS calls", "calls_daily"),
        ("CREATE VIEW call_legs AS SELECT 1 AS legs", "call_legs"),
    ],
)
def test_a_database_where_another_application_uses_our_names_is_refused_and_not_changed(
    unmigrated_engine, theirs, named
):
    with unmigrated_engine.begin() as connection:
        for statement in theirs.split("; "):
            connection.execute(sa.text(statement))
    before = str(schema_of(unmigrated_engine))

    with pytest.raises(SchemaError, match=rf"Another application has {named} in this database"):
        upgrade(unmigrated_engine)
    assert str(schema_of(unmigrated_engine)) == before


def test_a_table_of_another_application_is_found_before_a_migration_starts(engine):
    downgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE destinations (id INTEGER)"))

    with pytest.raises(SchemaError, match="Another application has destinations"):
        upgrade(engine)


def test_tables_of_another_application_with_other_names_do_not_matter(unmigrated_engine):
    with unmigrated_engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE customers (id INTEGER)"))

    upgrade(unmigrated_engine)

    with reading(unmigrated_engine) as connection:
        require_current_schema(connection)


def test_a_stopped_downgrade_must_be_completed_before_an_upgrade(engine):
    downgrade(engine, "0001")
    with engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE api_accounts"))

    with pytest.raises(SchemaError, match="schema is 0001, but api_accounts is missing"):
        upgrade(engine)
