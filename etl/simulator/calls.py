"""Invented calls: the legs of a request ID, drawn from a hash of the seed and the ID.

An ID has the same legs every time. The values look like those of a real account: Indian numbers as JSON
numbers (without the plus or the trunk zero), some foreign numbers, a balance that falls during the day and is
topped up every night, and calls on the days before `epoch` that ended more than an hour before it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

SentLeg = dict[str, Any]  # the fields of one leg, as the API sends them

SAMPLE_LEGS: Sequence[SentLeg] = (
    {"duration": 4, "balance": 1135.14, "rate": 0.39, "from": 4471000000, "to": 9100000000,
     "time": 1637069609000, "leg": "b", "direction": "outbound", "status": "answered"},
    {"duration": 10, "balance": 1134.75, "rate": 0.39, "from": 4471000000, "to": 9200000000,
     "time": 1637069609000, "leg": "a", "direction": "outbound", "status": "answered"},
)  # fmt: skip
_FAILURES = ("missed", "busy", "failed", "no-answer", "cancel")
_RATES = (39, 39, 39, 45, 60, 120)  # hundredths of the account's currency
# Series of Indian mobile numbers in use; the last five digits are drawn.
_SERIES = (98400, 99400, 90030, 91760, 94440, 97890, 96770, 81220, 73580, 63800)
# The ranges that the United States and the United Kingdom reserve for fiction, and two others.
_ABROAD = (1_415_555_0100, 44_20_7946_0000, 971_50_123_4500, 49_1512_3456700)


def digest_of(request_id: str, seed: int) -> bytes:
    """Hash an ID into 64 bytes: 6 for its scenario, the rest for its call."""
    return hashlib.blake2b(f"{seed}:{request_id}".encode(errors="surrogatepass")).digest()


class Dice:
    """Draws numbers from bytes: evenly spread, and the same every time."""

    __slots__ = ("_left",)

    def __init__(self, source: bytes) -> None:
        self._left = int.from_bytes(source)

    def below(self, limit: int) -> int:
        """Draw a number from 0 to `limit` - 1."""
        self._left, drawn = divmod(self._left, limit)
        return drawn


# A shape gives the legs of a call as they are sent (b before a, as the vendor does), each with its letter,
# duration in seconds, status, and start in seconds after the call's start.
_ShapedLeg = tuple[str, int, str, int]
Shape = Callable[[Dice], list[_ShapedLeg]]


def answered(dice: Dice) -> list[_ShapedLeg]:
    """Legs b and a, both answered."""
    talk = 3 + dice.below(5 + dice.below(600))
    return [("b", talk, "answered", 0), ("a", talk + 2 + dice.below(12), "answered", 0)]


def missed(dice: Dice) -> list[_ShapedLeg]:
    """Leg a only, not answered."""
    return [("a", dice.below(45), "missed", 0)]


def several_b(dice: Dice) -> list[_ShapedLeg]:
    """One to three failed b legs, 20 seconds apart, then an answered one and leg a."""
    failed = [
        ("b", dice.below(30), _FAILURES[dice.below(len(_FAILURES))], 20 * number)
        for number in range(1 + dice.below(3))
    ]
    waited = 20 * len(failed)
    (_, talk, _, _), (_, whole, _, _) = answered(dice)
    return [*failed, ("b", talk, "answered", waited), ("a", whole + waited, "answered", 0)]


def twins(dice: Dice) -> list[_ShapedLeg]:
    """Two missed b legs with the same values, and an answered leg a."""
    twin = ("b", 0, "missed", 1)
    return [twin, twin, ("a", 5 + dice.below(60), "answered", 0)]


def invent_legs(shape: Shape, dice: Dice, *, epoch: float, days: int) -> list[SentLeg]:
    """Invent the legs of a call of this shape, on one of the `days` before `epoch` (epoch seconds)."""
    shaped = shape(dice)
    seconds_into_day = dice.below(72_000)
    started = int(epoch) - 82_800 + seconds_into_day - 86_400 * dice.below(days)
    cents = 2_000_000 - 20 * seconds_into_day - dice.below(20)
    rate = _RATES[dice.below(len(_RATES))]
    own, other, agent = 4_471_000_000 + dice.below(20), _customer(dice), 9_100_000_000 + dice.below(30)
    is_inbound = dice.below(10) < 3  # noqa: PLR2004 (three calls in ten)
    legs: list[SentLeg] = []
    for letter, duration, status, after in shaped:
        charge = rate if status == "answered" else 0
        cents -= charge
        if is_inbound:
            sender, receiver = other, own if letter == "a" else agent
        else:
            sender, receiver = own, agent if letter == "a" else other
        legs.append({
            "duration": duration, "balance": cents / 100, "rate": charge / 100 if charge else 0,
            "from": sender, "to": receiver, "time": (started + after) * 1000, "leg": letter,
            "direction": "inbound" if is_inbound else "outbound", "status": status,
        })  # fmt: skip
    return legs


def _customer(dice: Dice) -> int:
    """Draw a customer's number: foreign, or Indian with or without the country code; never with a plus."""
    kind = dice.below(20)
    if kind < 2:  # noqa: PLR2004 (one in ten)
        return _ABROAD[dice.below(len(_ABROAD))] + dice.below(90)
    national = _SERIES[dice.below(len(_SERIES))] * 100_000 + dice.below(100_000)
    return national if kind < 8 else 91 * 10**10 + national  # noqa: PLR2004 (three in ten)


def as_text(leg: SentLeg) -> SentLeg:
    """Return a leg with its numbers as text, and with an agent's ID in place of the agent's number."""
    has_agent = leg["leg"] == ("b" if leg["direction"] == "inbound" else "a")
    return {
        **leg,
        **{field: str(leg[field]) for field in ("duration", "time")},
        **{field: f"{leg[field]:.6f}" for field in ("rate", "balance")},
        "from": _dialled(leg["from"]),
        "to": f"209_11111{str(leg['to'])[-2:]}" if has_agent else _dialled(leg["to"]),
    }


def _dialled(number: int) -> str:
    """Write a number as similar APIs do: with its trunk zero, or with a blank in place of the plus."""
    return f"0{number}" if number < 10**10 else f" {number}"
