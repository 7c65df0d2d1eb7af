"""The figures of a report: rows in, plain values out. Pure.

A call is a row of the view `calls`. The columns of the view `calls_daily` define the figures: ASR is its
`answer_rate`, ACD its `avg_talk_seconds`. Only days and hours are those of the report's time zone. Money is
exact and never added up across accounts, because each account has its own currency. Null is counted and left
out of sums and averages, never taken as 0.
"""

from __future__ import annotations

import heapq
from bisect import bisect, insort
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Context, Decimal
from functools import cached_property, reduce
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from etl.db.states import EMPTY
from etl.report.period import Period

if TYPE_CHECKING:
    from etl.db.streams import BalanceLeg, Call, Finding, RequestCount, Waiting

K = TypeVar("K", bound=Hashable)

EXACT = Context(prec=100)  # a sum of amounts of 38 digits is never rounded


def total(*amounts: Decimal | None) -> Decimal | None:
    """The exact sum of the known amounts; None if none is known."""
    known = [amount for amount in amounts if amount is not None]
    return reduce(EXACT.add, known) if known else None


@dataclass(frozen=True, slots=True)
class Mask:
    """How phone numbers and agent IDs are hidden. By default they are shown."""

    number: Callable[[str], str] = str  # a number or agent ID
    text: Callable[[str], str] = str  # free text such as a status


NO_MASK = Mask()


# --- Calls --------------------------------------------------------------------------------------------------

NO_STATUS = "(none)"
UNKNOWN_COUNTRY = "??"
EXAMPLES = 10
# Lower bounds, in seconds, of the ranges of the talk time histogram; the last range is open.
TALK_TIMES = (0, 10, 30, 60, 120, 300, 600, 1_200, 3_600)
_MOST_MONTHS = 240


@dataclass(slots=True)
class Tally:
    """Sums over some calls, named after the columns of the view `calls_daily`."""

    calls: int = 0
    answered_calls: int = 0
    answered_without_duration: int = 0
    talk_seconds: int = 0
    billed_rate_total: Decimal | None = None  # None if no leg has a rate, or if several accounts are merged
    legs: int = 0
    legs_without_rate: int = 0

    def add(self, call: Call) -> None:
        """Add one call."""
        self.calls += 1
        self.answered_calls += bool(call.answered)
        self.answered_without_duration += is_answered_without_duration(call)
        self.talk_seconds += int(call.talk_seconds)
        self.billed_rate_total = total(self.billed_rate_total, call.billed_rate_total)
        self.legs += call.leg_count
        self.legs_without_rate += call.legs_without_rate

    def merge(self, other: Tally, *, has_money: bool) -> None:
        """Add another tally, with its money if both are of one account."""
        self.calls += other.calls
        self.answered_calls += other.answered_calls
        self.answered_without_duration += other.answered_without_duration
        self.talk_seconds += other.talk_seconds
        if has_money:
            self.billed_rate_total = total(self.billed_rate_total, other.billed_rate_total)
        self.legs += other.legs
        self.legs_without_rate += other.legs_without_rate

    @property
    def answer_rate(self) -> float | None:
        """ASR: answered calls divided by all calls, 0 to 1; None without calls."""
        return self.answered_calls / self.calls if self.calls else None

    @property
    def avg_talk_seconds(self) -> float | None:
        """ACD: talk time divided by answered calls of known duration, in seconds; None without any."""
        measured = self.answered_calls - self.answered_without_duration
        return self.talk_seconds / measured if measured else None


