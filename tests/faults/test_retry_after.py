"""Retry-After: a short pause is waited for, a long one binds every run, and anything else says nothing."""

from __future__ import annotations

from datetime import timedelta
from time import monotonic

import pytest
from sqlalchemy import update
from support.systems import numbered

from etl.db.tables import api_accounts, cdr_requests

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SOME_DAY = "Sat, 01 Jan 2000 10:00:00 GMT"  # by the API's clock, which need not be ours


def dated(retry_after, date=SOME_DAY):
    """A header with the answer's own date behind it, as the API's servers send it."""
    return f"{retry_after}\r\nDate: {date}"


LONG = {
    "an hour": ("3600", HOUR),
    "a day": ("86400", DAY),
    "for ever": ("9" * 40, DAY),
    "a date": (dated("Sat, 01 Jan 2000 11:00:00 GMT"), HOUR),
}
NOTHING = {
    "negative": "-5",
    "junk": "soon",
    "a date in the past": dated("Fri, 31 Dec 1999 10:00:00 GMT"),
}


@pytest.mark.fault(25)
@pytest.mark.parametrize("form", LONG)
def test_a_long_retry_after_pauses_every_run_and_uses_no_attempt(site, unexplained, form):
    retry_after, pause = LONG[form]
    site.fill(40)
    site.simulator.outage, site.simulator.retry_after = "rate_limited", retry_after
    before = site.now()
    first = site.sync(site.settings(tries=3))
    until, calls = site.account()["paused_until"], site.simulator.total_calls
    limited = site.rows(cdr_requests, last_error_kind="rate_limited")
    second = site.sync()

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert before + pause <= until <= before + pause + timedelta(minutes=1)
    assert {(row["state"], row["attempts"]) for row in site.rows(cdr_requests)} == {("pending", 0)}
    assert len(limited) == calls <= 3
    assert all(before + pause <= row["run_after"] <= site.now() + pause for row in limited)
    assert (second.counts["claimed"], site.simulator.total_calls) == (0, calls)
    assert not site.is_breaker_open()
    assert unexplained(first.counts) == 0
    complete(site)
    site.report(f"{form}: the account pauses, at most for a day; no attempt used; then all in one run")


def complete(site):
    """Let the pause be over and the API well, and one run finish everything."""
    site.simulator.outage = None
    past = site.now() - HOUR
    site.change(run_after=past)
    with site.engine.begin() as connection:
        connection.execute(update(api_accounts).values(paused_until=past))
    assert site.sync().exit_code == 0
    assert set(site.states()) == {"done"}


@pytest.mark.fault(25)
@pytest.mark.parametrize("form", NOTHING)
def test_a_retry_after_that_asks_for_no_pause_is_a_failure_like_any_other(site, form):
    site.simulator.retry_after = NOTHING[form]
    site.enqueue("answered-1", *numbered("rate_limited", 2), *numbered("answered-more", 8))
    summaries = site.work_off()
    row = site.request("rate_limited-0")

    assert site.states() == {"done": 9, "dead": 2}
    assert (row["last_error_kind"], row["attempts"], row["last_http_status"]) == ("rate_limited", 3, 429)
    assert {summary.exit_code for summary in summaries} <= {0, 65}
    assert site.account()["paused_until"] is None
    assert not site.is_breaker_open()
    site.report(f"{form}: the request's own failure; no other request waits")


@pytest.mark.fault(25)
def test_a_short_retry_after_is_waited_for_by_its_thread_alone(site):
    site.enqueue("flaky_429-1", *numbered("answered", 20))  # asks for one second
    began = monotonic()
    summary = site.sync(site.settings(tries=2))
    took = monotonic() - began

    assert (summary.exit_code, site.states()) == (0, {"done": 21})
    assert took >= 1
    assert (site.request("flaky_429-1")["attempts"], site.simulator.calls["flaky_429-1"]) == (1, 2)
    assert site.account()["paused_until"] is None
    site.report("one second: waited for inside one claim, and good at the second try")
