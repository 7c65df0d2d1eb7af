"""What a backfill would cost, before it is begun."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from etl.db.runs import recent_call_rate
from etl.db.selection import Selection, count_requests


@dataclass(frozen=True, slots=True)
class Forecast:
    """API calls, one a request, and how long they take; None where nobody can know."""

    calls: int
    per_second: float | None
    basis: str | None  # "rate_limit" or "latest_runs"
    seconds: float | None


def forecast(
    connection: Connection,
    *,
    label: str,
    accounts: Sequence[str],
    selected: Mapping[str, int],
    rate_limit: float,
) -> Forecast:
    """Forecast a run over what is selected, by account, and over what its batch has due already.

    The speed is the rate limit, which each account has for itself, or else that of the latest runs.
    """
    calls = Counter(selected)
    due = count_requests(connection, Selection(accounts=accounts, batch=label, only_due=True))
    for (account, _), count in due.items():
        calls[account] += count
    total = calls.total()
    if rate_limit:
        return Forecast(total, rate_limit, "rate_limit", max(calls.values(), default=0) / rate_limit)
    per_second = recent_call_rate(connection)
    if per_second is None:
        return Forecast(total, None, None, None)
    return Forecast(total, per_second, "latest_runs", total / per_second)
