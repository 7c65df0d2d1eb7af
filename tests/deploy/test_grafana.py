"""The dashboards for Grafana: each panel's SQL runs as the analyst's role, and gives what the panel draws."""

from __future__ import annotations

import json
import re
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from sqlalchemy.exc import DBAPIError
from support.grafana import DASHBOARDS, FOLDER, PANELS, Look
from support.systems import numbered
from support.tools import DEPLOY, OPERATE, TOP, check, program

from etl.db.engine import open_engine

on_postgresql = pytest.mark.databases("postgresql")
SCENARIOS = ("answered", "missed", "several_b", "twins", "null_money", "count_mismatch", "malformed_money")
PROVISIONED = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "cdr-sync.yaml").read_text())
SOURCES = {source["uid"]: source for source in PROVISIONED["datasources"]}
ROLES = {"cdr_analyst": "analyst", "cdr_monitor": "monitor"}  # with the files that make them


@pytest.fixture(scope="module")
def filled(lasting_system):
    """A database of a few dozen calls, with requests that are dead and one that is due."""
    lasting_system.enqueue(*(one for scenario in SCENARIOS for one in numbered(scenario, 5)))
    lasting_system.work_off()
    lasting_system.enqueue("due")
    return lasting_system


@pytest.fixture(scope="module")
def open_as(filled):
    """A function that gives an engine which connects as a role, made by the line at the head of its file."""
    program("psql", "apt-get install postgresql-client")
    url = filled.engine.url
    engines = {}
    for role, file in ROLES.items():
        head = (DEPLOY / "sql" / f"{file}-postgresql.sql").read_text()
        (line,) = re.findall(r"^--   (psql .+)$", head, re.MULTILINE)
        assert line in OPERATE.read_text()
        address = f"postgresql://{url.username}@{url.host}:{url.port}/{url.database}"
        for _ in range(2):  # the second time changes nothing
            code, said = check("sh", "-c", line.replace("postgresql://OWNER@HOST/cdr", address), cwd=TOP)
            assert code == 0, said
        engines[role] = open_engine(str(url.set(username=role)))
    yield engines.__getitem__
    for engine in engines.values():
        engine.dispose()
    with filled.engine.begin() as connection:
        for role in ROLES:
            connection.exec_driver_sql(f"DROP OWNED BY {role}")
            connection.exec_driver_sql(f"DROP ROLE {role}")


@pytest.fixture
def ask(filled, open_as):
    """Ask as Grafana does, for the last two days; gives the columns' names and the rows."""

    def ask(sql, dashboard, **chosen):
        until = filled.now() + timedelta(minutes=1)
        look = Look(until - timedelta(days=2), until, **chosen)
        with open_as(SOURCES[source_of(DASHBOARDS[dashboard])]["user"]).connect() as connection:
            result = connection.exec_driver_sql(look.sql(sql).replace("%", "%%"))
            return list(result.keys()), [tuple(row) for row in result]

    return ask


def source_of(document):
    """The one data source of all panels, queries and variables of a dashboard."""
    queries = [variable for variable in document["templating"]["list"] if variable["type"] == "query"]
    for panel in document["panels"]:
        queries += [panel, *panel["targets"]] if panel["type"] != "row" else []
    ((kind, uid),) = {(query["datasource"]["type"], query["datasource"]["uid"]) for query in queries}
    assert kind == SOURCES[uid]["type"]
    return uid


def variables_of(document):
    return {variable["name"]: variable for variable in document["templating"]["list"]}


def is_number(values):
    return all(isinstance(value, int | float | Decimal) and not isinstance(value, bool) for value in values)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_a_dashboard_is_valid_by_grafanas_own_schema(name):
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


def test_negative_control_a_misspelt_setting_is_found():
    document = {
        "panels": [{"type": "stat", "titel": "wrong", "fieldConfig": {"defaults": {}, "overrides": []}}]
    }
    known = json.loads(json.dumps(Dashboard.from_json(document), cls=JSONEncoder))

    assert unknown_parts(document, known) == [".panels[0].titel"]


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_do_not_overlap(name):
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


def test_the_data_sources_are_those_of_the_dashboards_and_keep_no_secret():
    assert {source_of(document) for document in DASHBOARDS.values()} == SOURCES.keys()
    assert {source["user"] for source in SOURCES.values()} == ROLES.keys()
    for source in SOURCES.values():
        from_outside = [source["url"], source["jsonData"]["database"], source["secureJsonData"]["password"]]
        assert all(re.fullmatch(r"\$\{CDR_[A-Z_]+\}", value) for value in from_outside)


def test_every_variable_in_a_panels_sql_is_one_of_its_dashboard():
    for panel in PANELS:
        used = set(re.findall(r"\$\{(\w+)", panel.sql))

        assert used <= variables_of(DASHBOARDS[panel.dashboard]).keys(), str(panel)


