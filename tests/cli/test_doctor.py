"""The doctor: each problem has a result, a remedy and an exit code, and checking changes nothing."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from sqlalchemy import text
from support.operators import Operator
from support.servers import do_without

from etl.db.engine import read_url, shown_url
from etl.db.tables import api_accounts
from etl.doctor import UNKNOWN_REQUEST_ID, check_metrics_file, check_settings
from etl.settings import Settings

CHECKS = ["configuration", "accounts", "secret files", "metrics file", "database", "clock", "schema"]
SQLITE_CHECKS = [*CHECKS, "SQLite file", "api default"]
FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")  # of Debian's package `libfaketime`
PASSWORD = "kXq7Zr2vNw9LmT4yHb6Jc"
OTHER_HOST = "INSERT INTO sync_runs (command, host, pid, version) VALUES ('sync', ?, 1, '0')"


class Examined:
    """The findings of one call, by check."""

    def __init__(self, document):
        self.code = document["exit_code"]
        self.by_check = {
            " ".join(filter(None, (one["check"], one["account"]))): one for one in document["checks"]
        }
        self.results = {check: one["result"] for check, one in self.by_check.items()}
        self.problems = {
            check: result for check, result in self.results.items() if result not in ("ok", "skipped")
        }

    def found(self, check):
        return self.by_check[check]["found"]

    def remedy(self, check):
        return self.by_check[check]["remedy"]


def examine(operator: Operator, *options, **environment) -> Examined:
    """Run the doctor, and fail if the process does not exit with the code that the document gives."""
    result = operator.type(*options, "doctor", "--json", **environment)
    assert result.stderr == ""
    examined = Examined(json.loads(result.stdout))
    assert result.exit_code == examined.code
    assert all(one["remedy"] for one in examined.by_check.values() if one["result"] in ("warning", "failed"))
    return examined


def contents(operator):
    """Every file of the operator's, and every row."""
    tables = ("cdr_requests", "call_legs", "cdr_responses", "sync_runs", "api_accounts")
    rows = [operator.rows(f"SELECT * FROM {table}") for table in tables]  # noqa: S608 (our own words)
    return sorted(operator.home.rglob("*")), rows


def remember_canary(operator, request_id="answered-1"):
    operator.type("enqueue", request_id)
    operator.type("sync")
    assert operator.rows("SELECT canary_request_id FROM api_accounts") == [(request_id,)]


@pytest.fixture
def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# No problems, and nothing changed


def test_without_problems_each_check_prints_one_line_and_the_exit_code_is_0(operator):
    finished = operator.run("doctor")

    assert (finished.code, finished.stderr) == (0, "")
    assert [line.split(maxsplit=1)[0] for line in finished.stdout.splitlines()] == ["ok"] * 9
    assert [line[10:].partition(":")[0] for line in finished.stdout.splitlines()] == SQLITE_CHECKS


@pytest.mark.parametrize(
    ("settings", "code", "lines"),
    [
        (
            {"CDR_SYNC_METRICS_FILE": "/nowhere/cdr-sync.prom"},
            1,
            ["failed    metrics file: there is no folder /nowhere", "          → mkdir /nowhere"],
        ),
        (
            {"CDR_SYNC_API_URL": "http://127.0.0.1:9/"},
            69,
            [
                "failed    api default: 127.0.0.1 gives no valid answer (the call to 127.0.0.1 failed: ",
                "          → Check that api_url",
            ],
        ),
        (
            {},
            77,
            ["failed    api default: 127.0.0.1 refuses the credentials (", "          → Compare"],
        ),
        (
            {"CDR_SYNC_WORKERS": "0"},
            78,
            ["failed    configuration: The configuration is wrong:", "            CDR_SYNC_WORKERS must be "],
        ),
    ],
    ids=["1", "69", "77", "78"],
)
def test_a_problem_is_printed_with_its_remedy_on_the_next_line_and_sets_the_exit_code(
    operator, simulator, settings, code, lines
):
    simulator.outage = "unauthorized_body" if code == 77 else None
    finished = operator.run("doctor", **settings)
    printed = finished.stdout.splitlines()
    (place,) = (number for number, line in enumerate(printed) if line.startswith("failed"))

    assert finished.code == code
    assert printed[place].startswith(lines[0])
    assert printed[place + 1].startswith(lines[1])
    assert "\x1b" not in finished.stdout


