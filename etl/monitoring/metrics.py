"""What a run and the queue look like in Prometheus's words.

What is not known is left out, and never written as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from etl.db.figures import QueueFigures
from etl.sync.summary import LATENCY_CLASSES, OUTCOMES, Latency, Summary

LAST_SUCCESS = "cdr_sync_last_success_timestamp_seconds"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that has ended, by the wall clock and the exit code of its process."""

    ended_at: float  # seconds since 1970
    seconds: float
    exit_code: int
    summary: Summary | None  # None where it ended before it could sum up


def metrics_text(run: EndedRun, queue: QueueFigures | None, *, last_success_at: float | None) -> bytes:
    """Put a run and the queue into the text format that node_exporter reads."""
    registry = CollectorRegistry()
    registry.register(_Families([*_of_run(run), *_of_queue(queue, last_success_at)]))
    return generate_latest(registry)


class _Families(Collector):
    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families


def _of_run(run: EndedRun) -> Iterator[Metric]:
    yield _gauge("cdr_sync_last_run_timestamp_seconds", "When this machine's last run ended.", run.ended_at)
    yield _gauge("cdr_sync_last_run_duration_seconds", "How long that run took.", run.seconds)
    yield _gauge("cdr_sync_last_run_exit_code", "The exit code of that run.", run.exit_code)
    if run.summary is None:
        return
    counts = run.summary.counts
    yield _by_label(
        "cdr_sync_last_run_requests",
        "What became of the requests that the last run claimed.",
        "outcome",
        {outcome: counts[outcome] for outcome in OUTCOMES},
    )
    yield _gauge(
        "cdr_sync_last_run_rate_wait_seconds",
        "How long the last run waited for the rate limit.",
        run.summary.rate_wait_seconds,
    )
    yield _histogram(
        "cdr_sync_last_run_api_call_seconds",
        "How long the API calls of the last run took, failed ones included.",
        run.summary.latency,
    )


def _of_queue(queue: QueueFigures | None, last_success_at: float | None) -> Iterator[Metric]:
    if last_success_at is not None:
        yield _gauge(
            LAST_SUCCESS,
            "When a run last ended with nothing to complain of, on any machine.",
            last_success_at,
        )
    if queue is None:
        return
    yield _gauge(
        "cdr_sync_oldest_due_age_seconds",
        "For how long the request that waits longest has been due; 0 where nothing is due.",
        queue.oldest_due_seconds or 0.0,
    )
    yield _gauge("cdr_sync_requests_running", "Requests that some run holds.", queue.running)
    yield _by_label(
        "cdr_sync_requests_dead", "Dead requests by the kind of their last error.", "error_kind", queue.dead
    )
    yield _by_label(
        "cdr_sync_breaker_open", "1 where the API is taken to be down.", "account", queue.breakers
    )


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(name, about, value=value)


def _by_label(name: str, about: str, label: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(name, about, labels=[label])
    for word, value in values.items():
        family.add_metric([word], value)
    return family


def _histogram(name: str, about: str, latency: Latency) -> Metric:
    limits = (*(str(limit) for limit in LATENCY_CLASSES), "+Inf")
    buckets = list(zip(limits, accumulate(latency.counts), strict=True))
    return HistogramMetricFamily(name, about, buckets=buckets, sum_value=latency.total)
