"""One run: settle what arrived, claim what there is room for, hand out, wait.

The coordinator is one thread that owns the database connection. Other threads send requests to the API.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from queue import Empty as NothingThere
from queue import SimpleQueue
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from etl.cdr.legs import ClaimedRequest
from etl.db.accounts import AccountState
from etl.db.errors import is_bad_value
from etl.settings import Account, Settings
from etl.sync.account import Desk, Gate, Room
from etl.sync.fetching import Asked, Askers, AskOne
from etl.sync.ledger import Turn, Turns
from etl.sync.settle import Verdict
from etl.sync.signals import Stop
from etl.sync.summary import SHOWN, Committed, Limits, Observer, Summary

if TYPE_CHECKING:
    from etl.piopiy.client import HttpAnswer
    from etl.retrying import Patience


DRAIN_SECONDS = 10.0  # how long a stopped run waits for the answers that are on their way

MakeAsker = Callable[[Account, Callable[[], bool]], AskOne]  # whose calls wait for the rate limit first


class Job:
    """One run of `sync`. The outside world is an argument: database, asking, clock, chance, signals."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        make_asker: MakeAsker,
        stop: Stop,
        limits: Limits | None = None,
        command: str = "sync",
        on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None,
        observers: Sequence[Observer] = (),
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._make_asker = make_asker
        self._stop = stop
        self._limits = limits or Limits()
        self._on_progress = on_progress
        self._observers = observers
        self._monotonic = monotonic
        self._turns = Turns(
            engine,
            settings,
            command=command,
            batch=self._limits.batch,
            chance=chance,
            monotonic=monotonic,
        )
        self._answers: SimpleQueue[Asked | None] = SimpleQueue()
        self._desks: dict[str, Desk] = {}
        self._gates: dict[str, Gate] = {}  # of accounts with a rate limit
        self._started = monotonic()
        self._stopped_at: float | None = None
        self._rate_wait: float | None = None  # seconds until the rate limit lets another call through
        self._failed: set[int] = set()  # requests, each once however often it fails; kept only if it matters
        self._unsettled: list[Verdict] = []  # judged, and not yet written
        self.summary = Summary()

    def run(self, chosen: Sequence[Account]) -> Summary:
        """Work until nothing is due, a limit is reached, or a signal comes."""
        self._stop.wake = self._wake
        states = self._turns.open([account.name for account in chosen])
        self.summary.run_id = self._turns.run_id
        for observer in self._observers:
            observer.hear_start(self._turns.run_id)
        self._open_desks(chosen, states)
        try:
            self._work()
        except BaseException as error:
            released = [Verdict(verdict.asked, is_released=True) for verdict in self._unsettled]
            self._turns.give_up([*released, *self._given_back()], type(error).__name__)
            raise
        finally:
            for gate in self._gates.values():
                gate.give_up()
            for desk in self._desks.values():
                desk.askers.close()
        self._close()
        return self.summary

    def _wake(self) -> None:
        """Have the coordinator look round; safe in a signal's handler."""
        self._answers.put(None)

    def _open_desks(self, chosen: Sequence[Account], states: Mapping[str, AccountState]) -> None:
        share = max(1, self._settings.workers // max(1, len(chosen)))
        for account in chosen:
            may_call: Callable[[], bool] = lambda: True  # noqa: E731 (without a limit there is no gate)
            if self._settings.rate_limit:
                gate = Gate(self._wake, patience=self._settings.lease.total_seconds() / 4)
                self._gates[account.name], may_call = gate, gate.pass_through
            state = states[account.name]
            self._desks[account.name] = Desk(
                Askers(share, self._answers, partial(self._make_asker, account, may_call)),
                workers=share,
                canary=state.canary_request_id,
                is_probe=state.is_breaker_open,
                is_closed=state.is_paused,
            )

    def _work(self) -> None:
        verdicts: list[Verdict] = []
        calls = 0
        while True:
            is_ending = self._is_ending()
            if is_ending:
                for gate in self._gates.values():
                    gate.give_up()
                verdicts += [verdict for desk in self._desks.values() for verdict in desk.give_back()]
            self._write(verdicts, calls=calls, claims=not is_ending)
            answers: list[Asked] = []
            if self._rate_wait is not None or any(desk.is_waiting for desk in self._desks.values()):
                answers = self._wait_for_answers()
            elif not any(desk.is_tail for desk in self._desks.values()):
                return
            verdicts, calls = self._judged(answers), sum(asked.calls for asked in answers)
            if self._gives_up_waiting():
                self._write([*verdicts, *self._given_back()], calls=calls, claims=False)
                return

    def _is_ending(self) -> bool:
        """Whether nothing more is to be claimed, by anybody's wish."""
        limit = self._limits.time_limit
        is_over = limit is not None and self._monotonic() - self._started >= limit.total_seconds()
        most = self._limits.max_failures
        self.summary.has_too_many_failures = most is not None and len(self._failed) >= most
        is_over = is_over or self.summary.has_too_many_failures
        if (is_over or self._stop.is_wanted) and self._stopped_at is None:
            self._stopped_at = self._monotonic()
            self._stop.event.set()  # nobody waits for another try now
        return self._stopped_at is not None

    def _gives_up_waiting(self) -> bool:
        if self._stopped_at is None:
            return self._stop.is_urgent
        return self._stop.is_urgent or self._monotonic() - self._stopped_at >= DRAIN_SECONDS

    def _wait_for_answers(self) -> list[Asked]:
        """Everything that has come in; it may be nothing, where a signal or the end of time came first."""
        answers: list[Asked | None] = []
        began = self._monotonic()
        with suppress(NothingThere):
            answers.append(self._answers.get(timeout=self._longest_wait()))
            while True:
                answers.append(self._answers.get_nowait())
        if self._rate_wait is not None:
            self.summary.rate_wait_seconds += self._monotonic() - began
        return [answer for answer in answers if answer is not None]

    def _longest_wait(self) -> float | None:
        now = self._monotonic()
        ends = [] if self._rate_wait is None else [now + self._rate_wait]
        if self._stopped_at is not None:
            ends.append(self._stopped_at + DRAIN_SECONDS)
        elif self._limits.time_limit is not None:
            ends.append(self._started + self._limits.time_limit.total_seconds())
        return max(0.0, min(ends) - now) if ends else None

    def _judged(self, answers: Sequence[Asked]) -> list[Verdict]:
        is_stopping = self._stop.is_wanted
        verdicts: list[Verdict] = []
        for asked in answers:
            verdicts += self._desks[asked.request.account].take(asked, is_stopping=is_stopping)
            self.summary.latency.add(asked.seconds)
            if asked.crash is not None:
                self.summary.crashed.append(asked)
            if asked.is_canary:
                for observer in self._observers:
                    observer.hear_canary(asked)
        for desk in self._desks.values():
            if desk.is_tail:
                verdicts += desk.give_back() if is_stopping else desk.judge()
        return verdicts

    def _write(self, verdicts: Sequence[Verdict], *, calls: int = 0, claims: bool = False) -> None:
        """Settle what has come in, and claim what there is room for: one transaction for both.

        Where the database refuses a value, all is settled one by one, so that the refusal hits only one.
        """
        rooms = self._rooms() if claims else {}
        self._rate_wait = None
        if not (verdicts or calls or any(room.claims or room.unpaid for room in rooms.values())):
            return
        self._unsettled = list(verdicts)
        try:
            turn = self._turns.take(verdicts, desks=self._desks, rooms=rooms, calls=calls)
        except Exception as error:
            if not verdicts or not is_bad_value(error):
                raise
            for verdict in verdicts:
                turn = self._turns.settle_one(verdict, self._desks)
                self.summary.counts += turn.counts
                self._heed(turn)
                self._unsettled.remove(verdict)
            self._write([], calls=calls, claims=claims)
            return
        self._unsettled = []
        self._follow(turn, rooms)

    def _rooms(self) -> dict[str, Room]:
        """How many requests each account may claim now, within what the run is limited to."""
        left = float("inf")
        if self._limits.most is not None:
            left = self._limits.most - self.summary.counts["claimed"]
        rooms = {}
        for name, desk in self._desks.items():
            claims = int(max(0, min(desk.room(), left)))
            left -= claims
            gate = self._gates.get(name)
            rooms[name] = Room(
                claims, gate.unpaid if gate else 0, is_probe=desk.is_probe, is_idle=not desk.is_waiting
            )
            desk.is_exhausted = claims == 0 and not desk.is_waiting
        return rooms

    def _follow(self, turn: Turn, rooms: Mapping[str, Room]) -> None:
        """Act on what a transaction came to: hand out what it claimed, and wait as it says."""
        for name, grant in turn.granted.items():
            self._desks[name].take_in(grant.claimed)
        for name in rooms:
            desk, state = self._desks[name], turn.heard.get(name)
            desk.is_exhausted = desk.is_exhausted or turn.granted[name].is_exhausted
            if state is not None:
                desk.hear(is_breaker_open=state.is_breaker_open, is_paused=state.is_paused)
        waits = [grant.wait for grant in turn.granted.values() if grant.wait is not None]
        self._rate_wait = min(waits, default=None)
        self.summary.counts += turn.counts
        self._heed(turn)
        self._on_progress(turn.counts)
        for name, grant in turn.granted.items():
            if grant.paid:
                self._gates[name].pay(grant.paid)
            self._desks[name].hand_out(grant.claimed)

    def _heed(self, turn: Turn) -> None:
        """Note what is settled for good, and let others hear of it."""
        for asked, outcome in turn.settled:
            if outcome == "dead" and len(self.summary.dead_examples) < SHOWN:
                self.summary.dead_examples.append(asked)
            if outcome in ("retried", "dead") and self._limits.max_failures is not None:
                self._failed.add(asked.request.id)
        committed = Committed(turn.began, turn.ended, turn.settled, turn.counts["claimed"])
        for observer in self._observers:
            observer.hear_commit(committed)

    def _given_back(self) -> list[Verdict]:
        return [verdict for desk in self._desks.values() for verdict in desk.give_back_all()]

    def _close(self) -> None:
        self.summary.signal = self._stop.signal
        for name, desk in self._desks.items():
            if desk.refused is not None:
                self.summary.refused[name] = desk.refused
            if desk.api_down is not None:
                self.summary.api_down[name] = desk.api_down
        problems = [*self.summary.refused.values(), *self.summary.api_down.values()]
        problems += [f"{type(one.crash).__name__} in cdr-sync itself" for one in self.summary.crashed[:1]]
        self._turns.close(self.summary.outcome, "; ".join(problems) or None, self._desks)


# Dozens of threads that each do a millisecond's work between two waits gain nothing by being interrupted
# in it: with Python's 5 ms the same run takes about a fifth more CPU.
_SWITCH_SECONDS = 0.02


def run_sync(
    engine: Engine,
    settings: Settings,
    accounts: Sequence[Account],
    *,
    limits: Limits,
    stop: Stop,
    command: str = "sync",
    on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Run the job once for these accounts; `command` is what the ledger calls it. Returns what it did."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    job = Job(
        engine,
        settings,
        make_asker=_asker_maker(settings, stop),
        stop=stop,
        limits=limits,
        command=command,
        on_progress=on_progress,
        observers=observers,
    )
    return job.run(accounts)


def _asker_maker(settings: Settings, stop: Stop) -> MakeAsker:
    """What makes a thread's way of asking; the patience is one for all threads."""
    timeout = settings.request_timeout.total_seconds()

    @cache
    def patience() -> Patience:
        from etl.retrying import Patience  # noqa: PLC0415 (a run with nothing to do does not pay for it)

        # No try begins that could end after the lease: the claim would be somebody else's by then. A claim
        # may wait for the one before it in the same thread, so that each has half of the lease.
        return Patience(settings.tries, settings.lease.total_seconds() / 2 - timeout, stop=stop.event)

    def make_asker(account: Account, may_call: Callable[[], bool]) -> AskOne:
        from etl.piopiy.client import CdrApi, Credentials  # noqa: PLC0415 (likewise)
        from etl.sync.fetching import ask  # noqa: PLC0415 (likewise)

        api = CdrApi(settings.api_url, timeout=timeout, proxy=settings.proxy or None)
        credentials = Credentials(account.app_id, account.secret)

        def fetch(request_id: str) -> HttpAnswer:
            return api.fetch_answer(request_id, credentials)

        def ask_one(request: ClaimedRequest, /, *, is_canary: bool) -> Asked:
            return ask(
                request,
                fetch,
                patience().call,
                region=settings.default_region,
                secret=account.secret,
                is_canary=is_canary,
                may_call=may_call,
            )

        return ask_one

    return make_asker
