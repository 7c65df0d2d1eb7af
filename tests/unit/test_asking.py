"""Asking: nothing that a thread holds is ever lost, be it an answer, a failure or a crash of our own."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import SimpleQueue

import pytest
from support.builders import claimed

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
from etl.sync.fetching import Asked, Askers, ask

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


def scripted(*steps):
    """What answers one step after the other: a reply, or an error that is raised."""
    left = list(steps)

    def fetch(request_id: str) -> Reply:
        assert request_id == "id-1"
        step = left.pop(0)
        if isinstance(step, BaseException):
            raise step
        return step

    return fetch


def once(function) -> None:
    function()


def up_to(tries: int):
    """A patience that repeats what may pass."""

    def repeat(function) -> None:
        for _ in range(tries - 1):
            try:
                return function()
            except TransientError:
                pass
        return function()

    return repeat


def ask_for(*steps, repeat=once, **keywords) -> Asked:
    return ask(claimed(), scripted(*steps), repeat, region="IN", secret=SECRET, **keywords)


# --- One request -------------------------------------------------------------------------------------


def test_an_answer_brings_legs_count_status_and_body():
    asked = ask_for(Reply())

    assert (asked.request, asked.calls, asked.is_canary) == (claimed(), 1, False)
    assert ([leg.to_e164 for leg in asked.legs], asked.count) == (["+919100000000"], 1)
    assert (asked.status, asked.body, asked.error, asked.crash) == (200, GOOD, None, None)


def test_a_canary_stays_one():
    assert ask_for(Reply(), is_canary=True).is_canary


def test_every_call_is_counted():
    asked = ask_for(ServerError("503"), CallTimeoutError("t"), Reply(), repeat=up_to(3))

    assert (asked.calls, asked.error, asked.count) == (3, None, 1)


def test_each_call_is_timed_on_its_own_the_ones_that_failed_too():
    clock = iter([0.0, 0.0, 30.0, 100.0, 100.25, 200.0, 200.5, 201.0])
    steps = (CallTimeoutError("t"), Reply(503, b"down"), Reply())
    asked = ask_for(*steps, repeat=up_to(3), monotonic=lambda: next(clock))

    assert asked.seconds == [30.0, 0.25, 0.5]
    assert (asked.began, asked.ended) == (0.0, 201.0)


def test_the_last_error_is_what_is_given_back():
    asked = ask_for(ServerError("503"), CallConnectionError("gone"), repeat=up_to(2))

    assert asked.calls == 2
    assert (type(asked.error), asked.crash, asked.legs, asked.count) == (CallConnectionError, None, (), None)


def test_status_and_body_of_an_earlier_try_are_forgotten():
    asked = ask_for(Reply(503, b"down"), CallTimeoutError("no answer"), repeat=up_to(2))

    assert (type(asked.error), asked.status, asked.body) == (CallTimeoutError, None, None)


def test_an_error_status_and_its_body_are_kept():
    asked = ask_for(Reply(404, b"<html>"))

    assert (type(asked.error), asked.status, asked.body) == (NotFoundError, 404, b"<html>")


def test_the_status_of_an_error_without_a_body_is_kept():
    asked = ask_for(TooLargeError("more than 4 MiB", http_status=200))

    assert (asked.status, asked.body) == (200, None)


def test_an_answer_that_breaks_the_format_is_kept_for_the_archive():
    asked = ask_for(Reply(body=BROKEN), repeat=up_to(3))

    assert (type(asked.error), asked.calls) == (MalformedError, 1)
    assert "cdr[0].time" in str(asked.error)
    assert (asked.status, asked.body, asked.legs) == (200, BROKEN, ())


def test_the_pause_that_the_api_asks_for_reaches_the_error():
    asked = ask_for(Reply(429, b"", retry_after=17.0))

    assert isinstance(asked.error, RateLimitedError)
    assert asked.error.retry_after == 17.0


@pytest.mark.parametrize("crash", [ZeroDivisionError("a bug"), RecursionError("deep"), MemoryError()])
def test_a_crash_of_our_own_is_given_back_and_not_raised(crash):
    asked = ask_for(crash)

    assert (asked.crash, asked.error, asked.calls) == (crash, None, 1)
    assert asked.request == claimed()


@pytest.mark.parametrize("echo", [SECRET, SECRET.replace("/", "\\/")], ids=["plain", "escaped"])
def test_a_secret_that_the_api_repeats_reaches_neither_body_nor_message(echo):
    asked = ask_for(Reply(body=f'{{"code":404,"msg":"not {echo}"}}'.encode()))

    assert isinstance(asked.error, NotFoundError)
    assert "0f-the-account" not in f"{asked.error} {asked.body} {asked.body}"


def test_a_body_is_not_shown_where_an_asked_request_is():
    assert "9100000000" not in repr(ask_for(Reply(429)))


# --- Threads -----------------------------------------------------------------------------------------


class Office:
    """Askers whose threads answer once they are let; notes who was asked for, and how many threads began."""

    def __init__(self, workers: int, *, is_open: bool = True):
        self.may_go_on = threading.Event()
        if is_open:
            self.may_go_on.set()
        self.begun: SimpleQueue[int] = SimpleQueue()
        self.made = 0
        self.answers: SimpleQueue[Asked | None] = SimpleQueue()
        self.askers = Askers(workers, self.answers, self.make_asker)

    def make_asker(self):
        self.made += 1

        def ask_one(claimed: ClaimedRequest, /, *, is_canary: bool) -> Asked:
            self.begun.put(claimed.id)
            self.may_go_on.wait(PATIENCE)

            def fetch(_: str) -> Reply:
                if claimed.id % 3 == 0:
                    raise ServerError("503")
                if claimed.id % 5 == 0:
                    raise ZeroDivisionError
                return Reply()

            return ask(claimed, fetch, once, region="IN", secret=SECRET, is_canary=is_canary)

        return ask_one

    def receive(self, how_many: int) -> list[Asked]:
        return [self.answers.get(timeout=PATIENCE) for _ in range(how_many)]


def asker_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("asker-")}


def test_no_thread_starts_before_there_is_something_to_ask():
    before = asker_threads()
    office = Office(8)

    assert office.made == 0
    assert asker_threads() == before


def test_there_are_never_more_threads_than_requests_or_workers():
    office = Office(3, is_open=False)
    before = asker_threads()
    made = []
    for number in range(1, 6):
        office.askers.put(claimed(number))
        made.append((office.made, len(asker_threads() - before)))
    office.may_go_on.set()
    office.receive(5)
    office.askers.close()

    assert made == [(1, 1), (2, 2), (3, 3), (3, 3), (3, 3)]


def test_everything_is_handed_back_failures_and_crashes_included():
    office = Office(4)
    for number in range(1, 101):
        office.askers.put(claimed(number), is_canary=number == 50)
    answers = office.receive(100)
    office.askers.close()

    assert sorted(asked.request.id for asked in answers) == list(range(1, 101))
    assert [asked.request.id for asked in answers if asked.is_canary] == [50]
    for asked in answers:
        failed, crashed = asked.request.id % 3 == 0, asked.request.id % 15 in (5, 10)
        assert (asked.error is not None, asked.crash is not None) == (failed, crashed)


def test_what_no_thread_has_begun_with_can_be_taken_back():
    office = Office(1, is_open=False)
    for number in range(1, 6):
        office.askers.put(claimed(number), is_canary=number == 3)
    assert office.begun.get(timeout=PATIENCE) == 1
    taken = office.askers.take_back()
    office.may_go_on.set()
    answered = office.receive(1)
    office.askers.close()

    assert [(asked.request.id, asked.is_canary, asked.calls) for asked in taken] == [
        (2, False, 0),
        (3, True, 0),
        (4, False, 0),
        (5, False, 0),
    ]
    assert [asked.request.id for asked in answered] == [1]
    assert office.askers.take_back() == []


def test_the_threads_end_once_they_are_told_to():
    before = asker_threads()
    office = Office(3)
    for number in range(1, 4):
        office.askers.put(claimed(number))
    threads = asker_threads() - before
    office.receive(3)
    office.askers.close()
    for thread in threads:
        thread.join(PATIENCE)

    assert not any(thread.is_alive() for thread in threads)
    assert all(thread.daemon for thread in threads)


def test_what_hinders_a_thread_from_starting_is_told_to_the_one_in_charge():
    def make_asker():
        raise ValueError("the API's URL cannot be used")

    askers = Askers(2, SimpleQueue(), make_asker)

    with pytest.raises(ValueError, match="cannot be used"):
        askers.put(claimed(1))
    assert [asked.request.id for asked in askers.take_back()] == [1]
