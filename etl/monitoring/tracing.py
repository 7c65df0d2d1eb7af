"""A run as a trace of OpenTelemetry: the run, each request that is asked for, each transaction that settles.

It hears of what has happened and makes spans of that; a thread of OpenTelemetry's own sends them. No span
holds a secret, a phone number, or the text of an error. This module needs the extra `otel`, and is loaded
only where a trace is wanted.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode, set_span_in_context

from etl import __version__
from etl.sync.fetching import Asked
from etl.sync.summary import OUTCOMES, Committed, Summary

LAST_SECONDS = 5.0  # how long a run waits at its end for its spans to be sent
_NO_FAULT = (0, 130, 143)  # exit codes after which nobody has to look for a fault
# What cannot be sent is told by us, in a line, to those who ask for it.
logging.getLogger("opentelemetry").addHandler(logging.NullHandler())

Attributes = Mapping[str, str | int]


class RunTrace:
    """The trace of one run. Where its spans go, OpenTelemetry reads from its own environment variables.

    Args:
        command: what the ledger calls the run.
        api_url: where the API is asked.
        database: what semantic conventions call the database's system.
    """

    def __init__(self, command: str, *, api_url: str, database: str) -> None:
        self._exporter = _Exporter()
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(self._exporter))
        self._tracer = self._provider.get_tracer("cdr-sync", __version__)
        # The job tells time by the monotonic clock, spans by the wall clock of this machine.
        self._offset = time.time_ns() - time.monotonic_ns()
        api = urlsplit(api_url)
        port = api.port or {"http": 80, "https": 443}[api.scheme]
        self._about_api: Attributes = {
            "http.request.method": "POST",
            "server.address": api.hostname or "",
            "server.port": port,
        }
        self._about_database = {"db.system.name": database}
        self._run = self._tracer.start_span(command)
        self._context = set_span_in_context(self._run)

    def hear_start(self, run_id: int) -> None:
        """Note the run's number in the ledger."""
        self._run.set_attribute("cdr_sync.run_id", run_id)

    def hear_commit(self, committed: Committed) -> None:
        """Make spans of a transaction, and of the asking whose answers it settled."""
        with self._quietly():
            for asked, outcome in committed.settled:
                if asked.ended:
                    self._add_ask(asked, outcome)
            if committed.settled:
                counts = {"cdr_sync.settled": len(committed.settled), "cdr_sync.claimed": committed.claimed}
                self._add("settle", committed.began, committed.ended, {**self._about_database, **counts})

    def hear_canary(self, asked: Asked) -> None:
        """Make a span of asking for a request that is known to be good."""
        with self._quietly():
            self._add_ask(asked, name="canary")

    def finish(self, exit_code: int, summary: Summary | None) -> list[str]:
        """End the run's span and send what there is, within seconds; returns what failed, without any text.

        Args:
            exit_code: that of the process.
            summary: what the run did; None where it could not sum up.
        """
        self._run.set_attribute("process.exit.code", exit_code)
        if summary is not None:
            self._run.set_attributes({"cdr_sync.run_id": summary.run_id, "cdr_sync.outcome": summary.outcome})
            for name in ("claimed", *OUTCOMES, "api_calls"):
                self._run.set_attribute(f"cdr_sync.{name}", summary.counts[name])
        if exit_code not in _NO_FAULT:
            self._run.set_status(StatusCode.ERROR)
        self._run.end()
        sending = Thread(target=self._provider.shutdown, name="trace", daemon=True)
        sending.start()
        sending.join(LAST_SECONDS)
        late = ["the collector did not answer in time"] if sending.is_alive() else []
        return [*dict.fromkeys(self._exporter.failures), *late]

    @contextmanager
    def _quietly(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 (whatever it is, no run fails by it)
            self._exporter.failures.append(type(error).__name__)

    def _add_ask(self, asked: Asked, outcome: str | None = None, *, name: str = "ask") -> None:
        about: dict[str, str | int] = {
            **self._about_api,
            "cdr_sync.request_id": asked.request.request_id,
            "cdr_sync.account": asked.request.account,
            "cdr_sync.calls": asked.calls,
        }
        if outcome is not None:
            about["cdr_sync.outcome"] = outcome
        if asked.status is not None:
            about["http.response.status_code"] = asked.status
        if asked.error is not None:
            about["error.type"] = asked.error.reason
        elif asked.crash is not None:
            about["error.type"] = type(asked.crash).__name__
        self._add(name, asked.began, asked.ended, about, kind=SpanKind.CLIENT)

    def _add(
        self,
        name: str,
        began: float,
        ended: float,
        attributes: Attributes,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
    ) -> None:
        span = self._tracer.start_span(
            name, context=self._context, kind=kind, attributes=attributes, start_time=self._instant(began)
        )
        if "error.type" in attributes:
            span.set_status(StatusCode.ERROR)
        span.end(self._instant(ended))

    def _instant(self, monotonic: float) -> int:
        """Nanoseconds since 1970."""
        return int(monotonic * 1e9) + self._offset


def _resource() -> Resource:
    """Who sends; what the environment says comes first."""
    has_name = bool(os.environ.get("OTEL_SERVICE_NAME")) or f"{SERVICE_NAME}=" in os.environ.get(
        "OTEL_RESOURCE_ATTRIBUTES", ""
    )
    ours = Resource({"service.version": __version__, "host.name": socket.gethostname()})
    return ours.merge(Resource.create({} if has_name else {SERVICE_NAME: "cdr-sync"}))


class _UnreachableError(Exception):
    """No connection to the collector can be made; by its class no error after which it is tried again."""


class _Session(requests.Session):
    """Gives up at once where nobody listens, which OpenTelemetry would try again for ten seconds."""

    problem: str | None = None

    def request(self, *args: Any, **named: Any) -> requests.Response:
        """Send a request."""
        self.problem = None
        try:
            return super().request(*args, **named)
        except requests.ConnectionError as error:
            reason = getattr(next(iter(error.args), None), "reason", None)
            if not isinstance(reason, urllib3.exceptions.NewConnectionError):
                raise  # it broke: an old connection may have been closed, and another one will do
            why = reason.__cause__
            self.problem = "the collector cannot be reached"
            if isinstance(why, OSError) and why.strerror:
                self.problem += f" ({why.strerror})"
            raise _UnreachableError from None


class _Exporter(SpanExporter):
    """Sends spans, and notes what fails. Neither proxy nor password is taken from the environment."""

    def __init__(self) -> None:
        self._session = _Session()
        self._session.trust_env = False
        self._otlp = OTLPSpanExporter(session=self._session)
        self.failures: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send some spans."""
        try:
            result = self._otlp.export(spans)
        except Exception as error:  # noqa: BLE001 (whatever it is, no run fails by it)
            self.failures.append(type(error).__name__)
            return SpanExportResult.FAILURE
        if result is not SpanExportResult.SUCCESS:
            self.failures.append(self._session.problem or "the collector did not take them")
        return result

    def shutdown(self) -> None:
        """Close the connection."""
        self._otlp.shutdown()  # type: ignore[no-untyped-call]
