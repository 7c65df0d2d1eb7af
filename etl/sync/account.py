"""One account during a run: what is in flight, which failures are held, how much it may claim, its permits.

No database and no HTTP here: results come in, settlements go out. Trouble with one account never touches
another one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from etl.cdr.breaker import AskCanary, Breaker, Count, GiveBack, Hold, Problem, Ruling, shows_life
from etl.cdr.legs import ClaimedRequest
from etl.errors import RateLimitedError, RequestError
from etl.sync.fetching import Answered, Canary, Crashed, Failed, Fetched, Fetchers, NotAsked, Request

SLOW_START = 3  # requests in flight before an account's first valid answer in a run
CANARY_SECONDS = 30.0  # how often the canary is published, in a row that all machines share


@dataclass(frozen=True, slots=True)
class Capacity:
    """How many requests an account may claim, and how many of its calls wait for a permit."""

    claims: int
    permits: int = 0
    is_probe: bool = False  # the claim is to find out whether the API works again
    is_idle: bool = False  # nothing is in flight


@dataclass(frozen=True, slots=True)
class Claimed:
    """What was claimed for an account, and the permits that it got."""

    requests: Sequence[ClaimedRequest] = ()
    is_exhausted: bool = False  # nothing more is due
    permits: int = 0  # calls that the rate limit lets through
    wait: float | None = None  # seconds until it lets the next one through


@dataclass(frozen=True, slots=True)
class AccountUpdate:
    """What a run learned about an account and all machines are to know; None and False change nothing."""

    canary: str | None = None  # the latest request with legs
    breaker_reason: str | None = None  # opens the breaker
    closes_breaker: bool = False
    pause_seconds: float | None = None  # the API asked for a pause


class AccountRun:
    """One account during one run. Only its own methods change it.

    Args:
        name: the account.
        fetchers: its threads.
        permits: of its rate limit; None without one.
        workers: how many threads it has.
        canary: a request known to be good, from earlier runs.
        is_breaker_open: half-open: the first claim is a probe.
        is_paused: nothing is claimed in this run.
    """

    def __init__(
        self,
        name: str,
        fetchers: Fetchers,
        permits: Permits | None = None,
        *,
        workers: int,
        canary: str | None = None,
        is_breaker_open: bool = False,
        is_paused: bool = False,
    ) -> None:
        self.name = name
        self._fetchers = fetchers
        self._permits = permits
        self._workers = workers
        self._breaker: Breaker[Failed] = Breaker(canary=canary, is_open=is_breaker_open)
        self._is_closed = is_paused  # nothing more is claimed in this run
        self._is_exhausted = False  # nothing more is due, or may be claimed
        # By claim: one whose lease expired while it was in flight may have been claimed again.
        self._in_flight: dict[tuple[int, str], ClaimedRequest] = {}
        self._latest_good: str | None = None
        self._pause_seconds: float | None = None
        self._published = AccountUpdate()
        self._canary_published_at = float("-inf")

    # State that the run reads

    @property
    def problem(self) -> Problem | None:
        """Why the breaker is open in this run; None if it is not."""
        return self._breaker.problem

    @property
    def is_waiting(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._in_flight) or self._breaker.awaits_canary

    @property
    def has_undecided(self) -> bool:
        """Whether failures are held that no further answer of this account will decide."""
        return self._breaker.holds and not self.is_waiting

    def capacity(self, most: int | None = None) -> Capacity:
        """How many requests may be claimed now, at most `most`."""
        claims = self._room() if most is None else max(0, min(self._room(), most))
        self._is_exhausted = claims == 0 and not self.is_waiting
        waiting = self._permits.wanted if self._permits else 0
        return Capacity(claims, waiting, is_probe=self._breaker.is_half_open, is_idle=not self.is_waiting)

    def _room(self) -> int:
        """How many more requests may be in flight.

        Some more than there are threads, so that a free thread finds work while the coordinator settles; and
        more only when the threads run short, so that claims are few and large.
        """
        if self._is_closed or self._breaker.awaits_canary:
            return 0
        in_flight = len(self._in_flight)
        if not self._breaker.had_answer:
            return max(0, (1 if self._breaker.is_half_open else SLOW_START) - in_flight)
        return 2 * self._workers - in_flight if in_flight <= self._workers else 0

    # Events that the run reports

    def note_elsewhere(self, *, is_breaker_open: bool, is_paused: bool) -> None:
        """Take over what other machines learned about the account."""
        if is_paused:
            self._is_closed = True
        if is_breaker_open:
            self._breaker.note_opened_elsewhere()

    def note_claimed(self, claimed: Claimed) -> None:
        """Note claims, so that they are given back whatever happens next."""
        self._in_flight.update((_key(request), request) for request in claimed.requests)
        self._is_exhausted = self._is_exhausted or claimed.is_exhausted

    def hand_out(self, claimed: Claimed) -> None:
        """Hand claimed requests to the threads, and grant permits to waiting calls."""
        if claimed.permits and self._permits is not None:
            self._permits.grant(claimed.permits)
        for request in claimed.requests:
            self._fetchers.put(request)

    def receive(self, fetched: Fetched, *, is_stopping: bool) -> list[Fetched]:  # noqa: PLR0911 (one per case)
        """Judge what came of a request; returns what can be settled now, held failures included."""
        request = fetched.request
        if isinstance(request, Canary):
            return self._receive_canary(fetched, is_stopping=is_stopping)
        if self._in_flight.pop(_key(request), None) is None:
            return []  # given back meanwhile
        match fetched:
            case Answered():
                return self._accept(fetched, request, has_legs=bool(fetched.legs))
            case Failed() if shows_life(fetched.error):
                return [*self._breaker.answered(asked_at=fetched.timing.last_call_at).failures, fetched]
            case Failed() if self._asks_for_pause(fetched.error):
                return [fetched, *self.give_back()]
            case Failed() if self._is_closed or is_stopping:
                return [NotAsked(request)]
            case Failed():
                return self._apply(self._breaker.failed(fetched, is_last=self._is_last))
            case _:
                return [fetched]

    def judge(self, *, is_stopping: bool) -> list[Fetched]:
        """Decide about held failures that no further answer will decide; while stopping, give them back."""
        if not self.has_undecided:
            return []
        return self.give_back() if is_stopping else self._apply(self._breaker.judge(is_last=self._is_last))

    def give_back(self) -> list[Fetched]:
        """Give back what no thread has started, and the failures that are held."""
        unstarted = self._fetchers.take_back()
        if any(isinstance(request, Canary) for request in unstarted):
            self._breaker.forget_canary()
        return self._given_back([*unstarted, *(failure.request for failure in self._breaker.release())])

    def give_back_all(self) -> list[Fetched]:
        """Give back everything, requests in flight included: their answers are not used any more."""
        given_back = self.give_back()
        given_back += self._given_back(list(self._in_flight.values()))
        self._breaker.forget_canary()
        return given_back

    def stop_waiting(self) -> None:
        """Let no call wait for a permit any longer: the run ends."""
        if self._permits is not None:
            self._permits.close()

    def close(self) -> None:
        """Let the threads end."""
        self.stop_waiting()
        self._fetchers.close()

    # What is published to other machines

    def unpublished(self, now: float, *, is_closing: bool = False) -> AccountUpdate:
        """What was learned and not published yet; the canary only now and then, and at the end.

        Args:
            now: the monotonic clock.
            is_closing: the run ends.
        """
        known, problem = self._published, self._breaker.problem
        may_publish_canary = is_closing or now - self._canary_published_at >= CANARY_SECONDS
        reason = None if problem is None else str(problem.error)
        return AccountUpdate(
            canary=self._latest_good if may_publish_canary and self._latest_good != known.canary else None,
            breaker_reason=reason if reason != known.breaker_reason else None,
            closes_breaker=self._breaker.closes,
            pause_seconds=self._pause_seconds if self._pause_seconds != known.pause_seconds else None,
        )

    def note_published(self, update: AccountUpdate, now: float) -> None:
        """Note the part of an update that is committed."""
        if update.canary is not None:
            self._canary_published_at = now
        if update.closes_breaker:
            self._breaker.note_closed_everywhere()
        known = self._published
        self._published = replace(
            known,
            canary=update.canary or known.canary,
            breaker_reason=update.breaker_reason or known.breaker_reason,
            pause_seconds=update.pause_seconds or known.pause_seconds,
        )

    # Decisions

    @property
    def _is_last(self) -> bool:
        return self._is_exhausted and not self.is_waiting

    def _accept(self, answered: Answered, request: ClaimedRequest, *, has_legs: bool) -> list[Fetched]:
        if has_legs:
            self._latest_good = request.request_id
        # One without legs is better than none, for this run.
        good = request.request_id if has_legs or self._breaker.canary is None else None
        own = self._breaker.answered(asked_at=answered.timing.last_call_at, good=good)
        return [*own.failures, answered]

    def _receive_canary(self, fetched: Fetched, *, is_stopping: bool) -> list[Fetched]:
        error = fetched.error if isinstance(fetched, Failed) else None
        # A crash of our own, a pause and a missing permit say nothing about the API or the credentials.
        if isinstance(fetched, Crashed | NotAsked) or self._asks_for_pause(error):
            self._is_closed = True
            self._breaker.forget_canary()
            return self.give_back()
        return self._apply(self._breaker.canary_came(error, is_stopping=is_stopping))

    def _apply(self, ruling: Ruling[Failed]) -> list[Fetched]:
        match ruling:
            case Hold():
                return []
            case Count(failures):
                return list(failures)
            case AskCanary(request_id):
                self._fetchers.put(Canary(self.name, request_id))
                return []
            case GiveBack(failures):
                if self._breaker.problem is not None:
                    self._is_closed = True
                return [*self._given_back([failure.request for failure in failures]), *self.give_back()]

    def _given_back(self, requests: Iterable[Request]) -> list[Fetched]:
        claims = [request for request in requests if isinstance(request, ClaimedRequest)]
        for claim in claims:
            self._in_flight.pop(_key(claim), None)
        return [NotAsked(claim) for claim in claims]

    def _asks_for_pause(self, error: RequestError | None) -> bool:
        """Whether the API asks for a pause longer than a run waits; then nothing more is claimed."""
        if not isinstance(error, RateLimitedError) or not error.is_long:
            return False
        self._is_closed = True
        self._pause_seconds = max(self._pause_seconds or 0.0, error.retry_after or 0.0)
        return True


def _key(claim: ClaimedRequest) -> tuple[int, str]:
    return (claim.id, claim.token)


class Permits:
    """The calls that an account's rate limit lets through. Each call takes one, retries and canaries too.

    The coordinator grants them, in the transaction in which it claims, so the threads never use the database.

    Args:
        wake: lets the coordinator know that a call waits for a permit.
        patience: seconds that a call waits at most; a claim does not hold forever.
    """

    def __init__(self, wake: Callable[[], None], patience: float) -> None:
        self._wake = wake
        self._patience = patience
        self._change = threading.Condition()
        self._granted = 0
        self._waiting = 0
        self._is_closed = False

    @property
    def wanted(self) -> int:
        """How many calls wait for a permit that is not granted."""
        with self._change:
            return max(0, self._waiting - self._granted)

    def grant(self, calls: int) -> None:
        """Let this many calls through."""
        with self._change:
            self._granted += calls
            self._change.notify(calls)

    def close(self) -> None:
        """End every wait, now and later: the run ends."""
        with self._change:
            self._is_closed = True
            self._change.notify_all()

    def take(self) -> bool:
        """Wait for a permit and take it; False if the wait ends without one."""
        with self._change:
            self._waiting += 1
            if self._waiting > self._granted:
                self._wake()
            is_granted = self._change.wait_for(lambda: self._granted > 0 or self._is_closed, self._patience)
            self._waiting -= 1
            if not is_granted or self._granted == 0:
                return False
            self._granted -= 1
            return True
