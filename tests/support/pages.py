"""Reads a report's page by program, and computes its numbers again with SQL."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import datetime
from html.parser import HTMLParser
from itertools import pairwise

import pytest


class Page(HTMLParser):
    """The numbers of a page: `figures` by name, `tables` by ID, each a list of rows, headings left out."""

    def __init__(self, text):
        super().__init__()
        self.figures, self.tables, self.tags = {}, {}, []
        self._table = self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if "data-figure" in attrs:
            self.figures[attrs["data-figure"]] = attrs["data-value"]
        if "data-complete-until" in attrs:
            self.figures |= {
                "until": attrs["data-complete-until"],
                "missing_legs": attrs["data-missing-legs"],
            }
        if tag == "table":
            self._table = self.tables[attrs["id"]] = []
        elif tag == "tr" and self._table is not None:
            self._table.append([])
        elif tag in ("th", "td"):
            self._cell = attrs.get("data-value"), []

    def handle_data(self, data):
        if self._cell is not None:
            self._cell[1].append(data)

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            value, words = self._cell
            self._table[-1].append("".join(words).strip() if value is None else value)
            self._cell = None

    def by_row(self, table):
        """The rows of a table by their first cell."""
        return {row[0]: row[1:] for row in self.tables[table]}


class Questions:
    """The same questions in SQL, put to a SQLite database whose days begin so many minutes before UTC's."""

    def __init__(self, path, since, until, *, minutes):
        self.path, self.values = path, {"since": _utc(since), "until": _utc(until)}
        self.local = f"'{minutes:+d} minutes'"

    def ask(self, columns, rest="", source="calls", at="call_time"):
        query = f"SELECT {columns} FROM {source} WHERE {at} >= :since AND {at} < :until {rest}"  # noqa: S608
        with closing(sqlite3.connect(self.path)) as connection:
            return connection.execute(query, self.values).fetchall()

    def part(self, shape):
        return f"strftime('{shape}', call_time, {self.local})"


def _utc(instant):
    return datetime.fromisoformat(instant).strftime("%Y-%m-%d %H:%M:%S.000000")


STATUS = "COALESCE(CASE WHEN b_leg_count > 0 THEN b_status ELSE a_status END, '(none)')"
SECONDS = "CASE WHEN b_leg_count > 0 THEN b_duration_seconds ELSE a_duration_seconds END"
ENDED = "strftime('%s', call_time) + COALESCE(duration_seconds, 0)"  # calls of whole seconds
TALLY = (
    "COUNT(*), SUM(answered), AVG(answered), "
    f"1.0 * SUM(talk_seconds) / SUM(answered AND {SECONDS} IS NOT NULL),"
    " SUM(talk_seconds), SUM(billed_rate_total), SUM(legs_without_rate)"
)


def check(page, questions):
    """Find every number of a page again.

    Raises:
        AssertionError: one is not what the database says.
    """
    for part in (_check_figures, _check_calls, _check_money, _check_balances, _check_requests):
        part(page, questions)


def _check_figures(page, questions):
    (row,) = questions.ask(f"{TALLY}, SUM(leg_count), SUM(answered AND {SECONDS} IS NULL)")
    names = ("calls", "answered_calls", "answer_rate", "avg_talk_seconds", "talk_seconds",
             "billed_rate_total", "legs_without_rate", "legs", "answered_without_duration")  # fmt: skip
    _same([page.figures.get(name, value) for name, value in zip(names, row, strict=True)], row)
    connected = "lower(a_status) = 'answered' AND b_leg_count > 0"
    (row,) = questions.ask(f"SUM({connected}), SUM({connected} AND NOT answered)")
    _same([page.figures["a_answered"], page.figures["half_answered"]], row)
    latest = questions.ask("request_id", f"AND {connected} AND NOT answered ORDER BY call_time DESC LIMIT 10")
    assert [row[-1] for row in page.tables["half-answered-table"] if row[0] != "call time"] == [
        one for (one,) in latest
    ]


def _check_calls(page, questions):
    shown = page.by_row("hours-table")
    statuses, counts = shown.pop("hour"), {}
    for hour, status, count in questions.ask(f"{questions.part('%H')}, {STATUS}, COUNT(*)", "GROUP BY 1, 2"):
        for key in ((row, status if status in statuses else "others") for row in (hour, "all")):
            counts[key] = counts.get(key, 0) + count
    for hour, row in shown.items():
        _same(row, [counts.get((hour, status), 0) for status in statuses])
    days = {row[0]: row[1:6] for row in questions.ask(f"{questions.part('%Y-%m-%d')}, {TALLY}", "GROUP BY 1")}
    _same_rows(page.by_row("days-table"), days, empty=["0", "0", "", "", "0"])
    classes = (0, 10, 30, 60, 120, 300, 600, 1200, 3600, 10**9)
    for (low, high), row in zip(pairwise(classes), page.tables["talk-times-table"][1:], strict=True):
        within = f"AND answered AND {SECONDS} IS NOT NULL AND talk_seconds >= {low} AND talk_seconds < {high}"
        _same(row[1:], questions.ask("COUNT(*)", within)[0])
    week = {(int(day) + 6) % 7 * 100 + int(hour): count for day, hour, count in questions.ask(
        f"{questions.part('%w')}, {questions.part('%H')}, COUNT(*)", "GROUP BY 1, 2")}  # fmt: skip
    for hour, row in list(page.by_row("week-table").items())[1:]:
        _same(row, [week.get(day * 100 + int(hour), 0) for day in range(7)])