@dataclass(frozen=True)
class Traffic:
    """The calls of a period, added up."""

    period: Period
    tallies: Mapping[tuple[str, date, str], Tally]  # by account, day (of long periods: month), country
    hours: Counter[tuple[int, str]]  # calls by hour of the day, 0 to 23, and status
    week: Counter[tuple[int, int]]  # calls by weekday, 0 is Monday, and hour of the day
    talk_times: Sequence[int]  # answered calls of known duration, by range of TALK_TIMES
    a_answered: int  # calls with an answered a leg and a b leg
    half_answered: int  # those of them with no answered b leg
    half_answered_examples: Sequence[Call]  # the latest of these, in the period's zone, masked

    @cached_property
    def total(self) -> Tally:
        """All calls."""
        return _merged((("all", tally) for tally in self.tallies.values()), has_money=False)["all"]

    @cached_property
    def accounts(self) -> Mapping[str, Tally]:
        """The calls by account, sorted by name."""
        tallies = _merged((account, tally) for (account, _, _), tally in self.tallies.items())
        return dict(sorted(tallies.items()))

    @cached_property
    def days(self) -> Mapping[date, Tally]:
        """The calls by day, days without calls included; of a long period by month, first call to last.

        If these months are very many, because some call is dated in another century, only those with calls.
        Where clocks are put back over midnight, the day before returns: it is included if it has calls.
        """
        tallies = _merged(((day, tally) for (_, day, _), tally in self.tallies.items()), has_money=False)
        shown = self.period.days()
        if self.period.is_by_month and tallies:
            first, last = min(tallies), max(tallies)
            is_short = (last.year - first.year) * 12 <= _MOST_MONTHS
            shown = [month for month in shown if first <= month <= last] if is_short else []
        return {day: tallies[day] for day in sorted({*shown, *tallies})}

    @cached_property
    def statuses(self) -> Mapping[str, int]:
        """The number of calls by status: answered first, then the most frequent."""
        counts = Counter[str]()
        for (_, status), count in self.hours.items():
            counts[status] += count
        ranked = sorted(counts, key=lambda one: (one.lower() != "answered", -counts[one], one))
        return {status: counts[status] for status in ranked}

    def destinations(self, account: str) -> Mapping[str, Tally]:
        """An account's calls by country called: the most expensive first, then the most frequent."""
        tallies = _merged(
            (country, tally) for (of, _, country), tally in self.tallies.items() if of == account
        )

        def rank(country: str) -> tuple[Decimal, int, str]:
            tally = tallies[country]
            return (tally.billed_rate_total or Decimal(0)).copy_negate(), -tally.calls, country

        return {country: tallies[country] for country in sorted(tallies, key=rank)}

    def spend_by_day(
        self, account: str, countries: Sequence[str]
    ) -> Mapping[date, Mapping[str, Decimal | None]]:
        """An account's billed rates by day and country; "" stands for all countries that are not listed."""
        days: dict[date, dict[str, Decimal | None]] = {
            day: dict.fromkeys([*countries, ""]) for day in self.days
        }
        for (of, day, country), tally in self.tallies.items():
            if of == account:
                column = country if country in countries else ""
                days[day][column] = total(days[day][column], tally.billed_rate_total)
        return days


def tally_calls(calls: Iterable[Call], period: Period, *, mask: Mask = NO_MASK) -> Traffic:
    """Add up calls, which come in any order and are not kept."""
    tallies: dict[tuple[str, date, str], Tally] = defaultdict(Tally)
    hours, week = Counter[tuple[int, str]](), Counter[tuple[int, int]]()
    talk_times = [0] * len(TALK_TIMES)
    a_answered = half_answered = 0
    examples: list[Call] = []  # the latest first
    for call in calls:
        local = call.call_time.astimezone(period.zone)
        tallies[call.account, period.day_of(local), call.to_country or UNKNOWN_COUNTRY].add(call)
        hours[local.hour, mask.text(status_of(call))] += 1
        week[local.weekday(), local.hour] += 1
        if call.answered and not is_answered_without_duration(call):
            talk_times[max(0, bisect(TALK_TIMES, int(call.talk_seconds)) - 1)] += 1
        if call.b_leg_count and (call.a_status or "").lower() == "answered":
            a_answered += 1
            if not call.answered:
                half_answered += 1
                insort(
                    examples, call, key=lambda one: (-one.call_time.timestamp(), one.account, one.request_id)
                )
                del examples[EXAMPLES:]
    shown = [
        call._replace(
            call_time=call.call_time.astimezone(period.zone),
            a_to=mask.number(call.a_to or ""),
            b_to=mask.number(call.b_to or ""),
            b_status=mask.text(status_of(call)),
        )
        for call in examples
    ]
    return Traffic(period, tallies, hours, week, talk_times, a_answered, half_answered, shown)