def test_it_stores_nothing_and_asks_once_for_the_known_good_request(operator, simulator):
    remember_canary(operator)
    before, calls = contents(operator), dict(simulator.calls)
    examined = examine(operator)

    assert examined.code == 0
    assert contents(operator) == before
    assert simulator.calls == {**calls, "answered-1": calls["answered-1"] + 1}


def test_without_a_known_good_request_it_asks_once_for_one_that_cannot_exist(operator, simulator):
    before = contents(operator)
    examined = examine(operator)

    assert examined.code == 0
    assert contents(operator) == before
    assert simulator.calls == {UNKNOWN_REQUEST_ID: 1}


def test_a_database_that_does_not_exist_is_named_and_not_created(new_operator, simulator):
    new_operator.connect(simulator)
    before = sorted(new_operator.home.rglob("*"))
    examined = examine(new_operator)

    assert examined.code == 78
    assert examined.problems == {"database": "failed"}
    assert str(new_operator.database) in examined.found("database")
    assert "cdr-sync db upgrade" in examined.remedy("database")
    assert [examined.results[check] for check in ("clock", "schema", "SQLite file", "api default")] == [
        *["skipped"] * 3,
        "ok",
    ]
    assert sorted(new_operator.home.rglob("*")) == before


# Configuration, accounts, secret files


def test_all_wrong_settings_are_reported_at_once_and_checks_that_need_them_are_skipped(operator, simulator):
    settings = {"CDR_SYNC_WORKERS": "many", "CDR_SYNC_LEASE": "1s", "PIOPIY_APP_ID": "me"}
    examined = examine(operator, **settings)
    names = ("CDR_SYNC_WORKERS", "lease", "app_id")

    assert examined.code == 78
    assert [name for name in names if name not in examined.found("configuration")] == []
    assert examined.results == {"configuration": "failed", **dict.fromkeys([*CHECKS[1:], "api"], "skipped")}
    assert "configuration" in examined.found("database")
    assert simulator.total_calls == 0


def test_settings_that_contradict_each_other_are_a_warning(operator):
    examined = examine(operator, CDR_SYNC_LEASE="119s", CDR_SYNC_TRIES="2")
    enough = examine(operator, CDR_SYNC_LEASE="120s", CDR_SYNC_TRIES="2")

    assert (examined.code, examined.problems) == (0, {"configuration": "warning"})
    assert "120s" in examined.remedy("configuration")
    assert (enough.code, enough.problems) == (0, {})


def test_a_file_that_is_not_read_because_the_value_itself_is_set_is_a_warning(operator, tmp_path):
    (tmp_path / "secret").write_text("a newer one")
    examined = examine(operator, PIOPIY_SECRET_FILE=str(tmp_path / "secret"))
    alone = examine(operator, PIOPIY_SECRET_FILE="")

    assert (examined.code, examined.problems) == (0, {"configuration": "warning"})
    assert examined.found("configuration").splitlines()[-1:] == [
        "PIOPIY_SECRET_FILE is not read, because PIOPIY_SECRET is set too"
    ]
    assert (alone.code, alone.problems) == (0, {})


def test_variables_that_are_not_settings_are_a_warning_among_others(operator):
    examined = examine(operator, CDR_SYNC_WORKER="4", CDR_SYNC_ZZZ="1", CDR_SYNC_LEASE="61s")

    assert (examined.code, examined.problems) == (0, {"configuration": "warning"})
    assert examined.found("configuration").splitlines()[1:] == [
        "there is no setting CDR_SYNC_WORKER. Did you mean CDR_SYNC_WORKERS?",
        "there is no setting CDR_SYNC_ZZZ",
    ]
    assert examined.remedy("configuration").endswith("; Unset or rename the variables that are not settings")
    assert operator.type("sync", CDR_SYNC_WORKER="4").output == ""


@pytest.mark.parametrize(
    ("url", "is_open"),
    [
        ("http://piopiy.example/v1", True),
        ("http://192.0.2.1:8080/", True),
        ("http://[2001:db8::1]/", True),
        ("https://piopiy.example/v1", False),
        ("http://127.0.0.2:8080/", False),
        ("http://[::1]/", False),
        ("http://localhost:8080/", False),
    ],
)
def test_a_secret_that_would_go_to_another_machine_as_plain_text_is_a_warning(url, is_open, tmp_path):
    finding = check_settings(Settings(api_url=url), tmp_path / "none.toml")

    assert finding.result == ("warning" if is_open else "ok")
    assert ("as plain text" in finding.found, "https://" in (finding.remedy or "")) == (is_open, is_open)


