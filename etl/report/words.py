"""The numbers and sentences of a report, the same on the page and in the terminal. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from itertools import pairwise

from etl.report.figures import LEAST_TOP_UP, TALK_TIMES, Balance, Coverage
from etl.report.period import Period

UNKNOWN = "–"
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
ASR = "ASR (answer-seizure ratio): answered calls divided by all calls."
ACD = "ACD (average call duration): talk time divided by answered calls of known duration."
CHECKS = {
    "count_mismatch": "the API's count differs from the number of legs it sent",
    "missing_leg": "a later answer no longer contained a leg",
    "b_longer_than_a": "leg b lasted longer than leg a",
    "unknown_country": "the country of the called number is unknown",
    "null_rate": "no rate was sent",
    "null_balance": "no balance was sent",
    "negative_money": "a rate or balance is negative",
    "future_time": "the call time is in the future",
}
TOP_UPS = (
    f"A top-up is a rise of {LEAST_TOP_UP} or more from one leg to the next, ordered by their ends. "
    "A refund of that size looks the same."
)
_FEWEST_DECIMALS = 2
_MINUTE, _HOUR = 60, 3600
TALK_TIME_LABELS = (
    *(
        f"{low}–{high} s" if low < _MINUTE else f"{low // _MINUTE}–{high // _MINUTE} min"
        for low, high in pairwise(TALK_TIMES)
    ),
    f"{TALK_TIMES[-1] // _MINUTE} min and more",
)


def number(value: int | None) -> str:
    """A count: 1,234."""
    return UNKNOWN if value is None else f"{value:,}"


def counted(count: int, singular: str, plural: str) -> str:
    """A count with its noun: 1 call, 1,234 calls."""
    return f"{count:,} {singular if count == 1 else plural}"


def money(value: Decimal | None, decimals: int = _FEWEST_DECIMALS) -> str:
    """An amount with all its digits and at least so many decimals: 1,234.50."""
    return UNKNOWN if value is None else f"{value:,.{max(decimals, _decimals(value))}f}"


def decimals_of(amounts: Iterable[Decimal | None]) -> int:
    """How many decimals to show amounts of one column with: those of the longest, at least two."""
    return max([_FEWEST_DECIMALS, *(_decimals(amount) for amount in amounts if amount is not None)])


def _decimals(value: Decimal) -> int:
    return len(_plain(value).partition(".")[2])


def _plain(value: Decimal) -> str:
    """An amount without trailing zeros."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def percent(value: float | None) -> str:
    """A share of 0 to 1: 63.4 %."""
    return UNKNOWN if value is None else f"{100 * value:.1f} %"


def duration(seconds: int | float | None) -> str:  # noqa: PYI041 (an average shows a tenth of a second)
    """A duration: 2 h 05 min, 2 min 05 s, or 45.2 s."""
    if seconds is None:
        return UNKNOWN
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s" if isinstance(seconds, float) else f"{seconds} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR:,} h {whole % _HOUR // _MINUTE:02d} min"


def instant(value: datetime) -> str:
    """An instant, in its own zone, to the second."""
    return f"{value:%Y-%m-%d %H:%M:%S}"


def period_text(period: Period) -> str:
    """A period with its zone: 1 March 2022 to 31 March 2022 (Asia/Kolkata). Only part days have times."""
    since, until = period.since, period.until
    if since.time() == until.time() == time.min:
        days = dict.fromkeys([_day(since), _day(period.last_day)])
        return f"{' to '.join(days)} ({period.zone})"
    return f"{_day(since)}, {since:%H:%M} to {_day(until)}, {until:%H:%M} ({period.zone})"


def _day(day: date) -> str:
    return f"{day.day} {day:%B} {day.year}"


def raw(value: object) -> str:
    """A value for programs: no unit, empty if unknown; exact, but a float has six decimals."""
    match value:
        case None:
            return ""
        case Decimal():
            return _plain(value)
        case float():
            return f"{value:.6f}"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def coverage_sentences(coverage: Coverage) -> Iterator[str]:
    """What a reader must know before any number: how complete the data is, and what is missing.

    The first sentence says until when all requests are finished. Commands are between backticks.
    """
    latest, total = coverage.last_enqueued_at, coverage.total
    if latest is None:
        yield "No request was ever enqueued, so nothing is known about any call."
        return
    yield _completeness(coverage, latest)
    if not coverage.accounts:
        yield "No request was enqueued in this period."
    if dead := total["dead"]:
        noun = counted(dead, "request of this period is dead", "requests of this period are dead")
        yield f"{noun}, so calls may be missing. `cdr-sync requests list --state dead` shows the reasons."
    if elsewhere := coverage.dead - dead:
        noun = counted(elsewhere, "request that was", "requests that were")
        verb = "is" if elsewhere == 1 else "are"
        yield f"{noun} enqueued at another time {verb} dead and may also have had calls in this period."
    if empty := total["without_legs"]:
        yield f"The API returned no call for {counted(empty, 'request', 'requests')}."
    if cancelled := total["cancelled"]:
        yield f"{counted(cancelled, 'request was', 'requests were')} cancelled."
    if legs := coverage.missing_legs:
        noun, it = counted(legs, "leg is", "legs are"), "it" if legs == 1 else "them"
        yield f"{noun} left out because a later answer no longer contained {it}."


def _completeness(coverage: Coverage, latest: datetime) -> str:
    if coverage.complete_until is None:
        finished = "All requests are finished" if coverage.dead else "Complete: all requests are finished"
        return f"{finished} (latest enqueued {instant(latest)})."
    return (
        f"Complete until {instant(coverage.complete_until)}: all requests enqueued before then are finished. "
        f"{counted(coverage.waiting, 'request is', 'requests are')} still waiting."
    )


def balance_decimals(balance: Balance) -> int:
    """How many decimals to show a balance's amounts with."""
    rises = (amount for rise in balance.largest_top_ups for amount in (rise.before, rise.after))
    return decimals_of(
        [balance.first, balance.last, balance.lowest, balance.topped_up, balance.risen, *rises]
    )


def balance_text(balance: Balance) -> str:
    """A balance over a period, in one to three sentences."""
    if balance.first is None:
        return "No leg has a balance."
    decimals = balance_decimals(balance)
    start, end, lowest = (money(one, decimals) for one in (balance.first, balance.last, balance.lowest))
    sentences = [f"Start {start}, end {end}, lowest {lowest}."]
    if balance.top_ups:
        noun = counted(balance.top_ups, "top-up", "top-ups")
        sentences.append(f"{noun}, {money(balance.topped_up, decimals)} in total.")
    if balance.small_rises:
        noun = counted(balance.small_rises, "smaller rise", "smaller rises")
        sentences.append(f"{noun}, {money(balance.risen, decimals)} in total.")
    return " ".join(sentences)
