"""The period of a report: whose days, and which ones."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from etl.errors import UsageError
from etl.report.period import Period, chosen_period, read_zone

BERLIN = ZoneInfo("Europe/Berlin")
NOW = datetime(2026, 11, 24, 15, 30, tzinfo=UTC)


def chosen(since=None, until=None, *, zone=UTC, now=NOW):
    return chosen_period(since, until, zone=zone, zone_name=str(zone), now=now)


def test_alone_it_is_the_last_thirty_whole_days_of_the_zone():
    late = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)  # the 24th has begun in India
    period = chosen(zone=ZoneInfo("Asia/Kolkata"), now=late)

    assert period.until.isoformat() == "2026-11-24T00:00:00+05:30"
    assert period.since.isoformat() == "2026-10-25T00:00:00+05:30"
    assert len(list(period.days())) == 30


def test_a_change_of_clocks_leaves_the_default_period_whole_days():
    period = chosen(zone=BERLIN, now=datetime(2026, 11, 10, tzinfo=UTC))

    assert (period.since.isoformat(), period.until.isoformat()) == (
        "2026-10-11T00:00:00+02:00",
        "2026-11-10T00:00:00+01:00",
    )


def test_with_a_beginning_alone_it_lasts_until_now_and_with_an_end_alone_thirty_days():
    assert chosen(datetime(2026, 11, 24)).until == NOW
    assert chosen(None, datetime(2026, 11, 1)).since == datetime(2026, 10, 2, tzinfo=UTC)


def test_an_instant_with_a_zone_of_its_own_keeps_it():
    period = chosen(datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 2), zone=BERLIN)

    assert period.since == datetime(2026, 11, 1, tzinfo=UTC)
    assert period.until == datetime(2026, 11, 1, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("day", "hours"), [(date(2026, 3, 29), 23), (date(2026, 10, 25), 25), (date(2026, 6, 1), 24)]
)
def test_a_day_has_as_many_hours_as_its_zone_gives_it(day, hours):
    midnight = datetime.combine(day, datetime.min.time())
    period = chosen(midnight, midnight + timedelta(days=1), zone=BERLIN)
    begin = period.since.astimezone(UTC)

    assert period.until.astimezone(UTC) - begin == timedelta(hours=hours)
    assert {period.day_of(begin + timedelta(hours=n)) for n in range(hours)} == {day}
    assert period.day_of(begin - timedelta(microseconds=1)) == day - timedelta(days=1)
    assert period.day_of(begin + timedelta(hours=hours)) == day + timedelta(days=1)


def test_a_midnight_that_the_clocks_skip_is_the_instant_at_which_they_skip_it():
    period = chosen(datetime(2026, 3, 29), datetime(2026, 3, 30), zone=ZoneInfo("Asia/Beirut"))

    assert period.since.astimezone(UTC) == datetime(2026, 3, 28, 22, tzinfo=UTC)
    assert list(period.days()) == [date(2026, 3, 29)]


def test_the_end_is_not_of_the_period():
    assert list(chosen(datetime(2026, 11, 1), datetime(2026, 11, 3)).days()) == [
        date(2026, 11, 1),
        date(2026, 11, 2),
    ]


def test_a_long_period_is_told_by_month():
    period = chosen(datetime(2025, 11, 15), datetime(2026, 2, 28, 12))
    months = list(period.days())

    assert period.is_by_month
    assert months == [date(2025, 11, 1), date(2025, 12, 1), date(2026, 1, 1), date(2026, 2, 1)]
    assert period.day_of(datetime(2026, 1, 31, 23, tzinfo=UTC)) in months


def test_the_last_month_of_all_ends():
    period = Period(datetime(9999, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC), UTC, "UTC")

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
def test_a_period_that_cannot_be_is_a_mistake(since, until):
    with pytest.raises(UsageError, match=r"is not before --until|lies beyond the years"):
        chosen(since, until, zone=ZoneInfo("Asia/Kolkata"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("Asia/Kolkatta", "Asia/Kolkata"),
        ("Asia/Calcuta", r"did you mean Asia/Calcutta\?"),
        ("IST", r"did you mean Asia/Kolkata\?"),
        ("India", r"did you mean Asia/Kolkata\?"),
        ("Asia/Mumbai", r"did you mean Asia/Kolkata\?"),
        ("PST", "write an IANA name"),
        ("+05:30", "write an IANA name"),
        ("GMT+5:30", "write an IANA name"),
        ("berlin", "Europe/Berlin"),
        ("Europe/Berln", r"did you mean Europe/Berlin\?"),
        ("new york", "America/New_York"),
        ("xyzzyqq", "write an IANA name"),
        ("../../etc/passwd", "write an IANA name"),
        ("Europe", "there is no time zone"),
        ("", "there is no time zone"),
    ],
)
def test_an_unknown_zone_is_a_mistake_with_a_hint(name, hint):
    with pytest.raises(UsageError, match=hint):
        read_zone(name)


def test_utc_needs_no_list_of_zones():
    assert read_zone("utc") is UTC
