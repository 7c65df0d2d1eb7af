"""Changing many requests by hand: whom it touches, what a kill leaves, and what it does beside a run."""

from __future__ import annotations

import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import exc
from support.claims import answered, claim_in, settle_in

from etl import replay as replaying
from etl.db.queue import enqueue_requests
from etl.db.selection import CANCEL, REPLAY, Selection, change_requests, marking
from etl.db.states import BACKFILL, CANCELLED, DEAD, DONE, EMPTY, LIVE, PENDING, RUNNING
from etl.db.tables import cdr_requests
from etl.replay import PAGE, Order, carry_out, foresee

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


def finish_claims(connection, claims):
    settle_in(connection, *map(answered, claims))


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
    changed, errors = change_while(database, claim_in, CANCELLABLE)

    assert (changed, errors) == ([], [])
    assert database.states() == {RUNNING: 1}


@pytest.mark.databases("postgresql", "mariadb")
def test_a_change_waits_for_nobody_who_has_other_rows_in_hand(database, guard):
    in_hand, *wanted = fill(database, 3)
    fill(database, PAGE - 2, DONE)  # among so many, an index of the state looks tempting
    theirs, *numbers = ids_of(database)

    def change(connection, ids):
        return change_requests(connection, ids, DEAD_ONES.selection, REPLAY)

    def change_others():
        with database.engine.begin() as connection:
            return change(connection, numbers)

    with database.engine.begin() as somebody:
        change(somebody, [theirs])
        changed = guard(change_others, seconds=10)

    assert [row.request_id for row in changed] == wanted
    assert database.request(in_hand)["state"] == PENDING


def test_a_request_that_is_being_finished_at_this_instant_stays_finished(database):
    database.enqueue("one")
    with database.engine.begin() as connection:
        claims = claim_in(connection)
    changed, errors = change_while(
        database, lambda connection: finish_claims(connection, claims), CANCELLABLE
    )

    assert (changed, errors) == ([], [])
    assert database.states() == {DONE: 1}


def test_negative_control_without_the_state_in_the_statement_a_finished_request_is_cancelled(database):
    database.enqueue("one")
    with database.engine.begin() as connection:
        claims = claim_in(connection)
    changed, _ = change_while(database, lambda connection: finish_claims(connection, claims), Selection())

    assert len(changed) == 1
    assert database.states() == {CANCELLED: 1}


# --- Backfills ---------------------------------------------------------------------------------------


def backfill(selection=None, label="july", account=None):
    selection = selection or Selection(states=(PENDING, DONE, EMPTY, DEAD))
    return Order(replace(selection, unmarked_by=label), marking(label), account, label)


def a_bit_of_everything(database):
    """Requests of every state, every lane, with and without a label."""
    for state in (DONE, EMPTY, DEAD, CANCELLED):
        fill(database, 12, state, attempts=3)
    database.enqueue(*(f"waiting {number}" for number in range(12)), delay=timedelta(days=1))
    database.enqueue(*(f"labelled {number}" for number in range(6)), batch="july")
    with database.engine.begin() as connection:
        claim_in(connection, most=2)


@pytest.mark.usefixtures("small_pages")
def test_a_backfill_marks_what_it_foresaw_and_a_second_time_nothing(database):
    a_bit_of_everything(database)
    foreseen = foresee(database.engine, backfill())
    first = carry_out(database.engine, backfill())
    before = database.rows(cdr_requests)
    second = carry_out(database.engine, backfill())

    assert foreseen == first
    assert first.states == {DEAD: 12, DONE: 12, EMPTY: 12, PENDING: 16}
    assert first.left == {RUNNING: 2}
    assert (second.total, second.marked) == (0, 52)
    assert database.rows(cdr_requests) == before


@pytest.mark.usefixtures("small_pages")
def test_a_backfill_of_listed_ids_foresees_the_same(database):
    a_bit_of_everything(database)
    names = [row["request_id"] for row in database.rows(cdr_requests)]
    listed = [[*names[:30], "unknown 1"], ["unknown 2", *names[30:]]]
    foreseen = foresee(database.engine, backfill(), listed)
    first = carry_out(database.engine, backfill(), listed)
    second = carry_out(database.engine, backfill(), listed)

    assert foreseen == first
    assert first.states == {DEAD: 12, DONE: 12, EMPTY: 12, PENDING: 16, "new": 2}
    assert first.left == {RUNNING: 2, CANCELLED: 12}
    assert (second.total, second.marked) == (0, 54)
    assert {(row["lane"], row["batch"]) for row in database.rows(cdr_requests, state=PENDING)} == {
        (1, "july")
    }


