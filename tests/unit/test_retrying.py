"""Retries: which errors lead to another try, how long the pauses are, and what ends them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import pytest

from etl.errors import SHORT_PAUSE_SECONDS as SHORT_PAUSE
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    TooLargeError,
)
from etl.retrying import Patience, retry_transaction


class Clock:
    """A clock that moves only by sleeping, and records the sleeps."""

    def __init__(self):
        self.now = 1000.0
        self.sleeps: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        return self.now


class Scripted:
    """A function that follows a script, one step per call: raise an error, or return a value."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.calls = 0

    def __call__(self):
        self.calls += 1
        step = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        if isinstance(step, BaseException):
            raise step
        return step


def half() -> float:
    return 0.5


def drawn(numbers: Iterable[float]) -> Callable[[], float]:
    return iter(numbers).__next__


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stop():
    return threading.Event()


@pytest.fixture
def patience(clock, stop):
    def make(*, tries=8, budget=1000.0, rand=half, sleep=clock.sleep):
        return Patience(tries, budget, stop=stop, sleep=sleep, rand=rand, clock=clock)

    return make


def test_a_call_that_succeeds_is_made_once_without_a_pause(patience, clock):
    function = Scripted("answer")

    assert patience().call(function) == "answer"
    assert function.calls == 1
    assert clock.sleeps == []


def test_arguments_are_passed_to_the_function(patience):
    assert patience().call(lambda a, *, b: (a, b), 1, b=2) == (1, 2)


@pytest.mark.parametrize(
    "error",
    [CallTimeoutError("slow"), CallConnectionError("refused"), ServerError("500"), RateLimitedError("429")],
)
def test_transient_errors_are_retried(patience, error):
    function = Scripted(error, error, "answer")

    assert patience().call(function) == "answer"
    assert function.calls == 3


@pytest.mark.parametrize(
    "error",
    [NotFoundError("404"), TooLargeError("big"), ValueError("a bug"), SystemExit(1), KeyboardInterrupt()],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_are_not_retried(patience, clock, error):
    function = Scripted(error)

    with pytest.raises(type(error)) as caught:
        patience().call(function)

    assert caught.value is error
    assert function.calls == 1
    assert clock.sleeps == []


def test_pauses_double_up_to_ten_seconds(patience, clock):
    with pytest.raises(ServerError):
        patience(tries=8, rand=lambda: 1.0).call(Scripted(ServerError("500")))

    assert clock.sleeps == [0.5, 1, 2, 4, 8, 10, 10]


def test_pauses_stay_random_at_the_cap(patience, clock):
    numbers = [1.0, 1.0, 1.0, 1.0, 1.0, 0.9, 0.1, 0.5, 1.0]
    with pytest.raises(ServerError):
        patience(tries=9, rand=drawn(numbers)).call(Scripted(ServerError("500")))

    assert clock.sleeps[5:] == [9, 1, 5]


def test_a_short_retry_after_is_added_to_the_random_pause(patience, clock):
    patience().call(Scripted(RateLimitedError("429", retry_after=3.0), "answer"))

    assert clock.sleeps == [3.25]


def test_the_longest_short_retry_after_is_waited_out(patience, clock):
    patience().call(Scripted(RateLimitedError("429", retry_after=SHORT_PAUSE), "answer"))

    assert clock.sleeps == [SHORT_PAUSE + 0.25]


def test_a_long_retry_after_ends_the_tries(patience, clock):
    function = Scripted(RateLimitedError("429", retry_after=SHORT_PAUSE + 0.1), "answer")

    with pytest.raises(RateLimitedError):
        patience().call(function)

    assert function.calls == 1
    assert clock.sleeps == []


def test_the_last_error_is_raised_unchanged(patience):
    errors = [ServerError("first"), CallTimeoutError("second"), ServerError("third")]
    function = Scripted(*errors)

    with pytest.raises(ServerError) as caught:
        patience(tries=3).call(function)

    assert caught.value is errors[2]
    assert function.calls == 3


def test_with_one_try_nothing_is_retried(patience, clock):
    function = Scripted(ServerError("500"))

    with pytest.raises(ServerError):
        patience(tries=1).call(function)

    assert function.calls == 1
    assert clock.sleeps == []


def test_no_try_begins_after_the_budget(patience, clock):
    with pytest.raises(ServerError):
        patience(budget=3.6, rand=lambda: 1.0).call(Scripted(ServerError("500")))

    assert clock.sleeps == [0.5, 1, 2]  # 4 more seconds would exceed the budget


def test_the_time_of_the_tries_counts_towards_the_budget(patience, clock):
    def slow():
        clock.now += 30.0
        raise CallTimeoutError("30 s")

    with pytest.raises(CallTimeoutError):
        patience(budget=60.0).call(slow)

    assert clock.sleeps == [0.25]


def test_each_call_has_its_own_budget(patience, clock):
    both = patience(budget=0.6, rand=lambda: 1.0)
    for _ in range(2):
        clock.now += 100.0
        both.call(Scripted(ServerError("500"), "answer"))

    assert clock.sleeps == [0.5, 0.5]


def test_a_stop_during_a_try_ends_the_tries_without_a_pause(patience, clock, stop):
    def fail():
        stop.set()
        raise ServerError("500")

    with pytest.raises(ServerError):
        patience().call(fail)

    assert clock.sleeps == []


def test_a_stop_during_a_pause_prevents_another_try(patience, stop):
    error = ServerError("500")
    function = Scripted(error)

    with pytest.raises(ServerError) as caught:
        patience(sleep=lambda _seconds: stop.set()).call(function)

    assert caught.value is error
    assert function.calls == 1


def test_a_stop_wakes_a_thread_from_its_pause(stop):
    patience = Patience(3, 1e9, stop=stop, rand=lambda: 1e6)
    waits = threading.Event()
    raised: list[BaseException] = []

    def fail():
        waits.set()
        raise ServerError("500")

    def work():
        try:
            patience.call(fail)
        except ServerError as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    waits.wait(5)
    stop.set()
    thread.join(5)

    assert not thread.is_alive()
    assert len(raised) == 1


def test_threads_that_share_one_object_count_their_tries_separately(stop):
    patience = Patience(4, 600.0, stop=stop, sleep=lambda _seconds: None)
    barrier = threading.Barrier(6)
    functions = [Scripted(ServerError("500")) for _ in range(6)]

    def work(function):
        barrier.wait(5)
        for _ in range(20):
            with pytest.raises(ServerError):
                patience.call(function)

    threads = [threading.Thread(target=work, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    assert [function.calls for function in functions] == [80] * 6


class ConflictError(Exception):
    pass


def is_conflict(error: BaseException) -> bool:
    return isinstance(error, ConflictError)


def test_a_transaction_is_retried_after_a_conflict(clock):
    work = Scripted(ConflictError(), ConflictError(), "stored")

    assert retry_transaction(work, is_transient=is_conflict, sleep=clock.sleep, rand=half) == "stored"
    assert work.calls == 3
    assert clock.sleeps == [0.025, 0.05]


def test_a_transaction_has_eight_tries_within_about_five_seconds(clock):
    work = Scripted(ConflictError())

    with pytest.raises(ConflictError):
        retry_transaction(work, is_transient=is_conflict, sleep=clock.sleep, rand=lambda: 1.0)

    assert work.calls == 8
    assert clock.sleeps == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2]


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_transaction_that_failed_for_another_reason_is_not_retried(clock, error):
    work = Scripted(error)

    with pytest.raises(type(error)):
        retry_transaction(work, is_transient=is_conflict, sleep=clock.sleep)

    assert work.calls == 1
    assert clock.sleeps == []
