"""Invented calls: the legs that an ID has, by seed and scenario, the same each time they are asked for.

The values look like a real account's: Indian numbers as JSON numbers (with the plus or the trunk zero
lost) and some foreign ones, a balance that falls as the day goes on and is topped up every night, calls of
the days before `epoch`. All of them ended more than an hour before it, but for the scenarios whose call ends
with the first ask.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from etl.simulator.alterations import ALTERATIONS, SentLeg, seconds_of
from etl.simulator.scenarios import BROKEN, HEALTHY, digest_of, scenario_of

JUST_ENDED = frozenset({"in_progress", "growing", "shrinking", "changing"})
ASKS_WITHOUT_LEGS = 2
_FINAL = 1_000_000  # more asks than any scenario waits for

SAMPLE_LEGS: Sequence[Mapping[str, object]] = (
    {"duration": 4, "balance": 1135.14, "rate": 0.39, "from": 4471000000, "to": 9100000000,
     "time": 1637069609000, "leg": "b", "direction": "outbound", "status": "answered"},
    {"duration": 10, "balance": 1134.75, "rate": 0.39, "from": 4471000000, "to": 9200000000,
     "time": 1637069609000, "leg": "a", "direction": "outbound", "status": "answered"},
)  # fmt: skip

_FAILURES = ("missed", "busy", "failed", "no-answer", "cancel")
_RATES = (39, 39, 39, 45, 60, 120)  # hundredths of the account's currency
# Series of Indian mobile numbers in use; the last five digits are drawn.
_SERIES = (98400, 99400, 90030, 91760, 94440, 97890, 96770, 81220, 73580, 63800)
# The ranges that the United States and the United Kingdom keep for fiction, and others in use.
_ABROAD = (1_415_555_0100, 44_20_7946_0000, 971_50_123_4500, 49_1512_3456700)


class _Dice:
    """Draws from the hash of an ID: as even as dice, and the same each time."""

    __slots__ = ("_left",)

    def __init__(self, digest: bytes) -> None:
        self._left = int.from_bytes(digest)

    def below(self, limit: int) -> int:
        self._left, drawn = divmod(self._left, limit)
        return drawn


def legs_of(
    request_id: str,
    seed: int = 1,
    *,
    epoch: float,
    days: int = 1,
    weights: Mapping[str, float] = HEALTHY,
    first_asked: float | None = None,
) -> list[SentLeg]:
    """Say the truth about an ID: the legs with which a job must end that asks until nothing changes.

    No legs for scenarios that never give a valid answer, and the smaller set for `shrinking`.

    Args:
        request_id: the ID in question.
        seed: the simulator's seed.
        epoch: the simulator's epoch, in epoch seconds.
        days: how many days before it the calls are spread over.
        weights: the simulator's mix.
        first_asked: when the ID was first asked for, which dates the calls that have just ended.
    """
    scenario = scenario_of(request_id, seed, weights)
    if scenario in BROKEN:
        return []
    return legs_at(
        scenario,
        request_id,
        seed,
        epoch=epoch,
        days=days,
        asked_before=_FINAL,
        first_asked=first_asked,
    )


def legs_at(
    scenario: str,
    request_id: str,
    seed: int,
    *,
    epoch: float,
    days: int = 1,
    asked_before: int = 0,
    first_asked: float | None = None,
) -> list[SentLeg]:
    """Give the legs of one answer, in the order in which they are sent (b before a, as the vendor does)."""
    if scenario == "sample":
        return [dict(leg) for leg in SAMPLE_LEGS]
    if scenario == "none" or (scenario in {"late", "not_ready"} and asked_before < ASKS_WITHOUT_LEGS):
        return []
    dice = _Dice(digest_of(request_id, seed)[6:])
    legs = _invent_call(_SHAPES.get(scenario, _answered)(dice), dice, epoch, days)
    if scenario in JUST_ENDED:
        _end_now(legs, epoch if first_asked is None else first_asked)
    if scenario in ALTERATIONS:
        ALTERATIONS[scenario](legs, asked_before)
    return legs


_Try = tuple[str, int, str, int]  # leg, duration in seconds, status, how many seconds after the call's start


def _answered(dice: _Dice) -> list[_Try]:
    talk = 3 + dice.below(5 + dice.below(600))
    return [("b", talk, "answered", 0), ("a", talk + 2 + dice.below(12), "answered", 0)]


def _missed(dice: _Dice) -> list[_Try]:
    return [("a", dice.below(45), "missed", 0)]


def _several_b(dice: _Dice) -> list[_Try]:
    failed = [
        ("b", dice.below(30), _FAILURES[dice.below(len(_FAILURES))], 20 * number)
        for number in range(1 + dice.below(3))
    ]
    waited = 20 * len(failed)
    (_, talk, _, _), (_, whole, _, _) = _answered(dice)
    return [*failed, ("b", talk, "answered", waited), ("a", whole + waited, "answered", 0)]


def _twins(dice: _Dice) -> list[_Try]:
    twin = ("b", 0, "missed", 1)
    return [twin, twin, ("a", 5 + dice.below(60), "answered", 0)]


_SHAPES: Mapping[str, Callable[[_Dice], list[_Try]]] = {
    "missed": _missed,
    "single_object": _missed,
    "several_b": _several_b,
    "growing": _several_b,
    "shrinking": _several_b,
    "twins": _twins,
}


def _invent_call(tries: Sequence[_Try], dice: _Dice, epoch: float, days: int) -> list[SentLeg]:
    seconds_into_day = dice.below(72_000)
    started = int(epoch) - 82_800 + seconds_into_day - 86_400 * dice.below(days)
    cents = 2_000_000 - 20 * seconds_into_day - dice.below(20)
    rate = _RATES[dice.below(len(_RATES))]
    own, other, agent = 4_471_000_000 + dice.below(20), _someone(dice), 9_100_000_000 + dice.below(30)
    is_inbound = dice.below(10) < 3  # noqa: PLR2004 (three calls in ten)
    legs: list[SentLeg] = []
    for letter, duration, status, after in tries:
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


def _someone(dice: _Dice) -> int:
    """A stranger's number: Indian with the country code, Indian without, or foreign, all without a plus."""
    kind = dice.below(20)
    if kind < 2:  # noqa: PLR2004 (one in ten)
        return _ABROAD[dice.below(len(_ABROAD))] + dice.below(90)
    national = _SERIES[dice.below(len(_SERIES))] * 100_000 + dice.below(100_000)
    return national if kind < 8 else 91 * 10**10 + national  # noqa: PLR2004 (three in ten)


def _end_now(legs: list[SentLeg], instant: float) -> None:
    """Date the legs so that each of them ended at this instant."""
    for leg in legs:
        leg["time"] = int(instant * 1000) - seconds_of(leg) * 1000
