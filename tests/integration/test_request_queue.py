"""The queue: who gets which request, and what a worker that lost its claim can still do (nothing)."""

from __future__ import annotations

import json
import re
import threading
from datetime import datetime, timedelta

import pytest
from sqlalchemy import String, event, select, type_coerce
from support.claims import (
    EVERY_WAY,
    LEASE,
    MINUTE,
    Queue,
    answered_without_legs,
    claim_in,
    expire,
    failed,
    names,
    released,
    settle_in,
)

from etl.db.accounts import ensure_account
from etl.db.dialects import Instant
from etl.db.engine import open_engine, reading
from etl.db.queue import enqueue_requests, reap_expired
from etl.db.states import BACKFILL, LIVE
from etl.db.tables import api_accounts, cdr_requests, cdr_responses, metadata


@pytest.fixture
def claim(engine):
    """Claims in a transaction of its own."""
    return Queue(engine).claim


@pytest.fixture
def reap(engine):
    return Queue(engine).reap


@pytest.fixture
def settled(engine):
    return Queue(engine).settle


# --- Who is claimed, and when ------------------------------------------------------------------------


def test_live_requests_come_before_backfilled_ones_and_then_the_one_that_waits_longest(database, claim):
    database.enqueue("backfill", "late", "early", "early too")
    now = database.now()
    database.change("backfill", lane=BACKFILL, run_after=now - 60 * MINUTE)
    database.change("late", run_after=now - MINUTE)
    database.change("early", "early too", run_after=now - 2 * MINUTE)

    order = [name for _ in range(4) for name in names(claim(most=1))]

    assert order == ["early", "early too", "late", "backfill"]


def test_one_claim_goes_through_the_lanes_in_the_same_order(database, claim):
    database.enqueue(*(f"live {number}" for number in range(3)), *(f"old {number}" for number in range(3)))
    database.change("old 0", "old 1", "old 2", lane=BACKFILL, run_after=database.now() - 60 * MINUTE)

    claimed = names(claim(most=5))

    assert sorted(claimed[:3]) == ["live 0", "live 1", "live 2"]
    assert sorted(claimed[3:]) == ["old 0", "old 1"]


def test_a_claim_lists_the_request_first_that_waits_longest(database, claim):
    database.enqueue("late", "early")
    database.change("early", run_after=database.now() - MINUTE)

    assert names(claim()) == ["early", "late"]


def test_what_is_not_due_yet_is_left(database, claim):
    database.enqueue("now")
    database.enqueue("in an hour", delay=timedelta(hours=1))

    assert names(claim()) == ["now"]


def test_what_falls_due_is_claimed(database, claim):
    database.enqueue("soon", delay=timedelta(milliseconds=20))
    threading.Event().wait(0.05)

    assert names(claim()) == ["soon"]


@pytest.mark.parametrize("state", ["done", "empty", "dead", "cancelled"])
def test_what_is_finished_is_left(database, claim, state):
    database.enqueue("one")
    database.change("one", state=state, finished_at=database.now())

    assert claim() == []


def test_a_claim_takes_no_more_than_it_was_asked_for(database, claim):
    database.enqueue(*(f"{number}" for number in range(10)))

    sizes = [len(claim(most=4)) for _ in range(4)]

    assert sizes == [4, 4, 2, 0]


def test_a_claim_keeps_to_its_account(database, claim):
    database.enqueue("one", account="sales")
    database.enqueue("one", account="support")

    claimed = claim(account="support")

    assert [(request.account, request.request_id) for request in claimed] == [("support", "one")]
    assert database.request("one", account="sales")["state"] == "pending"


def test_a_claim_keeps_to_its_batch(database, claim):
    database.enqueue("march 1", "march 2", batch="march")
    database.enqueue("april 1", batch="april")
    database.enqueue("no batch")

    assert sorted(names(claim(batch="march"))) == ["march 1", "march 2"]


def test_a_claim_is_written_down_with_its_lease_its_attempt_and_its_worker(database, claim):
    database.enqueue("one")
    (request,) = claim(worker="host, process 7, run 3", run_id=3)

    row = database.request("one")

    assert row["state"] == "running"
    assert row["lease_token"] == request.token
    assert re.fullmatch("[0-9a-f]{32}", request.token)
    assert (row["attempts"], request.attempts) == (1, 1)
    assert (row["worker"], row["run_id"]) == ("host, process 7, run 3", 3)
    assert row["lease_until"] - row["updated_at"] == LEASE
    assert (request.id, request.fetches, request.enqueued_at) == (row["id"], 0, row["enqueued_at"])


