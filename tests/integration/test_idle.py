"""The quick look on SQLite must never take a run for idle that has something to do."""

import sqlite3
from contextlib import closing

import pytest

from etl.db.engine import create_sqlite_file, open_engine
from etl.db.idle import run_if_idle
from etl.db.schema import upgrade


@pytest.fixture
def url(tmp_path):
    url = f"sqlite:///{tmp_path / 'cdr.sqlite3'}"
    create_sqlite_file(url)
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()
    return url


def change(url, statement):
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute(statement)
        connection.commit()
        return connection.execute("SELECT command, outcome, finished_at FROM sync_runs").fetchall()


def test_an_idle_run_writes_its_row_of_the_ledger(url):
    change(url, "INSERT INTO cdr_requests (request_id, run_after) VALUES ('later', '2999-01-01 00:00:00')")
    number = run_if_idle(url, ["default"], batch=None)
    ((command, outcome, finished_at),) = change(url, "SELECT 1")

    assert (number, command, outcome) == (1, "sync", "ok")
    assert finished_at is not None


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO cdr_requests (request_id) VALUES ('due')",
        "INSERT INTO cdr_requests (account, request_id, run_after) VALUES ('stranger', 'x', '2999-01-01')",
        (
            "INSERT INTO cdr_requests (request_id, state, lease_token, lease_until)"
            " VALUES ('held', 'running', 't', '2999-01-01')"
        ),
        "INSERT INTO sync_runs (command, host, pid, version) VALUES ('sync', 'here', 1, '0')",
        "INSERT INTO api_accounts (account, breaker_opened_at) VALUES ('default', '2026-01-01')",
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE cdr_requests",
    ],
    ids=["due", "stranger", "held", "open run", "open breaker", "old schema", "broken"],
)
def test_a_run_that_may_have_work_goes_the_usual_way(url, statement):
    if statement.startswith("DROP"):
        change(url, "DROP VIEW calls")
    change(url, statement)

    assert run_if_idle(url, ["default"], batch=None) is None


@pytest.mark.parametrize("url", ["postgresql://127.0.0.1/x", "sqlite:////nowhere/cdr.sqlite3", "sqlite://"])
def test_a_url_without_an_existing_sqlite_file_takes_the_usual_way(url):
    assert run_if_idle(url, ["default"], batch=None) is None
