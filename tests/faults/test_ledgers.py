"""Whether the check that every site's ledger goes through can fail, and what a killed run's ledger says."""

from __future__ import annotations

import json
import signal

import pytest
from sqlalchemy import update
from support.ledgers import contradictions
from support.operators import finish

from etl.db.tables import cdr_requests, sync_runs
from etl.sync.ledger import runs


def work_off(site):
    """A run after which a request is done, another is dead, and three are given back."""
    site.enqueue("answered-1", "malformed_money-1")
    site.run("sync", "--limit", 2)
    site.fill(3)
    site.simulator.outage = "error_503"
    site.sync()


@pytest.mark.databases("sqlite")
@pytest.mark.untrue_ledger("each is falsified")
@pytest.mark.parametrize("name", ["claimed", "done", "dead", "released", "lost_leases"])
@pytest.mark.parametrize("by", [1, -1])
def test_a_run_that_is_miscounted_by_one_is_found(site, name, by):
    work_off(site)
    before = list(contradictions(site.engine))
    with site.engine.begin() as connection:
        connection.execute(
            update(sync_runs).where(sync_runs.c.id == 1).values({name: sync_runs.c[name] + by})
        )

    assert before == []
    assert "run 1" in next(contradictions(site.engine))


@pytest.mark.databases("sqlite")
@pytest.mark.untrue_ledger("it is falsified")
@pytest.mark.parametrize("count", ["released", "claimed"])
def test_a_count_that_the_product_forgets_is_found(site, monkeypatch, count):
    honest = runs.count_run

    def forgetful(connection, run_id, counts, *, transaction):
        honest(connection, run_id, {**counts, count: 0}, transaction=transaction)

    monkeypatch.setattr(runs, "count_run", forgetful)
    site.fill(3)
    site.simulator.outage = "error_503"
    site.sync()

    assert list(contradictions(site.engine)) != []


@pytest.mark.databases("sqlite")
@pytest.mark.untrue_ledger("it is falsified")
def test_a_reclaimed_request_without_a_dead_worker_is_found(site):
    work_off(site)
    site.change("answered-1", reclaims=1)

    assert len(list(contradictions(site.engine))) == 1


@pytest.mark.databases("sqlite")
def test_runs_show_prints_the_unfinished_claims_of_a_killed_run_and_their_fate(site):
    site.fill(40)
    killed = finish(site.start_sabotaged("after-claim-commit", "KILL", "sync"))
    shown = [site.type("runs", "show", 1)]
    with site.engine.begin() as connection:
        connection.execute(update(sync_runs).values(outcome="abandoned", finished_at=site.now()))
    shown += [site.type("runs", "show", 1), site.type("runs", "show", 1, "--json"), site.type("runs")]
    site.change(*site.running(), lease_until=site.now())
    site.sync()
    shown += [site.type("runs", "show", 1), site.type("runs", "show", 1, "--json")]
    at_work, abandoned, before, listed, taken_back, after = (one.stdout for one in shown)

    assert killed.code == -signal.SIGKILL
    assert at_work.endswith("\nClaims: 3 = 3 in progress\n")
    assert abandoned.endswith(
        "\nClaims: 3 = 3 unfinished when it was killed; of these, 3 requests will be reclaimed when the lease"
        " expires\n"
    )
    assert listed.rstrip().endswith("3 = 3 unfinished when it was killed")
    sum_of_claims = "3 = 3 unfinished when it was killed"
    assert taken_back.endswith(f"\nClaims: {sum_of_claims}; all of these have been reclaimed\n")
    assert [(run["unsettled"], run["held"]) for run in map(json.loads, (before, after))] == [(3, 3), (3, 0)]
    assert {row["reclaims"] for row in site.rows(cdr_requests)} == {0, 1}
