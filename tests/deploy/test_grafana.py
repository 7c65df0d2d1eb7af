"""The dashboards for Grafana: each panel's SQL runs as the analyst's role, and gives what the panel draws."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
import yaml
from grafana import DASHBOARDS, FOLDER, PANELS, Look
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from systems import numbered

on_postgresql = pytest.mark.databases("postgresql")
SCENARIOS = ("answered", "missed", "several_b", "twins", "null_money", "count_mismatch", "malformed_money")
ROLE = "cdr_analyst"
GRANTS = f"""
DO $$ BEGIN CREATE ROLE {ROLE}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
GRANT SELECT ON calls, calls_daily, destinations, sync_coverage, data_quality, call_legs, sync_runs TO {ROLE};
GRANT SELECT (account, state, run_after, lease_until, last_error_kind) ON cdr_requests TO {ROLE};
GRANT SELECT (account, breaker_opened_at, breaker_reason, paused_until) ON api_accounts TO {ROLE};
"""


@pytest.fixture(scope="module")
def filled(lasting_system):
    """A database of a few dozen calls, with requests that are dead and one that is due."""
    lasting_system.enqueue(*(one for scenario in SCENARIOS for one in numbered(scenario, 5)))
    lasting_system.work_off()
    lasting_system.enqueue("due")
    with lasting_system.engine.begin() as connection:
        for statement in GRANTS.strip().splitlines():
            connection.exec_driver_sql(statement)
    return lasting_system


@pytest.fixture
def ask(filled):
    """Ask as Grafana does, for the last two days; gives the columns' names and the rows."""

    def ask(sql, **chosen):
        until = filled.now() + timedelta(minutes=1)
        look = Look(until - timedelta(days=2), until, **chosen)
        with filled.engine.connect() as connection:
            connection.exec_driver_sql(f"SET ROLE {ROLE}")
            result = connection.exec_driver_sql(look.sql(sql).replace("%", "%%"))
            answer = list(result.keys()), [tuple(row) for row in result]
            connection.rollback()
            return answer

    return ask


def variables_of(document):
    return {variable["name"]: variable for variable in document["templating"]["list"]}


def is_number(values):
    return all(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_holds_nothing_that_grafanas_own_schema_does_not_know(name):
    register_default_plugins()
    document = DASHBOARDS[name]
    known = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))

    assert unknown_parts(document, known) == []


def unknown_parts(given, known, path=""):
    """What a schema's reading of a document lost or changed."""
    match given, known:
        case dict(), dict():
            return [
                part
                for key in given
                for part in (
                    unknown_parts(given[key], known[key], f"{path}.{key}")
                    if key in known
                    else [f"{path}.{key}"]
                )
            ]
        case list(), list() if len(given) == len(known):
            pairs = enumerate(zip(given, known, strict=True))
            return [part for i, pair in pairs for part in unknown_parts(*pair, f"{path}[{i}]")]
    return [] if given == known else [path]


