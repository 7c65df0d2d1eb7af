"""One rate limit for every process and machine that works on one database.

The rule is the Generic Cell Rate Algorithm, whose whole state is one number: the instant at which the calls
made so far are paid off. It is kept in the account's row, changed under the row's lock, and read by the
database's clock. A small burst makes up for the time that a process takes to come round again.
"""

from __future__ import annotations

from dataclasses import dataclass

from pyrate_limiter import GCRA, Decision, Rate, StateStore
from pyrate_limiter.abstracts.algorithm import State, StateAlgorithm
from sqlalchemy import Connection, select, update

from etl.db.clock import database_now
from etl.db.tables import api_accounts

_BURST_SECONDS = 0.1
_PRECISION = 1000  # the library counts whole calls in whole milliseconds: this many seconds' worth of calls
_CLOCK_SECONDS = 60.0  # a debt that lasts longer than this is none: the database's clock was set back


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many calls may be made at an instant, and after how many seconds the next one may."""

    calls: int
    wait_seconds: float
    at: int  # milliseconds since 1970 by the database's clock


class SharedRateLimit:
    """A limit of so many calls a second, the same for everybody who uses this database."""

    def __init__(self, calls_a_second: float) -> None:
        self.interval = 1 / calls_a_second  # seconds from one call to the next
        self._burst = max(1, int(calls_a_second * _BURST_SECONDS))
        limit = max(1, round(calls_a_second * _PRECISION))
        self._rates = [Rate(limit, round(limit / calls_a_second * 1000), burst=self._burst)]
        self._longest_debt = self._burst * self.interval + _CLOCK_SECONDS
        self._algorithm = GCRA()

    def allowance(self, connection: Connection, account: str) -> Allowance:
        """Find out what may be called now; nobody else can spend it until this transaction ends."""
        state = _AccountRow(connection, account).read(self._algorithm, self._rates)
        at = int(database_now(connection).timestamp() * 1000)  # once the row is ours, however long that took
        if state[0] > (at / 1000 + self._longest_debt) * 1_000_000:
            state = self._algorithm.initial(self._rates)
            _AccountRow(connection, account).reset()
        owed = self._algorithm.consumed(self._rates, state, at)
        _, decision = self._algorithm.step(self._rates, state, at, 1)
        return Allowance(max(0, self._burst - owed), (decision.retry_after_ms or 0) / 1000, at)

    def spend(self, connection: Connection, account: str, calls: int, allowance: Allowance) -> None:
        """Note so many calls, in the transaction that asked for the allowance, and no more than that."""
        if calls:
            _AccountRow(connection, account).check(self._algorithm, self._rates, allowance.at, calls)


class _AccountRow(StateStore):
    """The limiter's state in an account's row, under the row's lock."""

    def __init__(self, connection: Connection, account: str) -> None:
        self._connection = connection
        self._is_it = api_accounts.c.account == account

    def check(self, algorithm: StateAlgorithm, rates: list[Rate], now: int, weight: int) -> Decision:
        state, decision = algorithm.step(rates, self.read(algorithm, rates), now, weight)
        if decision.allowed:
            self._write(int(state[0]))
        return decision

    def read(self, algorithm: StateAlgorithm, rates: list[Rate]) -> State:
        column = api_accounts.c.rate_paid_until_us
        stored = self._connection.scalar(select(column).where(self._is_it).with_for_update())
        return algorithm.initial(rates) if stored is None else (stored,)

    def reset(self) -> None:
        self._write(None)

    def _write(self, instant: int | None) -> None:
        values = {"rate_paid_until_us": instant}
        self._connection.execute(update(api_accounts).where(self._is_it).values(values))
