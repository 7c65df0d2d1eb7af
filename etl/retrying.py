"""How often and how patiently something is repeated. Nothing else in this project loops over tries.

Seconds belong here, minutes and hours to the queue: a call is tried a few times within one budget, and what
still fails then goes back to the queue. Only what is known to pass by itself is repeated.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol, TypeVar

import tenacity

from etl.errors import RateLimitedError, TransientError

FIRST_PAUSE = 0.5  # seconds; doubled after each try
LONGEST_PAUSE = 10.0  # seconds


TRANSACTION_TRIES = 8
FIRST_TRANSACTION_PAUSE = 0.05  # seconds; doubled after each try
LONGEST_TRANSACTION_PAUSE = 2.0  # seconds
TRANSACTION_SECONDS = 30.0  # after which no other try begins, however long each of them waited for an answer

P = ParamSpec("P")
T = TypeVar("T")


class StopSignal(Protocol):
    """What says that the run is to end: a `threading.Event`, or something that behaves like one."""

    def is_set(self) -> bool:
        """Say whether the run is to end."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for `timeout` seconds, or until the run is to end."""


class Patience:
    """How often and for how long one call is repeated. Made once a run, and shared by its threads.

    Only a `TransientError` leads to another try. The pauses before it are random, at most 0.5, 1, 2, 4, 8,
    10, 10, … seconds, so that calls which failed together do not come back together. A pause that the API
    asked for is added where it is short; where it is longer, there is no other try.

    Args:
        tries: how many tries a call has, 1 or more.
        budget: seconds from the beginning of the first try, after which no other begins.
        stop: once set, a pause ends at once and no other try begins.
        sleep: waits for seconds; as a rule by waiting for `stop`.
        rand: a random number from 0 to 1.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        tries: int,
        budget: float,
        *,
        stop: StopSignal,
        sleep: Callable[[float], object] | None = None,
        rand: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tries = tries
        self._budget = budget
        self._stop = stop
        self._rand = rand
        self._clock = clock
        # One object for all threads: what tenacity notes about a call is local to its thread.
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass_in_seconds),
            wait=self._pause,
            stop=self._is_enough,
            sleep=_quietly(sleep or stop.wait),
            reraise=True,
        )

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function until it returns or the patience is used up, and raise what it raised last.

        The tries are not reported: a caller that wants to know counts them inside the function.
        """
        call = _Call(self._clock(), self._stop)
        result: T = self._retrying(_try_once, call, function, *args, **kwargs)
        return result

    def _pause(self, state: tenacity.RetryCallState) -> float:
        pause = _jittered(self._rand(), state.attempt_number, FIRST_PAUSE, LONGEST_PAUSE)
        error = state.outcome.exception() if state.outcome else None
        return pause + (error.retry_after or 0.0 if isinstance(error, RateLimitedError) else 0.0)

    def _is_enough(self, state: tenacity.RetryCallState) -> bool:
        call: _Call = state.args[0]
        next_begins = self._clock() + state.upcoming_sleep
        return (
            state.attempt_number >= self._tries
            or next_begins > call.began + self._budget
            or self._stop.is_set()
        )


def retry_transaction(
    work: Callable[[], T],
    *,
    is_transient: Callable[[BaseException], bool],
    tries: int = TRANSACTION_TRIES,
    sleep: Callable[[float], object] = time.sleep,  # noqa: TID251 (a stop must not cut a commit's tries short)
    rand: Callable[[], float] = random.random,
) -> T:
    """Do a whole database transaction again where it failed by a conflict, and raise what it raised last.

    Args:
        work: the transaction, from its beginning to its commit.
        is_transient: whether an error is a conflict that passes: a deadlock, a lock, a serialization failure.
        tries: how many tries it has; the seven pauses between eight are 5 seconds together at most.
        sleep: waits for seconds.
        rand: a random number from 0 to 1.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=lambda state: _jittered(
            rand(), state.attempt_number, FIRST_TRANSACTION_PAUSE, LONGEST_TRANSACTION_PAUSE
        ),
        stop=tenacity.stop_after_attempt(tries) | tenacity.stop_after_delay(TRANSACTION_SECONDS),
        sleep=_quietly(sleep),
        reraise=True,
    )
    return retrying(work)


class _Call:
    """What is remembered of one call: when it began, and how it failed last."""

    __slots__ = ("began", "failure", "stop")

    def __init__(self, began: float, stop: StopSignal) -> None:
        self.began = began
        self.failure: TransientError | None = None
        self.stop = stop


def _try_once(call: _Call, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    if call.failure is not None and call.stop.is_set():  # the stop came during the pause
        raise call.failure
    try:
        return function(*args, **kwargs)
    except TransientError as failure:
        call.failure = failure
        raise


def _may_pass_in_seconds(error: BaseException) -> bool:
    return isinstance(error, TransientError) and not (isinstance(error, RateLimitedError) and error.is_long)


def _jittered(rand: float, tries: int, first: float, longest: float) -> float:
    """Full jitter, also where the pause no longer grows: otherwise those that wait longest meet again."""
    return rand * min(longest, first * 2.0 ** min(tries - 1, 60))


def _quietly(sleep: Callable[[float], object]) -> Callable[[float], None]:
    """A sleep as tenacity wants it: without a result, and not asked for when there is nothing to wait."""

    def pause(seconds: float) -> None:
        if seconds > 0:
            sleep(float(seconds))

    return pause
