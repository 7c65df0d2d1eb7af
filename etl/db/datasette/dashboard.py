"""The dashboard of Datasette's plugin datasette-dashboards: how complete the data is, and then what it says.

The plugin puts a metric's value into the page as HTML, and text of the API's could be any: only counts of
our own are shown as metrics, and all else in charts, which draw it.
"""

from __future__ import annotations

from typing import Any

from etl.db.datasette.questions import AVERAGE_TALK, DAYS

# A part in `[[ … ]]` is left out where its blank was not filled in.
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
    # Of a short period there are ticks within days too, and no day is to be named twice.
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


def dashboard(database: str) -> dict[str, Any]:
    """Describe the dashboard, for the database that Datasette calls so."""
    charts = {**_metrics(), **_charts()}
    return {
        "title": "Call records",
        "description": f"Days are UTC: from since up to, but without, until; the newest {DAYS} where "
        "both are empty. Figures of days that are not complete will grow.",
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
                "db": database,
                "query": "SELECT account FROM api_accounts ORDER BY account",
            },
        },
        "charts": {name: {**chart, "db": database} for name, chart in charts.items()},
    }


def _metrics() -> dict[str, Chart]:
    complete = "COALESCE(round(100.0 * SUM(done + without_legs + cancelled) / SUM(asked), 1), 100)"
    return {
        "complete": _metric("Requests that are settled", f"{complete} AS figure {_REQUESTS}", suffix=" %"),
        "waiting": _metric("Requests still waited for", f"COALESCE(SUM(waiting), 0) AS figure {_REQUESTS}"),
        "dead": _metric("Requests given up (dead)", f"COALESCE(SUM(dead), 0) AS figure {_REQUESTS}"),
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
            "Calls answered (ASR), in a hundred",
            f"SELECT date(call_time) AS day, round(100.0 * SUM(answered) / COUNT(*), 1) AS figure "
            f"{_CALLS} {by_day}",
            {"domain": [0, 100]},
        ),
        "acd": _line(
            "Average talk of an answered call (ACD), in seconds",
            f"SELECT date(call_time) AS day, round({AVERAGE_TALK}, 1) AS figure {_CALLS} {by_day}",
            {"zero": True},
        ),
        "status": _ranking(
            "Calls by status, of the b leg where there is one",
            "SELECT COALESCE(CASE WHEN b_leg_count > 0 THEN b_status ELSE a_status END, '(none)') AS name, "
            f"COUNT(*) AS figure {_CALLS} "
            "GROUP BY name ORDER BY figure DESC, name LIMIT 12",
        ),
        "spend": _ranking(
            "Billed rate by account and the country called, in each account's currency",
            "SELECT account || ': ' || COALESCE(to_country, '??') AS name, "
            f"round(SUM(billed_rate_total), 9) AS figure {_CALLS} "
            "GROUP BY name HAVING figure IS NOT NULL ORDER BY figure DESC, name LIMIT 12",
        ),
    }


def _vega(title: str, query: str, **display: Any) -> Chart:
    return {"title": title, "query": query, "library": "vega-lite", "display": display}


def _stacked(title: str, query: str, colours: dict[str, str]) -> Chart:
    """Bars by day, of parts that stand in a column each."""
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
    """Bars from the left, the longest on top."""
    return _vega(
        title,
        query,
        mark={"type": "bar", "tooltip": True},
        encoding={
            "x": {"field": "figure", "type": "quantitative", "title": None},
            "y": {"field": "name", "type": "nominal", "title": None, "sort": "-x"},
        },
    )
