"""Circuit breaker: whole runs against an API that fails by a rule, over a real database."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest

from etl.cdr.legs import Leg
from etl.db.tables import api_accounts, cdr_requests
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    UnreadableError,
)
from etl.sync.fetching import Answered, Failed, Timing

OUTAGES = [
    CallConnectionError("no connection"),
    CallTimeoutError("no answer in time"),
    ServerError("503"),
    UnreadableError("<html>"),
    RateLimitedError("429"),
]
UNKNOWN = NotFoundError("code 404")
LONG_AGO = datetime(2021, 11, 16, 12, tzinfo=UTC)
LEG = Leg("a", "", "9100000000", None, None, None, LONG_AGO, 4, None, None, "outbound", "answered", None)

pytestmark = pytest.mark.databases("sqlite")  # what the database does is the same for all of these


@pytest.fixture
def run(system):
    """Run the job over so many requests; `error_of` gives the error of a request ID, or None."""

    def run(requests, error_of, *, canary=None):
        if canary is not None:
            system.enqueue(canary)
            system.sync(make_fetcher=failing(lambda _: None))
            system.change(canary, state="cancelled")
        system.enqueue(*(f"id-{number}" for number in range(1, requests + 1)))
        settings = system.settings(workers=8, retry_delay=600)
        return system.sync(settings, make_fetcher=failing(error_of))

    return run


def failing(error_of):
    """Fetch without an API: answers with one leg, or fails with the error that the rule gives."""

    def fetch_one(request):
        timing = Timing(seconds=(0.0,))
        error = error_of(request.request_id)
        if error is not None:
            return Failed(request, timing, error)
        return Answered(request, timing, 200, b"{}", (LEG,), 1)

    return lambda _account, _permit: fetch_one


def number_of(request_id):
    return int(request_id.rpartition("-")[2])


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: error.reason)
@pytest.mark.parametrize("requests", [1, 2, 4, 5, 6, 200])
@pytest.mark.parametrize("canary", ["good-0", None])
def test_an_outage_is_found_by_a_few_calls_and_uses_no_attempt(system, run, error, requests, canary):
    summary = run(requests, lambda _: error, canary=canary)

    assert (summary.exit_code, summary.outcome) == (69, "api_down")
    assert summary.counts["released"] == summary.counts["claimed"] >= 1
    assert summary.counts["api_calls"] <= 12
    assert system.is_untouched()
    assert system.row(api_accounts)["breaker_reason"] == str(error)


@pytest.mark.parametrize("canary", ["good-0", None])
def test_refused_credentials_are_found_by_a_few_calls_and_use_no_attempt(system, run, canary):
    summary = run(200, lambda _: UNKNOWN, canary=canary)

    assert (summary.exit_code, summary.outcome) == (77, "credentials_refused")
    assert summary.counts["api_calls"] <= 6
    assert system.is_untouched()


@pytest.mark.parametrize("canary", ["good-0", None])
def test_where_one_request_in_three_fails_every_failure_counts_for_its_request(system, run, canary):
    down = OUTAGES[0]
    summary = run(200, lambda name: down if number_of(name) % 3 == 1 else None, canary=canary)
    rows = [row for row in system.rows(cdr_requests) if row["request_id"].startswith("id-")]

    assert summary.exit_code == 0
    assert Counter((row["state"], row["attempts"]) for row in rows) == {("done", 1): 133, ("pending", 1): 67}
    assert summary.counts["api_calls"] <= 220


def test_bad_requests_at_the_end_of_a_run_fail_by_themselves_where_the_canary_answers(system, run):
    summary = run(30, lambda name: None if name == "good-0" else UNKNOWN, canary="good-0")

    assert (summary.exit_code, summary.counts["retried"]) == (0, 30)
    assert summary.counts["api_calls"] <= 45
    assert system.row(api_accounts)["breaker_opened_at"] is None
