"""The figures of a report: what the calls of a period come to. Pure: rows in, values out.

Money stays exact and apart by account, since each account has a currency of its own. What is null is counted
and left out of sums and averages, never taken for 0.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from decimal import Context, Decimal
from typing import TYPE_CHECKING

from etl.report.period import Period

if TYPE_CHECKING:
    from etl.db.streams import Call, Finding

NO_STATUS = "(none)"
UNKNOWN_COUNTRY = "??"
EXAMPLES = 10
_MOST_MONTHS = 240
# Talk time in seconds at which a class of the histogram begins; the last one has no end.
CLASSES = (0, 10, 30, 60, 120, 300, 600, 1_200, 3_600)
EXACT = Context(prec=100)  # a sum of amounts of 38 digits is never rounded

Mask = Callable[[str], str]


@dataclass(slots=True)
class Tally:
    """What some calls come to; their money too, where all of them are one account's."""

    calls: int = 0
    answered: int = 0
    unmeasured: int = 0  # answered, and no duration was sent
    talk_seconds: int = 0
    billed: Decimal | None = None  # None where no leg has a rate, or where accounts are mixed
    legs: int = 0
    legs_without_rate: int = 0

    def add(self, call: Call) -> None:
        """Take one more call in."""
        self.calls += 1
        self.answered += bool(call.answered)
        self.unmeasured += is_unmeasured(call)
        self.talk_seconds += int(call.talk_seconds)
        self.legs += call.leg_count
        self.legs_without_rate += call.legs_without_rate

    @property
    def answer_rate(self) -> float | None:
        """ASR: answered calls in all calls, 0 to 1."""
        return self.answered / self.calls if self.calls else None

    @property
    def average_talk_seconds(self) -> float | None:
        """ACD: talk time in answered calls whose duration is known."""
        measured = self.answered - self.unmeasured
        return self.talk_seconds / measured if measured else None


@dataclass(frozen=True, slots=True)
class HalfAnswered:
    """A call of which leg a was answered and no leg b."""

    account: str
    request_id: str
    call_time: datetime
    a_to: str
    b_to: str
    b_status: str


@dataclass(slots=True)
class Check:
    """The findings of one check."""

    count: int = 0
    examples: list[Finding] = field(default_factory=list)


