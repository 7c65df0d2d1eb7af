"""The queue's figures for the monitoring, on every database."""

from __future__ import annotations

from datetime import timedelta

from etl.db.engine import reading
from etl.db.figures import queue_figures
from etl.db.tables import api_accounts, sync_runs


def figures(system):
    with reading(system.engine) as connection:
        return queue_figures(connection)


def test_a_queue_without_anything_has_figures_too(system):
    found = figures(system)

    assert (found.last_success_at, found.oldest_due_seconds, found.running) == (None, None, 0)
    assert (found.dead, found.breakers) == ({}, {})


def test_the_figures_show_the_state_of_the_queue(system):
    system.enqueue("answered-1")
    system.sync()
    system.enqueue("malformed_money-1")
    system.sync()
    system.enqueue("due", "later", "held")
    now = system.now()
    system.change("due", run_after=now - timedelta(hours=1))
    system.change("later", run_after=now + timedelta(hours=1))
    system.change("held", state="running", lease_token="token", lease_until=now + timedelta(hours=1))
    with system.engine.begin() as connection:
        connection.execute(api_accounts.insert().values(account="down", breaker_opened_at=now))
    found = figures(system)
    well, with_dead = system.rows(sync_runs)

    assert (well["outcome"], with_dead["outcome"]) == ("ok", "dead_letters")
    assert found.last_success_at == well["finished_at"]
    assert now <= found.now < now + timedelta(minutes=1)
    assert 3_600 <= found.oldest_due_seconds < 3_660
    assert (found.running, found.dead) == (1, {"malformed": 1})
    assert found.breakers == {"default": False, "down": True}