def status_of(call: Call) -> str:
    """The status of a call: the b leg's if there is one, else the a leg's."""
    return (call.b_status if call.b_leg_count else call.a_status) or NO_STATUS


def is_answered_without_duration(call: Call) -> bool:
    """Whether a call was answered with an unknown duration; `calls` has that of the longest answered leg."""
    seconds = call.b_duration_seconds if call.b_leg_count else call.a_duration_seconds
    return bool(call.answered) and seconds is None


def _merged(tallies: Iterable[tuple[K, Tally]], *, has_money: bool = True) -> dict[K, Tally]:
    result: dict[K, Tally] = defaultdict(Tally)
    for key, tally in tallies:
        result[key].merge(tally, has_money=has_money)
    return result


# --- Findings -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Check:
    """The findings of one check of the view `data_quality`."""

    count: int = 0
    examples: list[Finding] = field(default_factory=list)  # masked


def count_findings(findings: Iterable[Finding], *, mask: Mask = NO_MASK) -> Mapping[str, Check]:
    """Count findings by check, sorted by name; the first of each check are its examples."""
    checks: dict[str, Check] = defaultdict(Check)
    for finding in findings:
        check = checks[finding.check_name]
        check.count += 1
        if len(check.examples) < EXAMPLES // 2:
            leg, number = mask.text(finding.leg or ""), mask.number(finding.number or "")
            check.examples.append(finding._replace(leg=leg, number=number))
    return dict(sorted(checks.items()))


# --- Coverage -----------------------------------------------------------------------------------------------

# Columns of the view sync_coverage.
OUTCOMES = ("asked", "done", "without_legs", "dead", "cancelled", "waiting")


@dataclass(frozen=True, slots=True)
class Coverage:
    """How complete the calls of a period are."""

    accounts: Mapping[str, Mapping[str, int]]  # requests enqueued in the period, by account and outcome
    waiting: int  # requests enqueued at any time that are not finished
    complete_until: datetime | None  # all requests enqueued before are finished; None if all are finished
    last_enqueued_at: datetime | None  # of any request; None if there is none
    missing_legs: int  # legs of the period that a later answer no longer contained
    dead: int  # dead requests enqueued at any time

    @property
    def total(self) -> Mapping[str, int]:
        """Requests of all accounts by outcome."""
        return {name: sum(counts[name] for counts in self.accounts.values()) for name in OUTCOMES}


def coverage_of(
    period: Period,
    counts: Iterable[RequestCount],
    waiting: Iterable[Waiting],
    *,
    last_enqueued_at: datetime | None,
    missing_legs: int,
    dead: int,
) -> Coverage:
    """Combine the counts of requests: those neither finished nor cancelled are waiting."""
    accounts: dict[str, dict[str, int]] = {}
    for one in counts:
        outcomes = accounts.setdefault(one.account, dict.fromkeys(OUTCOMES, 0))
        outcomes["asked"] += one.count
        outcome = "without_legs" if one.state == EMPTY else one.state
        outcomes[outcome if outcome in OUTCOMES else "waiting"] += one.count
    waiting = list(waiting)
    oldest = min((one.since for one in waiting), default=None)
    return Coverage(
        accounts=dict(sorted(accounts.items())),
        waiting=sum(one.count for one in waiting),
        complete_until=oldest and oldest.astimezone(period.zone),
        last_enqueued_at=last_enqueued_at and last_enqueued_at.astimezone(period.zone),
        missing_legs=missing_legs,
        dead=dead,
    )


# --- Balances -----------------------------------------------------------------------------------------------

