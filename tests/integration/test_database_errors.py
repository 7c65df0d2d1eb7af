"""What an error of the database means: real errors of each database, distinguished by their codes."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
from sqlalchemy import exc, insert, text, update
from support.servers import free_port

from etl.db.engine import open_engine, read_url, sqlite_path
from etl.db.errors import is_bad_value, is_conflict, is_unreachable, is_worth_repeating, user_error
from etl.db.tables import cdr_requests
from etl.errors import DatabaseUnavailableError

IMPATIENT = {
    "sqlite": {"timeout": "0.1"},
    "postgresql": {"options": "-c lock_timeout=100ms"},
    "mysql": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1, time_zone = '+00:00'"},
}


@contextmanager
def opened(url):
    engine = open_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


def error_of(engine, *statements):
    """The error of the last of these statements, in one transaction."""

    def execute():
        with engine.begin() as connection:
            for statement in statements:
                connection.execute(text(statement) if isinstance(statement, str) else statement)

    with pytest.raises((exc.StatementError, OverflowError)) as caught:
        execute()
    return caught.value


def judge(error):
    """Everything that is decided about an error, as names of what is true."""
    checks = (is_conflict, is_worth_repeating, is_bad_value, is_unreachable)
    return {check.__name__ for check in checks if check(error)}


def test_a_lock_that_is_held_too_long_is_a_conflict(database, database_url):
    database.enqueue("one")
    url = read_url(database_url)
    impatient = url.update_query_dict(IMPATIENT[url.get_backend_name()])
    change = update(cdr_requests).values(batch="march")
    with (
        opened(impatient.render_as_string(hide_password=False)) as other,
        database.engine.begin() as connection,
    ):
        connection.execute(change)
        error = error_of(other, change)

    assert {"is_conflict", "is_worth_repeating"} <= judge(error)
    assert not is_bad_value(error)


@pytest.mark.parametrize(
    "statement",
    ['SELECT * FROM "database is locked"', "SELECT * FROM no_such_table", "SELECT FROM WHERE"],
)
def test_a_wrong_statement_is_a_bug_whatever_words_it_contains(engine, statement):
    quote = engine.dialect.identifier_preparer.quote
    error = error_of(engine, statement.replace('"database is locked"', quote("database is locked")))

    assert judge(error) == set()
    assert user_error(error) is None


@pytest.mark.parametrize(
    "values",
    [{"state": "nonsense"}, {"account": None}, {"id": 1}, {"attempts": -1}],
    ids=["unknown word", "null", "duplicate key", "failed check"],
)
def test_a_rejected_value_is_a_bad_value(database, values):
    database.enqueue("one")
    error = error_of(
        database.engine,
        update(cdr_requests).values(id=1),
        insert(cdr_requests).values(request_id="two", **values),
    )

    assert judge(error) == {"is_bad_value"}
    assert user_error(error) is None


def test_a_number_that_no_column_holds_is_a_bad_value(database):
    database.enqueue("one")

    assert judge(error_of(database.engine, update(cdr_requests).values(attempts=2**70))) == {"is_bad_value"}


@pytest.mark.databases("postgresql", "mariadb")
def test_a_server_that_does_not_answer_is_unreachable_and_worth_another_try(database_url):
    url = read_url(database_url).set(port=free_port()).render_as_string(hide_password=False)
    with opened(url) as engine:
        error = error_of(engine, "SELECT 1")

    assert judge(error) == {"is_unreachable", "is_worth_repeating"}
    assert isinstance(user_error(error), DatabaseUnavailableError)


@pytest.mark.databases("postgresql")
@pytest.mark.parametrize(
    "statements",
    [
        ("CREATE ROLE stranger", "SET LOCAL ROLE stranger", "SELECT * FROM cdr_requests"),
        ("SET TRANSACTION READ ONLY", "DELETE FROM cdr_requests"),
    ],
    ids=["no privilege", "read-only"],
)
def test_a_missing_privilege_is_reported_as_one(engine, statements):
    error = error_of(engine, *statements)

    assert judge(error) == set()
    assert "lacks a privilege" in user_error(error).reason


# --- SQLite files that cannot be used ----------------------------------------------------------------


def read_only(path):
    return f"sqlite:///{path}", "PRAGMA query_only = 1", "DELETE FROM cdr_requests"


def not_a_database(path):
    path.write_bytes(b"Dear diary, " * 1_000)
    return f"sqlite:///{path}", "SELECT * FROM cdr_requests"


def damaged(path):
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes([7]) * (len(content) - 4096))
    return f"sqlite:///{path}", "SELECT * FROM cdr_requests"


def full(path):
    fill = "INSERT INTO cdr_requests (request_id, last_error) VALUES ('one', hex(zeroblob(1000000)))"
    return f"sqlite:///{path}", "PRAGMA max_page_count = 1", fill


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("trouble", [read_only, not_a_database, damaged, full])
def test_a_sqlite_file_that_cannot_be_used_is_unreachable(database_url, trouble):
    url, *statements = trouble(sqlite_path(database_url))
    with opened(url) as engine:
        error = error_of(engine, *statements)

    assert judge(error) == {"is_unreachable"}
    assert isinstance(user_error(error), DatabaseUnavailableError)
