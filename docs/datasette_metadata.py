"""The metadata for Datasette: `make docs` writes etl/datasette.json, which `cdr-sync metadata` prints.

It describes every table and view with the comments of the schema. It adds questions (queries with parameters)
and a dashboard for the plugin datasette-dashboards. `{database}` stands for the name of the database, which
`cdr-sync metadata` fills in. A test compares the file with what this script would write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from etl.db.tables import metadata
from etl.db.views import view_metadata

TARGET = Path(__file__).parent.parent / "etl" / "datasette.json"
DATABASE = "{database}"

# --- Questions: queries with parameters ------------------------------------------------------------------

# Over answered calls whose duration is known: that of the b leg if there is one, else that of the a leg.
AVERAGE_TALK = (
    "AVG(CASE WHEN answered AND CASE WHEN b_leg_count > 0 THEN b_duration_seconds ELSE a_duration_seconds END"
    " IS NOT NULL THEN talk_seconds END)"
)
DAYS = 30  # how far back a question looks if `since` is empty

# Datasette passes an empty text for a parameter that is not filled in, and has no defaults. Each query counts
# its own back from the newest call, so it has rows when it is first opened. A period is half-open: from the
# beginning of `since` to the beginning of `until`. Text that is not a day counts as empty.
_PERIOD = f"""period AS (
    SELECT COALESCE(date(NULLIF(:since, '')), date(MAX(call_time), '-{DAYS - 1} days')) AS since,
        COALESCE(date(NULLIF(:until, '')), date(MAX(call_time), '+1 day')) AS until
    FROM call_legs
)"""
_IN_PERIOD = "call_time >= since AND call_time < until"
_OF_ACCOUNT = "(:account = '' OR account = :account)"
_ACCOUNT = {"account": "one account; empty for all"}
_SPAN = {
    "since": f"the first day, such as 2026-11-01, UTC; empty for {DAYS} days up to the newest call",
    "until": "the day after the last one; empty for everything up to the newest call",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A query with parameters: its title, what it shows, and its SQL."""

    title: str
    description: str
    parameters: Mapping[str, str]  # what to fill in, and what an empty one means
    sql: str


