"""A collector of OpenTelemetry traces, over real HTTP: records the spans it receives."""

from __future__ import annotations

import contextlib
import http.server
import threading
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Span(NamedTuple):
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    name: str
    seconds: float
    is_error: bool
    attributes: dict[str, Any]
    resource: dict[str, Any]


def attributes_of(pairs):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}


class Collector(http.server.ThreadingHTTPServer):
    """Records spans as they arrive; `status` answers each batch."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, status=200):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = status
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self):
        found = []
        for body in self.bodies:
            for sender in ExportTraceServiceRequest.FromString(body).resource_spans:
                resource = attributes_of(sender.resource.attributes)
                for span in (one for scope in sender.scope_spans for one in scope.spans):
                    seconds = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
                    ids = (span.trace_id, span.span_id, span.parent_span_id)
                    attributes = attributes_of(span.attributes)
                    found.append(Span(*ids, span.name, seconds, span.status.code == 2, attributes, resource))
        return found

    def named(self, name):
        return [span for span in self.spans if span.name == name]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.path == "/v1/traces"
        self.server.bodies.append(body)
        self.server.headers.append(dict(self.headers))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Keep quiet."""


@contextlib.contextmanager
def collector(**answers):
    with Collector(**answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
