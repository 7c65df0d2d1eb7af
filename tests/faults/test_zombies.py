"""Workers that come back to claims that are no longer theirs: nothing of what they bring is written."""

from __future__ import annotations

import pytest
from sqlalchemy import exc, text
from support import unguarded
from support.claims import (
    EVERY_WAY,
    Queue,
    answered,
    answered_without_legs,
    expire,
    failed,
    settle_in,
)
from support.rivals import Rival

from etl.db.engine import open_engine
from etl.db.queue import Settlement, reap_expired, settle_claims
from etl.db.tables import call_legs, cdr_requests, cdr_responses
from etl.sync import settle as settling

WAYS = [way.__name__ for way in EVERY_WAY]


@pytest.fixture
def queue(engine):
    return Queue(engine)


def contents(database):
    return [database.rows(table) for table in (cdr_requests, call_legs, cdr_responses)]


def frozen(database, queue, *request_ids):
    """Claims of a worker that froze, taken back from it since."""
    database.enqueue(*request_ids)
    claims = queue.claim(worker="the frozen one")
    expire(database)
    queue.reap()
    return claims


SINCE = {
    "taken back": lambda _: (),
    "claimed by another": lambda queue: queue.claim(worker="the new one"),
    "settled by another": lambda queue: queue.settle(*map(answered, queue.claim(worker="the new one"))),
}


@pytest.mark.fault(6)
@pytest.mark.parametrize("since", SINCE)
def test_whatever_a_zombie_brings_nothing_of_it_is_written(database, queue, since):
    zombies = frozen(database, queue, *WAYS)
    SINCE[since](queue)
    before = contents(database)
    one_by_one = [queue.settle(way(zombie)) for zombie in zombies for way in EVERY_WAY]
    together = queue.settle(*(way(zombie) for zombie, way in zip(zombies, EVERY_WAY, strict=True)))

    assert one_by_one == [{"lost_leases": 1}] * 16
    assert together == {"lost_leases": 4}
    assert contents(database) == before


@pytest.mark.fault(6)
def test_negative_control_without_the_fence_a_zombie_overwrites_what_others_settled(
    database, queue, monkeypatch
):
    zombies = frozen(database, queue, *WAYS)
    SINCE["settled by another"](queue)
    before = database.rows(cdr_requests)
    monkeypatch.setattr(settling, "fence", unguarded.hold_everything)
    taken_out = unguarded.take_out(database.engine, unguarded.NO_FENCE)
    counts = queue.settle(*(way(zombie) for zombie, way in zip(zombies, EVERY_WAY, strict=True)))
    after = database.rows(cdr_requests)

    assert taken_out.total() == 1
    assert counts["lost_leases"] == 0
    assert all(now != then for now, then in zip(after, before, strict=True))


@pytest.mark.fault(6)
def test_even_without_a_look_before_it_the_settling_statement_is_fenced(database, queue):
    (zombie,) = frozen(database, queue, "one")
    queue.claim()
    before = contents(database)
    with database.engine.begin() as connection:
        settle_claims(connection, [Settlement(zombie.id, zombie.token, "done")])

    assert contents(database) == before


@pytest.mark.fault(6)
def test_a_zombie_in_a_batch_takes_nothing_from_its_neighbours(database, queue):
    (zombie,) = frozen(database, queue, "one")
    queue.claim()
    database.enqueue("two", "three")
    two, three = queue.claim()
    counts = queue.settle(failed(two), answered_without_legs(zombie), answered_without_legs(three))

    assert counts == {"retried": 1, "lost_leases": 1, "put_off": 1}
    assert database.request("two")["last_error_kind"] == "server_error"
    assert database.request("three")["fetches"] == 1
    assert database.request("one")["state"] == "running"


@pytest.mark.fault(6)
@pytest.mark.parametrize("first", ["the zombie's answer", "the new owner's answer"])
def test_of_two_answers_in_one_batch_only_that_of_the_present_claim_counts(database, queue, first):
    """A run that was frozen past its leases takes its own requests back, and then has both answers."""
    (zombie,) = frozen(database, queue, "one")
    (new_owner,) = queue.claim()
    verdicts = [failed(zombie), answered_without_legs(new_owner)]
    counts = queue.settle(*(verdicts if first == "the zombie's answer" else verdicts[::-1]))
    row = database.request("one")

    assert counts == {"lost_leases": 1, "put_off": 1}
    assert (row["fetches"], row["done_token"]) == (1, new_owner.token)


