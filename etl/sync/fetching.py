"""Asking: the threads that put requests to the API and read what it says. They know no database.

Each thread lives as long as the run and owns one HTTP session. It gives back everything that came of a
request, failures and crashes included, so that nothing in hand is ever lost.
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


class Reply(Protocol):
    """What the API's HTTP answer has to have."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def body(self) -> bytes:
        """The decoded body."""

    @property
    def retry_after(self) -> float | None:
        """Seconds, from the header of that name."""


Fetch = Callable[[str], Reply]  # request ID in; raises RequestError


Repeat = Callable[[Callable[[], None]], None]  # calls until it succeeds; raises the last error


@dataclass(slots=True)
class Asked:
    """What came of asking for one request: legs, or an error, or a crash of our own."""

    request: ClaimedRequest
    is_canary: bool = False
    calls: int = 0
    legs: tuple[Leg, ...] = ()
    count: int | None = None
    status: int | None = None
    body: bytes | None = field(default=None, repr=False)
    error: RequestError | None = None
    crash: Exception | None = None
    is_unasked: bool = False  # the rate limit let no call through in time
    seconds: list[float] = field(default_factory=list)  # what each call took
    began: float = 0.0  # by the monotonic clock, both; 0 where nobody began to ask
    ended: float = 0.0

    @property
    def asked_last(self) -> float:
        """When the last call was made, by the monotonic clock."""
        return self.ended - (self.seconds[-1] if self.seconds else 0.0)


class _GateClosedError(Exception):
    """The run ends, or waited too long, before this call could go through."""


def ask(
    request: ClaimedRequest,
    fetch: Fetch,
    repeat: Repeat,
    *,
    region: str,
    secret: str,
    is_canary: bool = False,
    may_call: Callable[[], bool] = lambda: True,
    monotonic: Callable[[], float] = time.monotonic,
) -> Asked:
    """Ask for one request, as often as patience allows; what came of it is always returned.

    Should the API repeat the secret, it is taken out of the body before anything is read from it.

    Args:
        request: the request in question.
        fetch: puts it to the API once.
        repeat: calls a function until it succeeds, as long as patience lasts.
        region: the region of numbers without a country code.
        secret: what must not be stored.
        is_canary: whether the request is asked for only to find out whether the API works.
        may_call: waits for the rate limit; False where it is no use to wait, so that no call is made.
        monotonic: the clock that times the calls.
    """
    asked = Asked(request, is_canary, began=monotonic())

    def once() -> None:
        if not may_call():
            raise _GateClosedError
        _ask_once(asked, fetch, region=region, secret=secret, monotonic=monotonic)

    try:
        repeat(once)
    except RequestError:
        pass  # noted above
    except _GateClosedError:
        asked.is_unasked = asked.calls == 0  # otherwise what the try before it brought still stands
    except Exception as crash:  # noqa: BLE001 (a bug of ours must not lose what this thread holds)
        asked.crash = crash
    asked.ended = monotonic()
    return asked


def _ask_once(
    asked: Asked, fetch: Fetch, *, region: str, secret: str, monotonic: Callable[[], float]
) -> None:
    """Put a request to the API once, and note what comes of it in place of what came before."""
    asked.calls += 1
    asked.error = asked.status = asked.body = None
    began = monotonic()
    try:
        try:
            reply = fetch(asked.request.request_id)
        finally:
            asked.seconds.append(monotonic() - began)
        asked.status, asked.body = reply.status, hide_secret_in_bytes(reply.body, secret)
        answer = read_answer(reply.status, asked.body, retry_after=reply.retry_after)
        asked.legs, asked.count = parse_legs(answer, region=region), answer.count
    except RequestError as error:
        asked.error = error
        asked.status = asked.status or error.http_status
        raise


class AskOne(Protocol):
    """One thread's way of asking."""

    def __call__(self, request: ClaimedRequest, /, *, is_canary: bool) -> Asked:
        """Ask for one request; what came of it is always returned."""


class Askers:
    """Some threads that ask for requests of one account, and put what came of them into one queue."""

    def __init__(
        self, workers: int, answers: SimpleQueue[Asked | None], make_asker: Callable[[], AskOne]
    ) -> None:
        self._most = workers
        self._answers = answers
        self._make_asker = make_asker
        self._inbox: SimpleQueue[tuple[ClaimedRequest, bool] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []

    def put(self, request: ClaimedRequest, *, is_canary: bool = False) -> None:
        """Hand a request over. Threads start when they are first needed: an idle run starts none."""
        self._inbox.put((request, is_canary))
        if len(self._threads) < self._most:
            # Made here and not in the thread: what is wrong with it must be told to whoever is in charge.
            asker = self._make_asker()
            name = f"asker-{len(self._threads) + 1}"
            thread = threading.Thread(target=self._work, args=(asker,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def take_back(self) -> list[Asked]:
        """Take back what no thread has begun with."""
        taken: list[Asked] = []
        while True:
            try:
                entry = self._inbox.get_nowait()
            except Empty:
                return taken
            if entry is not None:
                taken.append(Asked(entry[0], entry[1]))

    def close(self) -> None:
        """Let the threads end once they are free."""
        for _ in self._threads:
            self._inbox.put(None)

    def _work(self, ask_one: AskOne) -> None:
        while (entry := self._inbox.get()) is not None:
            request, is_canary = entry
            try:
                asked = ask_one(request, is_canary=is_canary)
            except Exception as crash:  # noqa: BLE001 (likewise: a thread never ends with something in hand)
                asked = Asked(request, is_canary, crash=crash)
            self._answers.put(asked)
