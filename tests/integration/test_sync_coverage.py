"""`sync_coverage`: what became of each day's requests, counted once more in Python."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta

import pytest
from support.builders import NOON, request_row, store
from support.builders import leg_row as leg
from support.expected import MIDNIGHT, rows_of

from etl.db.states import STATES
from etl.db.tables import call_legs, cdr_requests
from etl.db.views import sync_coverage

DAYS = {
    "early": NOON,
    "last": MIDNIGHT - timedelta(microseconds=1),
    "first": MIDNIGHT,
}


def request(state, day, account):
    return request_row(f"{state} {day}", state, account=account, enqueued_at=DAYS[day])


ALL = [(state, day) for day in DAYS for state in STATES]
REQUESTS = [
    *(request(state, day, "sales") for state, day in ALL),
    *(request(state, day, "support") for state, day in ALL[::2]),
]
LEGS = [
    leg("done early", account="sales"),
    leg("done early", "a", account="sales", missing_since=NOON),
    leg("done early", account="support"),
    leg("done early", account="support", occurrence=2),
    leg("pending first", account="sales"),
    leg("dead last", account="sales", call_time=NOON - timedelta(days=100)),
    leg("asked for by nobody", account="sales"),
]


@pytest.fixture(scope="module")
def filled(lasting_system):
    system = lasting_system
    system.enqueue(*(f"{scenario}-{n}" for scenario in ("answered", "missed", "several_b") for n in range(5)))
    system.sync(system.settings(workers=8))
    store(system.engine, LEGS, REQUESTS)
    return system


def counted(requests, legs):
    """The rows of the view, from all rows of the tables."""
    leg_counts, days = defaultdict(int), defaultdict(list)
    for each in legs:
        leg_counts[each["account"], each["request_id"]] += each["missing_since"] is None
    for each in requests:
        days[each["enqueued_at"].date(), each["account"]].append(each)
    rows = set()
    for (day, account), group in days.items():
        states = [each["state"] for each in group]
        ended = [states.count(state) for state in ("done", "empty", "dead", "cancelled")]
        waiting = len(group) - sum(ended)
        stored = sum(leg_counts[account, each["request_id"]] for each in group)
        rows.add((day, account, len(group), *ended, waiting, stored))
    return rows


def test_each_day_counts_its_requests_by_outcome_and_their_legs(filled):
    found = rows_of(filled.engine, sync_coverage)

    assert set(found) == counted(filled.rows(cdr_requests), filled.rows(call_legs))
    assert len(found) == len(set(found)) == 5  # two accounts on two days, and today's


def test_the_day_is_that_of_enqueueing_to_the_microsecond(filled):
    (found,) = rows_of(
        filled.engine,
        sync_coverage,
        sync_coverage.c.day == MIDNIGHT.date(),
        sync_coverage.c.account == "sales",
    )

    assert found == (MIDNIGHT.date(), "sales", 6, 1, 1, 1, 1, 2, 1)
