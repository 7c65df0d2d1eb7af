"""Wrong clocks for whole processes and the libraries that they use, SQLite included, by libfaketime."""

from __future__ import annotations

import platform
from pathlib import Path

# Of Debian's package `libfaketime`.
LIBFAKETIME = Path(f"/usr/lib/{platform.machine()}-linux-gnu/faketime/libfaketime.so.1")


def shifted(seconds: float) -> dict[str, str]:
    """The environment of a process whose clock is off by so many seconds; its durations are right."""
    return {
        "LD_PRELOAD": str(LIBFAKETIME),
        "FAKETIME": f"{seconds:+f}",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


def hurried(times: float) -> dict[str, str]:
    """The environment of a process whose clock is right at first, and runs so many times too fast."""
    return {"LD_PRELOAD": str(LIBFAKETIME), "FAKETIME": f"+0 x{times}"}
