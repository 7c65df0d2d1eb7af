"""Log lines, for people or as JSON, without secrets.

structlog is imported with the first line that is written, because the import takes longer than an idle run,
which logs nothing.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any, Literal

from etl.redaction import Redaction

LEVELS = {"info": 20, "warning": 30, "error": 40}


class Log:
    """Writes log lines to stderr: for people on a terminal, else one JSON object per line."""

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
        """Add fields to every later line, such as the number of the run."""
        self._context.update(context)

    def info(self, message: str, **fields: object) -> None:
        """Log progress, if the command is verbose."""
        self._write("info", message, fields)

    def notice(self, message: str, **fields: object) -> None:
        """Log progress, even if the command is not verbose."""
        self._emit("info", message, fields)

    def warning(self, message: str, **fields: object) -> None:
        """Log what a person should look at some time."""
        self._write("warning", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Log what a person must act on, and how."""
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        if LEVELS[level] >= self._level:
            self._emit(level, message, fields)

    def _emit(self, level: str, message: str, fields: dict[str, object]) -> None:
        with suppress(OSError):  # stderr is closed, which must not end the work
            self._logger().log(LEVELS[level], message, **(self._context | fields))

    def _logger(self) -> Any:
        import structlog  # noqa: PLC0415 (slow to import, and an idle run logs nothing)

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
        """Remove every known secret from the finished line, wherever it is."""
        return self._redaction.clean(str(line))
