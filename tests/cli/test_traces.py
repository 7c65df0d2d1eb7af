"""Traces by `opentelemetry-instrument`: which spans a collector receives, and that a run stays as it is."""

from __future__ import annotations

import http.server
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from support.health_checks import SECRET, health_check
from support.operators import CONSOLE_SCRIPT, finish, wait_until

INSTRUMENT = Path(sys.executable).with_name("opentelemetry-instrument")


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Keep quiet."""


class Collector(http.server.ThreadingHTTPServer):
    """Stores what an exporter sends by OTLP over HTTP."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.received = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def spans(self):
        return [
            span
            for _, body in self.received
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


@pytest.fixture
def collector():
    with Collector() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def start_instrumented(operator, collector, *words, **environment):
    """Start `opentelemetry-instrument cdr-sync …` as docs/operate.md describes it."""
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "CDR_SYNC_SETTLE": "0",
    }
    program = (str(INSTRUMENT), CONSOLE_SCRIPT)
    return operator.start(*words, program=program, **settings, **environment)


def run_instrumented(operator, collector, *words, **environment):
    return finish(start_instrumented(operator, collector, *words, **environment))


def exit_code_in(span):
    return {one.key: one.value.int_value for one in span.attributes}["process.exit.code"]


def test_a_run_is_one_trace_of_its_api_calls_and_its_statements(operator, simulator, collector):
    operator.type("enqueue", "answered-1", "malformed_money-1", "error_500-1")
    finished = run_instrumented(operator, collector, "sync", CDR_SYNC_TRIES="2")
    spans = collector.spans()
    (run,) = [span for span in spans if not span.parent_span_id]
    names = Counter(span.name.split()[0] for span in spans if span is not run)

    assert (finished.code, finished.stdout, len(finished.events)) == (65, "", 1)
    assert operator.states() == {"done": 1, "dead": 1, "pending": 1}
    assert (run.name, exit_code_in(run)) == ("sync", 65)
    assert {(span.trace_id, span.parent_span_id) for span in spans if span is not run} == {
        (run.trace_id, run.span_id)
    }
    assert names["POST"] == simulator.total_calls > 3
    assert names["UPDATE"] > 0
    assert names["INSERT"] > 0
    assert set(names) == {"connect", "BEGIN", "SELECT", "INSERT", "UPDATE", "PRAGMA", "POST"}


def test_a_trace_holds_no_secret_no_request_id_and_no_phone_number(operator, simulator, collector):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    with health_check() as check:
        run_instrumented(operator, collector, "sync", CDR_SYNC_PING_URL=check.url)
    numbers = {
        number for row in operator.rows("SELECT from_number, to_number FROM call_legs") for number in row
    }
    sent = b"".join(body for _, body in collector.received).decode(errors="replace")

    assert check.steps == ["start", "65"]
    assert numbers
    assert "cdr_requests" in sent
    assert [word for word in (SECRET, simulator.secret, "answered-1", *numbers) if word in sent] == []


def test_a_run_stopped_by_a_signal_sends_its_trace(operator, simulator, collector):
    simulator.latency = 0.05
    operator.type("enqueue", *(f"answered-{number}" for number in range(100)))
    process = start_instrumented(operator, collector, "sync")
    wait_until(lambda: simulator.total_calls >= 5)
    process.terminate()
    finished = finish(process)
    (run,) = [span for span in collector.spans() if not span.parent_span_id]

    assert (finished.code, finished.all) == (143, "")
    assert exit_code_in(run) == 143


def test_an_idle_run_is_a_span_without_statements(operator, collector):
    finished = run_instrumented(operator, collector, "sync")

    assert (finished.code, finished.all) == (0, "")
    assert [span.name for span in collector.spans()] == ["sync"]


def test_a_collector_that_cannot_be_reached_does_not_change_the_result(operator, collector):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    nowhere = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"}
    short = {"OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    finished = run_instrumented(operator, collector, "sync", **nowhere, **short)

    assert (finished.code, finished.stdout) == (65, "")
    assert operator.states() == {"done": 1, "dead": 1}
    assert collector.received == []


def test_without_opentelemetry_instrument_nothing_is_sent(operator, collector):
    operator.type("enqueue", "answered-1")
    finished = operator.run("sync", OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)

    assert (finished.code, finished.all) == (0, "")
    assert collector.received == []
