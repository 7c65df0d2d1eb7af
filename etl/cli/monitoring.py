"""How a run's monitoring meets the command line."""

from __future__ import annotations

from contextlib import AbstractContextManager

from etl import monitoring
from etl.cli.app import App
from etl.cli.main import at_its_end


def monitored(app: App) -> AbstractContextManager[monitoring.Watched]:
    """Report to the health check and the metrics file that a run begins, and how it ends."""
    return monitoring.monitored(app.settings, app.log, reading=app.reading, at_its_end=at_its_end)