def test_without_credentials_everything_else_is_checked(operator):
    examined = examine(operator, PIOPIY_APP_ID="", PIOPIY_SECRET="")

    assert examined.code == 78
    assert examined.problems == {"accounts": "failed"}
    assert (examined.results["schema"], examined.results["api"]) == ("ok", "skipped")
    assert "PIOPIY_SECRET_FILE" in examined.remedy("accounts")


@pytest.mark.parametrize(
    ("mode", "result"), [(0o600, "ok"), (0o400, "ok"), (0o640, "warning"), (0o604, "warning")]
)
@pytest.mark.parametrize(
    "variable", ["PIOPIY_SECRET_FILE", "CDR_SYNC_DATABASE_URL_FILE", "CDR_SYNC_PING_URL_FILE"]
)
def test_a_secret_that_others_can_read_is_a_warning(operator, simulator, variable, mode, result):
    contents = {
        "PIOPIY_SECRET_FILE": simulator.secret,
        "CDR_SYNC_DATABASE_URL_FILE": f"sqlite:///{operator.database}",
        "CDR_SYNC_PING_URL_FILE": "http://127.0.0.1:9/",
    }
    file = operator.home / "a secret"
    file.write_text(contents[variable])
    file.chmod(mode)
    examined = examine(
        operator, **{"PIOPIY_SECRET": ""} if "SECRET" in variable else {}, **{variable: str(file)}
    )

    assert examined.code == 0
    assert examined.problems == ({} if result == "ok" else {"secret files": result})
    assert str(file) in examined.found("secret files")
    assert result == "ok" or examined.remedy("secret files") == f"chmod go-rwx '{file}'"


@pytest.mark.parametrize(
    ("line", "result"),
    [
        ('ping_url = "http://127.0.0.1:9/secret"', "warning"),
        (f'proxy = "http://me:{PASSWORD}@127.0.0.1:9"', "warning"),
        ("workers = 2", "ok"),
    ],
)
def test_a_settings_file_that_holds_a_secret_counts_as_a_secret_file(operator, line, result):
    file = operator.home / "settings.toml"
    file.write_text(line)
    file.chmod(0o644)
    examined = examine(operator, "--config", file)

    assert examined.results["secret files"] == result
    assert str(file) in examined.found("configuration")


@pytest.mark.parametrize("content", ["", "\n", None], ids=["empty", "blank", "missing"])
def test_a_secret_file_without_a_secret_is_a_failure(operator, content):
    file = operator.home / "secret"
    if content is not None:
        file.write_text(content)
    examined = examine(operator, PIOPIY_SECRET="", PIOPIY_SECRET_FILE=str(file))

    assert examined.code == 78
    assert "secret_file" in examined.found("configuration")


# Database, schema, clock


def test_every_database_is_named_with_its_version(operator, database_url):
    examined = examine(operator, CDR_SYNC_DATABASE_URL=database_url)
    name = database_url.partition(":")[0]

    assert (examined.code, examined.problems) == (0, {})
    assert examined.found("database").lower().startswith(f"{name} ")
    assert shown_url(database_url) in examined.found("database")
    assert ("SQLite file" in examined.results) == (name == "sqlite")


def test_the_known_good_request_is_found_in_every_database(operator, database_url, engine, simulator):
    with engine.begin() as connection:
        connection.execute(api_accounts.insert().values(account="default", canary_request_id="not_found-1"))
    examined = examine(operator, CDR_SYNC_DATABASE_URL=database_url)

    assert examined.code == 77
    assert simulator.calls == {"not_found-1": 1}


