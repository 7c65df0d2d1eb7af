"""Which process of which machine this is."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from etl.db.runs import Process

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> Process:
    """This process. Machines or containers can share a name; where process IDs count, they differ."""
    try:
        scope = f"{_BOOT_ID.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:  # not Linux
        scope = None
    return Process(socket.gethostname(), os.getpid(), scope)


def is_alive(pid: int) -> bool:
    """Whether a process runs under this number, where this process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
