"""The records of the field: a leg, and what was stored of it before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import NamedTuple

ANSWERED = "answered"


class LegKey(NamedTuple):
    """What tells one leg of a request from another. The API gives legs no ID."""

    leg: str
    to_number: str
    call_time: datetime
    occurrence: int


@dataclass(frozen=True, slots=True)
class ClaimedRequest:
    """A request in our hands: claimed, and not yet settled or given back.

    `token` fences it: whatever is written about it later holds only while the row still carries it.
    `attempts` includes this claim, `fetches` counts the valid answers before it.
    """

    id: int
    account: str
    request_id: str
    token: str
    attempts: int
    fetches: int
    enqueued_at: datetime


@dataclass(frozen=True, slots=True)
class Leg:
    """One call detail record: a leg of a call, as one answer of the API tells it.

    `call_time` is aware and in UTC, `duration_seconds` whole seconds, `rate` and `balance` money in the
    account's (unknown) currency, exact. None is what the API left out or sent as null; it is never 0.
    """

    leg: str
    from_number: str
    to_number: str
    from_e164: str | None
    to_e164: str | None
    to_country: str | None
    call_time: datetime
    duration_seconds: int | None
    rate: Decimal | None
    balance: Decimal | None
    direction: str | None
    status: str | None
    extra: Mapping[str, object] | None

    @property
    def end(self) -> datetime:
        """The instant at which this leg was over, as far as its answer tells."""
        return self.call_time + timedelta(seconds=self.duration_seconds or 0)


@dataclass(frozen=True, slots=True)
class StoredLeg:
    """A leg as the database holds it: its content, its occurrence, and how often its content changed."""

    content: Leg
    occurrence: int
    revision: int
    is_missing: bool  # a later answer no longer held it
