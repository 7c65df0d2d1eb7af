"""Changing many requests by hand: whom it touches, what a kill leaves, and what it does beside a run."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import exc

from etl.db.replays import CANCEL, REPLAY, change_requests
from etl.db.request_queue import Settlement, claim_requests, hold_claims, settle_claims
from etl.db.selection import Selection
from etl.db.states import CANCELLED, DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.db.tables import cdr_requests
from etl.sync import replaying
from etl.sync.replaying import Order, carry_out, foresee

LEASE = timedelta(minutes=5)
DEAD_ONES = Order(Selection(states=(DEAD,)), REPLAY)
CANCELLABLE = Selection(states=(PENDING, DEAD))


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(replaying, "PAGE", 10)


def fill(database, count, state=DEAD, **values):
    names = [f"{state} {number}" for number in range(count)]
    database.enqueue(*names)
    database.change(*names, state=state, finished_at=database.now(), **values)
    return names


def claim(connection, most=1):
    return claim_requests(connection, "default", most=most, lease=LEASE, worker="somebody", run_id=1)


def finish_claims(connection, claims):
    hold_claims(connection, claims)
    settle_claims(connection, [Settlement(one.id, one.token, state=DONE) for one in claims])


def ids_of(database):
    return [row["id"] for row in database.rows(cdr_requests)]


@pytest.mark.usefixtures("small_pages")
def test_every_page_is_changed_and_a_look_before_promises_what_comes(database):
    fill(database, 35, attempts=8)
    fill(database, 15, DONE)
    foreseen = foresee(database.engine, DEAD_ONES)
    result = carry_out(database.engine, DEAD_ONES)

    assert foreseen.changed == result.changed == {("default", DEAD): 35}
    assert database.states() == {PENDING: 35, DONE: 15}
    assert {row["attempts"] for row in database.rows(cdr_requests, state=PENDING)} == {0}


@pytest.mark.usefixtures("small_pages")
def test_what_is_ended_between_two_pages_leaves_whole_pages_and_is_finished_by_doing_it_again(database):
    fill(database, 35)

    def end(result):
        if result.total == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(database.engine, DEAD_ONES, on_page=end)
    left = database.states()
    again = carry_out(database.engine, DEAD_ONES)

    assert left == {PENDING: 20, DEAD: 15}
    assert again.total == 15
    assert database.states() == {PENDING: 35}


@pytest.mark.usefixtures("small_pages")
def test_what_arrives_meanwhile_is_left_alone(database):
    fill(database, 20)
    arrived = []

    def arrive(_result):
        if not arrived:
            arrived.extend(fill(database, 15, EMPTY))

    carry_out(database.engine, Order(Selection(states=(DEAD, EMPTY)), REPLAY), on_page=arrive)

    assert database.states() == {PENDING: 20, EMPTY: 15}


def test_listed_ids_are_told_apart_by_their_exact_bytes(database):
    database.enqueue("one", "One", "one ", "öne")
    result = carry_out(database.engine, Order(CANCELLABLE, CANCEL), [["One", "one ", "ONE"]])

    assert result.total == 2
    assert result.unknown == ["ONE"]
    assert {row["request_id"] for row in database.rows(cdr_requests, state=PENDING)} == {"one", "öne"}


# --- Beside a run ------------------------------------------------------------------------------------


def change_while(database, others_work, selection):
    """Cancel a request chosen before by its number, while somebody else has it in an open transaction."""
    (chosen,) = ids_of(database)
    changed, errors = [], []

    def cancel():
        try:
            with database.engine.begin() as connection:
                changed.extend(change_requests(connection, [chosen], selection, CANCEL))
        except exc.DBAPIError as error:
            errors.append(error)

    thread = threading.Thread(target=cancel)
    with database.engine.begin() as connection:
        others_work(connection)
        thread.start()
        thread.join(0.3)  # until it waits for this transaction
    thread.join(20)
    assert not thread.is_alive()
    return changed, errors


def test_a_request_that_is_being_claimed_at_this_instant_is_left_to_its_run(database):
    database.enqueue("one")
    changed, errors = change_while(database, claim, CANCELLABLE)

    assert (changed, errors) == ([], [])
    assert database.states() == {RUNNING: 1}


def test_a_request_that_is_being_finished_at_this_instant_stays_finished(database):
    database.enqueue("one")
    with database.engine.begin() as connection:
        claims = claim(connection)
    changed, errors = change_while(
        database, lambda connection: finish_claims(connection, claims), CANCELLABLE
    )

    assert (changed, errors) == ([], [])
    assert database.states() == {DONE: 1}


def test_negative_control_without_the_state_in_the_statement_a_finished_request_is_cancelled(database):
    database.enqueue("one")
    with database.engine.begin() as connection:
        claims = claim(connection)
    changed, _ = change_while(database, lambda connection: finish_claims(connection, claims), Selection())

    assert len(changed) == 1
    assert database.states() == {CANCELLED: 1}
