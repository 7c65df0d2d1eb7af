"""The report on a month of calls: its numbers checked by SQL, and the same page on every database."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text, update
from support.builders import leg_row as leg
from support.builders import store
from support.months import fill_month
from support.pages import Page, Questions, check

from etl.db.engine import create_sqlite_file, long_reading, open_engine, sqlite_path
from etl.db.schema import upgrade
from etl.db.streams import stream_findings
from etl.db.tables import call_legs
from etl.report.page import render_page
from etl.report.reading import read_report
from etl.report.terminal import print_report

SINCE, UNTIL = datetime(2026, 10, 1), datetime(2026, 11, 1)
CALLS = 300
# What real data has and the invented month does not.
ODD = (
    "UPDATE call_legs SET missing_since = '2026-11-01 00:00:00' WHERE leg = 'b' AND request_id LIKE '00001%'",
    "UPDATE call_legs SET rate = NULL, to_country = NULL WHERE request_id LIKE '00002%'",
    "UPDATE call_legs SET status = NULL WHERE request_id LIKE '00003%'",
    "UPDATE call_legs SET status = 'Voicemail <b>' WHERE status = 'busy' AND request_id LIKE '0001%'",
    "UPDATE call_legs SET balance = NULL WHERE account = 'sales' AND request_id LIKE '0000%'",
)


def filled(engine, **options):
    fill_month(engine, CALLS, **options)
    with engine.begin() as connection:
        for statement in ODD:
            connection.execute(text(statement))
    return engine


def report_of(engine, zone="Asia/Kolkata", *, since=SINCE, until=UNTIL, is_masked=False):
    with long_reading(engine) as connection:
        return read_report(connection, since, until, zone_name=zone, region="IN", is_masked=is_masked)


def page_of(engine, zone="Asia/Kolkata", **options):
    return render_page(report_of(engine, zone, **options))


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    "accounts", [("default", "sales"), ("default",)], ids=["two accounts", "one account"]
)
def test_every_number_of_the_page_is_what_sql_says(engine, database_url, accounts):
    page = Page(page_of(filled(engine, accounts=accounts)))
    questions = Questions(
        sqlite_path(database_url), "2026-09-30T18:30:00", "2026-10-31T18:30:00", minutes=330
    )
    check(page, questions)

    assert int(page.figures["calls"]) > CALLS * 0.98
    assert int(page.figures["missing_legs"]) > 0
    with pytest.raises(AssertionError):  # the same page is wrong for the days of UTC
        check(page, Questions(sqlite_path(database_url), "2026-10-01", "2026-11-01", minutes=0))


@pytest.mark.databases("postgresql", "mariadb")
def test_the_same_data_makes_the_same_page_on_every_database(engine, tmp_path):
    url = f"sqlite:///{tmp_path / 'cdr.sqlite3'}"
    create_sqlite_file(url)
    embedded = open_engine(url)
    upgrade(embedded)
    expected = page_of(filled(embedded))
    embedded.dispose()

    assert page_of(filled(engine)) == expected


# Numbers in unexpected places.
HIDDEN = (
    "UPDATE call_legs SET status = 'tel:' || to_number WHERE leg = 'b' AND request_id LIKE '00004%'",
    "UPDATE call_legs SET status = to_number || '@' WHERE leg = 'b' AND request_id LIKE '00005%'",
    "UPDATE call_legs SET leg = substr(to_number, 1, 16), rate = NULL WHERE request_id LIKE '00006%'",
)


@pytest.mark.databases("sqlite")
def test_neither_page_nor_terminal_contains_a_number_that_is_masked(engine, capsys):
    filled(engine)
    with engine.begin() as connection:
        for statement in HIDDEN:
            connection.execute(text(statement))
        numbers = {number for row in connection.execute(
            text("SELECT DISTINCT to_number, from_number, to_e164, from_e164 FROM call_legs")
        ) for number in row if number}  # fmt: skip
        requests = connection.scalars(text("SELECT request_id FROM cdr_requests")).all()
    runs = {number[at : at + 7] for number in numbers for at in range(len(number) - 6)}
    shown = {}
    for is_masked in (False, True):
        report = report_of(engine, "UTC", is_masked=is_masked)
        print_report(report)
        shown[is_masked] = (render_page(report), capsys.readouterr().out)
    without_requests = re.sub("|".join(requests), "", shown[True][0])  # they stay

    assert all(any(run in form for run in runs) for form in shown[False])
    assert [run for form in (without_requests, shown[True][1]) for run in runs if run in form] == []
    assert all("+91…" in form for form in shown[True])


@pytest.mark.databases("sqlite")
def test_text_from_the_data_is_never_markup(engine):
    fill_month(engine, 30, accounts=("<img src=x onerror=alert(1)>",))
    with engine.begin() as connection:
        connection.execute(
            text("UPDATE call_legs SET status = '<script>', to_country = '<i' WHERE leg = 'b'")
        )
        connection.execute(
            text("UPDATE call_legs SET to_number = '\"><script>' || occurrence WHERE leg = 'b'")
        )
    html = page_of(engine)
    page = Page(html)
    tags = {tag for tag, _ in page.tags}

    assert "<script" not in html
    assert tags.isdisjoint({"script", "img", "iframe", "object", "i "})
    assert not [attrs for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "<script>" in page.tables["hours-table"][0]
    assert page.tables["coverage-table"][1][0] == "<img src=x onerror=alert(1)>"


@pytest.mark.databases("sqlite")
def test_a_page_loads_nothing_from_elsewhere(engine):
    page = Page(page_of(filled(engine)))
    links = [
        value
        for _, attrs in page.tags
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href", "action", "data", "srcset")
    ]
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]

    assert [link for link in links if not link.startswith(("#", "data:"))] == []
    assert len(ids) == len(set(ids))


@pytest.mark.databases("sqlite")
def test_the_page_of_an_empty_database_says_so(engine):
    page = page_of(engine)

    assert "No calls of this period are stored." in page
    assert "No request was ever enqueued" in page
    assert Page(page).figures == {"until": "", "missing_legs": "0"}


@pytest.mark.databases("sqlite")
def test_a_year_is_reported_by_month(engine):
    page = Page(page_of(filled(engine), since=datetime(2026, 1, 1), until=datetime(2027, 1, 1)))
    months = page.by_row("days-table")

    assert list(months)[1:] == ["2026-10"]
    assert sum(int(row[0]) for row in list(months.values())[1:]) == int(page.figures["calls"]) == CALLS


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize(
    ("since", "until"),
    [
        (datetime(2026, 10, 5, 14), datetime(2026, 10, 5, 15)),
        (datetime(1, 1, 2), datetime(9999, 12, 30)),
    ],
    ids=["an hour", "all the time there is"],
)
def test_periods_of_any_length_have_charts(engine, since, until):
    page = Page(page_of(filled(engine), since=since, until=until))

    assert int(page.figures["calls"]) > 0


@pytest.mark.databases("sqlite")
def test_calls_with_only_unknown_values_are_reported(engine):
    filled(engine)
    with engine.begin() as connection:
        for name in ("rate", "balance", "duration_seconds", "to_country", "status", "direction"):
            connection.execute(update(call_legs).values({name: None}))
    html = page_of(engine)
    page = Page(html)

    text_ = " ".join(html.split())
    for heading, sentence in {
        "Talk time of answered calls": "No answered call has a known duration.",
        "Spend by day and destination, account default": "No leg has a rate.",
        "Balance, account sales": "No leg has a balance.",
    }.items():
        assert re.search(rf"<h2>{heading}</h2>( <div[^>]*>)? <p>{sentence}</p>", text_)
    assert page.figures["answered_calls"] == "0"
    assert page.by_row("destinations0-table")["??"][5] == ""


def test_findings_are_those_of_calls_of_the_period_and_of_its_requests_without_legs(engine):
    begin, end = datetime(2026, 10, 2, tzinfo=UTC), datetime(2026, 10, 3, tzinfo=UTC)
    before = begin - timedelta(microseconds=1)
    store(
        engine,
        [
            leg("began before", "a", call_time=before),
            leg("began before", "b", call_time=begin, rate=None),
            leg("first", "a", call_time=begin, rate=None),
            leg("lost its first", "a", call_time=before, missing_since=end),
            leg("lost its first", "b", call_time=begin),
            leg("lost all", "a", call_time=begin, missing_since=end),
            leg("lost all before", "a", call_time=before, missing_since=end),
            leg("after", "a", call_time=end, rate=None),
        ],
        [
            {"request_id": request_id, "enqueued_at": at, "api_count": 3}
            for request_id, at in {
                "none": begin,
                "none before": before,
                "none after": end,
                "first": before,
            }.items()
        ],
    )
    with long_reading(engine) as connection:
        found = [(one.check_name, one.request_id) for one in stream_findings(connection, begin, end)]

    assert found == [
        ("count_mismatch", "first"),
        ("count_mismatch", "none"),
        ("missing_leg", "lost all"),
        ("missing_leg", "lost its first"),
        ("null_rate", "first"),
    ]


@pytest.mark.databases("sqlite")
def test_amounts_of_a_column_are_shown_with_the_same_number_of_decimals(engine):
    html = page_of(filled(engine))

    for table in ("accounts", "destinations0", "spend0", "spend1", "balance0"):
        (body,) = re.findall(rf'<table id="{table}-table">.*?</table>', html, re.DOTALL)
        shown = re.findall(r"<td[^>]*>-?[\d,]+\.(\d+)</td>", body)
        assert len({len(decimals) for decimals in shown}) == 1, table
        assert len(shown[0]) >= 2
