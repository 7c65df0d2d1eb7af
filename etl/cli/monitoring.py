"""Monitoring of a run: the health check's pings around it, and the metrics file at its end.

A run that has neither configured loads nothing for it. With either, everything that goes wrong here stays
here: the run's result and exit code are what they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from etl.cli.app import App
from etl.cli.main import at_its_end
from etl.errors import DatabaseUnavailableError
from etl.settings import expanded

if TYPE_CHECKING:
    from etl.db.figures import QueueFigures
    from etl.monitoring.health_check import HealthCheck
    from etl.sync.summary import Summary


@dataclass(slots=True)
class Watched:
    """What a run leaves for its monitoring, once it can sum up."""

    summary: Summary | None = None
    text: str = ""  # the summary for people


@contextmanager
def monitored(app: App) -> Iterator[Watched]:
    """Tell the monitoring that a run begins, and however it ends, how."""
    run = Watched()
    if not app.settings.ping_url and not app.settings.metrics_file:
        yield run
        return
    from etl.sync.signals import exit_on_sigterm  # noqa: PLC0415

    began = time.monotonic()
    with exit_on_sigterm():
        health_check = _begin(app)

        def tell(exit_code: int) -> None:
            if app.settings.metrics_file:
                _write_metrics(app, run.summary, exit_code, time.monotonic() - began)
            if health_check is not None:
                for failure in health_check.finish(exit_code, run.text):
                    app.log.info(f"A ping of the health check failed: {failure}")

        with at_its_end(tell):
            yield run


def _begin(app: App) -> HealthCheck | None:
    if not app.settings.ping_url:
        return None
    from etl.monitoring.health_check import HealthCheck  # noqa: PLC0415 (a run without one does not load it)

    health_check = HealthCheck(app.settings.ping_url, proxy=app.settings.proxy or None)
    health_check.start()
    return health_check


def _write_metrics(app: App, summary: Summary | None, exit_code: int, seconds: float) -> None:
    from etl.monitoring.metrics import LAST_SUCCESS, EndedRun, metrics_text  # noqa: PLC0415 (likewise)
    from etl.monitoring.textfile import replace_file, value_in_file  # noqa: PLC0415 (likewise)

    path = expanded(app.settings.metrics_file)
    try:
        is_lost = summary is None and exit_code == DatabaseUnavailableError.exit_code
        queue = None if is_lost else _queue_figures(app)
        # Where the database tells no time, this machine's clock has to do.
        ended_at = queue.now.timestamp() if queue else time.time()  # noqa: TID251
        succeeded_at = queue.last_success_at if queue else None
        last_success = succeeded_at.timestamp() if succeeded_at else value_in_file(path, LAST_SUCCESS)
        run = EndedRun(ended_at, seconds, exit_code, summary)
        replace_file(path, metrics_text(run, queue, last_success_at=last_success))
    except Exception as error:  # noqa: BLE001 (whatever it is, no run fails by it)
        reason = getattr(error, "strerror", None) or type(error).__name__
        app.log.warning(f"The metrics file {path} cannot be written: {reason}. The run is not affected.")


def _queue_figures(app: App) -> QueueFigures | None:
    """How the queue stands; None where the database does not tell: then the run has told why."""
    from etl.db.figures import queue_figures  # noqa: PLC0415

    try:
        with app.reading() as connection:
            return queue_figures(connection)
    except Exception as error:  # noqa: BLE001 (likewise)
        app.log.info(f"The metrics are without the queue's: {type(error).__name__}")
        return None