def _check_money(page, questions):
    accounts = [account for (account,) in questions.ask("DISTINCT account", "ORDER BY 1")]
    if len(accounts) > 1:
        tallies = {row[0]: row[1:] for row in questions.ask(f"account, {TALLY}", "GROUP BY 1")}
        _same_rows(page.by_row("accounts-table"), tallies)
    for number, account in enumerate(accounts):
        mine = f"AND account = '{account}'"
        country = "COALESCE(to_country, '??')"
        tallies = {row[0]: row[1:] for row in questions.ask(f"{country}, {TALLY}", f"{mine} GROUP BY 1")}
        _same_rows(page.by_row(f"destinations{number}-table"), tallies)
        shown = page.by_row(f"spend{number}-table")
        countries, spend = shown.pop("day"), {}
        columns = f"{questions.part('%Y-%m-%d')}, {country}, SUM(billed_rate_total)"
        for day, code, amount in questions.ask(
            columns, f"{mine} AND billed_rate_total IS NOT NULL GROUP BY 1, 2"
        ):
            key = day, code if code in countries else "others"
            spend[key] = spend.get(key, 0) + amount
        for day, row in shown.items():
            _same(row, [spend.get((day, code)) for code in countries])
        assert {day for day, _ in spend} <= shown.keys()


def _check_balances(page, questions):
    for number, (account,) in enumerate(questions.ask("DISTINCT account", "ORDER BY 1")):
        mine = f"AND account = '{account}' AND missing_since IS NULL"
        order = f"{mine} AND balance IS NOT NULL ORDER BY {ENDED}, balance DESC"
        balances = [one for (one,) in questions.ask("balance", order, "call_legs")]
        rises = [after - before for before, after in pairwise(balances) if after > before]
        top_ups, small = ([rise for rise in rises if (rise >= 100) is large] for large in (True, False))
        ((legs, known),) = questions.ask("COUNT(*), COUNT(balance)", mine, "call_legs")
        shown = [row[1] for row in page.tables[f"balance{number}-table"]]
        ends = [balances[0], balances[-1], min(balances), len(top_ups), sum(top_ups), len(small), sum(small)]
        _same(shown, [*ends, legs, legs - known])
        assert len(top_ups) == 0 or len(page.tables[f"top-ups{number}-table"]) == 1 + min(20, len(top_ups))


def _check_requests(page, questions):
    sums = (f"SUM(state = '{state}')" for state in ("done", "empty", "dead", "cancelled"))
    states = f"COUNT(*), {', '.join(sums)}, SUM(finished_at IS NULL)"
    rows = questions.ask(f"account, {states}", "GROUP BY 1", "cdr_requests", "enqueued_at")
    _same_rows(page.by_row("coverage-table"), {row[0]: row[1:] for row in rows})
    with closing(sqlite3.connect(questions.path)) as connection:
        ((until,),) = connection.execute(
            "SELECT MIN(enqueued_at) FROM cdr_requests WHERE finished_at IS NULL"
        )
    assert (
        datetime.fromisoformat(page.figures["until"]).timestamp()
        == datetime.fromisoformat(f"{until}+00:00").timestamp()
    )
    ((missing,),) = questions.ask("COUNT(*)", "AND missing_since IS NOT NULL", "call_legs")
    _same([page.figures["missing_legs"]], [missing])
    findings = questions.ask(
        "check_name, COUNT(*)", "GROUP BY 1", "calls JOIN data_quality USING (account, request_id)"
    )
    shown = {row[0]: row[-1] for row in page.tables["quality-table"][1:]}
    _same_rows({name: [count] for name, count in shown.items()}, {name: [count] for name, count in findings})


def _same_rows(shown, expected, *, empty=None):
    """Rows by their first cell; a cell without data in the database must be empty."""
    rows = {
        name: row for name, row in shown.items() if any(_is_number(cell) for cell in row) and name != "all"
    }
    assert expected.keys() <= rows.keys()
    for name, row in rows.items():
        if name in expected:
            _same(row, expected[name])
        else:
            assert row == empty


def _is_number(cell):
    return cell.replace(".", "", 1).replace("-", "", 1).isdigit()


def _same(shown, expected):
    """Numbers alike but for what doubles add far behind the point."""
    found = [None if value in ("", None) else float(value) for value in shown]
    assert found == [None if value is None else pytest.approx(value, abs=1e-6) for value in expected]
