"""How a report words its numbers, on a page and in a terminal alike."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

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
_MINUTE, _HOUR = 60, 3600


def number(value: int | None) -> str:
    """A count: 1,234."""
    return NOTHING if value is None else f"{value:,}"


def money(value: Decimal | None) -> str:
    """An amount with all its digits: 1,234.5."""
    return NOTHING if value is None else f"{_plain(value):,f}"


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
    """A value for programs: exact, with no words around it; empty where it is unknown."""
    match value:
        case None:
            return ""
        case Decimal():
            return f"{_plain(value):f}"
        case float():
            return f"{value:.6f}"
        case datetime():
            return value.isoformat()
        case _:
            return str(value)


def _plain(value: Decimal) -> Decimal:
    """An amount without the zeros at its end."""
    text = f"{value:f}"
    return Decimal(text.rstrip("0").rstrip(".")) if "." in text else value
