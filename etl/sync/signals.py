"""Stopping: signals set it, and everything that waits checks it."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """A request to stop: the first signal lets calls in progress finish, the second gives them back."""

    def __init__(self) -> None:
        self.event = threading.Event()  # what waiting threads look at; set by the coordinator
        self.signal: int | None = None
        self.is_urgent = False
        self.wake: Callable[[], None] = lambda: None

    def request(self, signal_number: int) -> None:
        """Note a signal. Safe in a handler: it takes no lock, which the interrupted code might hold."""
        self.is_urgent = self.signal is not None
        self.signal = signal_number
        self.wake()

    @property
    def is_wanted(self) -> bool:
        """Whether a signal came, or the coordinator decided to stop."""
        return self.signal is not None or self.event.is_set()


@contextmanager
def stop_on_signals() -> Iterator[Stop]:
    """Let SIGINT and SIGTERM ask for a stop while this lasts.

    After a stop that was asked for, they are ignored: no claim is left, and the process is about to end.
    Python's default would be a traceback during its shutdown.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        stop.request(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if stop.signal is None else signal.SIG_IGN)


@contextmanager
def exit_on_sigterm() -> Iterator[None]:
    """Let SIGTERM raise an exception as SIGINT does, so that `finally` blocks still run."""

    def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
