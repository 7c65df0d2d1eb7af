"""Fetching: the threads that send requests to the API and parse what it answers. They use no database.

Each thread lives as long as the run and owns one HTTP connection. It returns a result for every request,
failures and crashes included, so no claim is ever lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from etl.cdr.answers import read_answer
from etl.cdr.legs import ClaimedRequest, Leg
from etl.cdr.parsing import parse_legs
from etl.errors import RequestError
from etl.redaction import hide_secret_in_bytes


@dataclass(frozen=True, slots=True)
class Canary:
    """A request known to be good, asked for only to find out whether the API works; nothing is stored."""

    account: str
    request_id: str


Request = ClaimedRequest | Canary


@dataclass(frozen=True, slots=True)
class Timing:
    """When a request was worked on, by the monotonic clock, and the seconds that each call took."""

    began: float = 0.0
    ended: float = 0.0
    seconds: tuple[float, ...] = ()

    @property
    def calls(self) -> int:
        """How many calls of the API were made."""
        return len(self.seconds)

    @property
    def last_call_at(self) -> float:
        """When the last call began."""
        return self.ended - (self.seconds[-1] if self.seconds else 0.0)


# --- What can come of a request ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answered:
    """A valid answer, with or without legs; `count` is how many legs it says there are."""

    request: Request
    timing: Timing
    status: int
    body: bytes = field(repr=False)
    legs: tuple[Leg, ...] = field(repr=False)
    count: int | None


@dataclass(frozen=True, slots=True)
class Failed:
    """No valid answer; of several tries, the last one counts. An answer sets status and body."""

    request: Request
    timing: Timing
    error: RequestError
    status: int | None = None
    body: bytes | None = field(default=None, repr=False)

    @property
    def ended(self) -> float:
        """When it failed, by the monotonic clock."""
        return self.timing.ended


@dataclass(frozen=True, slots=True)
class Crashed:
    """A fault of this program."""

    request: Request
    timing: Timing
    crash: Exception


@dataclass(frozen=True, slots=True)
class NotAsked:
    """No call was made, or its result says nothing about the request: the claim is given back."""

    request: Request
    timing: Timing = Timing()


Fetched = Answered | Failed | Crashed | NotAsked


# --- One request -------------------------------------------------------------------------------------


class Reply(Protocol):
    """What the API's HTTP answer must have."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def body(self) -> bytes:
        """The decoded body."""

    @property
    def retry_after(self) -> float | None:
        """Seconds, from the header of that name."""


Ask = Callable[[str], Reply]  # request ID in, one HTTP call; raises RequestError
Retry = Callable[[Callable[[], None]], None]  # calls until it succeeds; raises the last error
FetchOne = Callable[[Request], Fetched]


class _NoPermitError(Exception):
    """The run ends, or waited too long, before this call was permitted."""


def fetch(
    request: Request,
    ask: Ask,
    retry: Retry,
    *,
    region: str,
    secret: str,
    permit: Callable[[], bool] = lambda: True,
    monotonic: Callable[[], float] = time.monotonic,
) -> Fetched:
    """Ask for one request, as often as `retry` allows, and return the result.

    If the API repeats the secret, it is removed from the body before anything is read from it.

    Args:
        request: the request to ask for.
        ask: makes one HTTP call.
        retry: calls a function until it succeeds, within the tries and the time of one claim.
        region: ISO 3166 alpha-2 of numbers without a country code.
        secret: what must not be stored.
        permit: waits for the rate limit; False if the wait is given up: then no call is made.
        monotonic: the clock that times the calls.
    """
    began = monotonic()
    seconds: list[float] = []
    answer: tuple[int, bytes, tuple[Leg, ...], int | None] | None = None
    failure: tuple[RequestError, int | None, bytes | None] | None = None

    def once() -> None:
        nonlocal answer, failure
        if not permit():
            raise _NoPermitError
        status, body = None, None
        call_began = monotonic()
        try:
            try:
                reply = ask(request.request_id)
            finally:
                seconds.append(monotonic() - call_began)
            status, body = reply.status, hide_secret_in_bytes(reply.body, secret)
            read = read_answer(status, body, retry_after=reply.retry_after)
            answer = (status, body, parse_legs(read, region=region), read.count)
        except RequestError as error:
            failure = (error, status or error.http_status, body)
            raise

    crash: Exception | None = None
    try:
        retry(once)
    except (RequestError, _NoPermitError):
        pass  # a failure is noted above; without a permit, the failure before it still stands
    except Exception as error:  # noqa: BLE001 (a fault of ours must not lose what this thread holds)
        crash = error
    timing = Timing(began, monotonic(), tuple(seconds))
    if crash is not None:
        return Crashed(request, timing, crash)
    if answer is not None:
        return Answered(request, timing, *answer)
    return NotAsked(request, timing) if failure is None else Failed(request, timing, *failure)


# --- The threads -------------------------------------------------------------------------------------


class Fetchers:
    """The threads of one account. All results go into one queue of the run."""

    def __init__(
        self, workers: int, results: SimpleQueue[Fetched | None], make_fetcher: Callable[[], FetchOne]
    ) -> None:
        self._most = workers
        self._results = results
        self._make_fetcher = make_fetcher
        self._inbox: SimpleQueue[Request | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def put(self, request: Request) -> None:
        """Hand a request over. A thread starts when it is first needed: an idle run starts none."""
        self._inbox.put(request)
        if len(self._threads) < self._most:
            # Made here and not in the thread, so that wrong settings are raised where they can be reported.
            fetch_one = self._make_fetcher()
            name = f"fetcher-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, args=(fetch_one,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def take_back(self) -> list[Request]:
        """Take back what no thread has started."""
        taken: list[Request] = []
        while True:
            try:
                request = self._inbox.get_nowait()
            except Empty:
                return taken
            if request is not None:
                taken.append(request)

    def close(self) -> None:
        """Let the threads end when they are free."""
        for _ in self._threads:
            self._inbox.put(None)

    def _work(self, fetch_one: FetchOne) -> None:
        while (request := self._inbox.get()) is not None:
            try:
                fetched = fetch_one(request)
            except Exception as crash:  # noqa: BLE001 (a thread never ends with a request in hand)
                fetched = Crashed(request, Timing(), crash)
            self._results.put(fetched)