# In the account's currency. A smaller rise can be the refund of a call.
LEAST_TOP_UP = Decimal(100)
_MOST_POINTS = 360  # of a curve
_MOST_TOP_UPS = 20  # listed one by one
_LONGEST_LEG = timedelta(days=7)  # a longer duration is an error in the data


@dataclass(frozen=True, slots=True)
class Rise:
    """A rise of the balance from one leg to the next."""

    at: datetime  # end of the leg that first showed it
    before: Decimal
    after: Decimal

    @property
    def amount(self) -> Decimal:
        """The rise; the unknown cost of the leg itself is not added."""
        return EXACT.subtract(self.after, self.before)


@dataclass(slots=True)
class Balance:
    """An account's balance during a period."""

    account: str
    legs: int = 0
    legs_without_balance: int = 0
    first: Decimal | None = None
    lowest: Decimal | None = None
    last: Decimal | None = None
    top_ups: int = 0
    topped_up: Decimal = Decimal(0)  # the sum of all top-ups
    small_rises: int = 0  # rises of less than LEAST_TOP_UP
    risen: Decimal = Decimal(0)  # their sum
    largest_top_ups: list[Rise] = field(default_factory=list)  # by time
    # By time: the last balance of each of some hundred slots of equal length, and when it was reached.
    curve: dict[int, tuple[datetime, Decimal]] = field(default_factory=dict)

    def add(self, at: datetime, amount: Decimal, *, slot: int) -> None:
        """Add the balance after the next leg."""
        if self.last is None or self.lowest is None:
            self.first = self.lowest = amount
        elif amount > self.last:
            self._add_rise(Rise(at, self.last, amount))
        self.lowest = min(self.lowest, amount)
        self.last = amount
        self.curve[slot] = (at, amount)

    def _add_rise(self, rise: Rise) -> None:
        if rise.amount < LEAST_TOP_UP:
            self.small_rises += 1
            self.risen = EXACT.add(self.risen, rise.amount)
            return
        self.top_ups += 1
        self.topped_up = EXACT.add(self.topped_up, rise.amount)
        if len(self.largest_top_ups) == _MOST_TOP_UPS:
            self.largest_top_ups.remove(min(self.largest_top_ups, key=attrgetter("amount")))
        self.largest_top_ups.append(rise)


def follow_balances(legs: Iterable[BalanceLeg], period: Period) -> Sequence[Balance]:
    """The balance of each account over a period.

    A leg's balance is the balance after its end. So legs are ordered by their ends: a long call that began
    before a short one is billed after it.

    Args:
        legs: grouped by account, in the order of their call times.
        period: the period in which they began.
    """
    begin = period.since.astimezone(UTC)
    slot = max((period.until.astimezone(UTC) - begin) / _MOST_POINTS, timedelta.resolution)
    balances = []
    for account, legs_of_account in groupby(legs, key=attrgetter("account")):
        balance = Balance(account)
        for at, negated in _counted_by_end(legs_of_account, balance):
            balance.add(at.astimezone(period.zone), negated.copy_negate(), slot=(at - begin) // slot)
        balances.append(balance)
    return balances


def _counted_by_end(legs: Iterable[BalanceLeg], balance: Balance) -> Iterator[tuple[datetime, Decimal]]:
    """Count all legs; yield ends and negated balances in order, keeping only legs that last at one instant.

    Of legs that end together the highest balance comes first: then no top-up appears where there may be none.
    """
    open_legs: list[tuple[datetime, Decimal]] = []
    for leg in legs:
        balance.legs += 1
        if leg.balance is None:
            balance.legs_without_balance += 1
            continue
        while open_legs and open_legs[0][0] < leg.call_time:
            yield heapq.heappop(open_legs)
        duration = min(timedelta(seconds=leg.duration_seconds or 0), _LONGEST_LEG)
        heapq.heappush(open_legs, (leg.call_time + duration, leg.balance.copy_negate()))
    yield from sorted(open_legs)