@pytest.mark.usefixtures("small_pages")
def test_a_marking_that_is_ended_is_finished_by_the_same_again_and_marks_no_row_twice(database):
    a_bit_of_everything(database)

    def end(result):
        if result.total >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(database.engine, backfill(), on_page=end)
    before = {row["id"]: row["updated_at"] for row in database.rows(cdr_requests, batch="july", lane=1)}
    carry_out(database.engine, backfill())
    after = {row["id"]: row["updated_at"] for row in database.rows(cdr_requests, batch="july", lane=1)}

    assert len(before) == 20
    assert len(after) == 52
    assert {number: after[number] for number in before} == before


def test_a_lost_reply_to_a_commit_is_no_second_marking_and_no_lost_count(database, monkeypatch):
    fill(database, 5)
    lose_first_reply(database.engine, monkeypatch)
    result = carry_out(database.engine, backfill())

    assert result.states == {DEAD: 5}
    assert len(database.rows(cdr_requests, batch="july", lane=1)) == 5


def lose_first_reply(engine, monkeypatch):
    """Break the connection once, right after the database committed."""
    commit, lost = engine.dialect.do_commit, []

    def commit_and_break(connection):
        commit(connection)
        if not lost:
            lost.append(connection)
            error = exc.OperationalError("COMMIT", {}, Exception("gone"))
            error.connection_invalidated = True
            raise error

    monkeypatch.setattr(engine.dialect, "do_commit", commit_and_break)


def test_times_are_half_open_to_the_microsecond(database):
    database.enqueue("before", "first", "last", "after")
    midnight, day = datetime(2026, 11, 1, tzinfo=UTC), timedelta(days=1)
    tick = timedelta(microseconds=1)
    for name, at in (
        ("before", midnight - tick),
        ("first", midnight),
        ("last", midnight + day - tick),
        ("after", midnight + day),
    ):
        database.change(name, enqueued_at=at)
    order = backfill(Selection(states=(PENDING,), since=midnight, until=midnight + day))
    carry_out(database.engine, order)

    assert {row["request_id"] for row in database.rows(cdr_requests, batch="july")} == {"first", "last"}


def order_of_asking(system, live_lane):
    """Enqueue a fresh request into a lane while a sync is at a backfill: how many calls it waits for."""
    names = [f"answered-{number}" for number in range(120)]
    system.enqueue(*names)
    carry_out(system.engine, backfill())
    asked_before = []

    def enqueue_fresh(_counts):
        if not asked_before and system.simulator.total_calls >= 30:
            with system.engine.begin() as connection:
                enqueue_requests(
                    connection,
                    ["answered-x"],
                    account="default",
                    batch=None,
                    delay=timedelta(0),
                    lane=live_lane,
                )
            asked_before.append(system.simulator.total_calls)

    system.sync(on_progress=enqueue_fresh)
    return list(system.simulator.calls).index("answered-x") - asked_before[0]


def test_a_fresh_request_waits_for_no_more_of_a_backfill_than_is_in_hand(system):
    workers = system.settings().workers
    in_hand, beside_it = 2 * workers, workers - 1  # what others take up after it may reach the API before it

    assert order_of_asking(system, LIVE) <= in_hand + beside_it


def test_negative_control_in_the_lane_of_the_backfill_it_waits_for_all_of_it(system):
    assert order_of_asking(system, BACKFILL) > 60


def test_a_backfill_is_stopped_by_requests_that_fail_and_not_by_one_that_fails_often(system):
    system.enqueue("rejected-1", *(f"answered-{number}" for number in range(40)))
    long_ago = system.now() - timedelta(days=1)
    often = system.sync(
        system.settings(max_attempts=5, workers=1),
        max_failures=2,
        on_progress=lambda _counts: system.change("rejected-1", run_after=long_ago),
    )
    system.enqueue(*(f"rejected-{number}" for number in range(2, 12)))
    many = system.sync(system.settings(max_attempts=1, workers=1), max_failures=2)

    assert (often.counts["retried"], often.counts["dead"], often.has_too_many_failures) == (4, 1, False)
    assert many.has_too_many_failures
    assert many.counts["dead"] < 10
    assert RUNNING not in system.states()
