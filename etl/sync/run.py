"""One run: settle what arrived, claim what there is room for, hand it out, wait.

The coordinator is one thread that owns the database connection; other threads send requests to the API. It
settles all answers that are there in one transaction, each fenced on its own: few at a time when it is quiet,
many under load. No timer is involved, and what is fetched but not settled is bounded by what was claimed.
"""

from __future__ import annotations

import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from functools import cache, partial
from queue import Empty as NothingThere
from queue import SimpleQueue
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from etl.cdr.legs import ClaimedRequest
from etl.db import accounts
from etl.db.accounts import AccountState, SharedRateLimit
from etl.db.errors import is_bad_value
from etl.db.queue import Claimant, reap_expired
from etl.settings import Account, Settings
from etl.sync.account import AccountRun, AccountUpdate, Capacity, Claimed, Permits
from etl.sync.claim import claim
from etl.sync.fetching import Canary, Crashed, Fetched, Fetchers, FetchOne, NotAsked, Request, fetch
from etl.sync.ledger import Ledger
from etl.sync.settle import Settled, as_unstorable, settle, waiting_rules
from etl.sync.signals import Stop
from etl.sync.summary import SHOWN, Limits, Observer, Summary

if TYPE_CHECKING:
    from etl.piopiy.client import HttpAnswer
    from etl.retrying import Patience

DRAIN_SECONDS = 10.0  # how long a stopped run waits for the answers that are in flight
LOOK_SECONDS = 1.0  # how often a run looks for expired leases, and for what other machines learned
_LONGEST_PAUSE = timedelta(days=1)
# Dozens of threads that each work for a millisecond between two waits gain nothing from being interrupted in
# it: with Python's 5 ms the same run takes about a fifth more CPU.
_SWITCH_SECONDS = 0.02

MakeFetcher = Callable[[Account, Callable[[], bool]], FetchOne]  # its calls wait for a permit first


@dataclass(slots=True)
class _Transaction:
    """The result of one transaction."""

    counts: Counter[str] = field(default_factory=Counter)
    settled: Sequence[Settled] = ()
    claimed: dict[str, Claimed] = field(default_factory=dict)
    states: dict[str, AccountState] = field(default_factory=dict)  # what other machines learned, if read
    published: dict[str, AccountUpdate] = field(default_factory=dict)


