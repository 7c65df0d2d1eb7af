"""Conflicts with other sessions of the database: wait for their locks, or repeat the whole transaction."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event, exc, select, text, update
from support import builders
from support.operators import finish, wait_until
from support.sites import told_once
from support.systems import System, a_moment, guard

from etl.cdr.legs import compare_legs
from etl.db.engine import open_engine
from etl.db.errors import is_conflict
from etl.db.legs import upsert_legs
from etl.db.queue import enqueue_requests
from etl.db.tables import call_legs, sync_runs

LEG = builders.leg("a", duration_seconds=1)


@contextmanager
def at_work(*works):
    """Threads that do these things, each on a connection of its own; the errors that they end with."""
    errors = []

    def call(work):
        try:
            work()
        except exc.DBAPIError as error:
            errors.append(error)

    threads = [threading.Thread(target=call, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    yield errors
    guard(lambda: [thread.join() for thread in threads])


# --- Two writers whose rows overlap ------------------------------------------------------------------


def upsert(engine, request_ids, duration):
    leg = replace(LEG, duration_seconds=duration)
    changes = {("default", request_id): compare_legs((), [leg]) for request_id in request_ids}
    with engine.begin() as connection:
        upsert_legs(connection, changes, run_id=None)


def upsert_in_opposite_orders(site):
    """Two upserts meet at the middle row, which is locked until both have begun; returns their errors."""
    upsert(site.engine, "amz", 1)
    there, back = (lambda: upsert(site.engine, "amz", 2)), (lambda: upsert(site.engine, "zma", 3))
    with site.engine.begin() as keeper:
        keeper.execute(update(call_legs).where(call_legs.c.request_id == "m").values(duration_seconds=9))
        with at_work(there) as errors:
            wait_for_blocked(site, 1)
            with at_work(back) as more:
                wait_for_blocked(site, 2)
                keeper.commit()
    return errors + more


def wait_for_blocked(site, count):
    if site.database_kind == "sqlite":
        a_moment(0.2)  # SQLite does not show who waits
    else:
        wait_until(lambda: len(site.blocked()) == count)


@pytest.mark.fault(13)
def test_two_upserts_whose_rows_overlap_in_opposite_orders_wait_for_one_another(site, note):
    errors = upsert_in_opposite_orders(site)
    durations = {row["duration_seconds"] for row in site.rows(call_legs)}

    assert errors == []
    assert durations in ({2}, {3})
    note(database=site.database_kind, outcome="sorted rows: one waits for the other")


@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_rows_in_the_order_of_their_arrival_deadlock(site, monkeypatch):
    monkeypatch.setattr("etl.db.legs.sorted", lambda rows, key: list(rows), raising=False)  # noqa: ARG005

    (error,) = upsert_in_opposite_orders(site)

    assert is_conflict(error)


# --- Deadlocks and waits for a lock that take too long -----------------------------------------------

IMPATIENT = {
    "sqlite": {"timeout": "0.1"},
    "postgresql": {"options": "-c lock_timeout=100ms"},
    "mariadb": {"init_command": "SET SESSION innodb_lock_wait_timeout = 1, time_zone = '+00:00'"},
}


@contextmanager
def a_run(site, **query):
    """A run in mid-work, in this process; gives the conflicts that it meets and the error that ends it."""
    site.fill(200)
    site.simulator.latency = 0.005
    engine = open_engine(site.url_with(**query))
    conflicts = []

    @event.listens_for(engine, "handle_error")
    def note_conflict(context):
        if is_conflict(context.sqlalchemy_exception):
            conflicts.append(context.sqlalchemy_exception)

    with at_work(lambda: System(engine, site.simulator).sync(site.settings())) as errors:
        wait_until(lambda: site.states().get("done", 0) >= 20)
        yield conflicts, errors
    engine.dispose()


def all_is_done_once(site):
    return site.states() == {"done": 200} and not site.asked_twice() and site.outcomes() == ["ok"]


def keep_from_the_run(connection):
    """Keep the last row that a turn writes; on SQLite the transaction keeps everything."""
    connection.execute(select(sync_runs.c.id).with_for_update())


def run_into_a_deadlock(site):
    """Keep what the run's turn needs last, and then want what it has: it is the turn that must fail."""
    with a_run(site) as (conflicts, errors), site.engine.begin() as connection:
        if site.database_kind == "postgresql":  # who looks first finds the deadlock, and ends it by itself
            connection.execute(text("SET LOCAL deadlock_timeout = '30s'"))
        else:  # who has changed less is ended
            ids = [f"never committed {number}" for number in range(2_000)]
            enqueue_requests(connection, ids, account="nobody", batch=None, delay=timedelta(0))
        keep_from_the_run(connection)
        wait_until(site.blocked)
        connection.execute(text("SELECT id FROM cdr_requests WHERE state = 'running' FOR UPDATE"))
        connection.rollback()
    return conflicts, errors


