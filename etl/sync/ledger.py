"""A run's row in the ledger, and its numbered transactions.

Each transaction settles the answers that arrived, claims what there is room for, and counts both in the
ledger: all of it or nothing.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, Engine

from etl.db import accounts, runs
from etl.db.accounts import AccountState
from etl.db.engine import in_transaction
from etl.db.errors import is_bad_value
from etl.db.queue import Claimant, reap_expired
from etl.db.runs import Process
from etl.settings import Settings
from etl.sync.account import Claiming, Desk, Grant, News, Room
from etl.sync.settle import Verdict, settle, waiting_rules
from etl.sync.summary import Settled

LOOK_SECONDS = 1.0  # how often a turn looks for leases that ran out, and for what other machines know
CANARY_SECONDS = 30.0  # how often the latest good request is noted, in a row that all machines share
_LONGEST_PAUSE = timedelta(days=1)


@dataclass(slots=True)
class Turn:
    """What one transaction came to."""

    counts: Counter[str] = field(default_factory=Counter)
    granted: dict[str, Grant] = field(default_factory=dict)
    heard: dict[str, AccountState] = field(default_factory=dict)  # from other machines
    told: dict[str, News] = field(default_factory=dict)  # to other machines
    settled: list[Settled] = field(default_factory=list)
    began: float = 0.0  # by the monotonic clock
    ended: float = 0.0


class Turns:
    """One run's transactions."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        command: str,
        batch: str | None,
        chance: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self.run_id = 0
        self._command = command
        self._engine = engine
        self._settings = settings
        self._batch = batch
        self._chance = chance
        self._monotonic = monotonic
        self._process = this_process()
        self._number = 0
        self._looked_at = self._canaries_told_at = float("-inf")
        self._told: dict[str, News] = {}
        self._rules = waiting_rules(settings)

    def open(self, names: Sequence[str]) -> dict[str, AccountState]:
        """Write the run into the ledger; returns what is known of its accounts."""

        def work(connection: Connection) -> dict[str, AccountState]:
            runs.abandon_dead_runs(
                connection, process=self._process, is_alive=is_alive, lease=self._settings.lease
            )
            self.run_id = runs.start_run(
                connection, command=self._command, batch=self._batch, process=self._process
            )
            for name in names:
                accounts.ensure_account(connection, name)
            return {name: accounts.read_account(connection, name) for name in names}

        return in_transaction(
            self._engine,
            work,
            was_done=lambda connection, _: runs.is_run_of(connection, self.run_id, self._process),
        )

    def take(
        self,
        verdicts: Sequence[Verdict],
        *,
        desks: Mapping[str, Desk],
        rooms: Mapping[str, Room] | None = None,
        calls: int = 0,
    ) -> Turn:
        """Settle, claim and count in one transaction; done once, even where the commit's reply is lost."""
        number = self._number = self._number + 1
        began = self._monotonic()

        def work(connection: Connection) -> Turn:
            turn = Turn(began=began)
            if verdicts:
                turn.counts += settle(
                    connection,
                    verdicts,
                    run_id=self.run_id,
                    rules=self._rules,
                    chance=self._chance,
                    on_settled=lambda asked, outcome: turn.settled.append(Settled(asked, outcome)),
                )
            self._tell(connection, turn, desks)
            if rooms:
                self._look(connection, turn, rooms)
            for name, room in (rooms or {}).items():
                turn.granted[name] = self._grant(connection, turn.heard.get(name), name, room)
            turn.counts["claimed"] = sum(len(grant.claimed) for grant in turn.granted.values())
            turn.counts["api_calls"] = calls
            runs.count_run(connection, self.run_id, turn.counts, transaction=number)
            return turn

        turn = in_transaction(
            self._engine,
            work,
            was_done=lambda connection, _: runs.last_transaction(connection, self.run_id) >= number,
        )
        turn.ended = self._monotonic()
        self._note(turn, desks)
        return turn

    def _note(self, turn: Turn, desks: Mapping[str, Desk]) -> None:
        """Remember what was looked at and told, once it is committed."""
        if turn.heard:
            self._looked_at = self._monotonic()
        for name, news in turn.told.items():
            if news.canary != self._known(name).canary:
                self._canaries_told_at = self._monotonic()
            if news.closes_breaker:
                desks[name].breaker_was_closed()
            self._told[name] = replace(news, closes_breaker=False)

    def settle_one(self, verdict: Verdict, desks: Mapping[str, Desk]) -> Turn:
        """Settle one claim; where the database refuses its legs, without them, or else without its body."""
        try:
            return self.take([verdict], desks=desks)
        except Exception as error:
            if not is_bad_value(error):
                raise
            refused = verdict.as_unstorable(error)
        try:
            return self.take([refused], desks=desks)
        except Exception as error:
            if not is_bad_value(error):
                raise
            return self.take([verdict.as_unstorable(error, keeps_body=False)], desks=desks)

    def give_up(self, verdicts: Sequence[Verdict], reason: str) -> None:
        """Give claims back and close the run as failed, if the database lets us: it may be what failed."""

        def work(connection: Connection) -> None:
            counts = settle(connection, verdicts, run_id=self.run_id, rules=self._rules, chance=self._chance)
            runs.count_run(connection, self.run_id, counts, transaction=self._number)
            runs.finish_run(connection, self.run_id, outcome="failed", error=reason)

        with suppress(Exception), self._engine.begin() as connection:
            work(connection)

    def close(self, outcome: str, error: str | None, desks: Mapping[str, Desk]) -> None:
        """Close the run in the ledger, and let all machines know what it learned."""

        def work(connection: Connection) -> None:
            self._canaries_told_at = float("-inf")
            self._tell(connection, Turn(), desks)
            runs.finish_run(connection, self.run_id, outcome=outcome, error=error)

        in_transaction(self._engine, work)

    # What machines tell one another

    def _known(self, account: str) -> News:
        return self._told.get(account, News())

    def _tell(self, connection: Connection, turn: Turn, desks: Mapping[str, Desk]) -> None:
        """Write what was learned of the accounts since it was told last."""
        tells_canaries = self._monotonic() - self._canaries_told_at >= CANARY_SECONDS
        for name, desk in desks.items():
            news, known = desk.news, self._known(name)
            told = known
            # Whoever froze with the row in hand need not hold up a run for this; it is told the next time.
            is_news = news.canary not in (None, known.canary) and tells_canaries
            if is_news and accounts.is_free(connection, name):
                accounts.remember_canary(connection, name, str(news.canary))
                told = replace(told, canary=news.canary)
            if news.opens_breaker not in (None, known.opens_breaker):
                accounts.open_breaker(connection, name, str(news.opens_breaker))
                told = replace(told, opens_breaker=news.opens_breaker)
            elif news.closes_breaker:
                accounts.close_breaker(connection, name)
                told = replace(told, closes_breaker=True)
            if news.pause_seconds not in (None, known.pause_seconds):
                pause = min(timedelta(seconds=news.pause_seconds or 0), _LONGEST_PAUSE)
                accounts.pause_account(connection, name, pause)
                told = replace(told, pause_seconds=news.pause_seconds)
            if told != known:
                turn.told[name] = told

    def _look(self, connection: Connection, turn: Turn, names: Mapping[str, object]) -> None:
        """Look, now and then, for leases that ran out and for what other machines have learned."""
        if self._monotonic() - self._looked_at < LOOK_SECONDS:
            return
        turn.counts["reaped_dead"] += reap_expired(connection, max_attempts=self._settings.max_attempts)
        turn.heard = {name: accounts.read_account(connection, name) for name in names}

    def _grant(self, connection: Connection, state: AccountState | None, account: str, room: Room) -> Grant:
        room = room if state is None else room.as_of(state)
        grant = self._claiming.claim(connection, account, room)
        return replace(grant, is_exhausted=True) if state is not None and state.is_paused else grant

    @cached_property
    def _claiming(self) -> Claiming:
        worker = f"{self._process.host}, process {self._process.pid}, run {self.run_id}"
        claimant = Claimant(worker, self.run_id, self._settings.lease, self._batch)
        return Claiming(claimant, self._settings.rate_limit)


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACE = Path("/proc/self/ns/pid")


def this_process() -> Process:
    """This process. Machines or containers can share a name; where process IDs count, they differ."""
    try:
        scope = f"{_BOOT_ID.read_text().strip()} {_NAMESPACE.readlink()}"
    except OSError:  # not Linux
        scope = None
    return Process(socket.gethostname(), os.getpid(), scope)


def is_alive(pid: int) -> bool:
    """Whether a process runs under this number, where this process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