@pytest.mark.parametrize(
    ("change", "found", "remedy"),
    [
        ("UPDATE alembic_version SET version_num = '0001'", "older", "cdr-sync db upgrade"),
        ("UPDATE alembic_version SET version_num = '9999'", "newer", "Upgrade cdr-sync"),
        ("DROP TABLE alembic_version", "no tables", "cdr-sync db upgrade"),
    ],
    ids=["older", "newer", "missing"],
)
def test_a_schema_of_another_version_exits_78(operator, engine, change, found, remedy):
    with engine.begin() as connection:
        connection.execute(text(change))
    examined = examine(operator, CDR_SYNC_DATABASE_URL=str(engine.url))

    assert examined.code == 78
    assert examined.problems == {"schema": "failed"}
    assert found in examined.found("schema")
    assert remedy in examined.remedy("schema")
    assert (examined.results["database"], examined.results["api default"]) == ("ok", "ok")
    assert examined.results.get("SQLite file") in (None, "skipped")


@pytest.mark.databases("postgresql", "mariadb")
@pytest.mark.parametrize("problem", ["no server on the port", "an unknown user", "an unknown database"])
def test_a_server_that_cannot_be_used_exits_69_and_no_password_is_shown(
    operator, database_url, free_port, problem
):
    url = read_url(database_url)
    wrong = {
        "no server on the port": url.set(port=free_port),
        "an unknown user": url.set(username="nobody"),
        "an unknown database": url.set(database="nothing"),
    }[problem].set(password=PASSWORD)
    whole = wrong.render_as_string(hide_password=False)
    examined, text = (
        examine(operator, CDR_SYNC_DATABASE_URL=whole),
        operator.type("doctor", CDR_SYNC_DATABASE_URL=whole),
    )

    assert examined.code == text.exit_code == 69
    assert examined.problems == {"database": "failed"}
    assert [examined.results[check] for check in ("clock", "schema", "api default")] == [
        "skipped",
        "skipped",
        "ok",
    ]
    assert PASSWORD not in text.output + str(examined.by_check)


def test_a_url_is_shown_without_password_and_query():
    url = f"postgresql://cdr:{PASSWORD}@db/cdr?sslpassword={PASSWORD}"

    assert shown_url(url) == "postgresql+psycopg://cdr:***@db/cdr"


@pytest.mark.parametrize("url", ["nonsense", "oracle://db/cdr"])
def test_an_invalid_database_url_exits_78(operator, url):
    examined = examine(operator, CDR_SYNC_DATABASE_URL=url)

    assert examined.code == 78
    assert examined.problems == {"database": "failed"}
    assert "CDR_SYNC_DATABASE_URL" in examined.remedy("database")


@pytest.mark.databases("postgresql", "mariadb")
def test_an_option_in_the_url_that_the_driver_does_not_support_exits_78(operator, database_url):
    wrong = read_url(database_url).set(password=PASSWORD, query={"nonsense": "1"})
    examined = examine(operator, CDR_SYNC_DATABASE_URL=wrong.render_as_string(hide_password=False))

    assert examined.code == 78
    assert examined.problems == {"database": "failed"}
    assert "nonsense" in examined.found("database")
    assert PASSWORD not in str(examined.by_check)


def test_a_file_that_is_not_a_database_exits_69(operator):
    operator.database.write_text("nothing of the kind " * 100)
    examined = examine(operator)

    assert examined.code == 69
    assert examined.problems == {"database": "failed"}


@pytest.mark.databases("postgresql")  # the clocks of the other databases agree in the tests above
@pytest.mark.parametrize(("offset", "direction"), [("+60s", "ahead of"), ("-60s", "behind")])
def test_a_wrong_clock_is_a_warning_that_says_the_job_is_not_affected(
    operator, database_url, offset, direction
):
    if not FAKETIME.exists():
        do_without("no libfaketime: run `apt-get install libfaketime`")
    deceived = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    finished = operator.run("doctor", "--json", CDR_SYNC_DATABASE_URL=database_url, **deceived)
    examined = Examined(json.loads(finished.stdout))

    assert finished.code == 0
    assert examined.problems == {"clock": "warning"}
    assert f"{direction} the database's; the job is not affected" in examined.found("clock")


def test_a_sqlite_file_that_several_machines_use_is_a_warning(operator):
    for host in ("one", "two"):
        operator.rows(OTHER_HOST, host)
    examined = examine(operator)

    assert (examined.code, examined.problems) == (0, {"SQLite file": "warning"})
    assert "one, two" in examined.found("SQLite file")


# The API


