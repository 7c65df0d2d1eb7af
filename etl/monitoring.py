"""What watches over runs from outside: a health check that each run pings, and a file of metrics.

Neither ever changes what a run does or its exit code. requests and prometheus_client are imported only when
they are used, so that an idle run without them stays quick.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from etl import __version__
from etl.atomic_file import whole_file
from etl.errors import ExitCode
from etl.log import Log
from etl.settings import Settings, expanded
from etl.sync.signals import exit_on_sigterm
from etl.sync.summary import LATENCY_CLASSES, OUTCOMES, Summary

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from etl.db.figures import QueueFigures

CALL_SECONDS = 2.5  # for connecting, and again for the answer
LAST_SECONDS = 5.0  # how long a run waits at its end for all its pings
LAST_SUCCESS = "cdr_sync_last_success_timestamp_seconds"


@dataclass(slots=True)
class Watched:
    """What a run leaves for its monitoring, once it has a summary."""

    summary: Summary | None = None
    text: str = ""  # the summary for people


@contextmanager
def monitored(
    settings: Settings,
    log: Log,
    *,
    reading: Callable[[], AbstractContextManager[Connection]],
    at_its_end: Callable[[Callable[[int], None]], AbstractContextManager[None]],
) -> Iterator[Watched]:
    """Report to the health check and the metrics file that a run begins, and how it ends.

    Args:
        settings: name the health check and the metrics file.
        log: where failures of the monitoring go.
        reading: opens the database, for the metrics of the queue.
        at_its_end: calls a function with the exit code when its block ends, however it ends.
    """
    run = Watched()
    if not settings.ping_url and not settings.metrics_file:
        yield run
        return
    began = time.monotonic()
    with exit_on_sigterm():
        health_check = None
        if settings.ping_url:
            health_check = HealthCheck(settings.ping_url, proxy=settings.proxy or None)
            health_check.start()

        def report(exit_code: int) -> None:
            if settings.metrics_file:
                is_lost = run.summary is None and exit_code == ExitCode.UNAVAILABLE
                queue = None if is_lost else _queue_figures(log, reading)
                # Without the database's clock, this machine's has to do.
                ended_at = queue.now.timestamp() if queue else time.time()  # noqa: TID251
                ended = EndedRun(ended_at, time.monotonic() - began, exit_code, run.summary)
                _write_metrics(expanded(settings.metrics_file), ended, queue, log)
            if health_check is not None:
                for failure in health_check.finish(exit_code, run.text):
                    log.info(f"A ping of the health check failed: {failure}")

        with at_its_end(report):
            yield run


# The health check


class HealthCheck:
    """The pings of one run to a health check, such as healthchecks.io: its start, and how it ended.

    A thread sends them one after the other, because a name lookup can take longer than any time-out, and
    because the run need not wait for its first ping. The URL is a secret: with it, anybody can report the
    check as healthy. So nothing reported here contains any part of it, and no foreign error text is repeated.

    Args:
        url: the check's URL, to which `/start` or the exit code is added.
        proxy: the URL of an HTTP proxy; nothing is taken from the environment.
    """

    def __init__(self, url: str, *, proxy: str | None = None) -> None:
        self._url = url
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._run = uuid4()  # by which the check matches an end with its start
        self._pings: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        self._failures: list[str] = []
        self._thread = Thread(target=self._work, name="health-check", daemon=True)

    def start(self) -> None:
        """Report that the run begins; returns at once."""
        self._pings.put(("start", ""))
        self._thread.start()

    def finish(self, exit_code: int, text: str) -> list[str]:
        """Report how the run ended, within seconds; returns why pings failed, without the URL."""
        self._pings.put((str(exit_code), text))
        self._pings.put(None)
        self._thread.join(LAST_SECONDS)
        late = ["it did not answer in time"] if self._thread.is_alive() else []
        return [*self._failures, *late]

    def _work(self) -> None:
        while (ping := self._pings.get()) is not None:
            try:
                status = self._ping(*ping)
            except Exception as error:  # noqa: BLE001 (no run fails because of its monitoring)
                self._failures.append(type(error).__name__)
            else:
                if not 200 <= status < 300:  # noqa: PLR2004 (2xx)
                    self._failures.append(f"it answered with HTTP status {status}")

    def _ping(self, step: str, body: str) -> int:
        import requests  # noqa: PLC0415 (an idle run without a health check does not load it)

        with _untraced(), requests.Session() as session:
            session.trust_env = False  # no proxy and no password from the environment
            session.headers["User-Agent"] = f"piopiy-cdr-sync/{__version__}"
            response = session.request(
                "POST" if body else "GET",
                _address(self._url, step, f"rid={self._run}"),
                data=body.encode(),
                proxies=self._proxies,
                timeout=CALL_SECONDS,
                allow_redirects=False,  # another host must not learn the URL
                stream=True,  # the body of the answer does not matter
            )
            with response:
                return response.status_code


def _untraced() -> AbstractContextManager[None]:
    """Keep the URL, which is a secret, out of a trace that `opentelemetry-instrument` makes."""
    if "opentelemetry.instrumentation.utils" not in sys.modules:
        return nullcontext()
    from opentelemetry.instrumentation.utils import suppress_http_instrumentation  # noqa: PLC0415 (optional)

    return suppress_http_instrumentation()


def _address(url: str, step: str, parameter: str) -> str:
    parts = urlsplit(url)
    query = f"{parts.query}&{parameter}" if parts.query else parameter
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{step}", query, ""))


# The metrics file, which the textfile collector of node_exporter reads


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that has ended, by the wall clock and the exit code of its process."""

    ended_at: float  # seconds since 1970
    seconds: float
    exit_code: int
    summary: Summary | None  # None if it ended before it had one


