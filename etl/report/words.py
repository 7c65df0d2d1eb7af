"""How a report words its numbers, on a page and in a terminal alike."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal

from etl.report.balances import LEAST_TOP_UP, Balance
from etl.report.figures import CLASSES

NOTHING = "–"  # unknown, and no 0
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
CHECKS = {
    "count_mismatch": "the API's count and the legs it sent disagree",
    "missing_leg": "a later answer no longer held a leg",
    "b_longer_than_a": "leg b lasted longer than leg a",
    "unknown_country": "no country is known for the number called",
    "null_rate": "no rate was sent",
    "null_balance": "no balance was sent",
    "negative_money": "a rate or balance is below 0",
    "future_time": "the call lies in the future",
}
TOP_UPS = (
    f"A top-up is a rise by {LEAST_TOP_UP} or more from one leg to the next, in the order of their ends; "
    "a refund of so much looks the same."
)
_LEAST_PLACES = 2  # behind the point of an amount
_MINUTE, _HOUR = 60, 3600


def number(value: int | None) -> str:
    """A count: 1,234."""
    return NOTHING if value is None else f"{value:,}"


def money(value: Decimal | None, places: int = _LEAST_PLACES) -> str:
    """An amount with all its digits, and zeros up to so many places behind the point: 1,234.50."""
    return NOTHING if value is None else f"{value:,.{max(places, _places(value))}f}"


def places_of(amounts: Iterable[Decimal | None]) -> int:
    """The places behind the point that amounts beside each other are shown with: those of the longest."""
    return max([_LEAST_PLACES, *(_places(amount) for amount in amounts if amount is not None)])


def gist_of(balance: Balance) -> str:
    """How a balance went, in a sentence or two."""
    if balance.first is None:
        return "No leg has a balance."

    def told(amount: Decimal | None) -> str:
        return money(amount, places_of(balance.amounts))

    gist = f"From {told(balance.first)} to {told(balance.last)}, {told(balance.lowest)} at the lowest."
    for what, count, amount in (
        ("Top-ups", balance.top_ups, balance.topped_up),
        ("Smaller rises", balance.small_rises, balance.risen),
    ):
        if count:
            gist += f" {what}: {number(count)}, by {told(amount)} in all."
    return gist


def percent(value: float | None) -> str:
    """A share of 0 to 1: 63.4 %."""
    return NOTHING if value is None else f"{100 * value:.1f} %"


def lasting(seconds: int | float | None) -> str:  # noqa: PYI041 (a mean is told to a tenth)
    """A duration in words: 2 h 05 min, 2 min 05 s, or 45.2 s."""
    if seconds is None:
        return NOTHING
    whole = round(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s" if isinstance(seconds, float) else f"{seconds} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE:02d} s"
    return f"{whole // _HOUR:,} h {whole % _HOUR // _MINUTE:02d} min"


def class_label(n: int) -> str:
    """A class of talk times, half-open: 10–30 s, 1–2 min, 60 min and more."""
    low = CLASSES[n]
    if n == len(CLASSES) - 1:
        return f"{low // _MINUTE} min and more"
    high = CLASSES[n + 1]
    if low < _MINUTE:
        return f"{low}–{high} s"
    return f"{low // _MINUTE}–{high // _MINUTE} min"


def raw(value: object) -> str:
    """A value for programs, with no words around it; empty where it is unknown.

    Exact, but for what is a quotient: that has six decimals.
    """
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


def _plain(value: Decimal) -> str:
    """An amount without the zeros at its end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _places(value: Decimal) -> int:
    return len(_plain(value).partition(".")[2])