@dataclass(slots=True)
class Traffic:
    """The calls of a period, added up while they pass by; the numbers in them go through the masks."""

    period: Period
    mask_number: Mask = str
    mask_text: Mask = str
    all: Tally = field(default_factory=Tally)
    accounts: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    days: dict[date, Tally] = field(default_factory=lambda: defaultdict(Tally))
    hours: Counter[tuple[int, str]] = field(default_factory=Counter)  # hour of the day and status
    week: Counter[tuple[int, int]] = field(default_factory=Counter)  # weekday (0 Monday) and hour
    classes: list[int] = field(default_factory=lambda: [0] * len(CLASSES))
    spend: dict[tuple[str, date, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    connected: int = 0  # leg a was answered, and there is a leg b
    half_answered: int = 0
    half_answered_examples: list[HalfAnswered] = field(default_factory=list)
    checks: dict[str, Check] = field(default_factory=lambda: defaultdict(Check))

    def add_calls(self, calls: Iterable[Call]) -> None:
        """Take calls in, in any order."""
        for call in calls:
            self._add(call)
        self.half_answered_examples.sort(key=_age)

    def _add(self, call: Call) -> None:
        local = call.call_time.astimezone(self.period.zone)
        day = self.period.day_of(local)
        self.hours[local.hour, self.mask_text(status_of(call))] += 1
        self.week[local.weekday(), local.hour] += 1
        country = call.to_country or UNKNOWN_COUNTRY
        account, spend = self.accounts[call.account], self.spend[call.account, day, country]
        for tally in (self.all, account, self.days[day], spend):
            tally.add(call)
        for tally in (account, spend):
            tally.billed = total(tally.billed, call.billed_rate_total)
        if call.answered and not is_unmeasured(call):
            self.classes[class_of(int(call.talk_seconds))] += 1
        self._look_for_half_answered(call)

    def _look_for_half_answered(self, call: Call) -> None:
        if not call.b_leg_count or (call.a_status or "").lower() != "answered":
            return
        self.connected += 1
        if call.answered:
            return
        self.half_answered += 1
        self.half_answered_examples.append(
            HalfAnswered(
                call.account,
                call.request_id,
                call.call_time.astimezone(self.period.zone),
                self.mask_number(call.a_to or ""),
                self.mask_number(call.b_to or ""),
                self.mask_text(status_of(call)),
            )
        )
        if len(self.half_answered_examples) > 2 * EXAMPLES:  # the latest ones are shown
            self.half_answered_examples = sorted(self.half_answered_examples, key=_age)[:EXAMPLES]

    def add_findings(self, findings: Iterable[Finding]) -> None:
        """Take findings in, in the order in which examples are wanted."""
        for finding in findings:
            check = self.checks[finding.check_name]
            check.count += 1
            if len(check.examples) < EXAMPLES // 2:
                leg = self.mask_text(finding.leg or "")
                number = self.mask_number(finding.number or "")
                check.examples.append(finding._replace(leg=leg, number=number))

    def shown_days(self) -> list[date]:
        """The days of the period; of a long one the months from the first call to the last.

        Where those are very many, since some call lies in another century, only the months with calls. Clocks
        that were put back over midnight brought a day back that was over: it is shown where it has calls.
        """
        if not self.period.is_by_month or not self.days:
            return sorted({*self.period.days(), *self.days})
        first, last = min(self.days), max(self.days)
        if (last.year - first.year) * 12 > _MOST_MONTHS:
            return sorted(self.days)
        return sorted({*(month for month in self.period.days() if first <= month <= last), *self.days})

    def statuses(self, most: int) -> list[str]:
        """The statuses of calls, answered first, then the most frequent, which at most are told apart."""
        counts = Counter[str]()
        for (_, status), count in self.hours.items():
            counts[status] += count
        ranked = sorted(counts, key=lambda one: (one.lower() != "answered", -counts[one], one))
        return ranked[:most]

    def destinations(self, account: str) -> dict[str, Tally]:
        """What an account's calls come to by country, the dearest first, then the most frequent."""
        countries: dict[str, Tally] = defaultdict(Tally)
        for (whose, _, country), tally in self.spend.items():
            if whose == account:
                merge(countries[country], tally)

        def rank(country: str) -> tuple[Decimal, int, str]:
            return -(countries[country].billed or Decimal(0)), -countries[country].calls, country

        return {country: countries[country] for country in sorted(countries, key=rank)}

    def spend_by_day(self, account: str, countries: Sequence[str]) -> dict[date, dict[str, Decimal | None]]:
        """An account's billed rates by day, those of some countries apart and the others as one: ''."""
        days: dict[date, dict[str, Decimal | None]] = {
            day: dict.fromkeys([*countries, ""]) for day in self.shown_days()
        }
        for (whose, day, country), tally in self.spend.items():
            if whose == account:
                key = country if country in countries else ""
                days[day][key] = total(days[day][key], tally.billed)
        return days


def _age(call: HalfAnswered) -> tuple[float, str, str]:
    return -call.call_time.timestamp(), call.account, call.request_id


def status_of(call: Call) -> str:
    """The status of a call: leg b's where there is one, else leg a's."""
    return (call.b_status if call.b_leg_count else call.a_status) or NO_STATUS


def is_unmeasured(call: Call) -> bool:
    """Whether a call was answered and its duration is unknown: the leg shown is the longest answered one."""
    seconds = call.b_duration_seconds if call.b_leg_count else call.a_duration_seconds
    return bool(call.answered) and seconds is None


def class_of(seconds: int) -> int:
    """The number of the histogram's class that a talk time belongs to."""
    return max(0, sum(seconds >= bound for bound in CLASSES) - 1)


def total(*amounts: Decimal | None) -> Decimal | None:
    """The exact sum of the amounts that are known; None where none is."""
    known = [amount for amount in amounts if amount is not None]
    if not known:
        return None
    whole = known[0]
    for amount in known[1:]:
        whole = EXACT.add(whole, amount)
    return whole


def merge(into: Tally, other: Tally) -> None:
    """Add what some calls come to to what others do."""
    into.calls += other.calls
    into.answered += other.answered
    into.unmeasured += other.unmeasured
    into.talk_seconds += other.talk_seconds
    into.billed = total(into.billed, other.billed)
    into.legs += other.legs
    into.legs_without_rate += other.legs_without_rate