def test_a_misspelt_setting_would_be_noticed():
    document = {
        "panels": [{"type": "stat", "titel": "wrong", "fieldConfig": {"defaults": {}, "overrides": []}}]
    }
    known = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))

    assert unknown_parts(document, known) == [".panels[0].titel"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_beside_each_other_and_not_on_each_other(name):
    panels = DASHBOARDS[name]["panels"]
    cells = [
        (x, y)
        for grid in (panel["gridPos"] for panel in panels)
        for x in range(grid["x"], grid["x"] + grid["w"])
        for y in range(grid["y"], grid["y"] + grid["h"])
    ]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len(set(cells)) == len(cells)
    assert {x for x, _ in cells} == set(range(24))


def test_the_data_source_is_the_one_of_all_panels_and_keeps_no_secret():
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/cdr-sync.yaml").read_text())["datasources"]
    ours = {"type": source["type"], "uid": source["uid"]}
    used = [panel.panel["datasource"] for panel in PANELS] + [
        target["datasource"] for panel in PANELS for target in panel.panel["targets"]
    ]
    variables = [one for document in DASHBOARDS.values() for one in variables_of(document).values()]
    from_outside = [
        source["url"],
        source["user"],
        source["jsonData"]["database"],
        *source["secureJsonData"].values(),
    ]

    assert all(each == ours for each in used)
    assert all(one["datasource"] == ours for one in variables if one["type"] == "query")
    assert all(re.fullmatch(r"\$\{CDR_ANALYST_[A-Z]+\}", value) for value in from_outside)


def test_every_variable_in_a_panels_sql_is_one_of_its_dashboard():
    for panel in PANELS:
        used = set(re.findall(r"\$\{(\w+)", panel.sql))

        assert used <= variables_of(DASHBOARDS[panel.dashboard]).keys(), str(panel)


@on_postgresql
@pytest.mark.parametrize("panel", PANELS, ids=str)
def test_a_panel_gets_the_columns_and_rows_that_it_draws(ask, filled, panel):
    names, rows = ask(panel.sql)
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    texts = {name for name, values in columns.items() if all(isinstance(value, str) for value in values)}
    numbers = {name for name, values in columns.items() if is_number(values)}

    assert rows
    assert len(set(names)) == len(names)
    assert named_columns(panel.panel) <= columns.keys()
    match panel.panel["type"]:
        case "timeseries":
            times = columns.pop("time")
            assert list(times) == sorted(times)
            assert all(float(time) % 3600 == 0 for time in times)
            assert datetime.fromtimestamp(float(times[-1]), tz=filled.now().tzinfo) <= filled.now()
            assert texts <= {"metric"}
            assert columns.keys() - texts == numbers - {"time"} != set()
        case "stat":
            assert len(rows) == 1
            assert numbers == columns.keys()
        case "barchart":
            assert panel.panel["options"]["xField"] == names[0]
            assert texts == {names[0]}
            assert numbers == columns.keys() - texts != set()
        case "bargauge":
            assert (texts, numbers) == ({"metric"}, {"requests"})
        case kind:
            assert kind == "table"


def named_columns(panel):
    """The columns that a panel's overrides are about."""
    overrides = panel["fieldConfig"]["overrides"]
    assert {override["matcher"]["id"] for override in overrides} <= {"byName"}
    return {override["matcher"]["options"] for override in overrides}


@on_postgresql
def test_the_figures_are_those_of_the_database(ask, filled):
    states = filled.states()
    by_title = {panel.panel["title"]: panel.sql for panel in PANELS}
    ((calls, answered, *_),) = ask(by_title["In this period"])[1]
    by_hour = ask(by_title["Calls"], bucket="1h")[1]
    talks = ask(by_title["How long calls talked"])[1]

    assert calls == states["done"]
    assert sum(row[1] for row in by_hour) == sum(row[1] for row in talks) == answered
    assert sum(row[2] for row in by_hour) == calls - answered
    assert dict(ask(by_title["Queue by state"])[1]) == states
    assert sum(row[1] for row in ask(by_title["API calls a day"])[1]) > calls


@on_postgresql
@pytest.mark.parametrize("panel", [one for one in PANELS if "${account" in one.sql], ids=str)
def test_an_account_that_is_not_chosen_is_left_out(ask, panel):
    _, rows = ask(panel.sql, accounts=("some'body", "else"))

    assert sum(value for row in rows for value in row if is_number([value])) == 0


@on_postgresql
def test_the_accounts_to_choose_from_are_those_that_there_are(ask):
    for document in DASHBOARDS.values():
        assert ask(variables_of(document)["account"]["query"])[1] == [("default",)]


# A year of calls, so that to read them all would be a mistake.
A_YEAR = """
INSERT INTO call_legs (account, request_id, leg, to_number, call_time, occurrence, from_number, revision)
SELECT 'default', md5(number::text), leg, '', now() - number * interval '20 minutes', 1, '', 1
FROM generate_series(1, 26280) AS number, (VALUES ('a'), ('b')) AS legs (leg)
"""


@pytest.fixture(scope="module")
def plan_of(filled):
    """A function that tells how PostgreSQL would answer where there is a year of calls."""
    look = Look(filled.now() - timedelta(days=2), filled.now())
    with filled.engine.connect() as connection:
        connection.exec_driver_sql(A_YEAR)
        connection.exec_driver_sql("ANALYZE call_legs")

        def explain(sql):
            return "\n".join(row[0] for row in connection.exec_driver_sql("EXPLAIN " + look.sql(sql)))

        yield explain
        connection.rollback()


@on_postgresql
@pytest.mark.parametrize("panel", [one for one in PANELS if "call_time" in one.sql], ids=str)
def test_a_panel_about_calls_finds_those_of_its_period_by_the_index(plan_of, panel):
    plan = plan_of(panel.sql)

    assert "ix_call_legs_call_time" in plan
    assert "Seq Scan on call_legs" not in plan


@on_postgresql
def test_a_panel_that_reads_all_legs_would_be_noticed(plan_of):
    plan = plan_of("SELECT count(*) FROM calls WHERE date_trunc('day', call_time) >= $__timeFrom()")

    assert "ix_call_legs_call_time" not in plan
    assert "Seq Scan on call_legs" in plan
