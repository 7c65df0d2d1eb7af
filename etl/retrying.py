"""Retries that take seconds: how often, how long the pauses are, and what ends them.

Longer waits belong to the queue: a call is tried a few times within one budget, and what still fails then
goes back to the queue. Only errors that can pass by themselves are retried. No other module loops over tries.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import tenacity

from etl.errors import RateLimitedError, TransientError

FIRST_PAUSE = 0.5  # seconds; doubled after each try
LONGEST_PAUSE = 10.0  # seconds

TRANSACTION_TRIES = 8  # the seven pauses between them take 5 seconds at most
FIRST_TRANSACTION_PAUSE = 0.05  # seconds; doubled after each try
LONGEST_TRANSACTION_PAUSE = 2.0  # seconds
TRANSACTION_SECONDS = 30.0  # no further try begins after that, however long the database took to fail

P = ParamSpec("P")
T = TypeVar("T")


class Patience:
    """How often and for how long an API call is tried. One object per run, shared by its threads.

    Only a `TransientError` leads to another try. The pauses before it are random, up to 0.5, 1, 2, 4, 8, 10,
    10, … seconds, to spread calls that failed together. A short pause that the API asked for is added to
    that; a long one (`RateLimitedError.is_long`) ends the tries.

    Args:
        tries: how many tries a call has, 1 or more.
        budget: seconds from the start of the first try; no try begins later.
        stop: once set, a pause ends at once and no other try begins.
        sleep: waits for a number of seconds; by default until `stop` is set.
        rand: a random number from 0 to 1.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        tries: int,
        budget: float,
        *,
        stop: threading.Event,
        sleep: Callable[[float], None] | None = None,
        rand: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stop = stop
        self._clock = clock

        def was_last(state: tenacity.RetryCallState) -> bool:  # tenacity's `stop_before_delay` takes no clock
            began: float = state.args[0]  # of `attempt` in `call`
            is_over_budget = clock() + state.upcoming_sleep > began + budget
            return is_over_budget or state.attempt_number >= tries or stop.is_set()

        # One object for all threads: tenacity keeps the state of a call in the thread.
        self._retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_can_pass_in_seconds),
            wait=tenacity.wait_combine(_full_jitter(FIRST_PAUSE, LONGEST_PAUSE, rand), _retry_after),
            stop=was_last,
            sleep=sleep or tenacity.sleep_using_event(stop),
            reraise=True,
        )

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call the function until it returns or no try is left; then raise what it raised last.

        The tries are not reported: a caller that needs their number counts them inside the function.
        """
        failure: TransientError | None = None

        def attempt(_began: float) -> T:
            nonlocal failure
            if failure is not None and self._stop.is_set():  # it was set during the pause
                raise failure
            try:
                return function(*args, **kwargs)
            except TransientError as error:
                failure = error
                raise

        return self._retrying(attempt, self._clock())


def retry_transaction(
    work: Callable[[], T],
    *,
    is_transient: Callable[[BaseException], bool],
    sleep: Callable[[float], None] = time.sleep,  # noqa: TID251 (a stop must not interrupt the tries of a commit)
    rand: Callable[[], float] = random.random,
) -> T:
    """Run a database transaction again after a conflict, and raise what it raised last.

    Args:
        work: the whole transaction, from its beginning to its commit.
        is_transient: whether an error is a conflict that passes: a deadlock, a lock, a serialization failure.
        sleep: waits for a number of seconds.
        rand: a random number from 0 to 1.
    """
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception(is_transient),
        wait=_full_jitter(FIRST_TRANSACTION_PAUSE, LONGEST_TRANSACTION_PAUSE, rand),
        stop=tenacity.stop_after_attempt(TRANSACTION_TRIES) | tenacity.stop_after_delay(TRANSACTION_SECONDS),
        sleep=sleep,
        reraise=True,
    )
    return retrying(work)


def _full_jitter(
    first: float, longest: float, rand: Callable[[], float]
) -> Callable[[tenacity.RetryCallState], float]:
    """A random part of a pause that doubles up to a cap.

    It stays random at the cap, unlike `wait_exponential_jitter`: otherwise those that wait longest would all
    come back at the same moment. `wait_random_exponential` does the same, but takes no `rand`.
    """
    doubling = tenacity.wait_exponential(multiplier=first, max=longest)
    return lambda state: rand() * doubling(state)


def _retry_after(state: tenacity.RetryCallState) -> float:
    """The pause that the API asked for with its last answer, in seconds; 0 if it asked for none."""
    error: Any = state.outcome.exception() if state.outcome else None
    return (error.retry_after or 0.0) if isinstance(error, RateLimitedError) else 0.0


def _can_pass_in_seconds(error: BaseException) -> bool:
    return isinstance(error, TransientError) and not (isinstance(error, RateLimitedError) and error.is_long)
