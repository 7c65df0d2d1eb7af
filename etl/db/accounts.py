"""What all machines share about an account: circuit breaker, pause, canary and rate limit."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, Update, case, exists, func, select, text, update

from etl.db.bulk import on_conflict_sql
from etl.db.dialects import database_now, db_now, later_sql
from etl.db.selection import known_accounts
from etl.db.states import PENDING
from etl.db.tables import api_accounts, cdr_requests


@dataclass(frozen=True, slots=True)
class AccountState:
    """What the database holds about an account: its canary, and whether it may be asked."""

    canary_request_id: str | None
    is_breaker_open: bool
    is_paused: bool


def ensure_account(connection: Connection, account: str) -> None:
    """Insert an account's row unless it exists, even where another transaction does the same."""
    if not connection.scalar(select(exists().where(api_accounts.c.account == account))):
        on_conflict = on_conflict_sql(connection.dialect.name, ["account"])
        insert = text(f"INSERT INTO api_accounts (account) VALUES (:account) {on_conflict}")
        connection.execute(insert, {"account": account})


def read_account(connection: Connection, account: str) -> AccountState:
    """Read the state of an account; an account without a row has none."""
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
    """Whether no other transaction holds an account's row; it is then locked until the commit."""
    row = select(api_accounts.c.account).where(api_accounts.c.account == account)
    return connection.scalar(row.with_for_update(skip_locked=True)) is not None


def remember_canary(connection: Connection, account: str, request_id: str) -> None:
    """Store the latest request that is known to be good."""
    connection.execute(_change(account).values(canary_request_id=request_id, updated_at=db_now()))


def open_breaker(connection: Connection, account: str, reason: str) -> None:
    """Open the circuit breaker of an account for every machine; if it is open already, that instant stays."""
    opened_at = func.coalesce(api_accounts.c.breaker_opened_at, db_now())
    change = _change(account).values(breaker_opened_at=opened_at, breaker_reason=reason, updated_at=db_now())
    connection.execute(change)


def close_breaker(connection: Connection, account: str) -> None:
    """Close the circuit breaker of an account for every machine."""
    change = _change(account).where(api_accounts.c.breaker_opened_at.is_not(None))
    connection.execute(change.values(breaker_opened_at=None, breaker_reason=None, updated_at=db_now()))


def pause_account(connection: Connection, account: str, delay: timedelta) -> None:
    """Pause an account on every machine; a longer pause that is set already stays."""
    until = later_sql(connection.dialect.name, ":seconds")
    connection.execute(
        text(
            f"UPDATE api_accounts SET paused_until = {until} WHERE account = :account"
            f" AND (paused_until IS NULL OR paused_until < {until})"
        ),
        {"account": account, "seconds": delay.total_seconds()},
    )


def _change(account: str) -> Update:
    return update(api_accounts).where(api_accounts.c.account == account)


def waiting_accounts(connection: Connection) -> list[str]:
    """The accounts that have pending requests, by one index look-up each."""
    return known_accounts(connection, cdr_requests.c.account, cdr_requests.c.state == text(f"'{PENDING}'"))


_BURST_SECONDS = 0.1
_LONGEST_DEBT_SECONDS = 60.0
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Allowance:
    """How many calls may be made now, and after how many seconds the next one may."""

    calls: int
    wait_seconds: float
    paid_until_us: int  # before any of these calls is spent


class SharedRateLimit:
    """A limit on calls per second, shared by everything that uses this database.

    It is the generic cell rate algorithm (GCRA, ITU-T I.371). The account's row holds the instant until which
    the calls so far are paid. Each call moves it by the interval between two calls, and it may be ahead of
    the database's clock by no more than a burst.
    """

    def __init__(self, calls_per_second: float) -> None:
        self.interval = 1 / calls_per_second  # seconds from one call to the next
        self._interval_us = max(1, round(self.interval * _MICROSECONDS))
        self._burst = max(1, int(calls_per_second * _BURST_SECONDS))

    def allowance(self, connection: Connection, account: str) -> Allowance:
        """Find out how many calls may be made now, and lock the account's row until the commit."""
        column = api_accounts.c.rate_paid_until_us
        row = select(column).where(api_accounts.c.account == account).with_for_update()
        stored: int | None = connection.scalar(row)
        # The clock is read once the row is locked, however long that took.
        now = round(database_now(connection).timestamp() * _MICROSECONDS)
        burst_us = self._burst * self._interval_us
        # A debt that no burst explains means that the database's clock was set back.
        if stored is None or stored > now + burst_us + _LONGEST_DEBT_SECONDS * _MICROSECONDS:
            stored = now
        paid_until = max(stored, now)
        calls = max(0, (now + burst_us - paid_until) // self._interval_us)
        wait = 0 if calls else paid_until + self._interval_us - burst_us - now
        return Allowance(calls, wait / _MICROSECONDS, paid_until)

    def spend(self, connection: Connection, account: str, calls: int, allowance: Allowance) -> None:
        """Record calls, in the transaction of the allowance, and no more than it allows."""
        if calls:
            paid_until_us = allowance.paid_until_us + calls * self._interval_us
            connection.execute(_change(account).values(rate_paid_until_us=paid_until_us))