def test_every_claim_has_a_token_of_its_own(database, claim, settled):
    database.enqueue("one")
    (first,) = claim()
    settled(released(first))
    (second,) = claim()

    assert first.token != second.token


def test_a_request_whose_workers_died_twice_is_claimed_alone(database, engine):
    queue = Queue(engine)
    database.enqueue("one", "two", "three")
    database.change("one", "two", reclaims=2)

    assert names(queue.claim()) == ["three"]
    assert names(queue.claim()) == []
    assert names(queue.claim_poison()) == ["one"]
    assert names(queue.claim_poison()) == ["two"]
    assert queue.claim_poison() == []


# --- Enqueueing --------------------------------------------------------------------------------------


def test_accounts_that_differ_in_case_are_different_accounts(database, claim):
    database.enqueue("one", account="Sales")
    database.enqueue("one", account="sales")

    assert [request.account for request in claim(account="sales")] == ["sales"]


def test_enqueueing_counts_the_new_ones_and_leaves_the_known_ones_as_they_are(database):
    database.enqueue("known", "known too", batch="first")
    database.change("known", state="dead", finished_at=database.now(), attempts=8)
    before = database.rows(cdr_requests)

    new = database.enqueue("known", "new", "known too", "new", batch="second", delay=timedelta(hours=1))

    assert new == 1
    assert database.rows(cdr_requests)[:2] == before
    assert database.request("new")["batch"] == "second"


def test_the_order_of_arrival_is_the_order_of_the_list(database):
    listed = [f"{number * 7919 % 1000}" for number in range(1000)]

    database.enqueue(*listed)

    assert [row["request_id"] for row in database.rows(cdr_requests)] == listed


def test_enqueueing_nothing_is_not_an_error(database):
    assert database.enqueue() == 0


def test_an_id_that_another_transaction_is_enqueueing_is_waited_for_and_not_counted(
    database, database_url, guard
):
    other = open_engine(database_url)
    counts = []

    def enqueue_too():
        with other.begin() as connection:
            ids = ["one", "two"]
            counts.append(enqueue_requests(connection, ids, account="default", batch=None, delay=MINUTE))

    thread = threading.Thread(target=enqueue_too)
    with database.engine.begin() as connection:
        enqueue_requests(connection, ["one"], account="default", batch="first", delay=MINUTE)
        thread.start()
        thread.join(0.5)  # until it waits for this transaction
    guard(thread.join)
    other.dispose()

    assert counts == [1]
    assert database.request("one")["batch"] == "first"


def test_accounts_that_two_runs_meet_for_the_first_time_at_once_are_there_once(database, database_url, guard):
    other = open_engine(database_url)

    def ensure_too():
        with other.begin() as connection:
            ensure_account(connection, "sales")

    thread = threading.Thread(target=ensure_too)
    with database.engine.begin() as connection:
        ensure_account(connection, "sales")
        thread.start()
        thread.join(0.5)  # until it waits for this transaction
    guard(thread.join)
    other.dispose()

    assert len(database.rows(api_accounts)) == 1


# --- Leases that ran out -----------------------------------------------------------------------------


def test_a_request_whose_lease_ran_out_is_due_again_and_the_reclaim_is_counted(database, claim, reap):
    database.enqueue("one")
    claim()
    expire(database, "one")

    became_dead = reap()
    row = database.request("one")

    assert became_dead == 0
    assert (row["state"], row["attempts"], row["reclaims"]) == ("pending", 1, 1)
    assert (row["lease_token"], row["lease_until"], row["finished_at"]) == (None, None, None)
    assert row["last_error_kind"] == "lease_expired"
    assert names(claim()) == ["one"]


def test_a_request_that_kills_its_worker_every_time_ends_as_dead(database, engine, claim, reap):
    database.enqueue("one")
    dead = []
    for claim_it in (claim, claim, Queue(engine).claim_poison):
        claim_it()
        expire(database, "one")
        dead.append(reap(max_attempts=3))
    row = database.request("one")

    assert dead == [0, 0, 1]
    assert (row["state"], row["attempts"], row["reclaims"]) == ("dead", 3, 3)
    assert row["last_error_kind"] == "lease_expired"
    assert row["finished_at"] is not None
    assert claim() == []


