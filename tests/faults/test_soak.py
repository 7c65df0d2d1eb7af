"""A short soak on each database; `make soak` runs longer ones."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.injuries import draw_injuries

SOAK = str(Path(__file__).parents[1] / "support" / "soak.py")


def soak(database, *words):
    command = [sys.executable, SOAK, "--database", database, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def database_kind(request, fresh_database):  # noqa: ARG001 (it skips where there is no such server)
    return request.node.callspec.params["fresh_database"]


@pytest.mark.heavy
def test_after_a_storm_of_injuries_nothing_is_lost_and_nothing_doubled(database_kind):
    done = soak(database_kind, "--seconds", 20, "--seed", 1)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "freeze past the lease" in done.stdout
    assert done.stderr == ""


@pytest.mark.heavy
@pytest.mark.databases("sqlite")
def test_negative_control_without_the_fence_a_soak_reports_violations(database_kind):
    """By chance no frozen worker may come back in time: then another storm is tried."""
    storms = (
        soak(database_kind, "--seconds", 8, "--seed", seed, "--without", "fence") for seed in range(1, 7)
    )
    done = next(storm for storm in storms if storm.returncode)

    assert done.returncode == 1, done.stdout + done.stderr
    assert "VIOLATION" in done.stdout


def test_the_same_seed_draws_the_same_injuries_and_another_one_others():
    first, again, other = (
        draw_injuries(seed, seconds=60, slots=4, lease=2, has_server=True) for seed in (1, 1, 2)
    )

    assert first == again != other
    assert {injury.kind for injury in draw_injuries(1, seconds=10, slots=4, lease=2, has_server=True)} == {
        *("kill", "terminate", "freeze", "freeze past the lease", "outage", "crash")
    }
