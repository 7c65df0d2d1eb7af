"""The figures of a report: rates, averages, money, coverage, balances and masks, from plain values."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.cdr.masking import masked_number, masked_text
from etl.db.streams import BalanceLeg, Call, Finding, RequestCount, Waiting
from etl.report.figures import (
    UNKNOWN_COUNTRY,
    Mask,
    count_findings,
    coverage_of,
    follow_balances,
    tally_calls,
    total,
)
from etl.report.period import Period
from etl.report.words import (
    TALK_TIME_LABELS,
    balance_text,
    coverage_sentences,
    decimals_of,
    duration,
    money,
    raw,
)

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)  # a Monday
PERIOD = Period(NOON.replace(hour=0), NOON.replace(hour=0) + timedelta(days=2), UTC)


def call(**changes):
    values = {
        "account": "default",
        "request_id": "r1",
        "call_time": NOON,
        "b_leg_count": 1,
        "leg_count": 2,
        "a_to": "9100000000",
        "b_to": "9840012345",
        "a_status": "answered",
        "b_status": "answered",
        "a_duration_seconds": 40,
        "b_duration_seconds": 30,
        "to_country": "IN",
        "answered": True,
        "talk_seconds": 30,
        "billed_rate_total": Decimal("0.78"),
        "legs_without_rate": 0,
    }
    return Call(**values | changes)


MISSED = {"b_status": "missed", "answered": False, "talk_seconds": 0, "b_duration_seconds": 0}


def tallied(*calls, **options):
    return tally_calls(calls, PERIOD, **options)


def test_asr_is_over_all_calls_and_acd_over_answered_ones():
    total_ = tallied(call(), call(talk_seconds=50), call(**MISSED), call(**MISSED)).total

    assert (total_.calls, total_.answered_calls, total_.talk_seconds) == (4, 2, 80)
    assert (total_.answer_rate, total_.avg_talk_seconds) == (0.5, 40.0)


def test_without_calls_there_is_no_asr_and_without_answered_ones_no_acd():
    assert tallied().total.answer_rate is None
    assert tallied(call(**MISSED)).total.avg_talk_seconds is None


def test_an_unknown_duration_is_counted_but_not_as_0_in_acd_and_talk_times():
    traffic = tallied(call(), call(b_duration_seconds=None, talk_seconds=0))

    assert (traffic.total.answered_calls, traffic.total.answered_without_duration) == (2, 1)
    assert traffic.total.avg_talk_seconds == 30
    assert sum(traffic.talk_times) == 1


def test_money_that_was_not_sent_is_unknown_and_not_0():
    traffic = tallied(call(billed_rate_total=None, legs_without_rate=2))

    assert (traffic.accounts["default"].billed_rate_total, traffic.total.legs_without_rate) == (None, 2)
    assert money(None) == "–"
    assert raw(None) == ""


def test_sums_of_money_are_exact_with_any_number_of_digits():
    small, large = Decimal("0.000000000000000001"), Decimal(99999999999999999999)

    assert total(large, small, None) == Decimal("99999999999999999999.000000000000000001")
    assert money(total(large, small)) == "99,999,999,999,999,999,999.000000000000000001"


def test_accounts_and_destinations_stay_apart():
    traffic = tallied(
        call(),
        call(to_country=None, billed_rate_total=Decimal(3)),
        call(account="sales", billed_rate_total=Decimal(5)),
    )

    assert {name: tally.billed_rate_total for name, tally in traffic.accounts.items()} == {
        "default": Decimal("3.78"),
        "sales": Decimal(5),
    }
    # Accounts can have different currencies.
    assert traffic.total.billed_rate_total is traffic.days[NOON.date()].billed_rate_total is None
    assert list(traffic.destinations("default")) == [UNKNOWN_COUNTRY, "IN"]
    spend = traffic.spend_by_day("default", ["IN"])
    assert list(spend.values()) == [{"IN": Decimal("0.78"), "": Decimal(3)}, {"IN": None, "": None}]


def test_hours_and_weekdays_are_those_of_the_zone():
    kolkata = Period(PERIOD.since, PERIOD.until, ZoneInfo("Asia/Kolkata"))
    traffic = tally_calls(
        [call(call_time=NOON.replace(hour=18, minute=30))], kolkata
    )  # Tuesday, 0:00 in India

    assert dict(traffic.hours) == {(0, "answered"): 1}
    assert dict(traffic.week) == {(1, 0): 1}


def test_the_status_is_that_of_leg_b_or_without_one_of_leg_a():
    traffic = tallied(
        call(b_status="busy"), call(b_leg_count=0, a_status="missed", b_status=None), call(b_status=None)
    )

    assert set(traffic.statuses) == {"busy", "missed", "(none)"}


@pytest.mark.parametrize(
    ("seconds", "label"),
    [(0, "0–10 s"), (9, "0–10 s"), (10, "10–30 s"), (60, "1–2 min"), (3600, "60 min and more")],
)
def test_a_range_of_talk_times_includes_its_lower_bound(seconds, label):
    counts = tallied(call(talk_seconds=seconds)).talk_times

    assert dict(zip(TALK_TIME_LABELS, counts, strict=True))[label] == 1


def test_half_answered_calls_are_counted_and_the_latest_are_shown():
    calls = [call(request_id=f"r{n:02}", call_time=NOON + timedelta(seconds=n), **MISSED) for n in range(50)]
    no_b = call(b_leg_count=0, b_status=None, b_to=None)
    traffic = tallied(*calls, call(), no_b, call(**MISSED, a_status="missed"))

    assert (traffic.a_answered, traffic.half_answered) == (51, 50)
    shown = [one.request_id for one in traffic.half_answered_examples]
    assert shown == [f"r{n}" for n in range(49, 39, -1)]


# --- Balances ----------------------------------------------------------------------------------------


def leg(after, seconds, balance, account="default"):
    amount = None if balance is None else Decimal(balance)
    return BalanceLeg(account, NOON + timedelta(seconds=after), seconds, amount)


def test_a_rise_of_a_hundred_between_two_legs_is_a_top_up():
    (balance,) = follow_balances([leg(0, 10, "5.5"), leg(60, 10, "105.5"), leg(120, 10, "104")], PERIOD)

    assert (balance.first, balance.lowest, balance.last) == (Decimal("5.5"), Decimal("5.5"), 104)
    assert (balance.top_ups, balance.topped_up, balance.small_rises) == (1, 100, 0)
    assert balance.largest_top_ups[0].at == NOON + timedelta(seconds=70)
    assert balance_text(balance) == "Start 5.50, end 104.00, lowest 5.50. 1 top-up, 100.00 in total."


def test_a_smaller_rise_such_as_the_refund_of_a_call_is_not_a_top_up():
    rises = [leg(0, 1, "5"), leg(9, 1, "104.999"), leg(20, 1, "105.39"), leg(30, 1, "105")]
    (balance,) = follow_balances(rises, PERIOD)

    assert (balance.top_ups, balance.topped_up, balance.largest_top_ups) == (0, 0, [])
    assert (balance.small_rises, balance.risen) == (2, Decimal("100.39"))
    assert balance_text(balance).endswith(", lowest 5.00. 2 smaller rises, 100.39 in total.")


def test_legs_are_ordered_by_their_ends_so_a_long_call_is_not_a_top_up():
    (balance,) = follow_balances([leg(0, 600, "90"), leg(60, 10, "95"), leg(660, 1, "89")], PERIOD)

    assert balance.top_ups == 0
    assert (balance.first, balance.last) == (95, 89)


def test_legs_that_end_together_are_not_a_top_up():
    (balance,) = follow_balances([leg(0, 10, "9"), leg(0, 10, "10"), leg(4, 6, "8")], PERIOD)

    assert (balance.top_ups, balance.last) == (0, 8)


def test_a_balance_that_was_not_sent_is_counted_but_not_as_0():
    (balance,) = follow_balances([leg(0, 1, "5"), leg(9, 1, None), leg(20, None, "4")], PERIOD)

    assert (balance.legs, balance.legs_without_balance, balance.lowest, balance.top_ups) == (3, 1, 4, 0)


def test_each_account_has_its_own_balance_and_of_many_top_ups_the_largest_are_listed():
    rises = [leg(2 * n, 1, str(100 * n * n)) for n in range(60)]
    one, two = follow_balances([*rises, leg(0, 1, "1", "sales")], PERIOD)

    assert (one.top_ups, two.account, two.top_ups) == (59, "sales", 0)
    assert [rise.after for rise in one.largest_top_ups] == [100 * n * n for n in range(40, 60)]
    assert one.topped_up == 100 * 59 * 59


# --- Coverage ----------------------------------------------------------------------------------------


DONE = [RequestCount("default", "done", 1)]


def coverage(counts=DONE, waiting=(), last=NOON, missing=0, dead=0):
    return coverage_of(PERIOD, counts, waiting, last_enqueued_at=last, missing_legs=missing, dead=dead)


def sentences(*args, **options):
    return list(coverage_sentences(coverage(*args, **options)))


def test_data_is_complete_until_the_first_request_that_waits():
    waiting = [Waiting("default", 3, NOON), Waiting("sales", 1, NOON - timedelta(hours=1))]

    assert coverage(waiting=waiting).complete_until == NOON - timedelta(hours=1)
    (sentence,) = sentences(waiting=waiting)
    assert sentence == (
        "Complete until 2026-11-02 11:00:00: all requests enqueued before then are finished. "
        "4 requests are still waiting."
    )


def test_coverage_says_what_is_missing():
    counts = [
        RequestCount("default", state, 2) for state in ("done", "dead", "empty", "cancelled", "running")
    ]

    assert coverage(counts).accounts["default"] == {
        "asked": 10, "done": 2, "without_legs": 2, "dead": 2, "cancelled": 2, "waiting": 2,
    }  # fmt: skip
    first, dead, *others = sentences(counts, missing=1, dead=2)
    assert first == "All requests are finished (latest enqueued 2026-11-02 12:00:00)."
    assert dead == (
        "2 requests of this period are dead, so calls may be missing. "
        "`cdr-sync requests list --state dead` shows the reasons."
    )
    assert others == [
        "The API returned no call for 2 requests.",
        "2 requests were cancelled.",
        "1 leg is left out because a later answer no longer contained it.",
    ]


def test_with_dead_requests_outside_the_period_it_is_not_called_complete():
    assert sentences() == ["Complete: all requests are finished (latest enqueued 2026-11-02 12:00:00)."]
    assert sentences(dead=1) == [
        "All requests are finished (latest enqueued 2026-11-02 12:00:00).",
        "1 request that was enqueued at another time is dead and may also have had calls in this period.",
    ]


def test_an_empty_queue_is_not_called_complete():
    assert sentences([], last=None) == ["No request was ever enqueued, so nothing is known about any call."]


def test_a_period_in_which_nothing_was_enqueued_says_so():
    assert sentences([])[1:] == ["No request was enqueued in this period."]


# --- Words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        ("4471000000", "+91…00"),
        ("919840012345", "+91…45"),
        ("14155550123", "+1…23"),
        ("209_1111113", "…13"),
        ("agent_raj", "…aj"),
        ("12", "…"),
        ("", ""),
    ],
)
def test_a_masked_number_keeps_its_country_and_two_digits(number, shown):
    assert masked_number(number, "IN") == shown


def test_a_finding_is_masked_in_its_number_and_leg_and_its_detail_stays():
    detail = "the leg has the balance -12345.678"
    findings = [
        Finding("negative_money", "default", "r1", "9840012345", "9840012345", detail),
        Finding("count_mismatch", "default", "r1", None, None, "count is 3"),
    ]
    checks = count_findings(findings, mask=MASK)

    shown = {name: check.examples[0][-3:] for name, check in checks.items()}
    assert shown == {"count_mismatch": ("", "", "count is 3"), "negative_money": ("+91…45", "+91…45", detail)}


@pytest.mark.parametrize(
    ("status", "shown"),
    [
        ("forwarded to +91 98400-12345", "forwarded to +91…45"),
        ("to:+919840012345", "to:+91…45"),
        ("tel-919840012345", "tel-+91…45"),
        ("sip:919840012345@host", "sip:+91…45@host"),
        ("x9840012345y", "x+91…45y"),
        ("98400.12345", "+91…45"),
        ("(98400)  12/34/5", "(+91…45"),
        ("\u0669\u0668\u0664\u0660\u0660\u0661\u0662", "…\u0661\u0662"),
        ("of agent 209_1111113.", "of agent …13."),
        ("leg b to x has a 9840012345", "leg b to x has a +91…45"),
        ("it rang for 1234 s", "it rang for 1234 s"),
        ("SIP/2.0 486 Busy Here", "SIP/2.0 486 Busy Here"),
    ],
)
def test_a_number_in_a_status_is_masked_in_any_notation(status, shown):
    assert masked_text(status, "IN") == shown


MASK = Mask(
    number=lambda text: masked_number(text, "IN"),
    text=lambda text: masked_text(text, "IN"),
)
MARKS = st.text(alphabet=" -._/()\u00a0\u200b", max_size=3)
AROUND = st.text(alphabet="ax :@+-._([", max_size=8)


@given(st.integers(10**6, 10**15 - 1).map(str), st.data(), AROUND, AROUND)
def test_no_five_digits_of_a_number_pass_the_masks(number, data, before, after):
    written = number[0] + "".join(data.draw(MARKS) + digit for digit in number[1:])
    finding = Finding("null_rate", "default", "r1", number, written, "the leg has the rate -0.5")
    status = f"{before}{written}{after}"
    traffic = tallied(call(**MISSED | {"a_to": written, "b_to": number, "b_status": status}), mask=MASK)
    checks = count_findings([finding], mask=MASK)
    shown = [
        *(status for _, status in traffic.hours),
        *(word for one in traffic.half_answered_examples for word in (one.a_to, one.b_to, one.b_status)),
        *(word for check in checks.values() for word in check.examples[0][-3:]),
    ]

    runs = {number[at : at + 5] for at in range(len(number) - 4)}

    assert not [word for word in shown for run in runs if run in re.sub(r"[^\d…]", "", word)]


def test_figures_contain_no_number_that_is_to_be_masked():
    traffic = tallied(call(**MISSED | {"b_status": "to 9840012345"}), mask=MASK)
    finding = Finding("null_rate", "default", "r1", "b", "9840012345", "the leg has no rate")
    figures = repr((traffic, count_findings([finding], mask=MASK)))

    assert "98400" not in figures
    assert "91000" not in figures


@pytest.mark.parametrize(
    ("amounts", "shown"),
    [
        (("1234.5", "0.39"), ["1,234.50", "0.39"]),
        (("2.405", "1.2", None, "0"), ["2.405", "1.200", "–", "0.000"]),
        (("1E+3", "-0.5000"), ["1,000.00", "-0.50"]),
    ],
)
def test_amounts_of_a_column_have_the_same_number_of_decimals(amounts, shown):
    column = [None if amount is None else Decimal(amount) for amount in amounts]

    assert [money(amount, decimals_of(column)) for amount in column] == shown
    assert [money(Decimal("0.1234"), 3)] == ["0.1234"]  # no digit is lost


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0, "0 s"),
        (45.25, "45.2 s"),
        (125, "2 min 05 s"),
        (59.9, "1 min 00 s"),
        (3725, "1 h 02 min"),
    ],
)
def test_durations_have_hours_minutes_and_seconds(seconds, shown):
    assert duration(seconds) == shown
