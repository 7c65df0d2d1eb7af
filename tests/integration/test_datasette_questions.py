"""The ready questions of Datasette: what they find among legs of a test, and what empty blanks mean."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import insert

from etl.db.datasette.dashboard import dashboard
from etl.db.datasette.questions import DAYS, QUESTIONS
from etl.db.engine import reading
from etl.db.tables import call_legs

pytestmark = pytest.mark.databases("sqlite")

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def leg(request_id, letter="a", call_time=NOON, **values):
    """A leg of an answered outbound call from our line to an agent (a) or to the other side (b)."""
    numbers = {"from_number": "4471000000", "from_e164": "+914471000000"}
    if letter == "a":
        numbers |= {"to_number": "9100000000", "to_e164": "+919100000000", "to_country": "IN"}
    else:
        numbers |= {"to_number": "14155550100", "to_e164": "+14155550100", "to_country": "US"}
    return {
        "account": "default",
        "request_id": request_id,
        "leg": letter,
        "call_time": call_time,
        "occurrence": 1,
        "duration_seconds": 10,
        "rate": None,
        "balance": None,
        "direction": "outbound",
        "status": "answered",
        "revision": 1,
        "missing_since": None,
        **numbers,
        **values,
    }


@pytest.fixture
def ask(database):
    """Store legs, and ask a question as Datasette does: every blank that is not filled in is empty text."""

    def ask(name, *legs, **filled_in):
        question = QUESTIONS[name]
        assert filled_in.keys() <= question.blanks.keys()
        if legs:
            with database.engine.begin() as connection:
                connection.execute(insert(call_legs), list(legs))
        with reading(database.engine) as connection:
            rows = connection.exec_driver_sql(question.sql, dict.fromkeys(question.blanks, "") | filled_in)
            return [dict(row) for row in rows.mappings()]

    return ask


def told(rows, *names):
    return [tuple(row[name] for name in names) for row in rows]


def test_a_period_ends_before_the_day_that_it_names(ask):
    ask(
        "calls_of_a_day",
        leg("before", call_time=datetime(2026, 11, 19, 23, 59, 59, 999999, tzinfo=UTC)),
        leg("first", call_time=datetime(2026, 11, 20, tzinfo=UTC)),
        leg("last", call_time=datetime(2026, 11, 20, 23, 59, 59, 999999, tzinfo=UTC)),
        leg("after", call_time=datetime(2026, 11, 21, tzinfo=UTC)),
    )
    of_the_day = ask("calls_of_a_day", day="2026-11-20")
    by_day = ask("asr_and_acd_by_day", since="2026-11-20", until="2026-11-21")

    assert told(of_the_day, "request_id") == [("first",), ("last",)]
    assert told(by_day, "day", "calls", "asr_percent", "acd_seconds") == [("2026-11-20", 2, 100.0, 10.0)]


def test_an_unknown_duration_is_not_a_0_in_the_average_talk(ask):
    unknown = leg("2", "b", duration_seconds=None)
    (by_day,) = ask(
        "asr_and_acd_by_day", leg("1"), leg("2"), unknown, leg("3"), leg("3", "b", status="missed")
    )

    assert (by_day["answered_calls"], by_day["acd_seconds"]) == (2, 10.0)


@pytest.mark.parametrize("blank", ["", "no day", "2026-13-01"])
def test_without_a_day_the_newest_calls_are_meant(ask, blank):
    legs = [leg(f"{n} days before", call_time=NOON - n * DAY) for n in range(DAYS + 2)]
    by_day = ask("asr_and_acd_by_day", *legs, since=blank, until=blank)

    assert [row["day"] for row in by_day] == [f"{NOON - n * DAY:%Y-%m-%d}" for n in range(DAYS)][::-1]
    assert told(ask("calls_of_a_day", day=blank), "request_id") == [("0 days before",)]


@pytest.mark.parametrize("name", QUESTIONS)
def test_every_question_works_on_an_empty_database(ask, name):
    assert ask(name) == []


@pytest.mark.parametrize(
    "written", ["14155550100", "+14155550100", "+1 415-555-0100", " 1.415.555.0100 ", "+1 (415) 555-0100"]
)
def test_a_number_is_found_however_it_is_written(ask, written):
    rows = ask(
        "calls_of_a_number",
        leg("to", "b"),
        leg("from", from_number="0014155550100", from_e164="+14155550100", call_time=NOON - DAY),
        leg("gone", "b", missing_since=NOON),
        leg("other"),
        number=written,
    )

    assert told(rows, "request_id") == [("to",), ("from",)]


def test_an_agent_is_found_by_the_id_that_was_sent(ask):
    rows = ask("calls_of_a_number", leg("1", to_number="209_1111113", to_e164=None), number="209_1111113")

    assert told(rows, "to_number") == [("209_1111113",)]


SPENT = (
    leg("1", rate=0.1),
    leg("1", "b", rate=0.2),
    leg("2", to_e164=None, to_country=None),
    leg("3", "b", account="other", rate=5),
)


def test_spend_is_by_account_and_country_and_counts_what_has_no_rate(ask):
    rows = ask("spend_by_destination", *SPENT)

    assert told(rows, "account", "to_country", "calls", "billed_rate_total", "legs_without_rate") == [
        ("default", "US", 1, 0.3, 0),
        ("default", "??", 1, None, 1),
        ("other", "US", 1, 5, 0),
    ]
    assert ask("spend_by_destination", account="other") == rows[2:]


def test_the_chart_of_spend_keeps_accounts_apart(ask, database):
    ask("calls_of_a_day", *SPENT)
    with reading(database.engine) as connection:
        chart = re.sub(r"\[\[.*?\]\]", "", dashboard("cdr")["charts"]["spend"]["query"])
        rows = connection.exec_driver_sql(chart).all()

    assert [tuple(row) for row in rows] == [("other: US", 5), ("default: US", 0.3)]


def test_callers_who_waited_in_vain_have_only_leg_a_answered(ask):
    rows = ask(
        "answered_by_a_but_not_b",
        leg("in vain", status="Answered"),
        leg("in vain", "b", status="missed"),
        leg("talked"),
        leg("talked", "b"),
        leg("nobody", status="missed"),
        leg("nobody", "b", status="missed"),
        leg("a alone"),
    )

    assert told(rows, "request_id", "a_to", "b_status") == [("in vain", "9100000000", "missed")]


def test_a_missed_caller_is_listed_unless_reached_later(ask):
    missed = {"status": "missed"}
    called_in = {"direction": "inbound", "from_number": "4915123456700", "from_e164": "+4915123456700"}
    rows = ask(
        "numbers_to_call_back",
        # Not reached, twice; once as a national number.
        leg("not reached", "b", **missed),
        leg("not reached before", "b", call_time=NOON - DAY, to_number="4155550100", **missed),
        # Called in, was missed, and was called back.
        leg("called in", call_time=NOON - DAY, **called_in, **missed),
        leg("called back", "b", call_time=NOON, to_number="4915123456700", to_e164="+4915123456700"),
        # Reached, and then not.
        leg("reached", "b", to_number="333", to_e164=None, call_time=NOON - DAY),
        leg("not again", "b", to_number="333", to_e164=None, call_time=NOON - DAY / 2, **missed),
    )

    assert told(rows, "number", "unanswered_calls", "last_request_id") == [
        ("+14155550100", 2, "not reached"),
        ("333", 1, "not again"),
    ]


def test_the_legs_of_a_request_include_missing_ones(ask):
    rows = ask("legs_of_a_request", leg("1"), leg("1", "b", missing_since=NOON), leg("2"), request_id=" 1 ")

    assert told(rows, "request_id", "leg", "missing_since") == [
        ("1", "a", None),
        ("1", "b", "2026-11-20 12:00:00.000000"),
    ]


def test_the_balance_of_an_hour_is_that_after_its_last_leg(ask):
    rows = ask(
        "balance_over_time",
        leg("1", balance=5),
        leg("2", balance=3, call_time=NOON + timedelta(minutes=59)),
        leg("2", "b", balance=2.75, call_time=NOON + timedelta(minutes=59)),
        leg("3", balance=None, call_time=NOON + timedelta(minutes=59, seconds=1)),
        leg("4", balance=9, call_time=NOON + timedelta(hours=1)),
    )

    assert told(rows, "hour", "balance") == [("2026-11-20 12", 2.75), ("2026-11-20 13", 9)]