def test_a_lease_that_has_not_run_out_is_left(database, claim, reap):
    database.enqueue("running out", "still good")
    claim()
    expire(database, "running out")
    before = database.request("still good")

    reap(max_attempts=1)

    assert database.request("still good") == before
    assert database.request("running out")["state"] == "dead"


@pytest.mark.parametrize("state", ["pending", "done", "empty", "dead", "cancelled"])
def test_taking_back_touches_nothing_that_is_not_running(database, reap, state):
    database.enqueue("one")
    database.change("one", state=state, finished_at=None if state == "pending" else database.now())
    before = database.request("one")

    reap(max_attempts=1)

    assert database.request("one") == before


# --- "Was that me?" ----------------------------------------------------------------------------------


@pytest.mark.parametrize("way", EVERY_WAY)
def test_settling_the_same_claim_again_loses_no_lease_and_changes_nothing(database, claim, settled, way):
    """As after a COMMIT that succeeded, and whose reply was lost on its way."""
    database.enqueue("one")
    (request,) = claim()
    settled(way(request))
    before = database.request("one"), database.rows(cdr_responses)

    counts = settled(way(request))

    assert counts == {}
    assert (database.request("one"), database.rows(cdr_responses)) == before


def test_a_claim_that_was_settled_and_then_claimed_by_others_is_not_a_lost_lease(database, claim, settled):
    database.enqueue("one")
    (request,) = claim()
    settled(released(request))
    claim()
    before = database.request("one")

    counts = settled(released(request))

    assert counts == {}
    assert database.request("one") == before


# --- Giving back -------------------------------------------------------------------------------------


def test_a_release_gives_the_attempt_back_and_keeps_the_place_in_the_queue(database, claim, settled):
    database.enqueue("one")
    before = database.request("one")
    (request,) = claim()

    counts = settled(released(request))
    row = database.request("one")

    assert counts == {"released": 1}
    assert (row["state"], row["attempts"], row["run_after"]) == ("pending", 0, before["run_after"])
    assert (row["lease_token"], row["lease_until"], row["finished_at"]) == (None, None, None)


def test_a_release_keeps_the_word_of_the_last_failure(database, claim, settled):
    database.enqueue("one")
    (request,) = claim()
    settled(failed(request))
    database.change("one", run_after=database.now())
    (again,) = claim()

    settled(released(again))
    row = database.request("one")

    assert (row["attempts"], row["last_error_kind"], row["last_http_status"]) == (1, "server_error", 500)


def test_claims_and_releases_without_end_use_no_attempt(database, claim, settled):
    database.enqueue("one")
    for _ in range(30):
        (request,) = claim()
        settled(released(request))

    assert database.request("one")["attempts"] == 0


# --- Whose clock -------------------------------------------------------------------------------------

INSTANT = re.compile(r"\d{4}-\d\d-\d\d")


def test_the_queue_sends_durations_to_the_database_and_never_an_instant(engine):
    sent = []

    def note(_connection, _cursor, statement, parameters, _context, _many):
        sent.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        enqueue_requests(connection, ["one", "two"], account="default", batch=None, delay=timedelta(0))
        reap_expired(connection, max_attempts=8)
        one, two = claim_in(connection)
        settle_in(connection, failed(one), answered_without_legs(two))
    event.remove(engine, "before_cursor_execute", note)

    assert len(sent) >= 5
    for statement, parameters in sent:
        flat = parameters.values() if isinstance(parameters, dict) else parameters
        assert not any(isinstance(value, datetime) for value in flat), statement
        assert not INSTANT.search(json.dumps(list(flat), default=str)), statement


def test_every_instant_in_a_sqlite_file_is_text_of_one_format(system):
    if system.engine.dialect.name != "sqlite":
        pytest.skip("other databases have a type for instants")
    system.enqueue("answered-1", "none-1", "error_500-1", "shrinking-1")
    system.enqueue("deferred-1", delay=timedelta(seconds=90.5))
    system.sync(most=4)
    found = {}
    for table in metadata.sorted_tables:
        instants = [column.name for column in table.columns if isinstance(column.type, Instant)]
        stored = select(*(type_coerce(table.c[name], String) for name in instants))
        with reading(system.engine) as connection:
            for row in connection.execute(stored):
                found.update(
                    {
                        f"{table.name}.{name} = {value}": value
                        for name, value in zip(instants, row, strict=True)
                        if value is not None
                    }
                )

    assert len(found) > 10
    for place, value in found.items():
        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}", value), place


def test_both_lanes_have_their_numbers():
    assert (LIVE, BACKFILL) == (0, 1)
