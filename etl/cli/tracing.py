"""The trace of a run, where OpenTelemetry's own environment variables ask for one.

A run for which none is configured loads nothing for it. Whatever goes wrong here stays here: the run's result
and exit code are what they are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from etl.cli.app import App
from etl.cli.main import at_its_end

if TYPE_CHECKING:
    from etl.monitoring.tracing import RunTrace
    from etl.sync.summary import Observer, Summary

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTER = "OTEL_TRACES_EXPORTER"
_SYSTEMS = {"postgres": "postgresql"}  # what semantic conventions call them


@dataclass(slots=True)
class Traced:
    """A run that may be traced: what is to hear of it, and what it did, once it can sum up."""

    observers: tuple[Observer, ...] = ()
    summary: Summary | None = None


@contextmanager
def traced(app: App, command: str) -> Iterator[Traced]:
    """Make a trace of a run, if one is wanted, and send it at the end, however that comes."""
    trace = _begin(app, command) if _is_wanted(os.environ) else None
    if trace is None:
        yield Traced()
        return
    from etl.sync.signals import exit_on_sigterm  # noqa: PLC0415

    run = Traced((trace,))

    def tell(exit_code: int) -> None:
        for failure in trace.finish(run.summary.exit_code if run.summary else exit_code, run.summary):
            app.log.info(f"The trace was not sent as a whole: {failure}")

    with exit_on_sigterm(), at_its_end(tell):
        yield run


def _is_wanted(environment: Mapping[str, str]) -> bool:
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environment.get(_EXPORTER, "").strip().lower()
    return exporter != "none" if exporter else any(environment.get(name) for name in _ENDPOINTS)


def _begin(app: App, command: str) -> RunTrace | None:
    """Begin a trace; where that cannot be, one line says why, and what to do."""
    problem = _unsupported(os.environ)
    if problem is None:
        try:
            from etl.monitoring.tracing import RunTrace  # noqa: PLC0415 (slow, and mostly not wanted)

            system = urlsplit(app.settings.database_url).scheme.partition("+")[0]
            return RunTrace(command, api_url=app.settings.api_url, database=_SYSTEMS.get(system, system))
        except ModuleNotFoundError:
            problem = "OpenTelemetry is not installed: run `pip install 'piopiy-cdr-sync[otel]'`"
        except Exception as error:  # noqa: BLE001 (whatever it is, no run fails by it)
            problem = f"OpenTelemetry does not take its environment variables ({type(error).__name__})"
    app.log.warning(f"There is no trace of this run, which is not affected: {problem}.")
    return None


def _unsupported(environment: Mapping[str, str]) -> str | None:
    """What the environment asks for that is not there."""
    exporter = environment.get(_EXPORTER, "").strip().lower()
    if exporter not in ("", "otlp"):
        return f"{_EXPORTER} must be otlp or none"
    endpoint = next((name for name in _ENDPOINTS if environment.get(name)), None)
    if endpoint and not _is_url(environment[endpoint]):
        return f"{endpoint} must be an http:// or https:// URL"
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol.strip().lower() != "http/protobuf":
        return f"{_PROTOCOLS[1]} must be http/protobuf, which is the only one"
    return None


def _is_url(text: str) -> bool:
    try:
        url = urlsplit(text.strip())
        return url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # such as a port that is no number
        return False
