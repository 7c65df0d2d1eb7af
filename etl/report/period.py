"""The period of a report, and the time zone of its days and hours. Pure."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from etl.errors import UsageError

_DEFAULT_DAYS = 30
# What people in India write and IANA does not know: most of PIOPIY's customers are there.
_INDIAN = ("ist", "india", "mumbai", "delhi", "new_delhi", "chennai", "bangalore", "bengaluru", "hyderabad")
_LONGEST_ABBREVIATION = 4
_SIMILARITY = 0.75  # of a misspelled name and the right one; 1 for equal names
_MOST_DAYS = 100  # a longer period is reported by month


@dataclass(frozen=True)
class Period:
    """A period from `since`, included, to `until`, excluded; both aware, in `zone`.

    Python does wall-clock arithmetic within one zone, so differences are taken in UTC.
    """

    since: datetime
    until: datetime
    zone: tzinfo

    @property
    def last_day(self) -> date:
        """The day of the last instant."""
        return (self.until.astimezone(UTC) - timedelta.resolution).astimezone(self.zone).date()

    @cached_property
    def is_by_month(self) -> bool:
        """Whether the report is by month because the period has many days."""
        return (self.last_day - self.since.date()).days >= _MOST_DAYS

    def day_of(self, instant: datetime) -> date:
        """The day of an instant in this zone; in a long period, the first day of its month."""
        day = instant.astimezone(self.zone).date()
        return day.replace(day=1) if self.is_by_month else day

    def days(self) -> list[date]:
        """Every day of the period; of a long one the first day of every month."""
        first, last = self.since.date(), self.last_day
        if self.is_by_month:
            months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
            return [date(number // 12, number % 12 + 1, 1) for number in months]
        return [date.fromordinal(number) for number in range(first.toordinal(), last.toordinal() + 1)]


def read_zone(name: str) -> tzinfo:
    """The time zone with an IANA name.

    Raises:
        UsageError: there is none; the message suggests similar names.
    """
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--tz: there is no time zone {name!r}", remedy=_suggestion(name)) from None


def _suggestion(name: str) -> str:
    zones = {zone.rpartition("/")[2].casefold(): zone for zone in sorted(available_timezones())}
    if not zones:
        return "This machine has no time zones but UTC. Run `pip install tzdata` to add them"
    place = name.casefold().replace(" ", "_").rpartition("/")[2]
    if place in _INDIAN:
        return "Did you mean Asia/Kolkata?"
    # Abbreviations and offsets resemble each other more than the zone that was meant.
    is_word = len(place) > _LONGEST_ABBREVIATION and not any(char in place for char in "+:0123456789")
    if is_word and (similar := difflib.get_close_matches(place, zones, cutoff=_SIMILARITY)):
        return f"Did you mean {' or '.join(zones[one] for one in similar)}?"
    return "Use an IANA name such as Asia/Kolkata or Europe/Berlin"


def choose_period(since: datetime | None, until: datetime | None, *, zone: tzinfo, now: datetime) -> Period:
    """The requested period.

    Default: the last 30 full days. With only `since`: until now. With only `until`: the 30 days before it.

    Args:
        since: its start; in `zone` if it has no zone of its own.
        until: its end; in `zone` if it has no zone of its own.
        zone: the zone of the report's days and hours.
        now: the current time, aware.

    Raises:
        UsageError: it does not start before its end.
    """
    chosen_end = now if until is None else until
    if since is None and until is None:
        chosen_end = datetime.combine(now.astimezone(zone), time.min)
    end = _in_zone(chosen_end, zone)
    if since is None:
        # Counted from the end as written: a midnight that the clocks skip is 1:00 on the clock.
        since = _days_before(chosen_end if chosen_end.tzinfo is None else end)
    begin = _in_zone(since, zone)
    if begin.astimezone(UTC) >= end.astimezone(UTC):
        shown_end = "now" if until is None else f"{end:%Y-%m-%d %H:%M}"
        raise UsageError(
            f"--since {begin:%Y-%m-%d %H:%M} is not before --until ({shown_end})",
            remedy="Swap or change them",
        )
    return Period(begin, end, zone)


def _days_before(end: datetime) -> datetime:
    """The default start, by wall-clock time: at midnight if the end is."""
    try:
        return end.replace(tzinfo=None) - timedelta(days=_DEFAULT_DAYS)
    except OverflowError:
        raise UsageError(
            f"--until {end:%Y-%m-%d} is too early: 30 days before is not in the years 1 to 9999",
            remedy="Choose a later one",
        ) from None


def _in_zone(instant: datetime, zone: tzinfo) -> datetime:
    """An instant in a zone; one without a zone is the first with that wall-clock time there."""
    aware = instant.replace(tzinfo=zone, fold=0) if instant.tzinfo is None else instant
    try:
        return aware.astimezone(UTC).astimezone(zone)  # a skipped hour becomes one that exists
    except OverflowError:
        raise UsageError(
            f"{instant:%Y-%m-%d} is not in the years 1 to 9999 everywhere", remedy="Choose another day"
        ) from None
