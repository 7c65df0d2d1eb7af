"""`calls_daily` and `destinations`, computed a second time in Python, at the edges of days above all."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from support.builders import NOON, store
from support.builders import leg_row as leg
from support.expected import MIDNIGHT, calls_of, figures_by_day, rows_of

from etl.db.tables import call_legs
from etl.db.views import calls, calls_daily, destinations

LAST_MICROSECOND = MIDNIGHT - timedelta(microseconds=1)
MIX = ("answered", "missed", "several_b", "twins", "null_money", "text_numbers")
BY_HAND = [
    leg("last instant", "a", call_time=LAST_MICROSECOND),
    leg("first instant", "a", call_time=MIDNIGHT),
    # The call began before midnight, whichever leg did.
    leg("over midnight", "a", call_time=LAST_MICROSECOND),
    leg("over midnight", "b", call_time=MIDNIGHT, direction="inbound"),
    leg("b over midnight", "b", call_time=LAST_MICROSECOND),
    leg("b over midnight", "a", call_time=MIDNIGHT + timedelta(seconds=22)),
    leg("days long", "a", call_time=MIDNIGHT - timedelta(days=40)),
    leg("days long", "b", call_time=MIDNIGHT, to_country="US"),
    # The leg of the day before is gone, so that the call is one of the day after.
    leg("lost its first", "b", call_time=LAST_MICROSECOND, missing_since=NOON),
    leg("lost its first", "b", call_time=MIDNIGHT, occurrence=1, to_number="2"),
    leg("lost all", "b", missing_since=NOON),
    # Twins, several b legs, and ties in every column but the one that decides.
    leg("twins"),
    leg("twins", occurrence=2),
    leg("twins", "a"),
    leg("several", "a", direction="inbound"),
    *(leg("several", to_number=str(n), duration_seconds=n * 7 % 10, to_country=f"A{n}") for n in range(9)),
    leg("tied", to_number="2", to_country="US", direction="inbound"),
    leg("tied", to_number="1", to_country="GB"),
    leg("several unanswered", status="missed", to_country="US"),
    leg("several unanswered", status=None, to_country="GB", call_time=NOON + timedelta(seconds=1)),
    leg("several a", "a", direction="inbound", status="missed"),
    leg("several a", "a", direction="outbound", occurrence=2),
    leg("unanswered", "a", account="sales", status="missed", rate=None, direction="internal"),
    leg("only one of its day", "a", status="missed", call_time=NOON - timedelta(days=9)),
    leg("no money", "a", account="sales", rate=None, to_country=None, direction=None),
    leg("no money", "b", account="sales", rate=None, to_country=None, direction=None),
    leg("no duration", "b", duration_seconds=None),
    leg("no duration", "a", duration_seconds=30),
    leg("no duration of one", occurrence=1, duration_seconds=None),
    leg("no duration of one", occurrence=2, duration_seconds=5),
    leg("no duration of its day", "a", duration_seconds=None, call_time=NOON - timedelta(days=8)),
    leg("free", "a", rate=Decimal(0), account="sales", direction="internal"),
    # The same ID in two accounts, and IDs that differ in case.
    leg("shared", "a", account="sales"),
    leg("shared", "b", account="support", rate=Decimal("0.1")),
    leg("Shared", "b", account="support", rate=Decimal("0.2"), status="Answered"),
]


@pytest.fixture(scope="module")
def filled(lasting_system):
    """Simulated calls of every shape, and the calls made by hand; returns the system and all legs."""
    system = lasting_system
    system.enqueue(*(f"{scenario}-{number}" for scenario in MIX for number in range(25)))
    system.sync(system.settings(workers=8))
    store(system.engine, BY_HAND)
    legs = [{**row, "status": row["status"] and row["status"].lower()} for row in system.rows(call_legs)]
    return system.engine, legs


VIEWS = {
    calls_daily: ("direction", lambda direction: direction),
    destinations: ("to_country", lambda country: country or "??"),
}
each_view = pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)


@each_view
def test_each_day_adds_up_its_calls(filled, view):
    engine, legs = filled

    found = rows_of(engine, view)

    assert len(found) == len(set(found))
    assert set(found) == figures_by_day(calls_of(legs), *VIEWS[view])


@each_view
@pytest.mark.parametrize("day", [date(2026, 2, 3), date(2026, 2, 4), date(2025, 12, 26), date(2026, 2, 5)])
def test_a_single_day_has_the_same_figures_as_among_all_days(filled, view, day):
    engine, _ = filled

    assert sorted(map(repr, rows_of(engine, view, view.c.day == day))) == sorted(
        repr(row) for row in rows_of(engine, view) if row[0] == day
    )


@pytest.mark.parametrize("instant", [LAST_MICROSECOND, MIDNIGHT, MIDNIGHT + timedelta(microseconds=1)])
def test_calls_of_a_single_instant_are_the_same_as_among_all_calls(filled, instant):
    engine, _ = filled

    before, after = (
        rows_of(engine, calls, c) for c in (calls.c.call_time < instant, calls.c.call_time >= instant)
    )

    assert sorted(map(repr, before + after)) == sorted(map(repr, rows_of(engine, calls)))
    assert all(row[2] < instant for row in before)
    assert all(row[2] >= instant for row in after)


def test_a_call_over_midnight_belongs_to_the_day_it_began(filled):
    engine, _ = filled
    found = {row[1]: row[2] for row in rows_of(engine, calls, calls.c.account == "default")}

    assert found["over midnight"] == found["b over midnight"] == found["last instant"] == LAST_MICROSECOND
    assert found["lost its first"] == found["first instant"] == MIDNIGHT
    assert found["days long"] == MIDNIGHT - timedelta(days=40)
    assert "lost all" not in found


def test_the_rows_cover_every_case(filled):
    """Negative control: what the views are tried with contains every case that their rules distinguish."""
    _, legs = filled
    by_direction, by_country = (figures_by_day(calls_of(legs), *words) for words in VIEWS.values())

    assert {None, "inbound", "outbound", "internal"} == {row[2] for row in by_direction}
    assert {"??", "IN", "US"} <= {row[2] for row in by_country}
    assert any(row[6] is None for row in by_direction if not row[4])  # no call was answered
    assert any(row[6] is None for row in by_direction if row[4])  # no duration is known
    assert any(row[6] is not None and row[10] for row in by_direction)  # of some
    assert any(row[8] is None for row in by_direction)  # no rate at all
    assert any(row[8] is not None and row[9] for row in by_direction)  # some without
    assert {date(2026, 2, 3), date(2026, 2, 4)} < {row[0] for row in by_direction}
