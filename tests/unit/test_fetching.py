"""Fetching: nothing that a thread holds is ever lost: answers, failures, crashes of our own."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue

import pytest

from etl.cdr.legs import ClaimedRequest
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    MalformedError,
    NotFoundError,
    RateLimitedError,
    ServerError,
    TooLargeError,
    TransientError,
)
from etl.sync.fetching import Answered, Canary, Crashed, Failed, Fetched, Fetchers, NotAsked, Request, fetch

NOON = datetime(2021, 11, 16, 12, tzinfo=UTC)
GOOD = b'{"count":1,"cdr":[{"leg":"b","to":9100000000,"time":1637069609000}],"code":200}'
BROKEN = b'{"count":1,"cdr":[{"leg":"b","to":9100000000}],"code":200}'
SECRET = "s3cr3t/0f-the-account"
PATIENCE = 60.0  # seconds


@dataclass(frozen=True)
class Reply:
    """What an API answers."""

    status: int = 200
    body: bytes = GOOD
    retry_after: float | None = None


def request(number: int = 1) -> ClaimedRequest:
    return ClaimedRequest(number, "default", f"id-{number}", f"token-{number}", 1, 0, NOON)


def scripted(*steps):
    """What answers one step after the other: a reply, or an error that is raised."""
    left = list(steps)

    def ask(request_id: str) -> Reply:
        assert request_id == "id-1"
        step = left.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    return ask


def once(function) -> None:
    function()


def up_to(tries: int):
    """Try again what may pass."""

    def retry(function) -> None:
        for _ in range(tries - 1):
            try:
                return function()
            except TransientError:
                pass
        return function()

    return retry


def fetch_one(*steps, retry=once, **keywords) -> Fetched:
    return fetch(request(), scripted(*steps), retry, region="IN", secret=SECRET, **keywords)


# --- One request -------------------------------------------------------------------------------------


def test_an_answer_brings_legs_count_status_and_body():
    answered = fetch_one(Reply())

    assert isinstance(answered, Answered)
    assert (answered.request, answered.timing.calls) == (request(), 1)
    assert ([leg.to_e164 for leg in answered.legs], answered.count) == (["+919100000000"], 1)
    assert (answered.status, answered.body) == (200, GOOD)


def test_a_canary_stays_one():
    canary = Canary("default", "id-1")

    assert fetch(canary, scripted(Reply()), once, region="IN", secret=SECRET).request == canary


def test_every_call_is_counted():
    answered = fetch_one(ServerError("503"), CallTimeoutError("t"), Reply(), retry=up_to(3))

    assert isinstance(answered, Answered)
    assert (answered.timing.calls, answered.count) == (3, 1)


def test_each_call_is_timed_on_its_own_the_ones_that_failed_too():
    clock = iter([0.0, 0.0, 30.0, 100.0, 100.25, 200.0, 200.5, 201.0])
    steps = (CallTimeoutError("t"), Reply(503, b"down"), Reply())
    timing = fetch_one(*steps, retry=up_to(3), monotonic=lambda: next(clock)).timing

    assert timing.seconds == (30.0, 0.25, 0.5)
    assert (timing.began, timing.ended, timing.last_call_at) == (0.0, 201.0, 200.5)


def test_the_last_error_is_what_is_handed_back():
    failed = fetch_one(ServerError("503"), CallConnectionError("gone"), retry=up_to(2))

    assert isinstance(failed, Failed)
    assert (type(failed.error), failed.timing.calls) == (CallConnectionError, 2)


def test_status_and_body_of_an_earlier_try_are_forgotten():
    failed = fetch_one(Reply(503, b"down"), CallTimeoutError("no answer"), retry=up_to(2))

    assert (type(failed.error), failed.status, failed.body) == (CallTimeoutError, None, None)


def test_an_error_status_and_its_body_are_kept():
    failed = fetch_one(Reply(404, b"<html>"))

    assert (type(failed.error), failed.status, failed.body) == (NotFoundError, 404, b"<html>")


def test_the_status_of_an_error_without_a_body_is_kept():
    failed = fetch_one(TooLargeError("more than 4 MiB", http_status=200))

    assert (failed.status, failed.body) == (200, None)


def test_an_answer_that_breaks_the_format_is_kept_for_the_archive():
    failed = fetch_one(Reply(body=BROKEN), retry=up_to(3))

    assert (type(failed.error), failed.timing.calls) == (MalformedError, 1)
    assert "cdr[0].time" in str(failed.error)
    assert (failed.status, failed.body) == (200, BROKEN)


def test_the_pause_that_the_api_asks_for_reaches_the_error():
    failed = fetch_one(Reply(429, b"", retry_after=17.0))

    assert isinstance(failed.error, RateLimitedError)
    assert failed.error.retry_after == 17.0


@pytest.mark.parametrize("crash", [ZeroDivisionError("a bug"), RecursionError("deep"), MemoryError()])
def test_a_crash_of_our_own_is_handed_back_and_not_raised(crash):
    crashed = fetch_one(crash)

    assert isinstance(crashed, Crashed)
    assert (crashed.crash, crashed.request, crashed.timing.calls) == (crash, request(), 1)


@pytest.mark.parametrize("echo", [SECRET, SECRET.replace("/", "\\/")], ids=["plain", "escaped"])
def test_a_secret_that_the_api_repeats_reaches_neither_body_nor_message(echo):
    failed = fetch_one(Reply(body=f'{{"code":404,"msg":"not {echo}"}}'.encode()))

    assert isinstance(failed.error, NotFoundError)
    assert "0f-the-account" not in f"{failed.error} {failed.body}"


def test_no_body_is_shown_in_a_repr():
    assert "9100000000" not in repr(fetch_one(Reply()))
    assert "9100000000" not in repr(fetch_one(Reply(429)))


def test_without_a_permit_no_call_is_made():
    not_asked = fetch_one(permit=lambda: False)

    assert isinstance(not_asked, NotAsked)
    assert not_asked.timing.calls == 0


def test_without_a_permit_for_another_try_the_failure_before_it_stands():
    permits = iter([True, False])
    failed = fetch_one(ServerError("503"), retry=up_to(3), permit=lambda: next(permits))

    assert (type(failed.error), failed.timing.calls) == (ServerError, 1)


# --- Threads -----------------------------------------------------------------------------------------


def canary(number: int) -> Canary:
    return Canary("default", f"id-{number}")


def number_of(asked: Request) -> int:
    return int(asked.request_id.removeprefix("id-"))


class Office:
    """Threads that answer when they are let; notes what was asked for, and how many threads began."""

    def __init__(self, workers: int, *, is_open: bool = True):
        self.may_go_on = threading.Event()
        if is_open:
            self.may_go_on.set()
        self.begun: SimpleQueue[int] = SimpleQueue()
        self.made = 0
        self.results: SimpleQueue[Fetched | None] = SimpleQueue()
        self.fetchers = Fetchers(workers, self.results, self.make_fetcher)

    def make_fetcher(self):
        self.made += 1

        def fetch_one(asked: Request) -> Fetched:
            number = number_of(asked)
            self.begun.put(number)
            self.may_go_on.wait(PATIENCE)

            def ask(_: str) -> Reply:
                if number % 3 == 0:
                    raise ServerError("503")
                if number % 5 == 0:
                    raise ZeroDivisionError
                return Reply()

            return fetch(asked, ask, once, region="IN", secret=SECRET)

        return fetch_one

    def receive(self, how_many: int) -> list[Fetched]:
        return [self.results.get(timeout=PATIENCE) for _ in range(how_many)]


def fetcher_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("fetcher-")}


def test_no_thread_starts_before_there_is_something_to_fetch():
    before = fetcher_threads()
    office = Office(8)

    assert office.made == 0
    assert fetcher_threads() == before


def test_there_are_never_more_threads_than_requests_or_workers():
    office = Office(3, is_open=False)
    before = fetcher_threads()
    made = []
    for number in range(1, 6):
        office.fetchers.put(request(number))
        made.append((office.made, len(fetcher_threads() - before)))
    office.may_go_on.set()
    office.receive(5)
    office.fetchers.close()

    assert made == [(1, 1), (2, 2), (3, 3), (3, 3), (3, 3)]


def test_everything_comes_back_failures_and_crashes_included():
    office = Office(4)
    for number in range(1, 101):
        office.fetchers.put(canary(50) if number == 50 else request(number))
    results = office.receive(100)
    office.fetchers.close()

    assert sorted(number_of(one.request) for one in results) == list(range(1, 101))
    assert [one.request for one in results if isinstance(one.request, Canary)] == [canary(50)]
    for one in results:
        number = number_of(one.request)
        kind = Failed if number % 3 == 0 else Crashed if number % 5 == 0 else Answered
        assert isinstance(one, kind)


def test_what_no_thread_has_begun_with_can_be_taken_back():
    office = Office(1, is_open=False)
    for number in range(1, 6):
        office.fetchers.put(canary(3) if number == 3 else request(number))
    assert office.begun.get(timeout=PATIENCE) == 1
    taken = office.fetchers.take_back()
    office.may_go_on.set()
    answered = office.receive(1)
    office.fetchers.close()

    assert taken == [request(2), canary(3), request(4), request(5)]
    assert [one.request for one in answered] == [request(1)]
    assert office.fetchers.take_back() == []


def test_the_threads_end_after_close():
    before = fetcher_threads()
    office = Office(3)
    for number in range(1, 4):
        office.fetchers.put(request(number))
    threads = fetcher_threads() - before
    office.receive(3)
    office.fetchers.close()
    for thread in threads:
        thread.join(PATIENCE)

    assert not any(thread.is_alive() for thread in threads)
    assert all(thread.daemon for thread in threads)


def test_what_keeps_a_thread_from_starting_is_raised_where_it_can_be_reported():
    def make_fetcher():
        raise ValueError("the API's URL cannot be used")

    fetchers = Fetchers(2, SimpleQueue(), make_fetcher)

    with pytest.raises(ValueError, match="cannot be used"):
        fetchers.put(request(1))
    assert fetchers.take_back() == [request(1)]
