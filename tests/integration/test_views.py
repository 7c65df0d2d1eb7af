"""The view `calls`: one row per call, compared with the same rules in plain Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

import pytest
from sqlalchemy import column, select, table, text, update
from support import builders

from etl.db.dialects import Instant, Money
from etl.db.engine import reading
from etl.db.tables import call_legs

NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)
SIDE = ("from", "to", "status", "duration_seconds", "from_e164", "to_e164")
COLUMNS = (
    "account",
    "request_id",
    "call_time",
    "direction",
    "leg_count",
    "b_leg_count",
    *(f"a_{name}" for name in SIDE),
    *(f"b_{name}" for name in SIDE),
    "to_country",
    "answered",
    "talk_seconds",
    "billed_rate_total",
    "legs_without_rate",
)
TYPES = {"call_time": Instant(), "billed_rate_total": Money()}
CALLS = table("calls", *(column(name, TYPES.get(name)) for name in COLUMNS))


def calls_of(database):
    """The rows of the view by request ID."""
    with reading(database.engine) as connection:
        rows = [dict(row) for row in connection.execute(select(CALLS)).mappings()]
    for row in rows:
        row["answered"] = bool(row["answered"])
    return {row["request_id"]: row for row in rows}


# --- The same, in Python -----------------------------------------------------------------------------


def call_of(request_id, legs):
    """A call by the rules of the contract, from legs in the words of the API."""
    a_legs, b_legs = ([leg for leg in legs if leg["leg"] == letter] for letter in "ab")
    a, b = chosen(a_legs), chosen(b_legs)
    talking = [leg for leg in b_legs or a_legs if leg["status"] == "answered"]
    rates = [Decimal(str(leg["rate"])) for leg in legs if leg["rate"] is not None]
    first_b = min(b_legs, key=lambda leg: leg["time"], default=None)
    return {
        "account": "default",
        "request_id": request_id,
        "call_time": min(leg["time"] for leg in legs),
        "direction": (a or first_b)["direction"],
        "leg_count": len(legs),
        "b_leg_count": len(b_legs),
        **side("a", a),
        **side("b", b),
        "to_country": (b or a)["country"],
        "answered": bool(talking),
        "talk_seconds": sum(leg["duration"] or 0 for leg in talking),
        "billed_rate_total": sum(rates) if rates else None,
        "legs_without_rate": len(legs) - len(rates),
    }


def chosen(legs):
    """Of several legs the longest answered one, else the latest."""
    answered = [leg for leg in legs if leg["status"] == "answered"]
    if answered:
        return max(answered, key=lambda leg: leg["duration"] or 0)
    return max(legs, key=lambda leg: leg["time"], default=None)


def side(letter, leg):
    names = ("from", "to", "status", "duration", "from_e164", "to_e164")
    values = [leg[name] if leg else None for name in names]
    return {f"{letter}_{name}": value for name, value in zip(SIDE, values, strict=True)}


def plain(leg, numbers):
    """A leg of the API with its values in the types of the table."""
    calling, called = str(leg["from"]).strip(), str(leg["to"]).strip()
    from_e164, to_e164, country = numbers[calling, called]
    return {
        **leg,
        "from": calling,
        "to": called,
        "time": datetime.fromtimestamp(int(leg["time"]) / 1000, UTC),
        "duration": int(leg["duration"]),
        "from_e164": from_e164,
        "to_e164": to_e164,
        "country": country,
    }


# --- Calls of the simulator --------------------------------------------------------------------------

MIX = ("answered", "missed", "several_b", "twins", "null_money", "text_numbers", "single_object")
PER_SCENARIO = 25


@pytest.fixture(scope="module")
def busy_system(lasting_system):
    """Calls of every shape, of some of which single legs are marked as missing."""
    system = lasting_system
    system.enqueue(*(f"{scenario}-{number}" for scenario in MIX for number in range(PER_SCENARIO)))
    system.sync(system.settings(workers=8))
    with system.engine.begin() as connection:
        for request_id, letter in MISSING.items():
            connection.execute(
                update(call_legs)
                .where(call_legs.c.request_id == request_id, call_legs.c.leg == letter)
                .values(missing_since=NOON)
            )
    return system


MISSING = {
    "answered-0": "a",
    "answered-1": "b",
    "several_b-0": "a",
    "several_b-1": "b",
    "twins-0": "a",
    "twins-1": "b",
    "missed-0": "a",
    "null_money-0": "b",
}


def expected_calls(system):
    numbers = {
        (row["from_number"], row["to_number"]): (row["from_e164"], row["to_e164"], row["to_country"])
        for row in system.rows(call_legs)
    }
    calls = {}
    for scenario in MIX:
        for number in range(PER_SCENARIO):
            request_id = f"{scenario}-{number}"
            sent = system.simulator.legs_of(request_id)
            legs = [plain(leg, numbers) for leg in sent if leg["leg"] != MISSING.get(request_id)]
            if legs:
                calls[request_id] = call_of(request_id, legs)
    return calls


@pytest.mark.parametrize("scenario", MIX)
def test_each_call_reads_as_its_legs_say(busy_system, scenario):
    expected, found = expected_calls(busy_system), calls_of(busy_system)

    assert {name: row for name, row in found.items() if name.startswith(f"{scenario}-")} == {
        name: row for name, row in expected.items() if name.startswith(f"{scenario}-")
    }


def test_there_is_one_row_for_each_request_that_has_legs(busy_system):
    with reading(busy_system.engine) as connection:
        names = list(connection.scalars(text("SELECT request_id FROM calls")))

    assert sorted(names) == sorted(expected_calls(busy_system))
    assert "missed-0" not in names


def test_the_simulated_calls_cover_every_case(busy_system):
    """Negative control: the calls have every case that the rules distinguish."""
    calls = expected_calls(busy_system).values()

    assert {call["direction"] for call in calls} == {"inbound", "outbound"}
    assert {call["answered"] for call in calls} == {True, False}
    assert len({call["b_leg_count"] for call in calls}) >= 4
    assert any(call["a_status"] is None for call in calls)
    assert any(call["b_status"] is None for call in calls)
    assert any(call["billed_rate_total"] is None for call in calls)
    assert len({call["to_country"] for call in calls}) >= 3


# --- Single rules ------------------------------------------------------------------------------------


leg = partial(builders.leg_row, "one")


def later(seconds, letter="b", **changes):
    return leg(letter, call_time=NOON + timedelta(seconds=seconds), **changes)


@pytest.fixture
def call(database):
    """The call that some legs make."""

    def make(*legs):
        with database.engine.begin() as connection:
            for each in legs:
                connection.execute(call_legs.insert().values(each))
        return calls_of(database)["one"]

    return make


def test_the_vendors_sample_is_one_call(call):
    row = call(
        leg("b", duration_seconds=4, from_e164="+914471000000", to_e164="+919100000000"),
        leg("a", duration_seconds=10, to_number="9200000000", to_country=None),
    )

    assert row == {
        "account": "default",
        "request_id": "one",
        "call_time": NOON,
        "direction": "outbound",
        "leg_count": 2,
        "b_leg_count": 1,
        "a_from": "4471000000",
        "a_to": "9200000000",
        "a_status": "answered",
        "a_duration_seconds": 10,
        "a_from_e164": None,
        "a_to_e164": None,
        "b_from": "4471000000",
        "b_to": "9100000000",
        "b_status": "answered",
        "b_duration_seconds": 4,
        "b_from_e164": "+914471000000",
        "b_to_e164": "+919100000000",
        "to_country": "IN",
        "answered": True,
        "talk_seconds": 4,
        "billed_rate_total": Decimal("0.78"),
        "legs_without_rate": 0,
    }


def test_the_longest_answered_b_leg_stands_for_the_call(call):
    row = call(
        later(0, duration_seconds=300, status="missed", to_number="1"),
        later(20, duration_seconds=15, to_number="2"),
        later(40, duration_seconds=60, to_number="3"),
        later(60, duration_seconds=30, to_number="4"),
        later(80, duration_seconds=500, status="busy", to_number="5"),
    )

    assert (row["b_to"], row["b_status"], row["b_duration_seconds"]) == ("3", "answered", 60)
    assert (row["b_leg_count"], row["talk_seconds"], row["answered"]) == (5, 105, True)


def test_the_latest_b_leg_stands_for_the_call_if_none_was_answered(call):
    row = call(
        later(40, status="busy", to_number="3", duration_seconds=0),
        later(0, status="missed", to_number="1", duration_seconds=30),
        later(20, status="failed", to_number="2", duration_seconds=20),
    )

    assert (row["b_to"], row["b_status"], row["b_duration_seconds"]) == ("3", "busy", 0)
    assert (row["talk_seconds"], row["answered"]) == (0, False)


def test_twins_are_counted_twice(call):
    row = call(leg("b"), leg("b", occurrence=2), leg("a"))

    assert (row["leg_count"], row["b_leg_count"], row["talk_seconds"]) == (3, 2, 20)
    assert row["billed_rate_total"] == Decimal("1.17")


def test_a_call_with_an_unanswered_b_leg_is_unanswered_even_if_its_a_leg_was_answered(call):
    row = call(leg("a", status="answered", duration_seconds=40), leg("b", status="no-answer"))

    assert (row["answered"], row["talk_seconds"], row["a_status"]) == (False, 0, "answered")


@pytest.mark.parametrize(
    ("status", "answered", "talk"), [("answered", True, 10), ("missed", False, 0), (None, False, 0)]
)
def test_a_call_without_b_legs_goes_by_its_a_leg(call, status, answered, talk):
    row = call(leg("a", status=status))

    assert (row["answered"], row["talk_seconds"]) == (answered, talk)
    assert (row["b_from"], row["b_to"], row["b_status"], row["b_duration_seconds"]) == (None,) * 4
    assert row["to_country"] == "IN"


def test_a_call_without_an_a_leg_takes_the_direction_of_its_first_b_leg(call):
    row = call(
        later(20, direction="outbound", duration_seconds=60),
        later(0, direction="inbound", status="missed", to_number="1"),
    )

    assert row["direction"] == "inbound"
    assert (row["a_from"], row["a_to"], row["a_status"], row["a_duration_seconds"]) == (None,) * 4


def test_the_direction_is_that_of_the_a_leg_where_there_is_one(call):
    row = call(leg("a", direction="inbound"), leg("b", direction="outbound"))

    assert row["direction"] == "inbound"


def test_a_call_begins_with_its_earliest_leg(call):
    row = call(later(22, "a"), later(0, "b", status="missed", to_number="1"), later(20, "b"))

    assert row["call_time"] == NOON


def test_the_country_is_that_of_the_b_leg_that_stands_for_the_call(call):
    row = call(
        leg("a", to_country="IN"),
        later(0, to_country="GB", status="missed", to_number="1"),
        later(20, to_country="US"),
    )

    assert row["to_country"] == "US"


def test_null_rates_are_counted_and_not_taken_for_zero(call):
    row = call(leg("a", rate=None), leg("b", rate=Decimal("0.39")), later(5, "b", rate=None))

    assert (row["billed_rate_total"], row["legs_without_rate"]) == (Decimal("0.39"), 2)


def test_a_call_without_any_rate_has_no_total(call):
    row = call(leg("a", rate=None), leg("b", rate=None))

    assert (row["billed_rate_total"], row["legs_without_rate"]) == (None, 2)


def test_a_rate_of_zero_is_a_rate(call):
    row = call(leg("a", rate=Decimal(0)), leg("b", rate=None))

    assert (row["billed_rate_total"], row["legs_without_rate"]) == (0, 1)


def test_small_amounts_add_up_without_the_noise_of_doubles(call):
    row = call(leg("a", rate=Decimal("0.1")), leg("b", rate=Decimal("0.2")), later(5, rate=Decimal("0.4")))

    assert row["billed_rate_total"] == Decimal("0.7")


def test_an_answered_leg_without_a_duration_is_answered_and_adds_no_talk(call):
    row = call(leg("b", duration_seconds=None), later(5, duration_seconds=7, status="missed"))

    assert (row["answered"], row["talk_seconds"], row["b_duration_seconds"]) == (True, 0, None)


def test_missing_legs_are_left_out_everywhere(call):
    row = call(
        leg("a"),
        leg("b", duration_seconds=900, missing_since=NOON, rate=Decimal(5)),
        later(-60, "b", status="missed", missing_since=NOON, direction="inbound", to_number="1"),
    )

    assert (row["leg_count"], row["b_leg_count"], row["b_to"]) == (1, 0, None)
    assert (row["talk_seconds"], row["billed_rate_total"]) == (10, Decimal("0.39"))
    assert (row["call_time"], row["direction"]) == (NOON, "outbound")


def test_there_is_no_call_if_all_legs_are_missing(database):
    with database.engine.begin() as connection:
        connection.execute(call_legs.insert().values(leg("a", missing_since=NOON)))

    assert calls_of(database) == {}


def test_the_same_id_in_two_accounts_is_two_calls(database):
    with database.engine.begin() as connection:
        connection.execute(call_legs.insert().values(leg("a", account="sales")))
        connection.execute(call_legs.insert().values(leg("b", account="support", rate=Decimal(1))))
    with reading(database.engine) as connection:
        rows = connection.execute(select(CALLS).order_by(CALLS.c.account)).mappings().all()

    assert [(row["account"], row["leg_count"]) for row in rows] == [("sales", 1), ("support", 1)]
    assert [row["billed_rate_total"] for row in rows] == [Decimal("0.39"), 1]


def test_ids_that_differ_in_case_are_different_calls(database):
    with database.engine.begin() as connection:
        for name in ("one", "One", "one "):
            connection.execute(call_legs.insert().values(builders.leg_row(name, "a")))
    found = calls_of(database)

    assert {name: row["leg_count"] for name, row in found.items()} == {"one": 1, "One": 1, "one ": 1}
