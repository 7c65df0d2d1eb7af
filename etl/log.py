"""What is told to people and machines while a command works: log lines, with no secret in any of them.

The log library takes longer to import than an idle run may last, so that it is loaded at the first line
that is really written. A quiet run writes none.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, Literal

from etl.redaction import Redaction

LEVELS = {"info": 20, "warning": 30, "error": 40}


class Log:
    """Writes events to stderr: for people on a terminal, else one JSON object a line."""

    def __init__(
        self,
        *,
        is_verbose: bool = False,
        style: Literal["auto", "console", "json"] = "auto",
        redaction: Redaction | None = None,
    ) -> None:
        self.is_verbose = is_verbose
        self._level = LEVELS["info" if is_verbose else "warning"]
        self._style = style
        self._redaction = redaction or Redaction()
        self._context: dict[str, object] = {}

    def bind(self, **context: object) -> None:
        """Add what every later line is to carry, such as the run's number."""
        self._context.update(context)

    def info(self, message: str, **fields: object) -> None:
        """Tell what somebody who looks on wants to know."""
        self._write("info", message, fields)

    def notice(self, message: str, **fields: object) -> None:
        """Tell what was asked for, however quiet the command is."""
        self._tell("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Tell what a person should look at some time."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Tell what a person must do something about, and what."""
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS[level] >= self._level:
            self._tell(level, message, fields)

    def _tell(self, level: str, message: str, fields: dict[str, object]) -> None:
        with suppress(OSError):  # nobody listens any more, which is no reason for work to end
            self._logger().log(LEVELS[level], message, **(self._context | fields))

    def _logger(self) -> Any:
        import structlog  # noqa: PLC0415 (slow to import, and mostly not needed)

        is_console = self._style == "console" or (self._style == "auto" and sys.stderr.isatty())
        has_colours = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        renderer: Any = (
            structlog.dev.ConsoleRenderer(colors=has_colours)
            if is_console
            else structlog.processors.JSONRenderer(ensure_ascii=False)
        )
        return structlog.wrap_logger(
            structlog.PrintLogger(sys.stderr),
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True),
                renderer,
                self._redact,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(LEVELS["info"]),
            cache_logger_on_first_use=False,
        )

    def _redact(self, _logger: object, _method: str, line: Any) -> str:
        """Take every known secret out of the line as it will be read, wherever in it a secret stands."""
        return self._redaction.clean(str(line))
