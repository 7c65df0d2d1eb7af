"""`rate_evidence`: how far the balance fell from leg to leg, beside what `rate` could mean."""

from __future__ import annotations

from collections import defaultdict
from datetime import timedelta
from decimal import Decimal

import pytest
from support.builders import NOON, store
from support.builders import leg_row as leg
from support.expected import present, rows_of

from etl.db.tables import call_legs
from etl.db.views import rate_evidence

MIX = ("answered", "missed", "several_b", "twins", "null_money")


def charged(letter, balance, seconds, rate="0.39", **changes):
    return leg(
        changes.pop("request_id", "one"),
        letter,
        balance=balance and Decimal(balance),
        rate=rate and Decimal(rate),
        duration_seconds=seconds,
        **changes,
    )


BY_HAND = {
    "the vendor's sample": [charged("b", "1135.14", 4), charged("a", "1134.75", 10, to_number="9200000000")],
    "a price a minute": [charged("b", "100", 61, "0.5"), charged("a", "98.5", 121, "0.5")],
    "equal balances": [charged("a", "100", 5, "0"), charged("b", "100", 5, "0")],
    "a leg without a balance": [
        charged("b", "10", 60),
        charged("a", None, 60),
        charged("a", "9", 60, to_number="1"),
    ],
    "a leg without a rate or duration": [charged("b", "10", 60), charged("a", "9", None, None)],
    "a leg that went missing": [
        charged("b", "10", 60),
        charged("b", "9.5", 60, occurrence=2, missing_since=NOON),
        charged("a", "9", 60),
    ],
    "many, of unlike times": [
        charged("b", str(50 - n), n * 30, call_time=NOON - timedelta(seconds=n), to_number=str(n % 3))
        for n in range(9)
    ],
}


def evidence(legs):
    """The rows of the view in words, from rows of `call_legs`."""
    of_request = defaultdict(list)
    for each in present(legs):
        of_request[each["account"], each["request_id"]].append(each)
    rows = {}
    for its in of_request.values():
        known = [each for each in its if each["balance"] is not None]
        known.sort(
            key=lambda each: (
                -each["balance"],
                -ord(each["leg"]),
                each["call_time"],
                each["to_number"],
                each["occurrence"],
            )
        )
        for before, each in zip([None, *known], known, strict=False):
            rows[place(each)] = (
                (before["balance"], before["balance"] - each["balance"]) if before else (None, None)
            )
        for each in its:
            rows.setdefault(place(each), None)
            seconds, rate = each["duration_seconds"], each["rate"]
            minutes = None if seconds is None else -(-seconds // 60)
            product = None if minutes is None or rate is None else rate * minutes
            rows[place(each)] = (rows[place(each)], each["balance"], rate, minutes, product)
    return rows


def place(each):
    names = ("account", "request_id", "leg", "to_number", "call_time", "occurrence")
    return tuple(each[name] for name in names)


@pytest.fixture(scope="module")
def filled(lasting_system):
    system = lasting_system
    system.enqueue(*(f"{scenario}-{number}" for scenario in MIX for number in range(10)))
    system.sync(system.settings(workers=8))
    for name, legs in BY_HAND.items():
        store(system.engine, [{**each, "request_id": name} for each in legs])
    return system


def test_each_leg_has_the_fall_of_the_balance(filled):
    found = {}
    for row in rows_of(filled.engine, rate_evidence):
        *key, _status, seconds, before, balance, fall, rate, minutes, product = row
        assert (
            seconds is None or minutes is None or 60 * (minutes - 1) < seconds <= 60 * minutes or seconds == 0
        )
        known = None if balance is None else (before, fall)
        found[tuple(key)] = (known, balance, rate, minutes, product)

    assert found == evidence(filled.rows(call_legs))


def said(filled, request_id):
    column = rate_evidence.c
    rows = rows_of(filled.engine, rate_evidence, column.request_id == request_id, column.account == "default")
    names = [each.name for each in rate_evidence.columns]
    chosen = ("leg", "balance_fall", "rate", "rate_times_minutes")
    return sorted(tuple(dict(zip(names, row, strict=True))[name] for name in chosen) for row in rows)


def test_the_vendors_sample_fits_both_meanings_of_rate(filled):
    rate = Decimal("0.39")

    assert said(filled, "the vendor's sample") == [("a", rate, rate, rate), ("b", None, rate, rate)]


def test_a_call_of_several_minutes_distinguishes_the_meanings(filled):
    assert said(filled, "a price a minute") == [
        ("a", Decimal("1.5"), Decimal("0.5"), Decimal("1.5")),
        ("b", None, Decimal("0.5"), Decimal(1)),
    ]


def test_the_results_are_null_if_an_operand_is_null(filled):
    assert said(filled, "a leg without a rate or duration") == [
        ("a", Decimal(1), None, None),
        ("b", None, Decimal("0.39"), Decimal("0.39")),
    ]
