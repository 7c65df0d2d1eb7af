"""What all machines share about an account: its breaker, its pause, and its canary."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection, case, exists, func, select, text, update

from etl.db.clock import db_now, later_sql
from etl.db.selection import known_accounts
from etl.db.states import PENDING
from etl.db.tables import api_accounts, cdr_requests
from etl.db.types import unless_known_sql


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
