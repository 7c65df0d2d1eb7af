"""Many workers at once: each request is fetched once, and no worker blocks or starves another one."""

from __future__ import annotations

import signal
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text
from support import unguarded
from support.claims import Queue, claim_in, names
from support.operators import finish, is_frozen, wait_until
from support.rivals import Rival

from etl.db.engine import open_engine, reading
from etl.db.tables import cdr_requests

NUMBERS = [f"{number}" for number in range(40)]


def start_many(site, count, *words):
    return [site.start("sync", *words) for _ in range(count)]


@pytest.mark.heavy
@pytest.mark.fault(11)
def test_six_processes_ask_for_each_of_ten_thousand_requests_once(site):
    site.fill(10_000)
    finished = [finish(process, 120) for process in start_many(site, 6, "--workers", 6)]

    assert [(one.code, one.all) for one in finished] == [(0, "")] * 6
    assert site.states() == {"done": 10_000}
    assert site.simulator.total_calls == 10_000
    assert site.asked_twice() == set()
    assert site.ledger("claimed", "api_calls", "done", "lost_leases") == (10_000, 10_000, 10_000, 0)
    site.report("each asked for once")


@pytest.mark.heavy
@pytest.mark.fault(35)
def test_ten_runs_started_at_once_share_the_work(site):
    site.simulator.latency = 0.02
    site.fill(300)
    finished = [finish(process) for process in start_many(site, 10)]

    assert [(one.code, one.all) for one in finished] == [(0, "")] * 10
    assert site.states() == {"done": 300}
    assert site.asked_twice() == set()
    assert site.outcomes() == ["ok"] * 10
    assert site.ledger("claimed", "done", "lost_leases") == (300, 300, 0)
    site.report("each asked for once, every run ok")


@pytest.mark.fault(11)
def test_many_connections_never_claim_the_same_request(database, database_url, guard):
    database.enqueue(*(f"{number}" for number in range(2_000)))
    all_ready = threading.Barrier(4)

    def work(_):
        engine = open_engine(database_url)
        claimed = []
        all_ready.wait(10)
        while some := Queue(engine).claim(most=11):
            claimed += some
        engine.dispose()
        return names(claimed)

    with ThreadPoolExecutor(4) as threads:
        shares = guard(lambda: list(threads.map(work, range(4))))
    everything = [name for share in shares for name in share]

    assert len(everything) == len(set(everything)) == 2_000
    assert {row["attempts"] for row in database.rows(cdr_requests)} == {1}


@pytest.mark.fault(11)
@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_without_the_rows_locks_two_workers_claim_the_same(database, database_url):
    database.enqueue(*NUMBERS)
    with database.engine.begin() as connection:
        ours = names(claim_in(connection, most=10))
        rival = Rival(
            database_url, lambda theirs: names(claim_in(theirs, most=10)), without=unguarded.NO_CLAIM_LOCK
        )
        rival.wait_until_blocked()

    assert rival.finish() == ours
    assert [row["attempts"] for row in database.rows(cdr_requests)][:11] == [2] * 10 + [0]


@pytest.mark.fault(11)
@pytest.mark.databases("sqlite")
def test_negative_control_a_look_and_then_an_update_claim_the_same_request_twice(database):
    database.enqueue("one")
    look = text("SELECT id FROM cdr_requests WHERE state = 'pending'")
    claim = text("UPDATE cdr_requests SET attempts = attempts + 1 WHERE id = :id")
    with reading(database.engine) as ours, reading(database.engine) as theirs:
        found = [ours.scalar(look), theirs.scalar(look)]
    for row_id in found:
        with database.engine.begin() as connection:
            connection.execute(claim, {"id": row_id})

    assert database.request("one")["attempts"] == 2


# --- Beside the locks of another ---------------------------------------------------------------------


SHORT_LEASE = {"CDR_SYNC_LEASE": "0.5s", "CDR_SYNC_REQUEST_TIMEOUT": "0.25s"}


@pytest.mark.fault(12)
@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.parametrize(
    "place",
    ["before-claim-commit", "before-settle-commit"],
)
def test_a_worker_that_froze_in_its_transaction_does_not_block_the_other_requests(site, place):
    site.fill(40)
    frozen = site.start_sabotaged(place, "STOP", "sync", **SHORT_LEASE)
    wait_until(lambda: is_frozen(frozen))
    wait_until(lambda: not site.leased())
    second = finish(site.start("sync"), 15)
    left = 40 - site.states()["done"]
    frozen.send_signal(signal.SIGCONT)
    first = finish(frozen)

    assert (second.code, second.all) == (0, "")
    assert first.code == 0
    assert 0 < left <= 3 + 2 * 8  # what it settles, and what it claims in the same transaction
    assert site.states() == {"done": 40}
    assert site.ledger("done") == (40,)
    site.report(f"all but the {left} in its hands are done at once")


@pytest.mark.fault(12)
@pytest.mark.databases("postgresql", "mariadb")
def test_a_second_claim_passes_over_what_the_first_one_holds_and_gets_as_much(database, database_url):
    database.enqueue(*NUMBERS)
    with database.engine.begin() as connection:
        ours = names(claim_in(connection, most=20))
        theirs = Rival(database_url, lambda theirs: names(claim_in(theirs, most=20))).finish()

    assert (ours, theirs) == (NUMBERS[:20], NUMBERS[20:])


@pytest.mark.fault(12)
@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_a_claim_that_skips_nothing_waits_for_the_first_one(database, database_url):
    database.enqueue(*NUMBERS)
    with database.engine.begin() as connection:
        ours = names(claim_in(connection, most=20))
        rival = Rival(
            database_url, lambda theirs: names(claim_in(theirs, most=20)), without=unguarded.NO_SKIPPING
        )
        rival.wait_until_blocked()
    theirs = rival.finish()

    assert set(theirs) & set(ours) == set()


@pytest.mark.fault(12)
@pytest.mark.databases("mariadb")
def test_negative_control_without_its_index_the_first_claim_locks_every_candidate(database, database_url):
    database.enqueue(*NUMBERS)
    taken_out = unguarded.take_out(database.engine, unguarded.NO_INDEX)
    with database.engine.begin() as connection:
        ours = names(claim_in(connection, most=20))
        theirs = Rival(database_url, lambda theirs: names(claim_in(theirs, most=20))).finish()

    assert taken_out.total() > 0
    assert (len(ours), theirs) == (20, [])


@pytest.mark.fault(12)
@pytest.mark.databases("sqlite")
def test_on_sqlite_a_second_claim_waits_for_the_short_transaction_of_the_first(database, database_url):
    database.enqueue(*NUMBERS)
    with database.engine.begin() as connection:
        ours = names(claim_in(connection, most=20))
        rival = Rival(database_url, lambda theirs: names(claim_in(theirs, most=20)))
        rival.wait_until_blocked()
    theirs = rival.finish()

    assert (ours, theirs) == (NUMBERS[:20], NUMBERS[20:])