class Run:
    """One run of the job. The outside world is an argument: database, fetching, clock, chance, signals."""

    def __init__(
        self,
        engine: Engine,
        settings: Settings,
        *,
        make_fetcher: MakeFetcher,
        stop: Stop,
        limits: Limits | None = None,
        command: str = "sync",
        on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None,
        observers: Sequence[Observer] = (),
        chance: Callable[[], float] = random.random,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._make_fetcher = make_fetcher
        self._stop = stop
        self._limits = limits or Limits()
        self._on_progress = on_progress
        self._observers = observers
        self._chance = chance
        self._monotonic = monotonic
        self._ledger = Ledger(engine, command=command, lease=settings.lease, batch=self._limits.batch)
        self._rules = waiting_rules(settings)
        self._rate_limit = SharedRateLimit(settings.rate_limit) if settings.rate_limit else None
        self._results: SimpleQueue[Fetched | None] = SimpleQueue()
        self._accounts: dict[str, AccountRun] = {}
        self._started = monotonic()
        self._stopped_at: float | None = None
        self._looked_at = float("-inf")
        self._rate_wait: float | None = None  # seconds until the rate limit lets another call through
        self._failed: set[int] = set()  # requests, each once however often it fails; kept only if it matters
        self._unsettled: list[Fetched] = []  # judged, and not written yet
        self.summary = Summary()

    def run(self, chosen: Sequence[Account]) -> Summary:
        """Work until nothing is due, a limit is reached, or a signal comes."""
        self._stop.wake = self._wake
        self._open(chosen)
        try:
            self._work()
        except BaseException as error:
            given_back = [NotAsked(fetched.request) for fetched in self._unsettled]
            self._ledger.fail(
                type(error).__name__,
                lambda connection: self._settle(connection, [*given_back, *self._all_given_back()]).counts,
            )
            raise
        finally:
            for account in self._accounts.values():
                account.close()
        self._close()
        return self.summary

    def _work(self) -> None:
        results: list[Fetched] = []
        while True:
            calls = sum(fetched.timing.calls for fetched in results)
            to_settle = self._judge(results)
            if self._gives_up_waiting():
                self._write([*to_settle, *self._all_given_back()], calls=calls, claims=False)
                return
            is_ending = self._is_ending()
            if is_ending:
                to_settle += self._stopped()
            self._write(to_settle, calls=calls, claims=not is_ending)
            if self._rate_wait is not None or any(one.is_waiting for one in self._accounts.values()):
                results = self._wait_for_results()
            elif any(one.has_undecided for one in self._accounts.values()):
                results = []
            else:
                return

    # Beginning and end

    def _open(self, chosen: Sequence[Account]) -> None:
        names = [account.name for account in chosen]

        def read_accounts(connection: Connection) -> dict[str, AccountState]:
            for name in names:
                accounts.ensure_account(connection, name)
            return {name: accounts.read_account(connection, name) for name in names}

        states = self._ledger.open(read_accounts)
        self.summary.run_id = self._ledger.run_id
        for observer in self._observers:
            observer.on_start(self._ledger.run_id)
        workers = max(1, self._settings.workers // max(1, len(chosen)))
        patience = self._settings.lease.total_seconds() / 4
        for account in chosen:
            permits = Permits(self._wake, patience) if self._rate_limit else None
            permit: Callable[[], bool] = permits.take if permits else lambda: True
            state = states[account.name]
            self._accounts[account.name] = AccountRun(
                account.name,
                Fetchers(workers, self._results, partial(self._make_fetcher, account, permit)),
                permits,
                workers=workers,
                canary=state.canary_request_id,
                is_breaker_open=state.is_breaker_open,
                is_paused=state.is_paused,
            )
        process = self._ledger.process
        worker = f"{process.host}, process {process.pid}, run {self._ledger.run_id}"
        self._claimant = Claimant(worker, self._ledger.run_id, self._settings.lease, self._limits.batch)

    def _close(self) -> None:
        self.summary.signal = self._stop.signal
        for name, account in self._accounts.items():
            if account.problem is not None:
                found = self.summary.refused if account.problem.is_refusal else self.summary.api_down
                found[name] = account.problem.error
        problems = [str(error) for error in (*self.summary.refused.values(), *self.summary.api_down.values())]
        problems += [f"{type(one.crash).__name__} in cdr-sync itself" for one in self.summary.crashed[:1]]
        self._ledger.close(
            self.summary.outcome,
            "; ".join(problems) or None,
            lambda connection: self._publish(connection, is_closing=True),
        )

    # When to stop

    def _wake(self) -> None:
        """Wake the coordinator; safe in a signal handler."""
        self._results.put(None)

    def _is_ending(self) -> bool:
        """Whether nothing more is to be claimed: by a signal, the time limit, or too many failures."""
        limit, most = self._limits.time_limit, self._limits.max_failures
        is_over = limit is not None and self._monotonic() - self._started >= limit.total_seconds()
        self.summary.has_too_many_failures = most is not None and len(self._failed) >= most
        is_over = is_over or self.summary.has_too_many_failures
        if (is_over or self._stop.is_wanted) and self._stopped_at is None:
            self._stopped_at = self._monotonic()
            self._stop.event.set()  # no thread waits for another try now
        return self._stopped_at is not None

    def _gives_up_waiting(self) -> bool:
        """Whether the answers that are still in flight are not waited for."""
        if self._stop.is_urgent:
            return True
        return self._stopped_at is not None and self._monotonic() - self._stopped_at >= DRAIN_SECONDS

    def _stopped(self) -> list[Fetched]:
        """Give back what no thread has started, and what cannot be judged any more."""
        for account in self._accounts.values():
            account.stop_waiting()
        return [given_back for account in self._accounts.values() for given_back in account.give_back()]

    def _all_given_back(self) -> list[Fetched]:
        return [given_back for account in self._accounts.values() for given_back in account.give_back_all()]

    # Waiting and judging

    def _wait_for_results(self) -> list[Fetched]:
        """Everything that has come in; possibly nothing, if a signal or a limit came first."""
        results: list[Fetched | None] = []
        began = self._monotonic()
        with suppress(NothingThere):
            results.append(self._results.get(timeout=self._longest_wait()))
            while True:
                results.append(self._results.get_nowait())
        if self._rate_wait is not None:
            self.summary.rate_wait_seconds += self._monotonic() - began
        return [result for result in results if result is not None]

    def _longest_wait(self) -> float | None:
        now = self._monotonic()
        ends = [] if self._rate_wait is None else [now + self._rate_wait]
        if self._stopped_at is not None:
            ends.append(self._stopped_at + DRAIN_SECONDS)
        elif self._limits.time_limit is not None:
            ends.append(self._started + self._limits.time_limit.total_seconds())
        return max(0.0, min(ends) - now) if ends else None

    def _judge(self, results: Sequence[Fetched]) -> list[Fetched]:
        """Find out what can be settled now."""
        is_stopping = self._stop.is_wanted
        to_settle: list[Fetched] = []
        for fetched in results:
            to_settle += self._accounts[fetched.request.account].receive(fetched, is_stopping=is_stopping)
            self.summary.latency.add(fetched.timing.seconds)
            if isinstance(fetched, Crashed):
                self.summary.crashed.append(fetched)
            if isinstance(fetched.request, Canary):
                for observer in self._observers:
                    observer.on_canary(fetched)
        for account in self._accounts.values():
            to_settle += account.judge(is_stopping=is_stopping)
        return to_settle

    # Transactions

    def _write(self, to_settle: Sequence[Fetched], *, calls: int = 0, claims: bool = False) -> None:
        """Settle what arrived and claim what there is room for, in one transaction, and act on it.

        If the database rejects a value, each claim is settled alone, so that only one is affected.
        """
        capacities = self._capacities() if claims else {}
        self._rate_wait = None
        if not (to_settle or calls or any(one.claims or one.permits for one in capacities.values())):
            return
        self._unsettled = list(to_settle)
        try:
            done = self._transact(to_settle, capacities, calls=calls)
        except Exception as error:
            if not to_settle or not is_bad_value(error):
                raise
            for fetched in to_settle:
                self._record(self._settle_alone(fetched))
                self._unsettled.remove(fetched)
            self._write([], calls=calls, claims=claims)
            return
        self._unsettled = []
        self._follow(done)

    def _capacities(self) -> dict[str, Capacity]:
        """How many requests each account may claim now, each within what is left of the run's limit."""
        left = self._left()
        return {name: account.capacity(left) for name, account in self._accounts.items()}

    def _left(self) -> int | None:
        """How many requests the run may still claim; None for no limit."""
        return None if self._limits.most is None else self._limits.most - self.summary.counts["claimed"]

    def _transact(
        self, to_settle: Sequence[Fetched], capacities: Mapping[str, Capacity], *, calls: int = 0
    ) -> _Transaction:
        def work(connection: Connection) -> _Transaction:
            done = self._settle(connection, to_settle)
            done.published = self._publish(connection)
            if capacities and self._monotonic() - self._looked_at >= LOOK_SECONDS:
                reaped = reap_expired(connection, max_attempts=self._settings.max_attempts)
                done.counts["reaped_dead"] += reaped
                done.states = {name: accounts.read_account(connection, name) for name in capacities}
            left = self._left()
            for name, capacity in capacities.items():
                # What one account claims is taken from the limit, not what it has room for: it may have
                # nothing due, and the others something.
                claims = capacity.claims if left is None else min(capacity.claims, left)
                done.claimed[name] = claim(
                    connection,
                    name,
                    replace(capacity, claims=claims),
                    claimant=self._claimant,
                    limit=self._rate_limit,
                    state=done.states.get(name),
                )
                if left is not None:
                    left -= len(done.claimed[name].requests)
            done.counts["claimed"] = sum(len(claimed.requests) for claimed in done.claimed.values())
            done.counts["api_calls"] = calls
            return done

        done = self._ledger.transact(work, lambda done: done.counts)
        now = self._monotonic()
        if done.states:
            self._looked_at = now
        for name, update in done.published.items():
            self._accounts[name].note_published(update, now)
        return done

    def _settle(self, connection: Connection, to_settle: Sequence[Fetched]) -> _Transaction:
        if not to_settle:
            return _Transaction()
        batch = settle(
            connection, to_settle, run_id=self._ledger.run_id, rules=self._rules, chance=self._chance
        )
        return _Transaction(Counter(batch.counts), batch.settled)

    def _settle_alone(self, fetched: Fetched) -> _Transaction:
        """Settle one claim; if the database rejects its legs, without them, or else without its body."""
        attempts: list[Callable[[Exception], Fetched]] = [
            lambda error: as_unstorable(fetched, error),
            lambda error: as_unstorable(fetched, error, keeps_body=False),
        ]
        while True:
            try:
                return self._transact([fetched], {})
            except Exception as error:
                if not attempts or not is_bad_value(error):
                    raise
                fetched = attempts.pop(0)(error)

    def _publish(self, connection: Connection, *, is_closing: bool = False) -> dict[str, AccountUpdate]:
        """Write what was learned about the accounts for all machines; returns what is written."""
        published = {}
        for name, account in self._accounts.items():
            update = account.unpublished(self._monotonic(), is_closing=is_closing)
            if update != AccountUpdate():
                published[name] = _publish(connection, name, update)
        return published

    def _follow(self, done: _Transaction) -> None:
        """Act on the result of a transaction: hand out its claims, and note how long the rate limit waits."""
        # All claims are noted before anything can fail, so that they are given back then.
        for name, claimed in done.claimed.items():
            self._accounts[name].note_claimed(claimed)
        for name, state in done.states.items():
            self._accounts[name].note_elsewhere(
                is_breaker_open=state.is_breaker_open, is_paused=state.is_paused
            )
        waits = [claimed.wait for claimed in done.claimed.values() if claimed.wait is not None]
        self._rate_wait = min(waits, default=None)
        self._record(done)
        self._on_progress(done.counts)
        for name, claimed in done.claimed.items():
            self._accounts[name].hand_out(claimed)

    def _record(self, done: _Transaction) -> None:
        """Record final outcomes, and notify the observers."""
        self.summary.counts += done.counts
        for fetched, outcome in done.settled:
            if outcome == "dead" and len(self.summary.dead_examples) < SHOWN:
                self.summary.dead_examples.append(fetched)
            is_failure = outcome in ("retried", "dead") and self._limits.max_failures is not None
            if is_failure and isinstance(fetched.request, ClaimedRequest):
                self._failed.add(fetched.request.id)
        for observer in self._observers:
            observer.on_settled(done.settled)


def _publish(connection: Connection, name: str, update: AccountUpdate) -> AccountUpdate:
    """Write what was learned about an account; returns what is written."""
    if update.canary is not None:
        # A process that froze with the row locked must not hold up a run for this: it is published later.
        if accounts.is_free(connection, name):
            accounts.remember_canary(connection, name, update.canary)
        else:
            update = replace(update, canary=None)
    if update.breaker_reason is not None:
        accounts.open_breaker(connection, name, update.breaker_reason)
    elif update.closes_breaker:
        accounts.close_breaker(connection, name)
    if update.pause_seconds is not None:
        pause = min(timedelta(seconds=update.pause_seconds), _LONGEST_PAUSE)
        accounts.pause_account(connection, name, pause)
    return update


def run_sync(
    engine: Engine,
    settings: Settings,
    chosen: Sequence[Account],
    *,
    limits: Limits,
    stop: Stop,
    command: str = "sync",
    on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Run the job once for these accounts, with the real API; `command` is what the ledger calls it."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    run = Run(
        engine,
        settings,
        make_fetcher=_fetcher_maker(settings, stop),
        stop=stop,
        limits=limits,
        command=command,
        on_progress=on_progress,
        observers=observers,
    )
    return run.run(chosen)


def _fetcher_maker(settings: Settings, stop: Stop) -> MakeFetcher:
    """Return a function that makes the fetcher of a thread; all threads share one `Patience`."""
    timeout = settings.request_timeout.total_seconds()

    @cache
    def patience() -> Patience:
        from etl.retrying import Patience  # noqa: PLC0415 (a run with nothing to do does not need it)

        # No try begins that could end after the lease: by then the claim could be another run's. A claim may
        # wait for the one before it in the same thread, so each has half of the lease.
        return Patience(settings.tries, settings.lease.total_seconds() / 2 - timeout, stop=stop.event)

    def make_fetcher(account: Account, permit: Callable[[], bool]) -> FetchOne:
        from etl.piopiy.client import Credentials, api_of  # noqa: PLC0415 (as above)

        api = api_of(settings)
        credentials = Credentials(account.app_id, account.secret)

        def ask(request_id: str) -> HttpAnswer:
            return api.fetch_answer(request_id, credentials)

        def fetch_one(request: Request) -> Fetched:
            return fetch(
                request,
                ask,
                patience().call,
                region=settings.default_region,
                secret=account.secret,
                permit=permit,
            )

        return fetch_one

    return make_fetcher