@on_postgresql
@pytest.mark.parametrize("panel", PANELS, ids=str)
def test_a_panel_gets_the_columns_and_rows_that_it_draws(ask, filled, panel):
    names, rows = ask(panel.sql, panel.dashboard)
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
    by_title = {panel.panel["title"]: (panel.sql, panel.dashboard) for panel in PANELS}
    ((calls, answered, *_),) = ask(*by_title["In this period"])[1]
    by_hour = ask(*by_title["Calls"], bucket="1h")[1]
    talks = ask(*by_title["Talk time of calls"])[1]

    assert calls == states["done"]
    assert sum(row[1] for row in by_hour) == sum(row[1] for row in talks) == answered
    assert sum(row[2] for row in by_hour) == calls - answered
    assert dict(ask(*by_title["Queue by state"])[1]) == states
    assert sum(row[1] for row in ask(*by_title["API calls per day"])[1]) > calls


@on_postgresql
@pytest.mark.parametrize("panel", [one for one in PANELS if "${account" in one.sql], ids=str)
def test_an_account_that_is_not_chosen_is_left_out(ask, panel):
    _, rows = ask(panel.sql, panel.dashboard, accounts=("some'body", "else"))

    assert sum(value for row in rows for value in row if is_number([value])) == 0


@on_postgresql
@pytest.mark.parametrize("panel", [one for one in PANELS if "${account" in one.sql], ids=str)
def test_a_panel_works_without_any_account(ask, panel):
    _, rows = ask(panel.sql, panel.dashboard, accounts=())

    assert sum(value for row in rows for value in row if is_number([value])) == 0


MONEY = [one for one in PANELS if "billed_rate_total" in one.sql]
UNPRICED = """
INSERT INTO call_legs (account, request_id, leg, to_number, call_time, occurrence, from_number, revision)
VALUES ('unpriced', 'one', 'a', '', now(), 1, '', 1)
"""


@on_postgresql
@pytest.mark.parametrize("panel", MONEY, ids=str)
def test_money_is_separate_by_account_and_null_if_unknown(filled, panel):
    accounts = ("default", "unpriced")
    until = filled.now() + timedelta(minutes=1)
    shown = [(one,) for one in accounts] if panel.panel.get("repeat") == "account" else [accounts]
    with filled.engine.connect() as connection:
        connection.exec_driver_sql(UNPRICED)
        rows = []
        for chosen in shown:
            look = Look(until - timedelta(days=2), until, accounts=chosen)
            found = connection.exec_driver_sql(look.sql(panel.sql)).mappings()
            rows += [(row.get("account") or row.get("metric"), row["billed rate"]) for row in found]
        connection.rollback()

    assert [name for name, amount in rows if amount is None][-1:] == ["??" if len(shown) > 1 else "unpriced"]
    assert [amount for _, amount in rows if amount]
    assert len(shown) > 1 or {name for name, _ in rows} == set(accounts)


@on_postgresql
def test_the_accounts_to_choose_from_are_those_that_there_are(ask):
    for name, document in DASHBOARDS.items():
        assert ask(variables_of(document)["account"]["query"], name)[1] == [("default",)]


@on_postgresql
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT lease_token FROM cdr_requests",
        "SELECT to_number FROM call_legs",
        "SELECT detail FROM data_quality",
        "SELECT a_from FROM calls",
        "SELECT body FROM cdr_responses",
        "DELETE FROM sync_runs",
    ],
)
def test_the_monitoring_role_sees_no_token_and_no_number(open_as, sql):
    with open_as("cdr_monitor").connect() as connection, pytest.raises(DBAPIError) as refused:
        connection.exec_driver_sql(sql)

    assert refused.value.orig.sqlstate in ("42501", "25006")


# A year of calls, so that to read them all would be a mistake.
A_YEAR = """
INSERT INTO call_legs (account, request_id, leg, to_number, call_time, occurrence, from_number, revision)
SELECT 'default', md5(number::text), leg, '', now() - number * interval '20 minutes', 1, '', 1
FROM generate_series(1, 26280) AS number, (VALUES ('a'), ('b')) AS legs (leg)
"""


@pytest.fixture(scope="module")
def plan_of(filled):
    """A function that shows how PostgreSQL would answer where there is a year of calls."""
    look = Look(filled.now() - timedelta(days=2), filled.now())
    with filled.engine.connect() as connection:
        connection.exec_driver_sql(A_YEAR)
        connection.exec_driver_sql("ANALYZE call_legs")
        # With workers to share a small table, the planner at times takes its whole for cheaper.
        connection.exec_driver_sql("SET LOCAL max_parallel_workers_per_gather = 0")

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
def test_negative_control_a_panel_that_reads_all_legs_is_found(plan_of):
    plan = plan_of("SELECT count(*) FROM calls WHERE date_trunc('day', call_time) >= $__timeFrom()")

    assert "ix_call_legs_call_time" not in plan
    assert "Seq Scan on call_legs" in plan
