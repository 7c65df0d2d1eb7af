"""Legs: what one is, which leg of an answer is which stored row, and what changed.

Legs carry no ID, and two attempts to one number within a second can agree in all nine fields and still be two
legs. So a leg is known by its letter, the number called and its time, and among equals by its occurrence:
1, 2 and so on. Nothing here depends on the order in which an answer lists its legs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import NamedTuple

ANSWERED = "answered"


class LegKey(NamedTuple):
    """What distinguishes one leg of a request from another. The API gives legs no ID."""

    leg: str
    to_number: str
    call_time: datetime
    occurrence: int


@dataclass(frozen=True, slots=True)
class ClaimedRequest:
    """A claimed request that is not yet settled or given back.

    `token` is its fencing token: a later write takes effect only while the row still has it.
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
    """One call detail record: a leg of a call, as one answer of the API has it.

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
        """When this leg ended, as far as the answer shows."""
        return self.call_time + timedelta(seconds=self.duration_seconds or 0)


@dataclass(frozen=True, slots=True)
class StoredLeg:
    """A leg as the database holds it: its content, its occurrence, and how often its content changed."""

    content: Leg
    occurrence: int
    revision: int
    is_missing: bool  # a later answer no longer contained it


_Identity = tuple[str, str, datetime]


class NumberedLeg(NamedTuple):
    """A leg of an answer with the row that it belongs to."""

    key: LegKey
    content: Leg
    revision: int


@dataclass(frozen=True, slots=True)
class LegChanges:
    """What one answer changes in the rows of its request."""

    inserted: list[NumberedLeg] = field(default_factory=list)
    updated: list[NumberedLeg] = field(default_factory=list)
    unchanged: int = 0
    vanished: list[NumberedLeg] = field(default_factory=list)  # newly missing: marked, never deleted

    @property
    def leg_count(self) -> int:
        """How many legs the request has now."""
        return len(self.inserted) + len(self.updated) + self.unchanged

    @property
    def is_same(self) -> bool:
        """Whether the answer brought exactly the legs that were there before."""
        return not (self.inserted or self.updated or self.vanished)


def compare_legs(stored: Sequence[StoredLeg], answered: Iterable[Leg]) -> LegChanges:
    """Match an answer's legs with the stored ones of the same request, and find out what changed.

    Several legs can agree in letter, number called and time. Among these, a leg whose content is stored
    already keeps its occurrence. So does a leg that was sent the same and is only read differently now. The
    others, ordered by content, take the occurrences of rows that are not missing, then the lowest free ones.
    """
    changes = LegChanges()
    unchanged = 0
    before = _grouped(stored)
    for identity, legs in _grouped_legs(answered).items():
        rows = {row.occurrence: row for row in before.pop(identity, ())}
        unchanged += _match(legs, rows, changes)
        _mark_vanished(rows.values(), changes)
    for rest in before.values():
        _mark_vanished(rest, changes)
    return LegChanges(changes.inserted, changes.updated, unchanged, changes.vanished)


def _match(legs: list[Leg], rows: dict[int, StoredLeg], changes: LegChanges) -> int:
    """Give each leg its row, taking those rows out of `rows`; returns how many stayed as they were."""
    chosen: dict[int, Leg] = {}
    others = legs
    for part in (_all_of, _as_sent):
        rest = []
        for leg in others:
            alike = [n for n, row in rows.items() if n not in chosen and part(row.content) == part(leg)]
            if alike:
                # A row that is there is preferred to one marked missing, then the lowest occurrence.
                chosen[min(alike, key=lambda n: (rows[n].is_missing, n))] = leg
            else:
                rest.append(leg)
        others = rest
    for leg in others:
        there = [n for n, row in rows.items() if n not in chosen and not row.is_missing]
        chosen[min(there) if there else next(n for n in count(1) if n not in chosen)] = leg
    unchanged = 0
    for number in sorted(chosen):
        leg, row = chosen[number], rows.pop(number, None)
        if row is None:
            changes.inserted.append(NumberedLeg(_key(leg, number), leg, 1))
        elif row.content != leg:
            changes.updated.append(NumberedLeg(_key(leg, number), leg, row.revision + 1))
        elif row.is_missing:
            changes.updated.append(NumberedLeg(_key(leg, number), leg, row.revision))
        else:
            unchanged += 1
    return unchanged


def _all_of(leg: Leg) -> Leg:
    return leg


def _as_sent(leg: Leg) -> Leg:
    """A leg without the fields derived from its numbers, which depend on region and version."""
    return replace(leg, from_e164=None, to_e164=None, to_country=None)


def _mark_vanished(rows: Iterable[StoredLeg], changes: LegChanges) -> None:
    changes.vanished.extend(
        NumberedLeg(_key(row.content, row.occurrence), row.content, row.revision)
        for row in rows
        if not row.is_missing
    )


def _key(leg: Leg, occurrence: int) -> LegKey:
    return LegKey(leg.leg, leg.to_number, leg.call_time, occurrence)


def _identity(leg: Leg) -> _Identity:
    return (leg.leg, leg.to_number, leg.call_time)


def _grouped(stored: Sequence[StoredLeg]) -> dict[_Identity, list[StoredLeg]]:
    groups: dict[_Identity, list[StoredLeg]] = defaultdict(list)
    for row in stored:
        groups[_identity(row.content)].append(row)
    return groups


def _grouped_legs(answered: Iterable[Leg]) -> dict[_Identity, list[Leg]]:
    groups: dict[_Identity, list[Leg]] = defaultdict(list)
    for leg in answered:
        groups[_identity(leg)].append(leg)
    for legs in groups.values():
        if len(legs) > 1:
            legs.sort(key=repr)
    return groups
