"""The report where clocks change: no call is lost, counted twice or shown on a day that does not exist."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_report_figures import call

from etl.db.streams import BalanceLeg
from etl.report.figures import follow_balances, tally_calls
from etl.report.period import Period, choose_period

# Some skip midnight or come back to the day before, one changes by half an hour, and one has skipped a day.
ZONES = tuple(
    map(
        ZoneInfo,
        (
            "Africa/Cairo",
            "America/Havana",
            "America/Santiago",
            "America/St_Johns",
            "Asia/Beirut",
            "Australia/Lord_Howe",
            "Europe/Berlin",
            "Pacific/Apia",
        ),
    )
)
BEGIN, DAY, HOUR = datetime(2005, 1, 1, tzinfo=UTC), timedelta(days=1), timedelta(hours=1)
NIGHT = datetime(2026, 10, 25, tzinfo=UTC)  # in Berlin 2:00, and an hour later 2:00 again
BERLIN, CAIRO, ST_JOHNS = ZONES[6], ZONES[0], ZONES[3]


def changes_of(zone):
    """The UTC days, in twenty-two years, on which a zone's clocks change."""
    days = [BEGIN + n * DAY for n in range(22 * 365)]
    return [
        day for day in days if day.astimezone(zone).utcoffset() != (day + DAY).astimezone(zone).utcoffset()
    ]


CHANGES = {zone: changes_of(zone) for zone in ZONES}
zones = st.sampled_from(ZONES)
near_a_change = zones.flatmap(
    lambda zone: st.tuples(
        st.just(zone),
        st.builds(
            lambda day, after: day + after,
            st.sampled_from(CHANGES[zone]),
            st.timedeltas(timedelta(days=-1), timedelta(days=2)),
        ),
    )
)
lengths = st.one_of(
    st.timedeltas(timedelta.resolution, timedelta(hours=3)),
    st.timedeltas(timedelta(hours=1), timedelta(days=3)),
    st.timedeltas(timedelta(days=95), timedelta(days=400)),
)


def period_of(zone, begin, length):
    return Period(begin.astimezone(zone), (begin + length).astimezone(zone), zone)


@given(near_a_change, lengths)
@example((BERLIN, NIGHT), HOUR)  # by the wall clock it lasts no time at all
@example((BERLIN, NIGHT + HOUR / 2), HOUR / 2)  # by the wall clock it ends before it begins
@example((ST_JOHNS, datetime(2010, 11, 7, 2, 30, 30, tzinfo=UTC)), HOUR)  # 0:00:30, and then the day before
def test_every_call_of_a_period_is_on_a_day_that_is_shown(near, length):
    zone, begin = near
    period = period_of(zone, begin, length)
    instants = [begin + length * n / 24 for n in range(24)] + [begin + length - timedelta.resolution]
    calls = (call(call_time=instant, billed_rate_total=Decimal(1)) for instant in instants)
    traffic = tally_calls(calls, period)
    days, shown = list(period.days()), list(traffic.days)
    spend = traffic.spend_by_day("default", ["IN"])

    assert period.until.astimezone(UTC) - period.since.astimezone(UTC) == length
    assert days == sorted(set(days))
    assert {period.day_of(instants[0]), period.day_of(instants[-1])} <= set(days)
    assert shown == sorted(set(shown)) == list(spend)
    assert sum(of_day["IN"] or 0 for of_day in spend.values()) == len(instants)
    assert period.is_by_month == (len(set(days)) < length / DAY - 1)


@given(near_a_change, lengths)
@example((BERLIN, NIGHT), HOUR)
@example((BERLIN, NIGHT), timedelta.resolution)
def test_a_balance_curve_goes_forward_in_time_through_a_change(near, length):
    zone, begin = near
    ends = [begin + length * n / 50 for n in range(50)]
    (balance,) = follow_balances(
        [BalanceLeg("default", at, 0, Decimal(100 - n)) for n, at in enumerate(ends)],
        period_of(zone, begin, length),
    )
    curve = list(balance.curve.values())

    assert [at.astimezone(UTC) for at, _ in curve] == sorted({at.astimezone(UTC) for at, _ in curve})
    assert curve[-1][1] == balance.last == 51
    assert balance.top_ups == 0
    assert len(curve) <= 361


@given(near_a_change)
@example((CAIRO, datetime(2026, 4, 24, 12, tzinfo=UTC)))  # whose midnight was skipped
def test_the_default_period_has_full_days(near):
    zone, now = near
    period = choose_period(None, None, zone=zone, now=now)

    for edge in (period.since, period.until):
        before = (edge.astimezone(UTC) - timedelta.resolution).astimezone(zone)
        assert before.date() < edge.date()
    assert period.until.astimezone(UTC) <= now
    assert period.until.date() == now.astimezone(zone).date()
    assert (period.until.date() - period.since.date()).days in (30, 29)  # 29 where one of them never existed


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        ("Africa/Cairo", datetime(2026, 4, 24, 12), "2026-03-25T00:00:00+02:00"),
        ("America/Havana", datetime(2026, 3, 8, 18), "2026-02-06T00:00:00-05:00"),
        ("America/Santiago", datetime(2026, 9, 6, 18), "2026-08-07T00:00:00-04:00"),
    ],
)
def test_thirty_days_before_a_skipped_midnight_start_at_midnight(zone, day, begins):
    period = choose_period(None, None, zone=ZoneInfo(zone), now=day.replace(tzinfo=UTC))
    explicit = choose_period(None, period.until.replace(hour=0, tzinfo=None), zone=ZoneInfo(zone), now=NIGHT)

    assert period.until.hour == 1
    assert period.since.isoformat() == begins
    assert explicit == period