@pytest.mark.fault(6)
def test_a_zombie_whose_claim_was_not_reclaimed_settles_as_usual(database, queue):
    database.enqueue("one")
    (request,) = queue.claim()
    expire(database, "one")

    assert queue.settle(answered(request)) == {"done": 1, "legs_inserted": 1}


# --- Zombie and reaper at one instant ----------------------------------------------------------------


def overdue(database, queue):
    """A claim whose lease ran out, and which is not reclaimed yet."""
    database.enqueue("one")
    (zombie,) = queue.claim()
    expire(database, "one")
    return zombie


def reap_in(connection):
    return reap_expired(connection, max_attempts=8)


def zombie_comes_second(database, queue, url, *, without=()):
    """The reaper is in its transaction when the zombie sets out; gives the zombie, at its lock."""
    verdict = answered(overdue(database, queue))
    with database.engine.begin() as connection:
        reap_in(connection)
        zombie = Rival(url, lambda theirs: settle_in(theirs, verdict), without=without)
        zombie.wait_until_blocked()
    return zombie


@pytest.mark.fault(7)
def test_what_the_reaper_takes_before_the_zombie_comes_stays_taken(database, queue, database_url):
    counts = zombie_comes_second(database, queue, database_url).finish()
    row = database.request("one")

    assert counts == {"lost_leases": 1}
    assert (row["state"], row["reclaims"], row["last_error_kind"]) == ("pending", 1, "lease_expired")
    assert database.rows(call_legs) == database.rows(cdr_responses) == []


@pytest.mark.fault(7)
@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_without_its_lock_the_fence_lets_a_zombie_write_legs(database, queue, database_url):
    zombie = zombie_comes_second(database, queue, database_url, without=unguarded.NO_FENCE_LOCK)
    counts = zombie.finish()

    assert zombie.taken_out.total() == 1
    assert counts["done"] == 1
    assert database.request("one")["state"] == "pending"
    assert len(database.rows(call_legs)) == 1


@pytest.mark.fault(7)
@pytest.mark.databases("sqlite")
def test_negative_control_a_deferred_transaction_of_a_zombie_trips_over_the_reaper(database, queue):
    verdict = answered(overdue(database, queue))
    other = open_engine(str(database.engine.url))
    taken_out = unguarded.take_out(other, unguarded.NOT_IMMEDIATE)
    with database.engine.begin() as connection:
        reap_in(connection)
        with pytest.raises(exc.OperationalError, match="locked"):
            Queue(other).settle(verdict)
    other.dispose()

    assert taken_out.total() == 1


def reaper_comes_second(database, queue, url, *, reap=reap_in, waits=True, without=()):
    """The zombie is in its transaction when the reaper sets out; gives what both count."""
    zombie = overdue(database, queue)
    with database.engine.begin() as connection:
        counts = settle_in(connection, answered(zombie))
        reaper = Rival(url, reap, without=without)
        if waits:
            reaper.wait_until_blocked()
        else:
            reaper.finish()
    return counts, reaper.finish()


def is_settled(database):
    row = database.request("one")
    return (row["state"], row["reclaims"], row["last_error_kind"]) == ("done", 0, None)


@pytest.mark.fault(7)
def test_what_the_zombie_settles_before_the_reaper_comes_stays_settled(database, queue, database_url):
    """On SQLite the reaper waits for the zombie; elsewhere it passes over what the zombie holds."""
    waits = database.engine.dialect.name == "sqlite"
    counts, became_dead = reaper_comes_second(database, queue, database_url, waits=waits)

    assert (counts, became_dead) == ({"done": 1, "legs_inserted": 1}, 0)
    assert is_settled(database)


@pytest.mark.fault(7)
@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_a_reaper_that_skips_nothing_waits_for_the_zombie(database, queue, database_url):
    reaper_comes_second(database, queue, database_url, without=unguarded.NO_SKIPPING)

    assert is_settled(database)


@pytest.mark.fault(7)
def test_negative_control_a_reaper_that_does_not_look_again_takes_back_what_is_settled(
    database, queue, database_url
):
    """As one would that knows the IDs from a statement before."""
    blindly = text(
        "UPDATE cdr_requests"
        " SET state = 'pending', lease_token = NULL, lease_until = NULL, finished_at = NULL"
    )
    counts, _ = reaper_comes_second(
        database, queue, database_url, reap=lambda theirs: theirs.execute(blindly)
    )

    assert counts["done"] == 1
    assert database.request("one")["state"] == "pending"
