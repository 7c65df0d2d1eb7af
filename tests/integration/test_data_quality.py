"""`data_quality`: each check finds what it looks for, and nothing else."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from support.builders import NOON, request_row, store
from support.builders import leg_row as leg
from support.expected import rows_of

from etl.db.tables import call_legs, cdr_requests
from etl.db.views import data_quality

SEEN = {"first_seen_at": NOON}
JUST, MORE = timedelta(minutes=5), timedelta(minutes=5, seconds=1)
A = leg("one", "a", **SEEN)


def request(**values):
    return request_row("one", enqueued_at=NOON, **values)


# What is stored, and what is found: check, leg, number and detail.
CASES = {
    "count_mismatch, of the last valid answer": (
        [],
        [request(api_count=3, leg_count=2)],
        [("count_mismatch", None, None, "count is 3, but the last valid answer has 2 legs")],
    ),
    "no count_mismatch where both agree": ([], [request(api_count=2, leg_count=2)], []),
    "no count_mismatch where no count came": ([], [request(api_count=None, leg_count=2)], []),
    "missing_leg, and nothing else about it": (
        [{**A, "missing_since": NOON, "rate": None, "balance": Decimal(-1), "to_country": None}],
        [],
        [("missing_leg", "a", "9100000000", "a later answer does not hold this leg")],
    ),
    "b_longer_than_a, for each such b leg": (
        [
            A,
            leg("one", duration_seconds=11, **SEEN),
            leg("one", duration_seconds=12, occurrence=2, **SEEN),
            leg("one", duration_seconds=10, occurrence=3, **SEEN),
        ],
        [],
        [
            ("b_longer_than_a", "b", "9100000000", "the leg lasts 11 s, longer than leg a"),
            ("b_longer_than_a", "b", "9100000000", "the leg lasts 12 s, longer than leg a"),
        ],
    ),
    "no b_longer_than_a where one a leg is as long": (
        [
            A,
            leg("one", "a", duration_seconds=20, occurrence=2, **SEEN),
            leg("one", duration_seconds=20, **SEEN),
        ],
        [],
        [],
    ),
    "no b_longer_than_a without an a leg, or a duration of it, or where it is missing": (
        [
            leg("one", duration_seconds=99, **SEEN),
            leg("one", "a", duration_seconds=None, **SEEN),
            leg("one", "a", account="sales", **SEEN),
            leg("two", "a", **SEEN),
        ],
        [],
        [],
    ),
    "unknown_country of a number": (
        [leg("one", to_number="123456789012", to_country=None, **SEEN)],
        [],
        [("unknown_country", "b", "123456789012", "the country of the number called is unknown")],
    ),
    "unknown_country of a number that a person wrote": (
        [leg("one", to_number="+99 (9) 123-4567", to_country=None, **SEEN)],
        [],
        [("unknown_country", "b", "+99 (9) 123-4567", "the country of the number called is unknown")],
    ),
    "no unknown_country of an agent, an extension, words or without a number": (
        [
            leg("one", to_number=number, to_country=None, **SEEN)
            for number in ("209_1111113", "101", "", "anonymous", "sip:1234567@example.org", "-------")
        ],
        [],
        [],
    ),
    "null_rate and null_balance": (
        [leg("one", rate=None, balance=None, to_number="", **SEEN)],
        [],
        [
            ("null_balance", "b", None, "the leg has no balance"),
            ("null_rate", "b", None, "the leg has no rate"),
        ],
    ),
    "negative_money, each amount": (
        [leg("one", rate=Decimal("-0.5"), balance=Decimal(-1200), **SEEN)],
        [],
        [
            ("negative_money", "b", "9100000000", "the leg has the balance -1200"),
            ("negative_money", "b", "9100000000", "the leg has the rate -0.5"),
        ],
    ),
    "no negative_money at zero": ([leg("one", rate=Decimal(0), balance=Decimal(0), **SEEN)], [], []),
    "future_time after 5 minutes": (
        [leg("one", call_time=NOON + MORE, **SEEN)],
        [],
        [
            (
                "future_time",
                "b",
                "9100000000",
                "the leg has a time more than 5 minutes after it was first stored",
            )
        ],
    ),
    "no future_time within 5 minutes": ([leg("one", call_time=NOON + JUST, **SEEN)], [], []),
}


def in_account(number, row):
    account = row.get("account", "default")
    return {**row, "account": f"case {number}" if account == "default" else account}


@pytest.fixture(scope="module")
def filled(lasting_system):
    """Every case in an account of its own, beside simulated calls."""
    system = lasting_system
    system.enqueue(*(f"{scenario}-{n}" for scenario in SIMULATED for n in range(10)))
    system.sync(system.settings(workers=8))
    for number, (legs, requests, _) in enumerate(CASES.values()):
        store(system.engine, *([in_account(number, each) for each in rows] for rows in (legs, requests)))
    return system


SIMULATED = ("answered", "missed", "several_b", "twins", "null_money", "text_numbers", "count_mismatch")


@pytest.mark.parametrize("case", CASES)
def test_a_check_finds_what_it_looks_for(filled, case):
    account = f"case {list(CASES).index(case)}"

    found = rows_of(filled.engine, data_quality, data_quality.c.account == account)

    assert sorted((name, *rest) for name, _, _, *rest in found) == CASES[case][2]
    assert {request_id for _, _, request_id, *_ in found} <= {"one"}


def test_no_detail_holds_a_number(filled):
    numbers = {row["to_number"] for row in filled.rows(call_legs)} - {""}

    details = {finding[-1] for finding in rows_of(filled.engine, data_quality)}

    assert details
    assert not [detail for detail in details for number in numbers if number in detail]


def test_the_findings_on_simulated_calls_match_their_rows(filled):
    expected = Counter()
    for each in filled.rows(cdr_requests, account="default"):
        key = ("default", each["request_id"])
        expected["count_mismatch", *key, None] += each["api_count"] not in (None, each["leg_count"])
    legs = filled.rows(call_legs, account="default")
    for each in legs:
        key = (each["account"], each["request_id"], each["leg"])
        of_a = [
            other["duration_seconds"]
            for other in legs
            if other["request_id"] == each["request_id"] and other["leg"] == "a"
        ]
        is_number = each["to_number"].isdigit() and len(each["to_number"]) >= 7
        expected["null_rate", *key] += each["rate"] is None
        expected["null_balance", *key] += each["balance"] is None
        expected["b_longer_than_a", *key] += (
            each["leg"] == "b" and bool(of_a) and each["duration_seconds"] > max(of_a)
        )
        expected["unknown_country", *key] += each["to_country"] is None and is_number
    found = rows_of(filled.engine, data_quality, data_quality.c.account == "default")

    assert Counter(row[:4] for row in found) == +expected
    assert {"count_mismatch", "null_rate", "null_balance"} <= {row[0] for row in found}


def test_no_call_is_in_the_future_when_the_clock_is_right(filled):
    this_year = datetime.fromisoformat("2026-01-01").replace(tzinfo=UTC)

    assert all(row["first_seen_at"] > this_year for row in filled.rows(call_legs, account="default"))
    assert not rows_of(
        filled.engine,
        data_quality,
        data_quality.c.check_name == "future_time",
        data_quality.c.account == "default",
    )
