"""Analysts' questions to a million legs: each finds its rows by an index, and reads no table as a whole."""

# ruff: noqa: S608 (the statements are put together from words of the test's own)
from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from sqlalchemy import text
from support.many_calls import LEGS_A_CALL, fill, request_id_of

from etl.db.engine import open_engine, reading
from etl.db.streams import findings_of

pytestmark = pytest.mark.heavy

LEGS = {"sqlite": 1_000_000, "postgresql": 1_000_000, "mariadb": 300_000}  # the last takes long to fill
ONE = f"account = 'default' AND request_id = '{request_id_of(77)}'"
DAY, TIME = "day = '2026-03-15'", "call_time >= '2026-03-15' AND call_time < '2026-03-16'"
BY_KEY = {
    "sqlite": "sqlite_autoindex_call_legs_1 (account=? AND request_id=?",
    "postgresql": "pk_call_legs",
    "mariadb": "PRIMARY",
}
# What is asked, and the index that must serve it; None stands for the primary key.
QUESTIONS = {
    "a day of calls_daily": (f"SELECT * FROM calls_daily WHERE {DAY}", "ix_call_legs_call_day"),
    "a day of destinations": (f"SELECT * FROM destinations WHERE {DAY}", "ix_call_legs_call_day"),
    "a day of calls": (f"SELECT * FROM calls WHERE {TIME}", "ix_call_legs_call_time"),
    "a day of legs": (f"SELECT * FROM call_legs WHERE {TIME}", "ix_call_legs_call_time"),
    "a number called": ("SELECT * FROM call_legs WHERE to_e164 = '+919100000077'", "ix_call_legs_to_e164"),
    "a number calling": (
        "SELECT * FROM call_legs WHERE from_e164 = '+919100000077'",
        "ix_call_legs_from_e164",
    ),
    "one call": (f"SELECT * FROM calls WHERE {ONE}", None),
    "findings on one request": (f"SELECT * FROM data_quality WHERE {ONE}", None),
    "evidence of one request": (f"SELECT * FROM rate_evidence WHERE {ONE}", None),
    "how a batch stands": (
        "SELECT state, COUNT(*) FROM cdr_requests WHERE batch = 'march' GROUP BY state",
        "ix_cdr_requests_batch",
    ),
}


@pytest.fixture(scope="module")
def full(fresh_database):
    """A database of a million legs, for all tests of this module."""
    url = fresh_database()
    engine = open_engine(url)
    kind = {"mysql": "mariadb"}.get(engine.dialect.name, engine.dialect.name)
    fill(engine, kind, int(LEGS[kind] / LEGS_A_CALL), requests_of_one_in=20)
    yield engine, kind
    engine.dispose()
    fresh_database.drop(url)


def plan_of(full, query):
    """The steps of a plan, a text each, with the table and the index that it uses."""
    engine, kind = full
    with reading(engine) as connection:
        return plan_on(connection, kind, query)


def plan_on(connection, kind, query):
    explain = {"sqlite": "EXPLAIN QUERY PLAN"}.get(kind, "EXPLAIN")
    return [" ".join(map(str, row)) for row in connection.execute(text(f"{explain} {query}"))]


def whole_tables(kind, plan):
    """The steps that read `call_legs` or `cdr_requests` from end to end."""
    tables = ("call_legs", "cdr_requests")
    if kind == "mariadb":  # an alias stands for the table, and `ALL` for all of it; derived ones are small
        is_whole = (" ALL ", " index None ")  # the table, or an index of it
        return [step for step in plan if any(w in step for w in is_whole) and "<derived" not in step]
    if kind == "postgresql":
        by_no_key = [  # all of the key's index, for a column that is not the first of it
            step
            for step, then in pairwise(plan)
            if "using pk_call_legs" in step and "Index Cond" in then and "account" not in then
        ]
        return by_no_key + [
            step for step in plan if "Seq Scan" in step and any(name in step for name in tables)
        ]
    return [step for step in plan if any(f"SCAN {name}" in step for name in (*tables, "f", "l", "b"))]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_finds_its_rows_by_an_index(full, question):
    _, kind = full
    query, index = QUESTIONS[question]

    plan = plan_of(full, query)

    assert any((index or BY_KEY[kind]) in step for step in plan), "\n".join(plan)
    assert not whole_tables(kind, plan), "\n".join(plan)


def passes(full, query):
    """How many tables, or results of queries on MariaDB, are read from end to end."""
    plan = plan_of(full, query)
    return len(whole_tables(full[1], plan)) + sum(" <derived" in step and " ALL " in step for step in plan)


def test_a_report_looks_up_the_calls_of_findings_by_key(full):
    engine, kind = full
    begin = datetime(2026, 3, 15, tzinfo=UTC)
    asked = findings_of(begin, begin + timedelta(days=1))
    query = asked.compile(engine, compile_kwargs={"literal_binds": True})
    plan = plan_of(full, query)

    assert any(BY_KEY[kind] in step for step in plan), "\n".join(plan)
    assert passes(full, query) == passes(full, "SELECT * FROM data_quality") > 0, "\n".join(plan)


def test_negative_control_findings_joined_with_all_calls_read_more(full):
    of_calls = "SELECT account, request_id FROM call_legs GROUP BY account, request_id HAVING COUNT(*) > 1"
    joined = f"SELECT * FROM data_quality JOIN ({of_calls}) AS c USING (account, request_id)"

    assert passes(full, joined) > passes(full, "SELECT * FROM data_quality")


LATEST = "SELECT * FROM calls ORDER BY call_time DESC LIMIT 5"
BACKWARD = {
    "sqlite": "SCAN f USING INDEX ix_call_legs_call_time",
    "postgresql": "Index Scan Backward using ix_call_legs_call_time on call_legs f",
    "mariadb": "f index None ix_call_legs_call_time 8 None 5 ",  # five rows
}


def test_the_latest_calls_are_read_along_the_index_by_time(full):
    _, kind = full

    plan = plan_of(full, LATEST)

    assert any(BACKWARD[kind] in step for step in plan), "\n".join(plan)
    assert all(BACKWARD[kind] in step for step in whole_tables(kind, plan)), "\n".join(plan)


@contextmanager
def without(full, index):
    """A connection to whose planner an index is not there."""
    engine, kind = full
    table = "cdr_requests" if "cdr_requests" in index else "call_legs"
    with engine.connect() as connection:
        if kind == "mariadb":  # where DDL cannot be rolled back
            connection.execute(text(f"ALTER TABLE {table} ALTER INDEX {index} IGNORED"))
            yield connection
            connection.execute(text(f"ALTER TABLE {table} ALTER INDEX {index} NOT IGNORED"))
        else:
            connection.execute(text(f"DROP INDEX {index}"))
            yield connection
            connection.rollback()


def test_negative_control_without_its_index_a_question_reads_the_whole_table(full):
    read = {}
    for question, (query, index) in QUESTIONS.items():
        if index is not None:
            with without(full, index) as connection:
                # A text of its own, or SQLite's driver would return the plan that it made before.
                read[question] = whole_tables(full[1], plan_on(connection, full[1], f"{query} -- {index}"))

    assert all(read.values()), read
    assert len(read) == 7
