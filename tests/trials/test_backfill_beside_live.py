"""A backfill beside fresh requests; `make trial` has larger ones, on each database, and looks at the time."""

from __future__ import annotations

import subprocess

import pytest
from backfill_beside_live import ELSEWHERE, Beat, CountingSimulator, Trial
from support.sites import Site


@pytest.fixture
def simulator():
    with CountingSimulator(latency=0.1) as running:
        yield running


@pytest.fixture
def trial(database_url, engine, simulator, tmp_path):
    if subprocess.run((*ELSEWHERE, "true"), capture_output=True, check=False).returncode:
        pytest.skip("this user may make no machine of another name")
    home = tmp_path / "home"
    home.mkdir()
    site = Site(database_url, engine, simulator, home, lambda **_: None)
    trial = Trial(site, 1_000, Beat(4.0, 3.5, threads=4))
    trial.prepare()
    yield trial
    trial.cron.is_over.set()
    trial.arrivals.is_over.set()
    site.operator.end_processes()


@pytest.mark.heavy
@pytest.mark.databases("sqlite", "postgresql")
def test_a_backfill_stopped_and_resumed_elsewhere_is_exact_and_fresh_requests_pass_it(trial):
    trial.carry_out(stop_after=250)
    ahead = [one.calls_ahead for one in trial.freshness() if one.calls_ahead is not None]

    assert list(trial.violations()) == []
    assert ahead
    # What three runs have in hand when it comes, and what others ask for while its own run is at that.
    assert max(ahead) < 200
