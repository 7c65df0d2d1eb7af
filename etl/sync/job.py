"""The coordinator: one thread that owns the database connection, and hands the asking to others.

It claims what the asking threads can take, commits, hands it out, and settles all answers that are there
in one transaction, each fenced on its own: few at a time when it is quiet, many under load. There is no
timer, and what is fetched but not yet settled is bounded by what was claimed.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from queue import Empty as NothingThere
from queue import SimpleQueue
from typing import TypeVar

from sqlalchemy import Connection, Engine

from etl.cdr.outcomes import WaitingRules
from etl.cdr.records import ClaimedRequest
from etl.db import accounts, request_queue, runs
from etl.db.connection import is_bad_value, is_worth_repeating
from etl.settings import Account, Settings
from etl.sync.asking import Asked, Askers, AskOne
from etl.sync.desk import Desk
from etl.sync.settling import Verdict, settle
from etl.sync.stopping import Stop
from etl.sync.summary import Limits, Summary

DRAIN_SECONDS = 10.0  # how long a stopped run waits for the answers that are on their way
REAP_SECONDS = 1.0  # how often a claim looks for leases that ran out
CANARY_SECONDS = 30.0  # how often the latest good request is noted, in a row that all machines share

T = TypeVar("T")


class Job:
    """One run of `sync`. The outside world is an argument: database, asking, clock, chance, signals."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        make_asker: Callable[[Account], AskOne],
        repeat_transaction: Callable[[Callable[[], object], Callable[[BaseException], bool]], object],
        stop: Stop,
        limits: Limits | None = None,
        on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None,
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._make_asker = make_asker
        self._repeat_transaction = repeat_transaction
        self._stop = stop
        self._limits = limits or Limits()
        self._on_progress = on_progress
        self._chance = chance
        self._monotonic = monotonic
        self._answers: SimpleQueue[Asked | None] = SimpleQueue()
        self._desks: dict[str, Desk] = {}
        self._started = monotonic()
        self._stopped_at: float | None = None
        self._canaries_noted_at = self._reaped_at = float("-inf")
        self._worker = ""
        self._unsettled: list[Verdict] = []  # judged, and not yet written
        self._rules = WaitingRules(
            max_attempts=settings.max_attempts,
            retry_delay=settings.retry_delay,
            settle=settings.settle,
            empty_for=settings.empty_for,
            empty_delay=settings.empty_delay,
        )
        self.summary = Summary()

    def run(self, chosen: Sequence[Account]) -> Summary:
        """Work until nothing is due, a limit is reached, or a signal comes."""
        self._stop.wake = lambda: self._answers.put(None)
        self._transact(lambda connection: self._open(connection, chosen))
        try:
            self._work()
        except BaseException as error:
            self._rescue(type(error).__name__)
            raise
        finally:
            for desk in self._desks.values():
                desk.askers.close()
        self._close()
        return self.summary

    def _rescue(self, reason: str) -> None:
        """Give back what is in hand, as far as the database lets us; other leases run out by themselves."""
        released = [Verdict(verdict.asked, is_released=True) for verdict in self._unsettled]
        for verdict in (*released, *self._given_back()):
            with suppress(Exception):
                self._write_one(verdict)
        with suppress(Exception):
            self._finish("failed", reason)

    def _work(self) -> None:
        verdicts: list[Verdict] = []
        calls = 0
        while True:
            is_ending = self._is_ending()
            if is_ending:
                verdicts += [verdict for desk in self._desks.values() for verdict in desk.give_back()]
            self._write(verdicts, calls=calls, claims=not is_ending)
            answers: list[Asked] = []
            if any(desk.is_waiting for desk in self._desks.values()):
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
        with suppress(NothingThere):
            answers.append(self._answers.get(timeout=self._longest_wait()))
            while True:
                answers.append(self._answers.get_nowait())
        return [answer for answer in answers if answer is not None]

    def _longest_wait(self) -> float | None:
        now = self._monotonic()
        if self._stopped_at is not None:
            return max(0.0, self._stopped_at + DRAIN_SECONDS - now)
        if self._limits.time_limit is not None:
            return max(0.0, self._started + self._limits.time_limit.total_seconds() - now)
        return None

    def _judged(self, answers: Sequence[Asked]) -> list[Verdict]:
        is_stopping = self._stop.is_wanted
        verdicts: list[Verdict] = []
        for asked in answers:
            verdicts += self._desks[asked.request.account].take(asked, is_stopping=is_stopping)
            if asked.crash is not None:
                self.summary.crashes.append(asked.crash)
        for desk in self._desks.values():
            if desk.is_tail:
                verdicts += desk.give_back() if is_stopping else desk.judge()
        return verdicts

    def _write(self, verdicts: Sequence[Verdict], *, calls: int = 0, claims: bool = False) -> None:
        """Settle what has come in, and claim what there is room for: one transaction for both.

        Where the database refuses a value, all is settled one by one, so that the refusal hits only one.
        """
        rooms = self._rooms() if claims else {}
        if not (verdicts or calls or any(rooms.values())):
            return
        self._unsettled = list(verdicts)
        try:
            counts, claimed = self._transact(
                partial(self._write_in, verdicts=verdicts, calls=calls, rooms=rooms)
            )
        except Exception as error:
            if not verdicts or not is_bad_value(error):
                raise
            for verdict in verdicts:
                self._write_one(verdict)
                self._unsettled.remove(verdict)
            self._write([], calls=calls, claims=claims)
            return
        self._unsettled = []
        for name, requests in claimed.items():
            self._desks[name].take_in(requests)
            if len(requests) < rooms[name]:
                self._desks[name].is_exhausted = True
        self.summary.counts += counts
        self._on_progress(counts)
        for name, requests in claimed.items():
            self._desks[name].hand_out(requests)

    def _rooms(self) -> dict[str, int]:
        """How many requests each account may claim now, within what the run is limited to."""
        left = float("inf")
        if self._limits.most is not None:
            left = self._limits.most - self.summary.counts["claimed"]
        rooms = {}
        for name, desk in self._desks.items():
            rooms[name] = int(max(0, min(desk.room(), left)))
            left -= rooms[name]
            desk.is_exhausted = rooms[name] == 0 and not desk.is_waiting
        return rooms

    def _write_in(
        self, connection: Connection, *, verdicts: Sequence[Verdict], calls: int, rooms: Mapping[str, int]
    ) -> tuple[Counter[str], dict[str, list[ClaimedRequest]]]:
        counts = self._settle_in(connection, verdicts) if verdicts else Counter()
        claimed = {name: self._claim_in(connection, name, room, counts) for name, room in rooms.items()}
        counts["api_calls"] = calls
        runs.count_run(connection, self.summary.run_id, counts)
        return counts, claimed

    def _claim_in(
        self, connection: Connection, account: str, room: int, counts: Counter[str]
    ) -> list[ClaimedRequest]:
        if room <= 0:
            return []
        now = self._monotonic()
        if now - self._reaped_at >= REAP_SECONDS:
            self._reaped_at = now
            counts["reaped_dead"] += request_queue.reap_expired(
                connection, max_attempts=self._settings.max_attempts
            )
        claimed = request_queue.claim_requests(
            connection,
            account,
            most=room,
            lease=self._settings.lease,
            worker=self._worker,
            run_id=self.summary.run_id,
            batch=self._limits.batch,
        )
        counts["claimed"] += len(claimed)
        return claimed

    def _write_one(self, verdict: Verdict) -> None:
        """Settle one claim; where the database refuses its legs, without them, or else without its body."""
        try:
            counts = self._transact_one(verdict)
        except Exception as error:
            if not is_bad_value(error):
                raise
            try:
                counts = self._transact_one(verdict.as_unstorable(error))
            except Exception as again:
                if not is_bad_value(again):
                    raise
                counts = self._transact_one(verdict.as_unstorable(again, keeps_body=False))
        self.summary.counts += counts
        self._on_progress(counts)

    def _transact_one(self, verdict: Verdict) -> Counter[str]:
        counts, _ = self._transact(partial(self._write_in, verdicts=[verdict], calls=0, rooms={}))
        return counts

    def _settle_in(self, connection: Connection, verdicts: Sequence[Verdict]) -> Counter[str]:
        counts = settle(
            connection,
            verdicts,
            run_id=self.summary.run_id,
            rules=self._rules,
            chance=self._chance,
        )
        for verdict in verdicts:
            if verdict.pause_seconds is not None:
                pause = timedelta(seconds=min(verdict.pause_seconds, 86_400.0))
                accounts.pause_account(connection, verdict.asked.request.account, pause)
        if self._monotonic() - self._canaries_noted_at >= CANARY_SECONDS:
            self._note_accounts(connection)
        return counts

    def _note_accounts(self, connection: Connection) -> None:
        """Let all machines know what this run learned about its accounts."""
        for name, desk in self._desks.items():
            if desk.latest_good is not None:
                self._canaries_noted_at = self._monotonic()
                accounts.remember_canary(connection, name, desk.latest_good)
            if desk.is_probe and desk.had_answer:
                accounts.close_breaker(connection, name)
            if desk.api_down is not None:
                accounts.open_breaker(connection, name, desk.api_down)

    def _given_back(self) -> list[Verdict]:
        return [verdict for desk in self._desks.values() for verdict in desk.give_back_all()]

    def _open(self, connection: Connection, chosen: Sequence[Account]) -> None:
        host = socket.gethostname()
        runs.abandon_dead_runs(connection, host=host, is_alive=_is_alive)
        self.summary.run_id = runs.start_run(
            connection, command="sync", batch=self._limits.batch, host=host, pid=os.getpid()
        )
        self._worker = f"{host}, process {os.getpid()}, run {self.summary.run_id}"
        share = max(1, self._settings.workers // max(1, len(chosen)))
        for account in chosen:
            accounts.ensure_account(connection, account.name)
            state = accounts.read_account(connection, account.name)
            self._desks[account.name] = Desk(
                account,
                Askers(share, self._answers, partial(self._make_asker, account)),
                workers=share,
                canary=state.canary_request_id,
                is_probe=state.is_breaker_open,
                is_closed=state.is_paused,
            )

    def _close(self) -> None:
        self.summary.signal = self._stop.signal
        for name, desk in self._desks.items():
            if desk.refused is not None:
                self.summary.refused[name] = desk.refused
            if desk.api_down is not None:
                self.summary.api_down[name] = desk.api_down
        problems = [*self.summary.refused.values(), *self.summary.api_down.values()]
        problems += [f"{type(crash).__name__} in cdr-sync itself" for crash in self.summary.crashes[:1]]
        self._transact(self._note_accounts)
        self._finish(self.summary.outcome, "; ".join(problems) or None)

    def _finish(self, outcome: str, error: str | None) -> None:
        self._transact(
            lambda connection: runs.finish_run(connection, self.summary.run_id, outcome=outcome, error=error)
        )

    def _transact(self, work: Callable[[Connection], T]) -> T:
        """Do something in one transaction, all of it again where others were in its way."""

        def once() -> T:
            with self._engine.begin() as connection:
                return work(connection)

        return self._repeat_transaction(once, is_worth_repeating)  # type: ignore[return-value]


def _is_alive(pid: int) -> bool:
    """Whether a process of this machine runs under this number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
