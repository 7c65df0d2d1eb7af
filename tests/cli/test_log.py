"""Log lines of real processes: JSON when not on a terminal, with run and request, without secrets."""

from __future__ import annotations

import json
import sys

import pytest
from support.operators import PATIENCE, finish

SECRET = "kXq7Zr2vNw9LmT4yHb6JcF8sPd3GaE5uQ1RoVi0B"
BROKEN_PARSER = """
import sys
from etl.sync import fetching as asking
def parse_legs(answer, *, region):
    raise KeyError("914471000000")
asking.parse_legs = parse_legs
from etl.cli.main import main
main()
"""


@pytest.fixture
def operator(operator):
    operator.environment |= {"CDR_SYNC_SETTLE": "0", "CDR_SYNC_TRIES": "1"}
    return operator


def lines_of(finished):
    return [json.loads(line) for line in finished.stderr.splitlines()]


def test_a_verbose_run_logs_each_request_with_its_run_and_id(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1", "error_500-1", "none-1")
    finished = operator.run("--verbose", "sync")
    *requests, last = lines_of(finished)
    by_request = {line["request_id"]: line for line in requests if "outcome" in line}
    answered = by_request["answered-1"]

    assert finished.code == 65
    assert {line["run"] for line in [*requests, last]} == {1}
    assert {name: line["outcome"] for name, line in by_request.items()} == {
        "answered-1": "done",
        "malformed_money-1": "dead",
        "error_500-1": "retried",
        "none-1": "put_off",
    }
    assert (answered["legs"], answered["calls"], answered["attempt"]) == (2, 1, 1)
    assert by_request["error_500-1"]["error_kind"] == "server_error"
    assert by_request["error_500-1"]["http_status"] == 500
    assert {line["level"] for line in requests} == {"info"}
    assert (last["level"], last["request_ids"]) == ("error", ["malformed_money-1"])
    assert "`cdr-sync requests list --state dead`" in last["event"]


def test_a_verbose_run_logs_that_even_the_canary_got_no_answer(operator, simulator):
    operator.type("enqueue", "answered-known")
    operator.type("sync")
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(6)))
    *requests, last = lines_of(operator.type("--verbose", "sync"))
    (canary,) = (line for line in requests if line["event"].startswith("A request known to be good"))

    assert canary["event"].endswith("does not answer either")
    assert (canary["request_id"], canary["error_kind"], canary["run"]) == (
        "answered-known",
        "server_error",
        2,
    )
    assert {line["outcome"] for line in requests if line is not canary} == {"released"}
    assert "`cdr-sync status`" in last["event"]


def test_a_verbose_run_against_an_api_that_echoes_logs_no_secret(operator, answering):
    def echo(question):
        return 200, json.dumps({"code": 500, "msg": question}).encode()

    operator.environment |= {"PIOPIY_SECRET": SECRET, "CDR_SYNC_API_URL": answering(echo)}
    operator.type("enqueue", "one")
    finished = operator.run("--verbose", "sync")

    assert lines_of(finished)
    assert SECRET not in finished.all
    assert "[secret]" in finished.all


def test_an_error_message_contains_no_secret(operator):
    operator.environment["PIOPIY_SECRET"] = SECRET
    finished = operator.run("sync", "--account", SECRET)

    assert finished.code == 78
    assert finished.all.startswith("cdr-sync: There are no credentials for account '[secret]'")
    assert SECRET not in finished.all


@pytest.mark.parametrize(
    ("environment", "code"),
    [
        ({"CDR_SYNC_DATABASE_URL": "mysql://nobody@127.0.0.1:9/cdr"}, 69),
        ({"CDR_SYNC_WORKERS": "none"}, 78),
    ],
    ids=["database", "settings"],
)
def test_a_failure_is_printed_as_text_or_as_json_with_the_fields_of_the_error(operator, environment, code):
    plain = operator.type("sync", **environment)
    as_json = operator.type("sync", **environment, CDR_SYNC_LOG_FORMAT="json")
    (line,) = [json.loads(line) for line in as_json.stderr.splitlines()]

    assert plain.exit_code == as_json.exit_code == code
    sentences = [line["event"], line["remedy"]] if line["remedy"] else [line["event"]]
    assert plain.stderr == f"cdr-sync: {'. '.join(sentences)}\n"
    assert (line["level"], line["exit_code"]) == ("error", code)


def test_a_database_failure_names_the_command_that_finds_the_cause(operator):
    result = operator.type("sync", CDR_SYNC_DATABASE_URL="mysql://nobody@127.0.0.1:9/cdr")

    assert result.stderr.endswith(". Run `cdr-sync doctor` to find the cause\n")


def test_a_crash_over_one_request_names_the_request_but_no_values(operator):
    operator.type("enqueue", "answered-1")
    program = (sys.executable, "-c", BROKEN_PARSER)
    plain = finish(operator.start("sync", program=program))
    operator.type("requests", "retry", "answered-1")
    operator.rows("UPDATE cdr_requests SET run_after = '2000-01-01 00:00:00.000000'")
    as_json = finish(operator.start("sync", program=program, CDR_SYNC_LOG_FORMAT="json"))
    (line,) = lines_of(as_json)

    assert plain.code == as_json.code == 1
    assert "run 1, request_id answered-1, account default" in plain.stderr
    assert (line["run"], line["request_id"], line["exception"]) == (2, "answered-1", "builtins.KeyError")
    assert any("parse_legs" in frame for frame in line["frames"])
    assert "914471000000" not in plain.all + as_json.all


def test_a_verbose_run_continues_if_stderr_is_closed(operator):
    operator.type("enqueue", *(f"answered-{number}" for number in range(30)))
    process = operator.start("--verbose", "sync")
    process.stderr.close()
    process.stderr = None
    process.communicate(timeout=PATIENCE)

    assert operator.states() == {"done": 30}
    assert operator.rows("SELECT outcome FROM sync_runs") == [("ok",)]
    assert process.returncode == 0
