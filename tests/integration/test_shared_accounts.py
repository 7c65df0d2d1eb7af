"""What machines share about an account in the midst of their runs: pauses, breaker, refused credentials."""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import update

from etl.db.accounts import ensure_account, open_breaker, pause_account
from etl.db.tables import api_accounts, cdr_requests

ACCOUNT = "default"


def once(act):
    """A listener that does something at the first progress of a run."""
    done = []

    def listen(_counts):
        if not done:
            done.append(True)
            act()

    return listen


def elsewhere(system, change, *arguments):
    """Let another machine write what it learned of the account."""
    with system.engine.begin() as connection:
        ensure_account(connection, ACCOUNT)
        change(connection, ACCOUNT, *arguments)


def attempts(system):
    return {row["attempts"] for row in system.rows(cdr_requests) if row["state"] == "pending"}


def test_a_pause_that_another_machine_was_asked_for_ends_a_run_within_a_second_or_two(system):
    system.simulator.latency = 0.02
    system.enqueue(*(f"answered-{number}" for number in range(1_000)))
    pause = once(lambda: elsewhere(system, pause_account, timedelta(hours=1)))
    summary = system.sync(system.settings(workers=2), on_progress=pause)

    assert summary.exit_code == 0
    assert set(system.states()) == {"done", "pending"}
    assert attempts(system) == {0}


def test_a_breaker_that_another_machine_opened_is_closed_by_a_machine_that_gets_answers(system):
    system.simulator.latency = 0.02
    system.enqueue(*(f"answered-{number}" for number in range(300)))
    outage = once(lambda: elsewhere(system, open_breaker, "no connection there"))
    summary = system.sync(system.settings(workers=2), on_progress=outage)

    assert summary.exit_code == 0
    assert system.states() == {"done": 300}
    assert system.row(api_accounts)["breaker_opened_at"] is None


def test_a_breaker_that_another_machine_opened_leaves_one_request_to_find_out(system):
    system.simulator.latency = 0.02
    system.enqueue(*(f"answered-{number}" for number in range(300)))

    def fail_everywhere():
        elsewhere(system, open_breaker, "no connection there")
        system.simulator.outage = "error_503"

    summary = system.sync(system.settings(workers=2), on_progress=once(fail_everywhere))

    assert summary.exit_code == 69
    assert attempts(system) == {0}
    assert system.row(api_accounts)["breaker_opened_at"] is not None


def test_refused_credentials_open_the_breaker_too_so_that_the_next_runs_cost_a_call_or_two(system):
    system.enqueue(*(f"answered-{number}" for number in range(50)))
    system.simulator.secret = "another one"
    first = system.sync()
    calls_of_first = system.simulator.unauthorized_calls
    reason = system.row(api_accounts)["breaker_reason"]
    second = system.sync()
    calls_of_second = system.simulator.unauthorized_calls - calls_of_first
    system.simulator.secret = "simulated-secret"
    mended = system.sync()

    assert (first.exit_code, second.exit_code, mended.exit_code) == (77, 77, 0)
    assert calls_of_first <= 6
    assert calls_of_second == 1
    assert "404" in reason
    assert system.states() == {"done": 50}
    assert system.row(api_accounts)["breaker_opened_at"] is None


def test_bad_requests_at_the_head_of_the_queue_never_pass_for_refused_credentials_for_long(system):
    """Nothing is known to be good yet, or the API no longer knows it: the newest requests show more."""
    system.enqueue(*(f"not_found-{number}" for number in range(5)))
    system.enqueue(*(f"answered-{number}" for number in range(5)))
    first, second = system.sync(), system.sync(system.settings(retry_delay=600))

    assert (first.exit_code, second.exit_code) == (77, 0)
    assert system.states() == {"done": 5, "pending": 5}


def test_a_canary_that_is_rate_limited_pauses_the_account_and_opens_no_breaker(system):
    system.enqueue("answered-1")
    system.sync()
    system.enqueue(*(f"error_500-{number}" for number in range(5)))
    system.simulator.retry_after = 3600
    with system.engine.begin() as connection:
        connection.execute(update(api_accounts).values(canary_request_id="rate_limited-1"))
    summary = system.sync(system.settings(max_attempts=1))
    account = system.row(api_accounts)

    assert summary.exit_code == 0
    assert account["breaker_opened_at"] is None
    assert account["paused_until"] > system.now() + timedelta(minutes=50)
    assert attempts(system) == {0}
