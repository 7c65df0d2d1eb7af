"""What a scenario does to the legs of an invented call: values of other types, missing, more or less of them.

Each alteration changes the legs in place; it is told how many times they were asked for before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

SentLeg = dict[str, object]
Alteration = Callable[[list[SentLeg], int], None]

_DIGITS_WITHOUT_COUNTRY = 10


def seconds_of(leg: SentLeg) -> int:
    """Return how long a leg lasted."""
    duration = leg["duration"]
    return duration if isinstance(duration, int) else 0


def _as_text(legs: list[SentLeg], _: int) -> None:
    for leg in legs:
        for field in ("duration", "time"):
            leg[field] = str(leg[field])
        for field in ("rate", "balance"):
            leg[field] = f"{leg[field]:.6f}"
        has_agent = leg["leg"] == ("b" if leg["direction"] == "inbound" else "a")
        leg["to"] = f"209_11111{str(leg['to'])[-2:]}" if has_agent else _dialled(leg["to"])
        leg["from"] = _dialled(leg["from"])


def _dialled(number: object) -> str:
    """A number as siblings send it: with its trunk zero, or with a blank where the plus was."""
    digits = str(number)
    return f"0{digits}" if len(digits) == _DIGITS_WITHOUT_COUNTRY else f" {digits}"


def _in_seconds(legs: list[SentLeg], _: int) -> None:
    for leg in legs:
        leg["time"] = int(str(leg["time"])) // 1000


def _with_extra_fields(legs: list[SentLeg], _: int) -> None:
    for number, leg in enumerate(legs):
        leg.update(record=None, user="209_1111113", hangup={"by": "callee", "q850": 16}, hop=number)


def _growing(legs: list[SentLeg], asked_before: int) -> None:
    if asked_before == 0:
        del legs[1:]


def _shrinking(legs: list[SentLeg], asked_before: int) -> None:
    if asked_before > 0:
        del legs[0]


def _changing(legs: list[SentLeg], asked_before: int) -> None:
    if asked_before > 0:
        legs[-1]["duration"] = seconds_of(legs[-1]) + 1


def _set_all(**fields: object) -> Alteration:
    def alter(legs: list[SentLeg], _: int) -> None:
        for leg in legs:
            leg.update(fields)

    return alter


def _without_letter(legs: list[SentLeg], _: int) -> None:
    del legs[-1]["leg"]


ALTERATIONS: Mapping[str, Alteration] = {
    "text_numbers": _as_text,
    "seconds": _in_seconds,
    "extra_fields": _with_extra_fields,
    "growing": _growing,
    "shrinking": _shrinking,
    "changing": _changing,
    "null_money": _set_all(rate=None, balance=None),
    "long_money": _set_all(balance="17507.49999999892"),
    "malformed_money": _set_all(rate=True),
    "malformed_nan": _set_all(rate=float("nan")),
    "malformed_time": _set_all(time="yesterday"),
    "malformed_duration": _set_all(duration="four"),
    "missing_leg_field": _without_letter,
}
