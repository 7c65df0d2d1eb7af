"""Claim: what a transaction claims for an account, within its capacity and the rate limit."""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection

from etl.db.accounts import AccountState, SharedRateLimit
from etl.db.queue import Claimant, claim_poison, claim_requests, has_due
from etl.sync.account import Capacity, Claimed

_PROBED_PLACES = 12  # the newest request, the second, fourth, and so on to the 2048th


def claim(
    connection: Connection,
    account: str,
    capacity: Capacity,
    *,
    claimant: Claimant,
    limit: SharedRateLimit | None,
    state: AccountState | None = None,
) -> Claimed:
    """Claim due requests of an account.

    Args:
        connection: the transaction.
        account: its name.
        capacity: what it has room for.
        claimant: who claims.
        limit: the rate limit; None for none.
        state: what is known of the account, if it was read in this transaction: another machine may have
            found that it must wait, or that the API is down.
    """
    if state is not None and state.is_paused:
        capacity = replace(capacity, claims=0)
    elif state is not None and state.is_breaker_open:
        capacity = replace(capacity, claims=min(capacity.claims, 1), is_probe=True)
    if limit is not None and (capacity.claims or capacity.permits):
        claimed = _within_rate(connection, account, capacity, claimant=claimant, limit=limit)
    else:
        claimed = _claim(connection, account, capacity, claimant=claimant)
    return replace(claimed, is_exhausted=True) if state is not None and state.is_paused else claimed


def _claim(connection: Connection, account: str, capacity: Capacity, *, claimant: Claimant) -> Claimed:
    if not capacity.claims:
        return Claimed()
    skip = _probed_place(claimant.run_id) if capacity.is_probe else None
    requests = claim_requests(connection, account, claimant, most=capacity.claims, skip_newest=skip)
    is_short = len(requests) < capacity.claims
    if not requests and capacity.is_idle:
        requests = claim_poison(connection, account, claimant)
        is_short = not requests
    return Claimed(requests, is_exhausted=is_short)


def _probed_place(run_id: int) -> int:
    """Which request probes whether the API works: another one in each run, counted from the newest.

    The API most likely knows the newest. But some requests may fail whatever the API does, and must not keep
    the breaker open: so the next run probes one that is further away.
    """
    return (1 << run_id % _PROBED_PLACES) - 1


def _within_rate(
    connection: Connection, account: str, capacity: Capacity, *, claimant: Claimant, limit: SharedRateLimit
) -> Claimed:
    """Grant permits to calls that wait already, and claim no more than may be asked for at once.

    A claim whose call had to wait would use up its lease.
    """
    allowance = limit.allowance(connection, account)
    granted = min(capacity.permits, allowance.calls)
    most = min(capacity.claims, allowance.calls - granted)
    claimed = _claim(connection, account, replace(capacity, claims=most), claimant=claimant)
    permits = granted + len(claimed.requests)
    limit.spend(connection, account, permits, allowance)
    if capacity.claims and not most:
        is_exhausted = not has_due(connection, account, batch=claimant.batch)
        claimed = replace(claimed, is_exhausted=is_exhausted)
    has_more = capacity.claims > most and not claimed.is_exhausted
    if has_more or capacity.permits > granted:
        claimed = replace(claimed, wait=limit.interval if permits else allowance.wait_seconds)
    return replace(claimed, permits=permits)
