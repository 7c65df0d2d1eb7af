"""The period of a report: half-open, with the days of a time zone."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cached_property
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from etl.errors import UsageError

_DEFAULT_DAYS = 30
# What people there write, and IANA does not know: PIOPIY's customers are mostly Indian.
_INDIAN = ("ist", "india", "mumbai", "delhi", "new_delhi", "chennai", "bangalore", "bengaluru", "hyderabad")
_LONGEST_ABBREVIATION = 4
_LIKENESS = 0.75  # of two words that may be one misspelt; 1 where they are the same
_MOST_DAYS = 100  # of a report by day; a longer period is told by month


@dataclass(frozen=True)
class Period:
    """From `since` up to, and without, `until`; both aware, in `zone`.

    Python reckons with two instants of one zone by the wall's clock, so that all that is added or subtracted
    here is so in UTC.
    """

    since: datetime
    until: datetime
    zone: tzinfo
    zone_name: str

    @property
    def length(self) -> timedelta:
        """How long it lasts."""
        return self.until.astimezone(UTC) - self.since.astimezone(UTC)

    @property
    def last_day(self) -> date:
        """The day of its last instant."""
        return (self.until.astimezone(UTC) - timedelta.resolution).astimezone(self.zone).date()

    @cached_property
    def is_by_month(self) -> bool:
        """Whether it is of so many days that months say more."""
        return (self.last_day - self.since.date()).days >= _MOST_DAYS

    def day_of(self, instant: datetime) -> date:
        """The day of an instant in this zone; of a long period, the first day of its month."""
        day = instant.astimezone(self.zone).date()
        return day.replace(day=1) if self.is_by_month else day

    def days(self) -> Iterator[date]:
        """Every day of the period, or every month of a long one."""
        day, last = self.day_of(self.since), self.last_day
        while day <= last:
            yield day
            if self.is_by_month:
                if (day.year, day.month) == (9999, 12):
                    return
                day = date(day.year + day.month // 12, day.month % 12 + 1, 1)
            else:
                day += timedelta(days=1)


def read_zone(name: str) -> tzinfo:
    """The time zone of an IANA name.

    Raises:
        UsageError: there is none; the message names those that are spelled alike.
    """
    if name.upper() in ("UTC", "Z"):
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"--tz: there is no time zone {name!r}: {_hint(name)}") from None


def _hint(name: str) -> str:
    zones = {zone.rpartition("/")[2].casefold(): zone for zone in sorted(available_timezones())}
    if not zones:
        return "this machine knows none but UTC; `pip install tzdata` brings them"
    place = name.casefold().replace(" ", "_").rpartition("/")[2]
    if place in _INDIAN:
        return "did you mean Asia/Kolkata?"
    # An abbreviation or an offset is like every other one, and seldom like the zone that was meant.
    is_word = len(place) > _LONGEST_ABBREVIATION and not any(sign in place for sign in "+:0123456789")
    alike = difflib.get_close_matches(place, zones, cutoff=_LIKENESS) if is_word else []
    if alike:
        return f"did you mean {' or '.join(zones[one] for one in alike)}?"
    return "write an IANA name such as Asia/Kolkata or Europe/Berlin"


def chosen_period(
    since: datetime | None, until: datetime | None, *, zone: tzinfo, zone_name: str, now: datetime
) -> Period:
    """The period that was asked for: by default the last 30 whole days, or from `since` until now.

    Args:
        since: its beginning; in `zone` where it has no zone of its own.
        until: its end, likewise.
        zone: whose days count.
        zone_name: what that zone is called.
        now: the present instant, aware.

    Raises:
        UsageError: it ends before it begins.
    """
    named = now if until is None else until
    if since is None and until is None:
        named = now.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    end = _in_zone(named, zone)
    if since is None:
        # Counted from the end as it is named: a midnight that the clocks skip is 1:00 by itself.
        since = _days_before(named if named.tzinfo is None else end)
    begin = _in_zone(since, zone)
    if begin.astimezone(UTC) >= end.astimezone(UTC):
        said = "now" if until is None else f"{end:%Y-%m-%d %H:%M}"
        raise UsageError(
            f"--since {begin:%Y-%m-%d %H:%M} is not before --until ({said}): swap or change them"
        )
    return Period(begin, end, zone, zone_name)


def _days_before(end: datetime) -> datetime:
    """The default beginning: on the wall's clock, where each day has 24 hours, so that midnight stays it."""
    ordinal = end.toordinal() - _DEFAULT_DAYS
    if ordinal < 1:
        raise UsageError(f"--until {end:%Y-%m-%d}: 30 days before lies beyond the years 1 to 9999")
    return datetime.combine(date.fromordinal(ordinal), end.time())


def _in_zone(instant: datetime, zone: tzinfo) -> datetime:
    """An instant in a zone; one without any is the first of that name there."""
    aware = instant.replace(tzinfo=zone, fold=0) if instant.tzinfo is None else instant
    try:
        return aware.astimezone(UTC).astimezone(zone)  # an hour that a clock skipped becomes one that was
    except OverflowError:
        raise UsageError(f"{instant:%Y-%m-%d} lies beyond the years 1 to 9999") from None
