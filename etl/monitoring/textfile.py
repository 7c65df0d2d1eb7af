"""The file that node_exporter's textfile collector reads: always whole, and readable for everybody."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from etl.atomic_file import whole_file


def replace_file(path: Path, content: bytes) -> None:
    """Write the file so that a reader sees either the old one or the new one.

    Raises:
        OSError: it cannot be written; what was there before stays as it was.
    """
    with whole_file(path, mode=0o644) as file:
        file.write(content)


def value_in_file(path: Path, metric: str) -> float | None:
    """A metric's value in the file as it is; None where there is none, or no such file."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 (seldom needed)

    with suppress(OSError, ValueError):
        for family in text_string_to_metric_families(path.read_text()):
            if family.name == metric and family.samples:
                return family.samples[0].value
    return None
