"""The period of a report: its days, and how it is written."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from etl.errors import UsageError
from etl.report.period import Period, choose_period, read_zone
from etl.report.words import period_text

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)


def chosen(since=None, until=None, *, zone=UTC, now=NOW):
    return choose_period(since, until, zone=zone, now=now)


def test_the_default_is_the_last_thirty_full_days_of_the_zone():
    late = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)  # the 24th has begun in India
    period = chosen(zone=ZoneInfo("Asia/Kolkata"), now=late)

    assert period.until.isoformat() == "2026-11-24T00:00:00+05:30"
    assert period.since.isoformat() == "2026-10-25T00:00:00+05:30"
    assert len(list(period.days())) == 30


def test_the_default_period_has_full_days_across_a_change_of_clocks():
    period = chosen(zone=BERLIN, now=datetime(2026, 11, 10, tzinfo=UTC))

    assert (period.since.isoformat(), period.until.isoformat()) == (
        "2026-10-11T00:00:00+02:00",
        "2026-11-10T00:00:00+01:00",
    )


def test_with_only_a_start_it_ends_now_and_with_only_an_end_it_has_thirty_days():
    assert chosen(datetime(2026, 11, 24)).until == NOW
    assert chosen(None, datetime(2026, 11, 1)).since == datetime(2026, 10, 2, tzinfo=UTC)


def test_an_instant_with_its_own_zone_keeps_it():
    period = chosen(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2), zone=BERLIN)

    assert period.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert period.until == datetime(2026, 11, 1, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)]
)
def test_a_day_has_the_hours_that_it_has_in_its_zone(day, hours):
    midnight = datetime.combine(day, datetime.min.time())
    period = chosen(midnight, midnight + timedelta(days=1), zone=BERLIN)
    begin = period.since.astimezone(UTC)

    assert period.until.astimezone(UTC) - begin == timedelta(hours=hours)
    assert {period.day_of(begin + timedelta(hours=n)) for n in range(hours)} == {day}
    assert period.day_of(begin - timedelta(microseconds=1)) == day - timedelta(days=1)
    assert period.day_of(begin + timedelta(hours=hours)) == day + timedelta(days=1)


def test_a_skipped_midnight_is_the_instant_of_the_skip():
    period = chosen(datetime(2026, 3, 29), datetime(2026, 3, 30), zone=ZoneInfo("Asia/Beirut"))

    assert period.since.astimezone(UTC) == datetime(2026, 3, 28, 22, tzinfo=UTC)
    assert list(period.days()) == [date(2026, 3, 29)]


def test_the_end_is_excluded():
    assert list(chosen(datetime(2026, 11, 1), datetime(2026, 11, 3)).days()) == [
        date(2026, 11, 1),
        date(2026, 11, 2),
    ]


def test_a_long_period_is_reported_by_month():
    period = chosen(datetime(2025, 11, 15), datetime(2026, 2, 28, 12))
    months = list(period.days())

    assert period.is_by_month
    assert months == [date(2025, 11, 1), date(2025, 12, 1), date(2026, 1, 1), date(2026, 2, 1)]
    assert period.day_of(datetime(2026, 1, 31, 23, tzinfo=UTC)) in months


def test_the_months_stop_at_the_year_9999():
    period = Period(datetime(9999, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), UTC)

    assert len(list(period.days())) == 12


@pytest.mark.parametrize(
    ("since", "until"),
    [
        (datetime(2026, 11, 2), datetime(2026, 11, 1)),
        (datetime(2026, 11, 1), datetime(2026, 11, 1)),
        (datetime(2027, 1, 1), None),
        (datetime(1, 1, 1), datetime(2026, 1, 1)),
        (None, datetime(1, 1, 2)),
    ],
    ids=["swapped", "empty", "in the future", "before the year 1", "too early for thirty days"],
)
def test_an_impossible_period_is_refused(since, until):
    with pytest.raises(UsageError, match=r"is not before --until|not in the years 1 to 9999"):
        chosen(since, until, zone=ZoneInfo("Asia/Kolkata"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Asia/Kolkatta", "Asia/Kolkata"),
        ("Asia/Calcuta", r"Did you mean Asia/Calcutta\?"),
        ("IST", r"Did you mean Asia/Kolkata\?"),
        ("India", r"Did you mean Asia/Kolkata\?"),
        ("Asia/Mumbai", r"Did you mean Asia/Kolkata\?"),
        ("PST", "Use an IANA name"),
        ("+05:30", "Use an IANA name"),
        ("GMT+5:30", "Use an IANA name"),
        ("berlin", "Europe/Berlin"),
        ("Europe/Berln", r"Did you mean Europe/Berlin\?"),
        ("new york", "America/New_York"),
        ("xyzzyqq", "Use an IANA name"),
        ("../../etc/passwd", "Use an IANA name"),
        ("Europe", "there is no time zone"),
        ("", "there is no time zone"),
    ],
)
def test_an_unknown_zone_is_refused_with_a_suggestion(name, hint):
    with pytest.raises(UsageError, match=hint):
        read_zone(name)


def test_utc_needs_no_time_zone_database():
    assert read_zone("utc") is UTC


@pytest.mark.parametrize(
    ("since", "until", "shown"),
    [
        (datetime(2022, 3, 1), datetime(2022, 4, 1), "1 March 2022 to 31 March 2022 (Europe/Berlin)"),
        (datetime(2022, 3, 1), datetime(2022, 3, 2), "1 March 2022 (Europe/Berlin)"),
        (datetime(2022, 3, 1), datetime(2022, 3, 2, 9, 30),
         "1 March 2022, 00:00 to 2 March 2022, 09:30 (Europe/Berlin)"),
    ],
    ids=["days", "one day", "part of a day"],
)  # fmt: skip
def test_a_period_of_full_days_names_its_first_and_last_day_and_another_one_its_times(since, until, shown):
    assert period_text(chosen(since, until, zone=BERLIN)) == shown
