"""The gate before the API: with a rate limit, a call goes through it only once it is paid for.

The coordinator pays, in the transaction in which it claims, so that asking threads never touch the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable


class Gate:
    """One account's gate. Threads pass it before each call, first tries, further tries and canaries alike.

    Args:
        wake: tells the coordinator that a call waits which is not paid for.
        patience: seconds that a thread waits; a claim does not hold for ever.
    """

    def __init__(self, wake: Callable[[], None], patience: float) -> None:
        self._wake = wake
        self._patience = patience
        self._change = threading.Condition()
        self._paid = 0
        self._waiting = 0
        self._is_given_up = False

    @property
    def unpaid(self) -> int:
        """How many calls wait that nobody has paid for."""
        with self._change:
            return max(0, self._waiting - self._paid)

    def pay(self, calls: int) -> None:
        """Let so many calls through."""
        with self._change:
            self._paid += calls
            self._change.notify(calls)

    def give_up(self) -> None:
        """Let nobody wait any longer: the run is to end."""
        with self._change:
            self._is_given_up = True
            self._change.notify_all()

    def pass_through(self) -> bool:
        """Wait until a call is paid for, and take it; False where the wait is given up."""
        with self._change:
            self._waiting += 1
            if self._waiting > self._paid:
                self._wake()
            is_paid = self._change.wait_for(lambda: self._paid > 0 or self._is_given_up, self._patience)
            self._waiting -= 1
            if not is_paid or self._paid == 0:
                return False
            self._paid -= 1
            return True
