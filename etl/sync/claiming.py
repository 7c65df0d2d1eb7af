"""What a turn claims for each account: within its room, what the API can bear, and the rate limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from etl.cdr.records import ClaimedRequest
from etl.db.accounts import AccountState
from etl.db.request_queue import Claimant, claim_requests, claim_suspect, has_due

if TYPE_CHECKING:
    from etl.db.rate_limits import SharedRateLimit

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
            from etl.db.rate_limits import SharedRateLimit  # noqa: PLC0415 (slow to import)

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
            claimed = claim_suspect(connection, account, self._claimant)
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
