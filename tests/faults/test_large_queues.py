"""Queues of a million rows: what a claim looks at does not grow with rows that it has no business with."""

from __future__ import annotations

from collections import Counter
from datetime import timedelta

import pytest
from sqlalchemy import delete, event, text

from etl.db.queue import Claimant, claim_requests, reap_expired
from etl.db.tables import cdr_requests

DONE, DEFERRED = 1_000_000, 100_000
NUMBERS = {
    "sqlite": "(WITH RECURSIVE counted (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM counted WHERE n < {0})"
    " SELECT n FROM counted) AS numbers",
    "postgresql": "generate_series(1, {0}) AS numbers (n)",
    "mariadb": "(SELECT seq AS n FROM seq_1_to_{0}) AS numbers",
}
NAME = {
    "sqlite": "'{0} ' || (1000000 + n)",
    "postgresql": "'{0} ' || (1000000 + n)",
    "mariadb": "CONCAT('{0} ', 1000000 + n)",
}
INSERT = """
INSERT INTO cdr_requests (request_id, state, run_after, finished_at, enqueued_at, updated_at)
SELECT {name}, '{state}', '{due}', {finished_at}, '2026-01-01 00:00:00', '2026-01-01 00:00:00' FROM {numbers}
"""
ANALYZE = {"mariadb": "ANALYZE TABLE cdr_requests"}
WITHOUT_INDEX = {"mariadb": "DROP INDEX ix_cdr_requests_due ON cdr_requests"}


def fill(site, done, deferred):
    """Rows that no claim is about, made by the database itself."""
    kind, then, far_off = site.database_kind, "2026-01-01 00:00:00", "2099-01-01 00:00:00"
    kinds_of_rows = (("done", then, f"'{then}'", done), ("pending", far_off, "NULL", deferred))
    with site.engine.begin() as connection:
        if kind == "mariadb":
            connection.execute(text("SET unique_checks = 0, check_constraint_checks = 0"))
        for state, due, finished_at, count in kinds_of_rows:
            name, numbers = NAME[kind].format(f"{state} of {count}"), NUMBERS[kind].format(count)
            words = {"name": name, "state": state, "due": due, "finished_at": finished_at, "numbers": numbers}
            connection.execute(text(INSERT.format(**words)))
        connection.execute(text(ANALYZE.get(kind, "ANALYZE")))
    site.engine.dispose()


# --- How much a database looks at ---------------------------------------------------------------------


def steps_of_sqlite(connection, work):
    """The steps of its virtual machine, in tens."""
    counted = Counter()
    raw = connection.connection.dbapi_connection
    raw.set_progress_handler(lambda: counted.update(tens=1), 10)
    work(connection)
    raw.set_progress_handler(None, 10)
    return counted["tens"]


def pages_of_postgresql(connection, work):
    """The pages that its plans touch, as it counted them."""
    said = []

    def note(_connection, _cursor, statement, parameters, *_):
        if "cdr_requests" in statement:
            said.append((statement, parameters))

    event.listen(connection, "before_cursor_execute", note)
    with connection.begin_nested() as savepoint:
        work(connection)
        savepoint.rollback()
    event.remove(connection, "before_cursor_execute", note)
    pages = 0
    for statement, parameters in said:
        explain = f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}"
        (plan,) = connection.exec_driver_sql(explain, parameters).scalar()
        pages += plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"]
    return pages


def rows_of_mariadb(connection, work):
    """The rows that were read of tables and indexes."""

    def read():
        return sum(
            int(count)
            for _, count in connection.execute(text("SHOW SESSION STATUS LIKE 'Handler_read%'")).tuples()
        )

    before = read()
    overhead = read() - before
    work(connection)
    return read() - before - 2 * overhead


LOOKED_AT = {"sqlite": steps_of_sqlite, "postgresql": pages_of_postgresql, "mariadb": rows_of_mariadb}


def claim(connection):
    return len(claim_requests(connection, "default", Claimant("", 1, timedelta(minutes=5)), most=10))


def reap(connection):
    return reap_expired(connection, max_attempts=8)


def looked_at(site):
    """How much a claim looks at where nothing is due, and where ten are; and how much taking back does."""

    def cost(work):
        with site.engine.connect() as connection, connection.begin() as transaction:
            count = LOOKED_AT[site.database_kind](connection, work)
            transaction.rollback()
        return count

    costs = {"nothing due": cost(claim), "taking back": cost(reap)}
    ten = [f"due {number}" for number in range(10)]
    site.enqueue(*ten)
    costs["ten due"] = cost(claim)
    with site.engine.begin() as connection:
        assert claim(connection) == 10
        connection.execute(delete(cdr_requests).where(cdr_requests.c.request_id.in_(ten)))
    return costs


@pytest.mark.heavy
@pytest.mark.fault(37)
def test_a_claim_looks_at_no_more_in_a_queue_of_a_million_and_without_its_index_at_all_of_it(site, note):
    fill(site, 500, 50)
    small = looked_at(site)
    fill(site, DONE, DEFERRED)
    large = looked_at(site)
    with site.engine.begin() as connection:
        connection.execute(text(WITHOUT_INDEX.get(site.database_kind, "DROP INDEX ix_cdr_requests_due")))
    without_index = looked_at(site)

    for work, looked in large.items():
        assert looked <= 2 * small[work] + 20, work
    assert without_index["nothing due"] > 100 * (2 * small["nothing due"] + 20)
    ((requests,),) = site.sql("SELECT COUNT(*) FROM cdr_requests")
    looks = f"{small['ten due']} for ten of a small queue, {large['ten due']} of this"
    note(database=site.database_kind, outcome=f"rows, pages or steps: {looks}", requests=requests)
