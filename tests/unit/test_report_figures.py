"""What calls come to: rates, averages, money and balances, from plain values."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.cdr.masking import masked_detail, masked_number, masked_text
from etl.db.streams import BalanceLeg, Call, Finding, RequestCount, Waiting
from etl.report.balances import follow_balances
from etl.report.coverage import coverage_of
from etl.report.figures import EXAMPLES, UNKNOWN_COUNTRY, Traffic, class_of, total
from etl.report.period import Period
from etl.report.words import class_label, gist_of, lasting, money, places_of, raw

NOON = datetime(2026, 11, 2, 12, tzinfo=UTC)  # a Monday
PERIOD = Period(NOON.replace(hour=0), NOON.replace(hour=0) + timedelta(days=2), UTC, "UTC")


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


def added_up(*calls, **options):
    traffic = Traffic(PERIOD, **options)
    traffic.add_calls(calls)
    return traffic


def test_rates_and_averages_are_over_what_they_are_named_after():
    total_ = added_up(call(), call(talk_seconds=50), call(**MISSED), call(**MISSED)).all

    assert (total_.calls, total_.answered, total_.talk_seconds) == (4, 2, 80)
    assert (total_.answer_rate, total_.average_talk_seconds) == (0.5, 40.0)


def test_of_no_calls_and_no_answered_ones_there_is_no_average():
    assert added_up().all.answer_rate is None
    assert added_up(call(**MISSED)).all.average_talk_seconds is None


def test_an_unknown_duration_is_counted_and_is_no_0_in_the_average_and_the_classes():
    traffic = added_up(call(), call(b_duration_seconds=None, talk_seconds=0))

    assert (traffic.all.answered, traffic.all.unmeasured) == (2, 1)
    assert traffic.all.average_talk_seconds == 30
    assert sum(traffic.classes) == 1


def test_money_that_was_not_sent_is_no_0():
    traffic = added_up(call(billed_rate_total=None, legs_without_rate=2))

    assert (traffic.all.billed, traffic.all.legs_without_rate) == (None, 2)
    assert money(None) == "–"
    assert raw(None) == ""


def test_sums_of_money_are_exact_however_many_digits_they_have():
    small, large = Decimal("0.000000000000000001"), Decimal(99999999999999999999)

    assert total(large, small, None) == Decimal("99999999999999999999.000000000000000001")
    assert money(total(large, small)) == "99,999,999,999,999,999,999.000000000000000001"


def test_accounts_and_destinations_stay_apart():
    traffic = added_up(
        call(),
        call(to_country=None, billed_rate_total=Decimal(3)),
        call(account="sales", billed_rate_total=Decimal(5)),
    )

    assert {name: tally.billed for name, tally in traffic.accounts.items()} == {
        "default": Decimal("3.78"),
        "sales": Decimal(5),
    }
    assert traffic.all.billed is traffic.days[NOON.date()].billed is None  # nobody knows in which currency
    assert list(traffic.destinations("default")) == [UNKNOWN_COUNTRY, "IN"]
    spend = traffic.spend_by_day("default", ["IN"])
    assert list(spend.values()) == [{"IN": Decimal("0.78"), "": Decimal(3)}, {"IN": None, "": None}]


def test_hours_and_weekdays_are_those_of_the_zone():
    kolkata = Period(PERIOD.since, PERIOD.until, ZoneInfo("Asia/Kolkata"), "Asia/Kolkata")
    traffic = Traffic(kolkata)
    traffic.add_calls([call(call_time=NOON.replace(hour=18, minute=30))])  # Tuesday, 0:00 in India

    assert dict(traffic.hours) == {(0, "answered"): 1}
    assert dict(traffic.week) == {(1, 0): 1}


def test_the_status_is_leg_bs_or_else_leg_as():
    traffic = added_up(
        call(b_status="busy"), call(b_leg_count=0, a_status="missed", b_status=None), call(b_status=None)
    )

    assert set(traffic.statuses(9)) == {"busy", "missed", "(none)"}


@pytest.mark.parametrize(
    ("seconds", "label"),
    [(0, "0–10 s"), (9, "0–10 s"), (10, "10–30 s"), (60, "1–2 min"), (3600, "60 min and more")],
)
def test_a_class_of_talk_times_holds_its_lower_bound(seconds, label):
    assert class_label(class_of(seconds)) == label


def test_half_answered_calls_are_counted_and_the_latest_are_shown():
    calls = [call(request_id=f"r{n:02}", call_time=NOON + timedelta(seconds=n), **MISSED) for n in range(50)]
    no_b = call(b_leg_count=0, b_status=None, b_to=None)
    traffic = added_up(*calls, call(), no_b, call(**MISSED, a_status="missed"))

    assert (traffic.connected, traffic.half_answered) == (51, 50)
    shown = [one.request_id for one in traffic.half_answered_examples[:EXAMPLES]]
    assert shown == [f"r{n}" for n in range(49, 39, -1)]


# --- Balances ----------------------------------------------------------------------------------------


def leg(after, seconds, balance, account="default"):
    amount = None if balance is None else Decimal(balance)
    return BalanceLeg(account, NOON + timedelta(seconds=after), seconds, amount)


def test_a_rise_by_a_hundred_between_two_legs_is_a_top_up():
    (balance,) = follow_balances([leg(0, 10, "5.5"), leg(60, 10, "105.5"), leg(120, 10, "104")], PERIOD)

    assert (balance.first, balance.lowest, balance.last) == (Decimal("5.5"), Decimal("5.5"), 104)
    assert (balance.top_ups, balance.topped_up, balance.small_rises) == (1, 100, 0)
    assert balance.largest_top_ups[0].at == NOON + timedelta(seconds=70)
    assert gist_of(balance) == "From 5.50 to 104.00, 5.50 at the lowest. Top-ups: 1, by 100.00 in all."


def test_a_smaller_rise_such_as_the_refund_of_a_call_is_none():
    rises = [leg(0, 1, "5"), leg(9, 1, "104.999"), leg(20, 1, "105.39"), leg(30, 1, "105")]
    (balance,) = follow_balances(rises, PERIOD)

    assert (balance.top_ups, balance.topped_up, balance.largest_top_ups) == (0, 0, [])
    assert (balance.small_rises, balance.risen) == (2, Decimal("100.39"))
    assert gist_of(balance).endswith(" at the lowest. Smaller rises: 2, by 100.39 in all.")


def test_legs_count_in_the_order_of_their_ends_so_that_a_long_call_is_no_top_up():
    (balance,) = follow_balances([leg(0, 600, "90"), leg(60, 10, "95"), leg(660, 1, "89")], PERIOD)

    assert balance.top_ups == 0
    assert (balance.first, balance.last) == (95, 89)


def test_legs_that_end_together_are_no_top_up():
    (balance,) = follow_balances([leg(0, 10, "9"), leg(0, 10, "10"), leg(4, 6, "8")], PERIOD)

    assert (balance.top_ups, balance.last) == (0, 8)


def test_a_balance_that_was_not_sent_is_counted_and_is_no_0():
    (balance,) = follow_balances([leg(0, 1, "5"), leg(9, 1, None), leg(20, None, "4")], PERIOD)

    assert (balance.legs, balance.legs_without_balance, balance.lowest, balance.top_ups) == (3, 1, 4, 0)


def test_each_account_has_a_balance_of_its_own_and_of_many_top_ups_the_largest_are_told():
    rises = [leg(2 * n, 1, str(100 * n * n)) for n in range(60)]
    one, two = follow_balances([*rises, leg(0, 1, "1", "sales")], PERIOD)

    assert (one.top_ups, two.account, two.top_ups) == (59, "sales", 0)
    assert [rise.after for rise in one.largest_top_ups] == [100 * n * n for n in range(40, 60)]
    assert one.topped_up == 100 * 59 * 59


# --- Coverage ----------------------------------------------------------------------------------------


DONE = [RequestCount("default", "done", 1)]


def coverage(counts=DONE, waiting=(), last=NOON, missing=0, dead=0):
    return coverage_of(PERIOD, counts, waiting, last_enqueued_at=last, missing_legs=missing, dead=dead)


def test_it_is_complete_until_the_first_request_that_waits():
    waiting = [Waiting("default", 3, NOON), Waiting("sales", 1, NOON - timedelta(hours=1))]
    told = coverage(waiting=waiting)

    assert told.complete_until == NOON - timedelta(hours=1)
    (sentence,) = told.sentences()
    assert sentence == (
        "Complete until 2026-11-02 11:00:00: every request enqueued before that is finished. "
        "4 requests wait, the oldest since then."
    )


def test_it_says_what_is_missing():
    counts = [
        RequestCount("default", state, 2) for state in ("done", "dead", "empty", "cancelled", "running")
    ]
    told = coverage(counts, missing=1, dead=2)

    assert told.accounts["default"] == {
        "asked": 10, "done": 2, "without_legs": 2, "dead": 2, "cancelled": 2, "waiting": 2,
    }  # fmt: skip
    first, *others = told.sentences()
    assert first.startswith("No request waits")
    assert [sentence.split()[0:2] for sentence in others] == [
        ["Of", "those"], ["For", "2"], ["2", "requests"], ["1", "leg"],
    ]  # fmt: skip


def test_what_died_outside_the_period_is_told_and_nothing_is_called_complete():
    told = coverage(dead=1).sentences()

    assert coverage().sentences()[0].startswith("Complete: no request waits")
    assert told[0].startswith("No request waits")
    assert told[1:] == [
        "1 request that was enqueued at other times is dead, and may have had calls in the period."
    ]


def test_of_an_empty_queue_nothing_is_claimed():
    assert coverage([], last=None).sentences() == [
        "No request was ever enqueued: nothing is known of any call."
    ]


def test_a_period_in_which_nothing_was_enqueued_says_so():
    assert coverage([]).sentences()[1:] == ["No request was enqueued in this period."]


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


@pytest.mark.parametrize(
    ("sentence", "shown"),
    [
        ("leg b to 9840012345 has no rate", "leg b to +91…45 has no rate"),
        ("leg a to agent raj has the balance -12345.678", "leg a to …aj has the balance -12345.678"),
        ("leg b calls 99 999 99, whose country is unknown", "leg b calls …99, whose country is unknown"),
        ("leg a to nobody is not in a later answer", "leg a to nobody is not in a later answer"),
        (
            "leg b to 9840012345 lasts 123456 s, longer than leg a",
            "leg b to +91…45 lasts 123456 s, longer than leg a",
        ),
        (
            "count says 3, and the last valid answer has 2 legs",
            "count says 3, and the last valid answer has 2 legs",
        ),
        ("leg 9840012345 to 1 has no rate", "leg +91…45 to … has no rate"),
    ],
)
def test_a_finding_is_masked_where_it_names_somebody(sentence, shown):
    assert masked_detail(sentence, "IN") == shown


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
def test_a_number_in_a_status_is_masked_however_it_is_written(status, shown):
    assert masked_text(status, "IN") == shown


MARKS = st.text(alphabet=" -._/()\u00a0\u200b", max_size=3)
AROUND = st.text(alphabet="ax :@+-._([", max_size=8)


@given(st.integers(10**6, 10**15 - 1).map(str), st.data(), AROUND, AROUND)
def test_no_run_of_seven_digits_of_a_number_outlives_the_masks(number, data, before, after):
    written = number[0] + "".join(data.draw(MARKS) + digit for digit in number[1:])
    leg = Finding("null_rate", "default", "r1", number, f"leg {number} to {written} has the rate -0.5")
    traffic = added_up(
        call(**MISSED | {"a_to": written, "b_to": number, "b_status": f"{before}{written}{after}"}),
        mask_number=lambda text: masked_number(text, "IN"),
        mask_text=lambda text: masked_text(text, "IN"),
        mask_detail=lambda text: masked_detail(text, "IN"),
    )
    traffic.add_findings([leg])
    told = [
        *(status for _, status in traffic.hours),
        *(word for one in traffic.half_answered_examples for word in (one.a_to, one.b_to, one.b_status)),
        *(word for check in traffic.checks.values() for word in check.examples[0][-2:]),
    ]

    runs = {number[at : at + 5] for at in range(len(number) - 4)}

    assert not [word for word in told for run in runs if run in re.sub(r"[^\d…]", "", word)]


def test_figures_never_hold_a_number_that_is_to_be_masked():
    traffic = added_up(
        call(**MISSED | {"b_status": "to 9840012345"}),
        mask_number=lambda text: masked_number(text, "IN"),
        mask_text=lambda text: masked_text(text, "IN"),
        mask_detail=lambda text: masked_detail(text, "IN"),
    )
    traffic.add_findings([Finding("null_rate", "default", "r1", "b", "leg b to 9840012345 has no rate")])

    assert "98400" not in repr(traffic)
    assert "91000" not in repr(traffic)


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

    assert [money(amount, places_of(column)) for amount in column] == shown
    assert [money(Decimal("0.1234"), 3)] == ["0.1234"]  # no digit is ever lost


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
def test_durations_are_told_in_words(seconds, shown):
    assert lasting(seconds) == shown
