"""What all machines share about an account: circuit breaker, pause, canary and rate limit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from pyrate_limiter import GCRA, Decision, Rate, StateStore
from pyrate_limiter.abstracts.algorithm import State, StateAlgorithm
from sqlalchemy import Connection, case, exists, func, select, text, update

from etl.db.dialects import database_now, db_now, later_sql, unless_known_sql
from etl.db.selection import known_accounts
from etl.db.states import PENDING
from etl.db.tables import api_accounts, cdr_requests


@dataclass(frozen=True, slots=True)
class AccountState:
    """What was known of an account when it was read."""

    canary_request_id: str | None
    is_breaker_open: bool
    is_paused: bool


def ensure_account(connection: Connection, account: str) -> None:
    """Make an account's row, where there is none yet; safe beside others that do the same."""
    if not connection.scalar(select(exists().where(api_accounts.c.account == account))):
        unless_known = unless_known_sql(connection.dialect.name, "api_accounts", "account")
        insert = text(f"INSERT INTO api_accounts (account) VALUES (:account) {unless_known}")
        connection.execute(insert, {"account": account})


def read_account(connection: Connection, account: str) -> AccountState:
    """Read what is known of an account."""
    row = connection.execute(
        select(
            api_accounts.c.canary_request_id,
            api_accounts.c.breaker_opened_at.is_not(None).label("is_breaker_open"),
            case((api_accounts.c.paused_until > db_now(), 1), else_=0).label("is_paused"),
        ).where(api_accounts.c.account == account)
    ).one_or_none()
    if row is None:
        return AccountState(None, is_breaker_open=False, is_paused=False)
    return AccountState(row.canary_request_id, bool(row.is_breaker_open), bool(row.is_paused))


def is_free(connection: Connection, account: str) -> bool:
    """Whether nobody else is changing an account's row; then nobody can until this transaction ends."""
    row = select(api_accounts.c.account).where(api_accounts.c.account == account)
    return connection.scalar(row.with_for_update(skip_locked=True)) is not None


def remember_canary(connection: Connection, account: str, request_id: str) -> None:
    """Keep the latest request that is known to be good."""
    connection.execute(
        update(api_accounts)
        .where(api_accounts.c.account == account)
        .values(canary_request_id=request_id, updated_at=db_now())
    )


def open_breaker(connection: Connection, account: str, reason: str) -> None:
    """Let every machine know that the API is down for this account; the first instant stays."""
    connection.execute(
        update(api_accounts)
        .where(api_accounts.c.account == account)
        .values(
            breaker_opened_at=func.coalesce(api_accounts.c.breaker_opened_at, db_now()),
            breaker_reason=reason,
            updated_at=db_now(),
        )
    )


def close_breaker(connection: Connection, account: str) -> None:
    """Let every machine know that the API works for this account."""
    connection.execute(
        update(api_accounts)
        .where(api_accounts.c.account == account, api_accounts.c.breaker_opened_at.is_not(None))
        .values(breaker_opened_at=None, breaker_reason=None, updated_at=db_now())
    )


def pause_account(connection: Connection, account: str, delay: timedelta) -> None:
    """Let every machine be patient with this account; a longer pause that is set already stays."""
    until = later_sql(connection.dialect.name, ":seconds")
    connection.execute(
        text(
            f"UPDATE api_accounts SET paused_until = {until} WHERE account = :account"
            f" AND (paused_until IS NULL OR paused_until < {until})"
        ),
        {"account": account, "seconds": delay.total_seconds()},
    )


def waiting_accounts(connection: Connection) -> list[str]:
    """The accounts that have pending requests, found as quickly however many requests wait."""
    return known_accounts(connection, cdr_requests.c.account, cdr_requests.c.state == text(f"'{PENDING}'"))


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