def _write_metrics(path: Path, run: EndedRun, queue: QueueFigures | None, log: Log) -> None:
    """Replace the metrics file; if that fails, log one line."""
    try:
        succeeded_at = queue.last_success_at if queue else None
        last_success = succeeded_at.timestamp() if succeeded_at else value_in_file(path, LAST_SUCCESS)
        content = metrics_text(run, queue, last_success_at=last_success)
        with whole_file(path, mode=0o644) as file:  # readable for everybody
            file.write(content)
    except Exception as error:  # noqa: BLE001 (no run fails because of its monitoring)
        reason = getattr(error, "strerror", None) or type(error).__name__
        log.warning(f"The metrics file {path} cannot be written: {reason}. The run is not affected.")


def _queue_figures(
    log: Log, reading: Callable[[], AbstractContextManager[Connection]]
) -> QueueFigures | None:
    """The state of the queue; None if it cannot be read, for a reason that the run has reported."""
    from etl.db.figures import queue_figures  # noqa: PLC0415 (an idle run loads no SQLAlchemy)

    try:
        with reading() as connection:
            return queue_figures(connection)
    except Exception as error:  # noqa: BLE001 (no run fails because of its monitoring)
        log.info(f"The metrics of the queue are missing: {type(error).__name__}")
        return None


def value_in_file(path: Path, metric: str) -> float | None:
    """A metric's value in the present file; None if there is no such value or file."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 (seldom needed)

    with suppress(OSError, ValueError):
        for family in text_string_to_metric_families(path.read_text()):
            if family.name == metric and family.samples:
                return family.samples[0].value
    return None


def metrics_text(run: EndedRun, queue: QueueFigures | None, *, last_success_at: float | None) -> bytes:
    """The metrics of a run and of the queue, in the text format of Prometheus.

    What is unknown is left out, and never written as 0.
    """
    from prometheus_client import CollectorRegistry, core, generate_latest, registry  # noqa: PLC0415 (slow)

    class Families(registry.Collector):
        def collect(self) -> Iterator[core.Metric]:
            for name, about, value, *label in _gauges(run, queue, last_success_at):
                if not label:
                    yield core.GaugeMetricFamily(name, about, value)
                    continue
                family = core.GaugeMetricFamily(name, about, labels=label)
                for word, number in value.items():
                    family.add_metric([word], number)
                yield family
            if run.summary is not None:
                latency = run.summary.latency
                limits = (*(str(limit) for limit in LATENCY_CLASSES), "+Inf")
                yield core.HistogramMetricFamily(
                    "cdr_sync_last_run_api_call_seconds",
                    "How long the API calls of the last run took, failed ones included.",
                    buckets=list(zip(limits, accumulate(latency.counts), strict=True)),
                    sum_value=latency.total,
                )

    collected = CollectorRegistry()
    collected.register(Families())
    return generate_latest(collected)


def _gauges(run: EndedRun, queue: QueueFigures | None, last_success_at: float | None) -> Iterator[Any]:
    """Name, help and value of each metric; with a label, a value for each of its words, and the label."""
    prefix, summary = "cdr_sync_last_run", run.summary
    yield f"{prefix}_timestamp_seconds", "When the last run on this machine ended.", run.ended_at
    yield f"{prefix}_duration_seconds", "How long that run took.", run.seconds
    yield f"{prefix}_exit_code", "The exit code of that run.", run.exit_code
    if summary is not None:
        outcomes = {outcome: summary.counts[outcome] for outcome in OUTCOMES}
        about = "What became of the requests that the last run claimed."
        yield f"{prefix}_requests", about, outcomes, "outcome"
        about = "How long the last run waited for the rate limit."
        yield f"{prefix}_rate_wait_seconds", about, summary.rate_wait_seconds
    if last_success_at is not None:
        yield LAST_SUCCESS, "When a run on any machine last ended without problems.", last_success_at
    if queue is not None:
        about = "How long the oldest due request has been due; 0 if none is."
        yield "cdr_sync_oldest_due_age_seconds", about, queue.oldest_due_seconds or 0.0
        yield "cdr_sync_requests_running", "Requests that a run has claimed.", queue.running
        about = "Dead requests by the kind of their last error."
        yield "cdr_sync_requests_dead", about, queue.dead, "error_kind"
        yield "cdr_sync_breaker_open", "1 if the circuit breaker is open.", queue.breakers, "account"
