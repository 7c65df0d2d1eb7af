"""What the views say about calls, computed again in plain Python from rows of `call_legs`."""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime

from sqlalchemy import select

from etl.db.engine import reading

MIDNIGHT = datetime(2026, 2, 4, tzinfo=UTC)


def rows_of(engine, view, *conditions):
    """The rows of a view, as tuples in the types of `etl.db.views`."""
    with reading(engine) as connection:
        return [tuple(row) for row in connection.execute(select(view).where(*conditions))]


def present(legs):
    """The legs that the latest answer still has."""
    return [each for each in legs if each["missing_since"] is None]


def calls_of(legs):
    """One record per call, as the contract defines it."""
    of_request = defaultdict(list)
    for each in present(legs):
        of_request[each["account"], each["request_id"]].append(each)
    return [_call(key, its) for key, its in of_request.items()]


def _call(key, legs):
    a_legs, b_legs = ([each for each in legs if each["leg"] == letter] for letter in "ab")
    talking = [each for each in b_legs or a_legs if each["status"] == "answered"]
    speaks = _best(a_legs) if a_legs else min(b_legs, key=_place)
    rates = [each["rate"] for each in legs if each["rate"] is not None]
    return {
        "account": key[0],
        "request_id": key[1],
        "call_time": min(each["call_time"] for each in legs),
        "direction": speaks["direction"],
        "to_country": _best(b_legs or a_legs)["to_country"],
        "answered": bool(talking),
        "is_measured": any(each["duration_seconds"] is not None for each in talking),
        "talk_seconds": sum(each["duration_seconds"] or 0 for each in talking),
        "rates": rates,
        "legs_without_rate": len(legs) - len(rates),
    }


def _place(each):
    return each["call_time"], each["to_number"], each["occurrence"]


def _best(legs):
    """The longest answered leg, otherwise the latest one."""
    answered = [each for each in legs if each["status"] == "answered"]
    if answered:
        return max(
            answered,
            key=lambda each: (
                -1 if each["duration_seconds"] is None else each["duration_seconds"],
                _place(each),
            ),
        )
    return max(legs, key=_place)


def figures_by_day(calls, name, value_of):
    """The rows of a daily view: calls by day, account and one more field."""
    groups = defaultdict(list)
    for call in calls:
        groups[call["call_time"].date(), call["account"], value_of(call[name])].append(call)
    return {(*key, *_figures(group)) for key, group in groups.items()}


def _figures(calls):
    answered = [call for call in calls if call["answered"]]
    measured = [call for call in answered if call["is_measured"]]
    talk = sum(call["talk_seconds"] for call in calls)
    rates = [rate for call in calls for rate in call["rates"]]
    return (
        len(calls),
        len(answered),
        len(answered) / len(calls),
        talk / len(measured) if measured else None,
        talk,
        sum(rates) if rates else None,
        sum(call["legs_without_rate"] for call in calls),
        len(answered) - len(measured),
    )