@pytest.mark.parametrize("form", ["body", "http"])
def test_a_404_for_the_known_good_request_exits_77(operator, simulator, form):
    remember_canary(operator)
    simulator.auth_error_form, simulator.secret = form, "a new one that nobody configured"
    examined = examine(operator)

    assert examined.code == 77
    assert "refuses the credentials" in examined.found("api default")


@pytest.mark.parametrize("form", ["body", "http"])
def test_a_404_for_a_request_that_cannot_exist_does_not_prove_wrong_credentials(operator, simulator, form):
    simulator.auth_error_form, simulator.secret = form, "a new one that nobody configured"
    examined = examine(operator)

    assert (examined.code, examined.problems) == (0, {"api default": "warning"})
    assert "could not verify the credentials" in examined.found("api default")
    assert "cdr-sync fetch ID" in examined.remedy("api default")


@pytest.mark.parametrize(
    ("outage", "code", "result"),
    [
        ("unauthorized_body", 77, "failed"),
        ("error_500", 69, "failed"),
        ("body_500", 69, "failed"),
        ("reset", 69, "failed"),
        ("redirect", 69, "failed"),
        ("garbage", 69, "failed"),
        ("rate_limited", 0, "warning"),
        ("rejected", 0, "warning"),
        ("not_ready", 0, "ok"),
        ("malformed_money", 0, "ok"),
        ("none", 0, "ok"),
    ],
)
def test_an_answer_is_judged_as_a_run_judges_it(operator, simulator, outage, code, result):
    simulator.outage = outage
    examined = examine(operator)

    assert (examined.code, examined.results["api default"]) == (code, result)


def test_the_deadline_of_a_call_is_kept(operator, simulator):
    simulator.outage = "stall_headers"
    examined = examine(operator, CDR_SYNC_REQUEST_TIMEOUT="0.3s")

    assert examined.code == 69
    assert "within 0.3 s" in examined.found("api default")


def test_each_account_is_asked_for_with_its_own_credentials(operator, simulator):
    file = operator.home / "settings.toml"
    file.write_text('[accounts.sales]\napp_id = 3333333\nsecret_env = "SALES"\n')
    simulator.accounts[3333333] = "another"
    good = examine(operator, "--config", file, SALES="another")
    bad = examine(operator, "--config", file, SALES="wrong")

    assert (good.code, good.results["api sales"]) == (0, "ok")
    assert (bad.results["api default"], bad.results["api sales"]) == ("ok", "warning")


# Metrics, and several problems at once


def test_a_metrics_file_that_a_run_could_write_is_not_written(operator):
    file = operator.home / "cdr-sync.prom"
    good = examine(operator, CDR_SYNC_METRICS_FILE=str(file))
    a_folder = examine(operator, CDR_SYNC_METRICS_FILE=str(operator.home))

    assert (good.code, good.results["metrics file"]) == (0, "ok")
    assert (a_folder.code, a_folder.problems) == (1, {"metrics file": "failed"})
    assert not file.exists()


def test_a_metrics_folder_without_the_right_to_write_is_a_failure(tmp_path):
    # Tests may run as root, who has every right.
    finding = check_metrics_file(str(tmp_path / "cdr-sync.prom"), may_access=lambda *_: False)

    assert (finding.result, finding.exit_code) == ("failed", 1)
    assert str(tmp_path) in finding.found
    assert "another metrics_file" in finding.remedy


@pytest.mark.parametrize(
    ("problems", "code"),
    [
        ({"schema", "refused", "metrics"}, 78),
        ({"database", "refused", "metrics"}, 77),
        ({"database", "down", "metrics"}, 69),
        ({"down", "metrics"}, 69),
        ({"schema", "down"}, 78),
        ({"metrics"}, 1),
    ],
    ids=lambda value: "+".join(sorted(value)) if isinstance(value, set) else None,
)
def test_the_gravest_of_several_problems_sets_the_exit_code(operator, simulator, problems, code):
    environment = {"CDR_SYNC_METRICS_FILE": "/nowhere/x.prom"} if "metrics" in problems else {}
    if "schema" in problems:
        operator.rows("DROP TABLE alembic_version")
    if "database" in problems:
        operator.database.write_text("nothing of the kind " * 100)
    simulator.outage = {True: "unauthorized_body"}.get("refused" in problems) or (
        "error_500" if "down" in problems else None
    )
    examined = examine(operator, **environment)

    assert examined.code == code
    assert len(examined.problems) == len(problems)
