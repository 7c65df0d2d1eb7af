"""One account during a run: what is in flight, held failures, capacity, permits."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from etl.cdr.breaker import Judgement, judge_canary, judge_row, shows_life
from etl.cdr.legs import ClaimedRequest
from etl.db.accounts import AccountState
from etl.db.queue import Claimant, claim_poison, claim_requests, has_due
from etl.errors import RateLimitedError, RequestError
from etl.sync.fetching import Asked, Askers
from etl.sync.settle import Verdict

if TYPE_CHECKING:
    from etl.db.accounts import SharedRateLimit


SLOW_START = 3  # requests on their way before an account's first valid answer in a run


@dataclass(frozen=True, slots=True)
class News:
    """What a run learned about an account, that all machines are to know."""

    canary: str | None = None  # the latest request with legs
    opens_breaker: str | None = None  # why the API does not work for this account
    closes_breaker: bool = False  # it works again
    pause_seconds: float | None = None  # the API asked for patience


class Desk:
    """One account during one run."""

    def __init__(
        self,
        askers: Askers,
        *,
        workers: int,
        canary: str | None = None,
        is_probe: bool = False,
        is_closed: bool = False,
    ) -> None:
        self.askers = askers
        self.canary = canary  # a request that is known to be good
        self.is_probe = is_probe  # the breaker is open: find out whether it still has to be
        self.is_closed = is_closed  # nothing more is claimed in this run
        self.is_exhausted = False  # the last claim found less than it asked for
        self.awaits_canary = False
        self.had_answer = False
        self._is_vindicated = False  # a valid answer settled what was held while the canary was on its way
        self._latest_good: str | None = None
        self._pause_seconds: float | None = None
        self.refused: str | None = None  # why the credentials are taken to be refused
        self.api_down: str | None = None  # why the API is taken to be down
        self._workers = workers
        # By claim: one that ran out while its answer was on its way may have been claimed again.
        self._on_its_way: dict[tuple[int, str], ClaimedRequest] = {}
        self._row: list[Asked] = []  # failures since the last valid answer, held unsettled

    @property
    def is_waiting(self) -> bool:
        """Whether some answer is still to come."""
        return bool(self._on_its_way) or self.awaits_canary

    @property
    def news(self) -> News:
        """What this run has learned so far about the account."""
        problem = self.refused or self.api_down
        return News(
            self._latest_good, problem, self.is_probe and self.had_answer and not problem, self._pause_seconds
        )

    def hear(self, *, is_breaker_open: bool, is_paused: bool) -> None:
        """Take in what other machines have learned about the account meanwhile."""
        if is_paused:
            self.is_closed = True
        if is_breaker_open and not self.is_probe:
            # They may know better than our answers of a while ago: the next answer tells.
            self.is_probe, self.had_answer = True, False

    def breaker_was_closed(self) -> None:
        """Note that all machines know by now that the API works."""
        self.is_probe = False

    @property
    def is_tail(self) -> bool:
        """Whether failures are held of which no further answer of this account will tell more."""
        return bool(self._row) and not self.is_waiting

    def room(self) -> int:
        """How many requests may be claimed now.

        Some more than there are threads, so that a thread that is free finds work while the coordinator
        settles; and again only once the threads run short, so that claims are few and whole.
        """
        if self.is_closed or self.awaits_canary:
            return 0
        if not self.had_answer:
            return max(0, (1 if self.is_probe else SLOW_START) - len(self._on_its_way))
        waiting = len(self._on_its_way)
        return 2 * self._workers - waiting if waiting <= self._workers else 0

    def take_in(self, requests: Iterable[ClaimedRequest]) -> None:
        """Note what was claimed, so that it is given back whatever happens next."""
        self._on_its_way.update(((request.id, request.token), request) for request in requests)

    def hand_out(self, requests: Iterable[ClaimedRequest]) -> None:
        """Have claimed requests asked for."""
        for request in requests:
            self.askers.put(request)

    def take(self, asked: Asked, *, is_stopping: bool) -> list[Verdict]:  # noqa: PLR0911 (one a case)
        """Judge what came of a request; returns what can be settled now, held failures included."""
        if asked.is_canary:
            return self._take_canary(asked, is_stopping=is_stopping)
        if self._on_its_way.pop(_claim_of(asked), None) is None:
            return []  # given back meanwhile
        error = asked.error
        if asked.crash is not None:
            return [Verdict(asked)]
        if asked.is_unasked:
            return [Verdict(asked, is_released=True)]
        if error is None or shows_life(error):
            if error is None and asked.legs:
                self._latest_good = self.canary = asked.request.request_id
            elif error is None and self.canary is None:
                self.canary = asked.request.request_id  # better than none, for this run
            self.had_answer = True
            own = self._settle_row(asked.asked_last)
            self._is_vindicated = not self._row
            return [*own, Verdict(asked)]
        if self._asks_for_patience(error):
            return [Verdict(asked), *self.give_back()]
        if self.is_closed or is_stopping:
            return [Verdict(asked, is_released=True)]
        self._row.append(asked)
        return self.judge()

    def judge(self) -> list[Verdict]:
        """Judge the failures that are held, if that can be done by now."""
        if not self._row or self.awaits_canary:
            return []
        judgement = judge_row(
            self._errors(),
            had_answer=self.had_answer,
            has_canary=self.canary is not None,
            is_probe=self.is_probe and not self.had_answer,
            is_tail=self.is_tail and self.is_exhausted,
        )
        match judgement:
            case Judgement.UNDECIDED:
                return []
            case Judgement.OWN:
                return self._settle_row()
            case Judgement.ASK_CANARY:
                self._ask_canary()
                return []
            case Judgement.API_DOWN | Judgement.REFUSED:
                return self._close(judgement, self._row[-1])

    def give_back(self) -> list[Verdict]:
        """Give back what no thread has begun with, and what cannot be judged any more."""
        unbegun = self.askers.take_back()
        if any(asked.is_canary for asked in unbegun):
            self.awaits_canary = False
        held, self._row = self._row, []
        return self._released((*unbegun, *held))

    def give_back_all(self) -> list[Verdict]:
        """Give back everything, the requests on their way included: their answers will not be looked at."""
        verdicts = self.give_back()
        verdicts += self._released([Asked(request) for request in self._on_its_way.values()])
        self.awaits_canary = False
        return verdicts

    def _released(self, held: Iterable[Asked]) -> list[Verdict]:
        verdicts = [Verdict(asked, is_released=True) for asked in held if not asked.is_canary]
        for verdict in verdicts:
            self._on_its_way.pop(_claim_of(verdict.asked), None)
        return verdicts

    def _settle_row(self, works_at: float = float("inf")) -> list[Verdict]:
        """The API works for this account, or did at an instant: what failed by then failed by itself."""
        held = [asked for asked in self._row if asked.ended <= works_at]
        self._row = [asked for asked in self._row if asked.ended > works_at]
        return [Verdict(asked) for asked in held]

    def _ask_canary(self) -> None:
        self.awaits_canary, self._is_vindicated = True, False
        like = self._row[-1].request
        self.askers.put(replace(like, id=0, request_id=str(self.canary), token=""), is_canary=True)

    def _take_canary(self, asked: Asked, *, is_stopping: bool) -> list[Verdict]:
        self.awaits_canary = False
        if asked.crash is not None:
            self.is_closed = True  # a fault of our own makes nobody guilty, and is not to be repeated
            return self.give_back()
        if asked.is_unasked or self._asks_for_patience(asked.error):
            self.is_closed = True
            return self.give_back()
        judgement = judge_canary(asked.error)
        if judgement is Judgement.OWN or self._is_vindicated:
            self.had_answer = True
            return self._settle_row()
        return self.give_back() if is_stopping else self._close(judgement, asked)

    def _close(self, judgement: Judgement, last: Asked) -> list[Verdict]:
        """Claim no more in this run, and give back what is held; what is on its way comes back by itself."""
        self.is_closed = True
        reason = str(last.error or last.crash)
        if judgement is Judgement.REFUSED:
            self.refused = reason
        else:
            self.api_down = reason
        return self.give_back()

    def _asks_for_patience(self, error: RequestError | None) -> bool:
        """Whether the API wants this account to wait for longer than a run does; then no more is claimed."""
        if not isinstance(error, RateLimitedError) or not error.is_long:
            return False
        self.is_closed = True
        self._pause_seconds = max(self._pause_seconds or 0.0, error.retry_after or 0.0)
        return True

    def _errors(self) -> list[RequestError]:
        return [asked.error for asked in self._row if asked.error is not None]


def _claim_of(asked: Asked) -> tuple[int, str]:
    return (asked.request.id, asked.request.token)


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


_PROBED_PLACES = 12  # the newest request, the second, fourth, and so on to the 2048th


@dataclass(frozen=True, slots=True)
class Room:
    """What an account could do with: claims, and calls of claims in hand that wait for the rate limit."""

    claims: int
    unpaid: int = 0
    is_probe: bool = False  # the claim is to find out whether the API works again
    is_idle: bool = False  # nothing is in hand

    def as_of(self, state: AccountState) -> Room:
        """The same, where another machine found that the account is to wait, or that the API fails."""
        if state.is_paused:
            return replace(self, claims=0)
        if state.is_breaker_open:
            return replace(self, claims=min(self.claims, 1), is_probe=True)
        return self


@dataclass(frozen=True, slots=True)
class Grant:
    """What an account got."""

    claimed: Sequence[ClaimedRequest] = ()
    is_exhausted: bool = False  # nothing more is due
    paid: int = 0  # calls that the rate limit lets through
    wait: float | None = None  # seconds until it lets the next one through


class Claiming:
    """One run's claims, each made in the transaction of its turn."""

    def __init__(self, claimant: Claimant, rate_limit: float | None) -> None:
        self._claimant = claimant
        self._limit: SharedRateLimit | None = None
        if rate_limit:
            from etl.db.accounts import SharedRateLimit  # noqa: PLC0415 (slow to import)

            self._limit = SharedRateLimit(rate_limit)

    def claim(self, connection: Connection, account: str, room: Room) -> Grant:
        """Claim what there is room for."""
        if self._limit is not None and (room.claims or room.unpaid):
            return self._claim_within_rate(connection, self._limit, account, room)
        return self._claim_some(connection, account, room)

    def _claim_some(self, connection: Connection, account: str, room: Room) -> Grant:
        if not room.claims:
            return Grant()
        skip = self._probed() if room.is_probe else None
        claimed = claim_requests(connection, account, self._claimant, most=room.claims, skip_newest=skip)
        is_short = len(claimed) < room.claims
        if not claimed and room.is_idle:
            claimed = claim_poison(connection, account, self._claimant)
            is_short = not claimed
        return Grant(claimed, is_short)

    def _probed(self) -> int:
        """Which request is to find out whether the API works: another one in each run.

        Of the newest, since the API is the likeliest to know them; and ever further from them, since some
        may fail whatever the API does, and must not keep the breaker open.
        """
        return (1 << self._claimant.run_id % _PROBED_PLACES) - 1

    def _claim_within_rate(
        self, connection: Connection, limit: SharedRateLimit, account: str, room: Room
    ) -> Grant:
        """Pay for the calls that wait already, and claim no more than may be asked for at once.

        A claim whose call had to wait would use up its lease.
        """
        allowance = limit.allowance(connection, account)
        unpaid = min(room.unpaid, allowance.calls)
        most = min(room.claims, allowance.calls - unpaid)
        grant = self._claim_some(connection, account, replace(room, claims=most))
        paid = unpaid + len(grant.claimed)
        limit.spend(connection, account, paid, allowance)
        if room.claims and not most:
            is_exhausted = not has_due(connection, account, batch=self._claimant.batch)
            grant = replace(grant, is_exhausted=is_exhausted)
        has_more = room.claims > most and not grant.is_exhausted
        if has_more or room.unpaid > unpaid:
            grant = replace(grant, wait=limit.interval if paid else allowance.wait_seconds)
        return replace(grant, paid=paid)
