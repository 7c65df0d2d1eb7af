"""Traces: what a collector is told of a run, and that no collector changes what a run does."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import pytest
from support.collectors import collector
from support.health_checks import first_words, silent_listener
from support.operators import PATIENCE, finish, wait_until

from etl.monitoring import tracing

SECRET = "kXq7Zr2vNw9LmT4yHb6JcF8sPd3GaE5uQ1RoVi0B"
LAST_TOO_LONG = """
import sys
from etl.cli.main import main
from etl.monitoring import tracing
tracing.LAST_SECONDS = 0.3
sys.argv = ["cdr-sync", "--verbose", "sync"]
main()
"""
WITHOUT_EXTRA = """
import sys
sys.modules["opentelemetry"] = None
from etl.cli.main import main
sys.argv = ["cdr-sync", "sync"]
main()
"""


@pytest.fixture
def traces():
    with collector() as running:
        yield running


@pytest.fixture
def operator(operator, traces):
    operator.environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": traces.url, "CDR_SYNC_SETTLE": "0"}
    return operator


def run_code(operator, code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env=operator.whole_environment(**environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_a_run_is_a_trace_of_its_asks_and_its_transactions(operator, simulator, traces):
    operator.type("enqueue", "answered-1", "malformed_money-1", "error_500-1")
    finished = operator.run("sync", CDR_SYNC_TRIES="2")
    (run,) = traces.named("sync")
    asks = {span.attributes["cdr_sync.request_id"]: span for span in traces.named("ask")}
    settles = traces.named("settle")
    port = int(simulator.url.split(":")[2].split("/")[0])

    assert (finished.code, len(finished.events)) == (65, 1)
    assert (
        run.attributes
        | {
            "cdr_sync.run_id": 1,
            "cdr_sync.outcome": "dead_letters",
            "process.exit.code": 65,
            "cdr_sync.claimed": 3,
            "cdr_sync.done": 1,
            "cdr_sync.dead": 1,
            "cdr_sync.retried": 1,
        }
        == run.attributes
    )
    assert (run.parent_id, run.is_error) == (b"", True)
    assert asks["answered-1"].attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "server.address": "127.0.0.1",
        "server.port": port,
        "cdr_sync.request_id": "answered-1",
        "cdr_sync.account": "default",
        "cdr_sync.calls": 1,
        "cdr_sync.outcome": "done",
    }
    assert [asks[name].attributes["error.type"] for name in ("malformed_money-1", "error_500-1")] == [
        "malformed",
        "server_error",
    ]
    assert asks["error_500-1"].attributes["cdr_sync.calls"] == 2
    assert [asks[name].is_error for name in ("answered-1", "malformed_money-1")] == [False, True]
    assert sum(span.attributes["cdr_sync.settled"] for span in settles) == 3
    assert {span.attributes["db.system.name"] for span in settles} == {"sqlite"}
    assert {(span.trace_id, span.parent_id) for span in [*asks.values(), *settles]} == {
        (run.trace_id, run.span_id)
    }
    assert all(0 < span.seconds < run.seconds for span in [*asks.values(), *settles])


def test_a_request_that_is_asked_for_only_to_find_out_whether_the_api_works_is_a_span_of_its_own(
    operator, simulator, traces
):
    operator.type("enqueue", "answered-known")
    operator.type("sync")
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(6)))
    operator.type("sync", CDR_SYNC_TRIES="1")
    (canary,) = traces.named("canary")

    assert canary.attributes["cdr_sync.request_id"] == "answered-known"
    assert (canary.attributes["error.type"], canary.is_error) == ("server_error", True)
    assert traces.named("sync")[1].attributes["cdr_sync.outcome"] == "api_down"


def test_a_trace_holds_neither_the_secret_nor_a_phone_number_nor_what_the_api_said(
    operator, simulator, answering, traces
):
    leg = {"leg": "a", "from": 914471000000, "to": SECRET, "time": 1637069609000, "duration": 4, "rate": "x"}
    body = json.dumps({"code": 200, "count": 1, "cdr": [leg]}).encode()
    operator.environment |= {"PIOPIY_SECRET": SECRET, "CDR_SYNC_API_URL": answering(lambda _: (200, body))}
    operator.type("enqueue", "one")
    operator.type("sync")
    operator.environment |= {"CDR_SYNC_API_URL": simulator.url, "PIOPIY_SECRET": simulator.secret}
    operator.type("enqueue", "answered-1")
    operator.type("sync")
    told = b"".join(traces.bodies).decode(errors="replace")
    numbers = {
        number for row in operator.rows("SELECT from_number, to_number FROM call_legs") for number in row
    }

    assert numbers
    assert "answered-1" in told
    assert [word for word in (SECRET, simulator.secret, "914471000000", *numbers) if word in told] == []


def test_the_environment_of_opentelemetry_says_who_sends_and_where_to(operator, traces):
    words = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{traces.url}/v1/traces",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=cdr",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "HTTP_PROXY": "http://127.0.0.1:9",
    }
    operator.type("sync", **words)
    operator.type("sync", **words, OTEL_SERVICE_NAME="night-job")
    first, second = (span.resource for span in traces.named("sync"))

    assert (first["service.name"], second["service.name"]) == ("cdr-sync", "night-job")
    assert first["deployment.environment.name"] == "test"
    assert first["service.version"]
    assert traces.headers[0]["x-tenant"] == "cdr"


def test_backfills_are_traced_and_what_is_no_run_is_not(operator, traces):
    operator.type("enqueue", "answered-1")
    for words in (("sync", "--dry-run"), ("status",), ("backfill", "answered-1", "--dry-run")):
        operator.type(*words)
    before = len(traces.spans)
    operator.type("backfill", "answered-1")

    assert before == 0
    assert [len(traces.named(name)) for name in ("backfill", "ask", "settle")] == [1, 1, 1]


@pytest.mark.parametrize(
    "off",
    [
        {"OTEL_SDK_DISABLED": "true"},
        {"OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "", "OTEL_SERVICE_NAME": "alone"},
    ],
    ids=lambda off: next(iter(off)),
)
def test_where_no_trace_is_wanted_nothing_of_it_is_loaded(operator, traces, off):
    code = (
        "import sys; from etl.cli.main import main; sys.argv = ['cdr-sync', 'sync']\n"
        "try: main()\n"
        "finally: print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    finished = run_code(operator, code, **off)

    assert (finished.stdout, finished.stderr) == ("[]\n", "")
    assert traces.bodies == []


def test_a_stopped_run_sends_its_trace(operator, simulator, traces):
    simulator.latency = 0.05
    operator.type("enqueue", *(f"answered-{number}" for number in range(100)))
    process = operator.start("sync")
    wait_until(lambda: simulator.total_calls >= 5)
    process.terminate()
    finished = finish(process)
    (run,) = traces.named("sync")

    assert (finished.code, finished.all) == (143, "")
    assert (run.attributes["process.exit.code"], run.is_error) == (143, False)
    assert len(traces.named("ask")) == run.attributes["cdr_sync.done"]


def test_a_run_that_fails_before_it_can_sum_up_sends_its_trace(operator, traces):
    operator.type("sync", CDR_SYNC_DATABASE_URL="mysql://nobody@127.0.0.1:9/cdr")
    (run,) = traces.named("sync")

    assert (run.attributes, run.is_error) == ({"process.exit.code": 69}, True)


# Collectors that are out of order


def worked(finished, operator):
    """Whether a run is as it would be without a trace; gives the lines of its log."""
    assert finished.returncode == 65
    assert finished.stdout == ""
    assert operator.states() == {"done": 1, "dead": 1}
    return [json.loads(line)["event"] for line in finished.stderr.splitlines()]


def test_a_collector_that_hangs_keeps_no_run(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    with silent_listener() as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        told = worked(run_code(operator, LAST_TOO_LONG, OTEL_EXPORTER_OTLP_ENDPOINT=url), operator)
        asked = first_words(listener)

    assert asked.startswith("POST /v1/traces")
    assert told[-1] == "The trace was not sent as a whole: the collector did not answer in time"
    assert sum("trace" in line for line in told) == 1


def test_where_no_collector_listens_a_run_says_so_and_does_not_wait(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = operator.type("--verbose", "sync", OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{port}")
    (told,) = (line for line in result.stderr.splitlines() if "trace" in line)

    assert result.exit_code == 65
    assert (
        json.loads(told)["event"]
        == "The trace was not sent as a whole: the collector cannot be reached (Connection refused)"
    )
    assert time.monotonic() - began < tracing.LAST_SECONDS - 1


def test_a_collector_that_is_down_is_told_of_only_when_asked(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    url = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    code = LAST_TOO_LONG.replace('"--verbose", ', "")

    assert len(worked(run_code(operator, code, **url), operator)) == 1


def test_a_collector_that_refuses_is_one_line_where_more_is_asked_for(operator):
    with collector(status=400) as refusing:
        result = operator.type("--verbose", "sync", OTEL_EXPORTER_OTLP_ENDPOINT=refusing.url)

    assert (result.exit_code, len(refusing.bodies)) == (0, 1)
    assert result.stderr.count("The trace was not sent as a whole") == len(result.stderr.splitlines()) == 1


def test_without_the_extra_one_line_says_what_to_install(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    told = worked(run_code(operator, WITHOUT_EXTRA), operator)

    assert ["piopiy-cdr-sync[otel]" in line for line in told] == [True, False]


@pytest.mark.parametrize(
    "words",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"},
        {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:many/"},
    ],
    ids=lambda words: "=".join(next(iter(words.items()))),
)
def test_what_is_not_there_is_one_line_that_names_the_variable(operator, traces, words):
    result = operator.type("sync", **words)

    assert (result.exit_code, len(result.stderr.splitlines())) == (0, 1)
    assert next(iter(words)) in result.stderr
    assert traces.bodies == []
