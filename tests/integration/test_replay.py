"""Bulk changes: which requests they reach, what a kill leaves, and how they behave beside a run."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import exc
from support.claims import answered, claim_in, settle_in

from etl import replay
from etl.db.queue import enqueue_requests
from etl.db.selection import CANCEL, REPLAY, Selection, change_requests
from etl.db.states import BACKFILL, CANCELLED, DEAD, DONE, EMPTY, LIVE, PENDING, RUNNING
from etl.db.tables import cdr_requests
from etl.replay import CHUNK, BulkChange

DEAD_ONES = BulkChange(Selection(states=(DEAD,)), REPLAY)
CANCELLABLE = Selection(states=(PENDING, DEAD))


def fill(database, count, state=DEAD, **values):
    names = [f"{state} {number}" for number in range(count)]
    database.enqueue(*names)
    database.change(*names, state=state, finished_at=database.now(), **values)
    return names


def finish_claims(connection, claims):
    settle_in(connection, *map(answered, claims))


def ids_of(database):
    return [row["id"] for row in database.rows(cdr_requests)]


def test_every_chunk_is_changed_and_the_preview_counts_the_same(database):
    fill(database, 35, attempts=8)
    fill(database, 15, DONE)
    previewed = replay.preview(database.engine, DEAD_ONES)
    result = replay.apply(database.engine, DEAD_ONES, chunk=10)

    assert previewed.changed == result.changed == {("default", DEAD): 35}
    assert database.states() == {PENDING: 35, DONE: 15}
    assert {row["attempts"] for row in database.rows(cdr_requests, state=PENDING)} == {0}


def test_an_interruption_leaves_whole_chunks_and_the_same_change_again_does_the_rest(database):
    fill(database, 35)

    def end(result):
        if result.total == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay.apply(database.engine, DEAD_ONES, on_chunk=end, chunk=10)
    left = database.states()
    again = replay.apply(database.engine, DEAD_ONES, chunk=10)

    assert left == {PENDING: 20, DEAD: 15}
    assert again.total == 15
    assert database.states() == {PENDING: 35}


def test_requests_that_arrive_meanwhile_are_left_alone(database):
    fill(database, 20)
    arrived = []

    def arrive(_result):
        if not arrived:
            arrived.extend(fill(database, 15, EMPTY))

    dead_and_empty = BulkChange(Selection(states=(DEAD, EMPTY)), REPLAY)
    replay.apply(database.engine, dead_and_empty, on_chunk=arrive, chunk=10)

    assert database.states() == {PENDING: 20, EMPTY: 15}


def test_listed_ids_are_compared_by_their_exact_bytes(database):
    database.enqueue("one", "One", "one ", "öne")
    result = replay.apply(database.engine, BulkChange(CANCELLABLE, CANCEL), ["One", "one ", "ONE"])

    assert result.total == 2
    assert result.unknown == ["ONE"]
    assert {row["request_id"] for row in database.rows(cdr_requests, state=PENDING)} == {"one", "öne"}


# --- Beside a run ------------------------------------------------------------------------------------


def change_while(database, others_work, selection):
    """Cancel a request by its row while another transaction has it open."""
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
        thread.join(0.3)  # by then it waits for this transaction
    thread.join(20)
    assert not thread.is_alive()
    return changed, errors


def test_a_request_that_a_run_is_claiming_now_is_left_to_the_run(database):
    database.enqueue("one")
    changed, errors = change_while(database, claim_in, CANCELLABLE)

    assert (changed, errors) == ([], [])
    assert database.states() == {RUNNING: 1}


@pytest.mark.databases("postgresql", "mariadb")
def test_a_change_does_not_wait_for_a_transaction_that_holds_other_rows(database, guard):
    in_hand, *wanted = fill(database, 3)
    fill(database, CHUNK - 2, DONE)  # among so many, an index of the state looks tempting
    theirs, *numbers = ids_of(database)

    def change(connection, ids):
        return change_requests(connection, ids, DEAD_ONES.selection, REPLAY)

    def change_others():
        with database.engine.begin() as connection:
            return change(connection, numbers)

    with database.engine.begin() as other:
        change(other, [theirs])
        changed = guard(change_others)

    assert [row.request_id for row in changed] == wanted
    assert database.request(in_hand)["state"] == PENDING


def test_a_request_that_a_run_is_finishing_now_stays_finished(database):
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
    return BulkChange.to_backfill(selection, label, account=account)


def a_bit_of_everything(database):
    """Requests of every state, every lane, with and without a label."""
    for state in (DONE, EMPTY, DEAD, CANCELLED):
        fill(database, 12, state, attempts=3)
    database.enqueue(*(f"waiting {number}" for number in range(12)), delay=timedelta(days=1))
    database.enqueue(*(f"labelled {number}" for number in range(6)), batch="july")
    with database.engine.begin() as connection:
        claim_in(connection, most=2)


def test_a_backfill_marks_what_its_preview_counted_and_a_second_time_nothing(database):
    a_bit_of_everything(database)
    previewed = replay.preview(database.engine, backfill(), chunk=10)
    first = replay.apply(database.engine, backfill(), chunk=10)
    before = database.rows(cdr_requests)
    second = replay.apply(database.engine, backfill(), chunk=10)

    assert previewed == first
    assert first.states == {DEAD: 12, DONE: 12, EMPTY: 12, PENDING: 16}
    assert first.skipped == {RUNNING: 2}
    assert (second.total, second.already_marked) == (0, 52)
    assert database.rows(cdr_requests) == before


def test_the_preview_of_a_backfill_of_listed_ids_counts_the_same_and_each_id_once(database):
    a_bit_of_everything(database)
    names = [row["request_id"] for row in database.rows(cdr_requests)]
    listed = [*names[:30], "unknown 1", "unknown 2", *names[30:]]
    previewed = replay.preview(database.engine, backfill(), [*listed, *listed], chunk=10)
    first = replay.apply(database.engine, backfill(), listed, chunk=10)
    second = replay.apply(database.engine, backfill(), listed, chunk=10)

    assert previewed == first
    assert first.states == {DEAD: 12, DONE: 12, EMPTY: 12, PENDING: 16, "new": 2}
    assert first.skipped == {RUNNING: 2, CANCELLED: 12}
    assert (second.total, second.already_marked) == (0, 54)
    assert {(row["lane"], row["batch"]) for row in database.rows(cdr_requests, state=PENDING)} == {
        (1, "july")
    }


def test_an_interrupted_marking_is_finished_by_the_same_again_and_marks_no_row_twice(database):
    a_bit_of_everything(database)

    def end(result):
        if result.total >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replay.apply(database.engine, backfill(), on_chunk=end, chunk=10)
    before = {row["id"]: row["updated_at"] for row in database.rows(cdr_requests, batch="july", lane=1)}
    replay.apply(database.engine, backfill())
    after = {row["id"]: row["updated_at"] for row in database.rows(cdr_requests, batch="july", lane=1)}

    assert len(before) == 20
    assert len(after) == 52
    assert {number: after[number] for number in before} == before


def test_a_lost_reply_to_a_commit_neither_marks_twice_nor_loses_a_count(database, monkeypatch):
    fill(database, 5)
    lose_first_reply(database.engine, monkeypatch)
    result = replay.apply(database.engine, backfill())

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


def test_enqueue_times_are_half_open_to_the_microsecond(database):
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
    replay.apply(database.engine, order)

    assert {row["request_id"] for row in database.rows(cdr_requests, batch="july")} == {"first", "last"}


def order_of_asking(system, live_lane):
    """Enqueue a new request while a run works on a backfill; returns how many calls it waits for."""
    names = [f"answered-{number}" for number in range(120)]
    system.enqueue(*names)
    replay.apply(system.engine, backfill())
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


def test_a_new_request_waits_only_for_the_requests_of_a_backfill_in_flight(system):
    workers = system.settings().workers
    in_hand, beside_it = 2 * workers, workers - 1  # other threads may reach the API first

    assert order_of_asking(system, LIVE) <= in_hand + beside_it


def test_negative_control_in_the_backfill_lane_a_new_request_waits_for_all_of_it(system):
    assert order_of_asking(system, BACKFILL) > 60


def test_max_failures_counts_requests_that_fail_and_not_the_failures_of_one(system):
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