@pytest.mark.fault(14)
@pytest.mark.databases("postgresql", "mariadb")
def test_a_turn_that_is_ended_by_a_deadlock_is_done_again_as_a_whole(site):
    conflicts, errors = run_into_a_deadlock(site)

    assert len(conflicts) >= 1  # on a busy machine the turn comes again before the other has all it wants
    assert errors == []
    assert all_is_done_once(site)
    site.report("a deadlock: the whole turn again")


def run_into_a_lock(site):
    """Keep what the run's turn needs until it has waited in vain, twice where it comes again."""
    with a_run(site, **IMPATIENT[site.database_kind]) as (conflicts, errors), site.engine.begin() as keeper:
        keep_from_the_run(keeper)
        wait_until(lambda: len(conflicts) >= 2 or errors)
    return conflicts, errors


@pytest.mark.fault(14)
def test_a_turn_that_waits_in_vain_for_a_lock_is_done_again_as_a_whole(site):
    conflicts, errors = run_into_a_lock(site)

    assert len(conflicts) >= 2
    assert errors == []
    assert all_is_done_once(site)
    site.report("a lock kept too long: the whole turn again")


def test_negative_control_without_another_try_a_lock_that_is_kept_too_long_ends_the_run(site, monkeypatch):
    monkeypatch.setattr("etl.db.engine.is_worth_repeating", lambda _error: False)
    _, errors = run_into_a_lock(site)

    assert [is_conflict(error) for error in errors] == [True]
    assert not all_is_done_once(site)


# --- A writer of the file that is frozen -------------------------------------------------------------


@pytest.mark.fault(15)
@pytest.mark.databases("sqlite")
def test_a_frozen_writer_of_the_file_ends_other_runs_in_one_line_and_goes_on_once_it_thaws(site):
    site.fill(40)
    frozen = site.start_sabotaged("before-settle-commit", "STOP", "sync")
    wait_until(lambda: Path(f"/proc/{frozen.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    ended = site.run("sync", CDR_SYNC_DATABASE_URL=site.url_with(timeout="0.1"))
    looked = site.run("status")
    os.kill(frozen.pid, signal.SIGCONT)
    thawed = finish(frozen)

    assert told_once(ended)
    assert looked.code == 0
    assert (thawed.code, thawed.all) == (0, "")
    assert site.states() == {"done": 40}
    assert site.simulator.total_calls == 40
    site.report("exit 69 beside it; it goes on once it thaws")


# --- A long read -------------------------------------------------------------------------------------


@contextmanager
def a_long_read(site):
    """A transaction that has looked at the queue, and looks again at the end of the run."""
    isolation = {} if site.database_kind == "sqlite" else {"isolation_level": "REPEATABLE READ"}
    with site.engine.connect().execution_options(reads_only=True, **isolation) as reader:
        count = text("SELECT COUNT(*) FROM cdr_requests WHERE state = 'pending'")
        yield lambda: reader.scalar(count)


@pytest.mark.fault(36)
def test_a_read_that_lasts_as_long_as_the_run_blocks_no_writer(site):
    site.fill(100)
    with a_long_read(site) as pending:
        before = pending()
        ended = site.run("sync")
        after = pending()

    assert (ended.code, ended.all) == (0, "")
    assert (before, after) == (100, 100)
    assert site.states() == {"done": 100}
    assert site.asked_twice() == set()
    site.report("the read sees the queue as it was, and holds up nothing")


@pytest.mark.databases("sqlite")
def test_negative_control_a_file_without_a_write_ahead_log_is_held_up_by_a_read(site):
    with site.engine.connect().execution_options(without_transaction=True) as connection:
        connection.exec_driver_sql("PRAGMA journal_mode = DELETE")
    site.fill(100)
    with a_long_read(site) as pending:
        pending()
        ended = site.run("sync", CDR_SYNC_DATABASE_URL=site.url_with(timeout="0.1"))

    assert told_once(ended)
    assert site.states() == {"pending": 100}
