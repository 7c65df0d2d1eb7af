"""The file that node_exporter's textfile collector reads: always whole, and readable for everybody."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path


def replace_file(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """Write a file so that a reader sees either the old one or the new one.

    Raises:
        OSError: it cannot be written; what was there before stays as it was.
    """
    # In the same folder, or renaming would copy; and not *.prom, which the collector would read.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            Path(name).chmod(mode)
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def value_in_file(path: Path, metric: str) -> float | None:
    """A metric's value in the file as it is; None where there is none, or no such file."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 (seldom needed)

    with suppress(OSError, ValueError):
        for family in text_string_to_metric_families(path.read_text()):
            if family.name == metric and family.samples:
                return family.samples[0].value
    return None