QUESTIONS = {
    "calls_of_a_day": Question(
        "Calls of a day",
        "One row per call, in order of time.",
        {"day": "such as 2026-11-24, UTC; empty for the newest", **_ACCOUNT},
        f"""
WITH asked AS (
    SELECT COALESCE(date(NULLIF(:day, '')), date(MAX(call_time))) AS day FROM call_legs
)
SELECT substr(call_time, 1, 19) AS call_time, account, request_id, direction, a_from, a_to, a_status,
    b_from, b_to, b_status, to_country, answered, talk_seconds, billed_rate_total
FROM calls, asked
WHERE call_time >= day AND call_time < date(day, '+1 day') AND {_OF_ACCOUNT}
ORDER BY call_time, account, request_id""",
    ),
    "calls_of_a_number": Question(
        "Calls of a number",
        "Every leg from or to a number, newest first.",
        {
            "number": "as the API sent it, or international; empty for the newest leg's",
            **_SPAN,
        },
        f"""
WITH {_PERIOD},
given AS (
    SELECT CASE WHEN :number <> '' THEN trim(:number)
        ELSE (SELECT to_number FROM call_legs ORDER BY call_time DESC, to_number LIMIT 1) END AS number
),
asked AS (
    SELECT number, '+' || replace(replace(replace(replace(replace(ltrim(number, '+'),
        ' ', ''), '-', ''), '.', ''), '(', ''), ')', '') AS e164
    FROM given
)
SELECT substr(call_time, 1, 19) AS call_time, account, request_id, leg, direction, from_number, to_number,
    status, duration_seconds, rate
FROM call_legs, period, asked
WHERE {_IN_PERIOD} AND missing_since IS NULL
    AND (from_number = number OR to_number = number OR from_e164 = e164 OR to_e164 = e164)
ORDER BY call_time DESC, account, request_id, leg""",
    ),
    "spend_by_destination": Question(
        "Spend by destination",
        "Calls, talk time and billed rate by account (each has its own currency) and by the country called, "
        "most expensive first; ?? if the country is unknown.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD}
SELECT account, COALESCE(to_country, '??') AS to_country, COUNT(*) AS calls, SUM(answered) AS answered_calls,
    SUM(talk_seconds) AS talk_seconds, round(SUM(billed_rate_total), 9) AS billed_rate_total,
    SUM(legs_without_rate) AS legs_without_rate
FROM calls, period
WHERE {_IN_PERIOD} AND {_OF_ACCOUNT}
GROUP BY account, COALESCE(to_country, '??')
ORDER BY account, billed_rate_total DESC, calls DESC, to_country""",
    ),
    "asr_and_acd_by_day": Question(
        "ASR and ACD by day",
        "The percentage of calls that were answered (ASR), and their average talk time (ACD).",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD}
SELECT date(call_time) AS day, COUNT(*) AS calls, SUM(answered) AS answered_calls,
    round(100.0 * SUM(answered) / COUNT(*), 1) AS asr_percent,
    round({AVERAGE_TALK}, 1) AS acd_seconds
FROM calls, period
WHERE {_IN_PERIOD} AND {_OF_ACCOUNT}
GROUP BY date(call_time)
ORDER BY day""",
    ),
    "answered_by_a_but_not_b": Question(
        "Answered by a, but not by b",
        "Calls whose a leg was answered and whose b legs were not: the caller waited for nothing.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD}
SELECT substr(call_time, 1, 19) AS call_time, account, request_id, direction, a_from, a_to,
    a_duration_seconds, b_leg_count, b_to, b_status, billed_rate_total
FROM calls, period
WHERE {_IN_PERIOD} AND {_OF_ACCOUNT} AND lower(a_status) = 'answered' AND b_leg_count > 0 AND NOT answered
ORDER BY call_time DESC, account, request_id""",
    ),
    "numbers_to_call_back": Question(
        "Missed callers to call back",
        "Numbers of the other side (the caller of an inbound call, or the number that the b leg rang) whose "
        "last call was not answered, latest first.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD},
sent AS (
    SELECT account, call_time, direction, answered, request_id,
        CASE WHEN lower(direction) = 'inbound' THEN COALESCE(a_from, b_from) ELSE b_to END AS number
    FROM calls, period
    WHERE {_IN_PERIOD} AND {_OF_ACCOUNT}
),
contacts AS (  -- by E.164, because the API sends one number in several forms
    SELECT account, call_time, direction, answered, request_id, COALESCE(
        (SELECT MAX(CASE WHEN from_number = number THEN from_e164 WHEN to_number = number THEN to_e164 END)
         FROM call_legs WHERE call_legs.account = sent.account AND call_legs.request_id = sent.request_id),
        number) AS number
    FROM sent
),
ranked AS (
    SELECT contacts.*,
        row_number() OVER (PARTITION BY account, number ORDER BY call_time DESC, request_id DESC) AS place,
        SUM(NOT answered) OVER (PARTITION BY account, number) AS unanswered_calls
    FROM contacts
    WHERE number <> ''
)
SELECT account, number, unanswered_calls, substr(call_time, 1, 19) AS last_call_time,
    direction AS last_direction, request_id AS last_request_id
FROM ranked
WHERE place = 1 AND NOT answered
ORDER BY last_call_time DESC, account, number""",
    ),
    "legs_of_a_request": Question(
        "Legs of a request",
        "Everything stored about the legs of one request, also legs that later answers no longer contained.",
        {"request_id": "as PIOPIY issued it; empty for the newest call"},
        """
WITH asked AS (
    SELECT CASE WHEN :request_id <> '' THEN trim(:request_id)
        ELSE (SELECT request_id FROM call_legs ORDER BY call_time DESC, request_id LIMIT 1) END AS request_id
)
SELECT call_legs.*
FROM call_legs JOIN asked USING (request_id)
ORDER BY account, call_time, leg, to_number, occurrence""",
    ),
    "what_is_incomplete": Question(
        "What is incomplete",
        "Days with requests that still wait or that are dead, by the day they were enqueued: their figures "
        "can grow. No rows mean that nothing is missing.",
        _ACCOUNT,
        f"""
SELECT day, account, asked, done, without_legs, waiting, dead, cancelled, legs,
    round(100.0 * (done + without_legs + cancelled) / asked, 2) AS complete_percent
FROM sync_coverage
WHERE waiting + dead > 0 AND {_OF_ACCOUNT}
ORDER BY day DESC, account""",
    ),
    "balance_over_time": Question(
        "Balance over time",
        "The balance after the last leg that began in each hour.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD},
ranked AS (
    SELECT account, strftime('%Y-%m-%d %H', call_time) AS hour, balance,
        row_number() OVER (
            PARTITION BY account, strftime('%Y-%m-%d %H', call_time) ORDER BY call_time DESC, balance
        ) AS place
    FROM call_legs, period
    WHERE {_IN_PERIOD} AND {_OF_ACCOUNT} AND balance IS NOT NULL AND missing_since IS NULL
)
SELECT hour, account, balance
FROM ranked
WHERE place = 1
ORDER BY hour, account""",
    ),
    "findings_about_the_data": Question(
        "Findings about the data",
        "Requests and legs that look wrong, each with the check that found it.",
        {"check_name": "such as count_mismatch; empty for all", **_ACCOUNT},
        f"""
SELECT check_name, account, request_id, leg, number, detail
FROM data_quality
WHERE (:check_name = '' OR check_name = :check_name) AND {_OF_ACCOUNT}
ORDER BY check_name, account, request_id, leg""",
    ),
}

# --- The dashboard -------------------------------------------------------------------------------------

# The plugin puts a metric's value into the page as HTML, and the API could send any text. So metrics show our
# own counts only; everything else is in charts, which draw it. Of a query, the plugin leaves out a part in
# `[[ … ]]` if its filter is empty.
_SINCE = f"COALESCE([[ date(:since), ]] date((SELECT MAX(call_time) FROM call_legs), '-{DAYS - 1} days'), '')"
_UNTIL = "COALESCE([[ date(:until), ]] date((SELECT MAX(call_time) FROM call_legs), '+1 day'), '')"
_CALLS = f"FROM calls WHERE call_time >= {_SINCE} AND call_time < {_UNTIL} [[ AND account = :account ]]"
_REQUESTS = (
    f"FROM sync_coverage WHERE day >= {_SINCE} [[ AND day < date(:until) ]] [[ AND account = :account ]]"
)
_DAY = {
    "field": "day",
    "type": "temporal",
    "timeUnit": "utcyearmonthdate",
    "title": None,
    # A short period has ticks within days too; each day is named once.
    "axis": {"labelExpr": "utchours(datum.value) ? '' : utcFormat(datum.value, '%b %d')"},
}
_STATES = {
    "done": "#4c9f70",
    "without_legs": "#b8c4bb",
    "cancelled": "#8d99ae",
    "waiting": "#f2b134",
    "dead": "#c8553d",
}
_ANSWERED = {"answered": "#4c9f70", "unanswered": "#c8553d"}

Chart = dict[str, Any]


def dashboard() -> dict[str, Any]:
    """The dashboard: first how complete the data is, then what it says."""
    charts = {**_metrics(), **_charts()}
    return {
        "title": "Call records",
        "description": f"Days are UTC. since is the first day, until the day after the last one; if both are "
        f"empty, the newest {DAYS} days. Figures of incomplete days will grow.",
        "layout": [
            ["complete", "waiting", "dead", "calls"],
            ["coverage", "coverage", "by-day", "by-day"],
            ["asr", "asr", "acd", "acd"],
            ["status", "status", "spend", "spend"],
        ],
        "filters": {
            "since": {"name": "Since", "type": "date"},
            "until": {"name": "Until", "type": "date"},
            "account": {
                "name": "Account",
                "type": "select",
                "db": DATABASE,
                "query": "SELECT account FROM api_accounts ORDER BY account",
            },
        },
        "charts": {name: {**chart, "db": DATABASE} for name, chart in charts.items()},
    }


def _metrics() -> dict[str, Chart]:
    complete = "COALESCE(round(100.0 * SUM(done + without_legs + cancelled) / SUM(asked), 1), 100)"
    return {
        "complete": _metric("Requests that are settled", f"{complete} AS figure {_REQUESTS}", suffix=" %"),
        "waiting": _metric("Requests still waiting", f"COALESCE(SUM(waiting), 0) AS figure {_REQUESTS}"),
        "dead": _metric("Dead requests", f"COALESCE(SUM(dead), 0) AS figure {_REQUESTS}"),
        "calls": _metric("Calls", f"COUNT(*) AS figure {_CALLS}"),
    }


def _metric(title: str, query: str, *, suffix: str = "") -> Chart:
    display = {"field": "figure", "suffix": suffix}
    return {"title": title, "query": f"SELECT {query}", "library": "metric", "display": display}


def _charts() -> dict[str, Chart]:
    by_day = "GROUP BY day ORDER BY day"
    return {
        "coverage": _stacked(
            "Requests by the day they were enqueued",
            f"SELECT day, {', '.join(f'SUM({state}) AS {state}' for state in _STATES)} {_REQUESTS} {by_day}",
            _STATES,
        ),
        "by-day": _stacked(
            "Calls by day",
            f"SELECT date(call_time) AS day, SUM(answered) AS answered, SUM(NOT answered) AS unanswered "
            f"{_CALLS} {by_day}",
            _ANSWERED,
        ),
        "asr": _line(
            "Calls answered (ASR), in percent",
            f"SELECT date(call_time) AS day, round(100.0 * SUM(answered) / COUNT(*), 1) AS figure "
            f"{_CALLS} {by_day}",
            {"domain": [0, 100]},
        ),
        "acd": _line(
            "Average talk time of an answered call (ACD), in seconds",
            f"SELECT date(call_time) AS day, round({AVERAGE_TALK}, 1) AS figure {_CALLS} {by_day}",
            {"zero": True},
        ),
        "status": _ranking(
            "Calls by status (of the b leg if there is one)",
            "SELECT COALESCE(CASE WHEN b_leg_count > 0 THEN b_status ELSE a_status END, '(none)') AS name, "
            f"COUNT(*) AS figure {_CALLS} "
            "GROUP BY name ORDER BY figure DESC, name LIMIT 12",
        ),
        "spend": _ranking(
            "Billed rate by account and country called, in each account's currency",
            "SELECT account || ': ' || COALESCE(to_country, '??') AS name, "
            f"round(SUM(billed_rate_total), 9) AS figure {_CALLS} "
            "GROUP BY name HAVING figure IS NOT NULL ORDER BY figure DESC, name LIMIT 12",
        ),
    }


def _vega(title: str, query: str, **display: Any) -> Chart:
    return {"title": title, "query": query, "library": "vega-lite", "display": display}


def _stacked(title: str, query: str, colours: dict[str, str]) -> Chart:
    """Bars by day, stacked from one column per part."""
    colour = {"domain": list(colours), "range": list(colours.values())}
    return _vega(
        title,
        query,
        mark={"type": "bar", "tooltip": True},
        transform=[
            {"fold": list(colours), "as": ["part", "number"]},
            {"calculate": f"indexof({list(colours)}, datum.part)", "as": "place"},
        ],
        encoding={
            "x": _DAY,
            "y": {"field": "number", "type": "quantitative", "title": None, "axis": {"tickMinStep": 1}},
            "color": {"field": "part", "type": "nominal", "title": None, "scale": colour},
            "order": {"field": "place", "type": "quantitative"},
        },
    )


def _line(title: str, query: str, scale: dict[str, Any]) -> Chart:
    return _vega(
        title,
        query,
        mark={"type": "line", "tooltip": True},
        encoding={
            "x": _DAY,
            "y": {"field": "figure", "type": "quantitative", "title": None, "scale": scale},
        },
    )


def _ranking(title: str, query: str) -> Chart:
    """Horizontal bars, the longest on top."""
    return _vega(
        title,
        query,
        mark={"type": "bar", "tooltip": True},
        encoding={
            "x": {"field": "figure", "type": "quantitative", "title": None},
            "y": {"field": "name", "type": "nominal", "title": None, "sort": "-x"},
        },
    )


# --- The whole document --------------------------------------------------------------------------------

# Datasette lists these only on request: Alembic's and SQLite's own tables, and raw answers, which are long.
_HIDDEN = ("alembic_version", "cdr_responses", "sqlite_sequence")
_NEWEST_FIRST = {
    "cdr_requests": "id",
    "call_legs": "call_time",
    "cdr_responses": "fetched_at",
    "sync_runs": "id",
}


def document() -> dict[str, Any]:
    """The metadata of a database named DATABASE."""
    return {
        "title": "PIOPIY call records",
        "databases": {
            DATABASE: {
                "description": "Call records of PIOPIY (TeleCMI), kept complete by cdr-sync. Begin with the "
                "view calls, which has one row per call. Instants and days are UTC. Null means not sent; it "
                "is never 0.",
                "tables": _tables(),
                "queries": {name: _query(question) for name, question in QUESTIONS.items()},
            }
        },
        "plugins": {"datasette-dashboards": {"calls": dashboard()}},
    }


def text() -> str:
    """The file."""
    return json.dumps(document(), indent=2, ensure_ascii=False) + "\n"


def _query(question: Question) -> dict[str, Any]:
    parameters = "".join(
        f"<li><b>{name}</b>: {escape(words)}</li>" for name, words in question.parameters.items()
    )
    return {
        "title": question.title,
        "description_html": f"<p>{escape(question.description)}</p><ul>{parameters}</ul>",
        "params": list(question.parameters),
        "sql": question.sql.strip(),
        "hide_sql": True,
    }


def _tables() -> dict[str, dict[str, Any]]:
    described: dict[str, dict[str, Any]] = {name: {} for name in _HIDDEN}
    for table in (*metadata.sorted_tables, *view_metadata.sorted_tables):
        described.setdefault(table.name, {}).update(
            description=table.comment, columns={column.name: column.comment for column in table.columns}
        )
    for name in _HIDDEN:
        described[name]["hidden"] = True
    for name, column in _NEWEST_FIRST.items():
        described[name]["sort_desc"] = column
    return described


def main() -> None:
    """Write the file."""
    TARGET.write_text(text(), encoding="utf-8")
    sys.stdout.write(f"{TARGET}\n")


if __name__ == "__main__":
    main()
