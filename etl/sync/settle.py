"""Settle: one transaction that stores what answers contain and decides what becomes of their requests.

Gather what is still ours and what is stored, decide by the rules, apply. The fence comes first: for a claim
that is no longer ours, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection

from etl.cdr.legs import ClaimedRequest, Leg, LegChanges, StoredLeg, compare_legs
from etl.cdr.outcomes import (
    Dead,
    Done,
    Empty,
    Outcome,
    PutOff,
    Released,
    RetryLater,
    WaitingRules,
    decide_answer,
    decide_failure,
)
from etl.db.archive import Response, archive_responses, make_response
from etl.db.legs import RequestKey, as_stored, stored_legs, upsert_legs
from etl.db.queue import Settlement, fence, settle_claims
from etl.errors import MalformedError, RequestError, UnreadableError, UnstorableError
from etl.settings import Settings
from etl.sync.fetching import Answered, Crashed, Failed, Fetched, NotAsked

_UNEXPECTED = "unexpected"  # the error kind of a crash of our own
_ERROR_LENGTH = 500
_LOST = "lost_leases"
_COUNTED_AS: dict[type[Outcome], str] = {
    Done: "done",
    Empty: "without_legs",
    PutOff: "put_off",
    RetryLater: "retried",
    Dead: "dead",
    Released: "released",
}


class Settled(NamedTuple):
    """What became of a claim."""

    fetched: Fetched
    outcome: str  # by the name of the ledger's column


@dataclass(frozen=True, slots=True)
class SettledBatch:
    """What became of some claims, and the counts of the ledger that changed."""

    counts: Counter[str] = field(default_factory=Counter)
    settled: Sequence[Settled] = ()


def waiting_rules(settings: Settings) -> WaitingRules:
    """How long to wait for requests, from the settings."""
    return WaitingRules(
        max_attempts=settings.max_attempts,
        retry_delay=settings.retry_delay,
        settle=settings.settle,
        empty_for=settings.empty_for,
        empty_delay=settings.empty_delay,
    )


def settle(
    connection: Connection,
    batch: Sequence[Fetched],
    *,
    run_id: int,
    rules: WaitingRules,
    chance: Callable[[], float],
) -> SettledBatch:
    """Settle some claims in the transaction of this connection."""
    # Gather.
    now, ours, settled_before = fence(connection, [_claim(fetched) for fetched in batch])
    held = [fetched for fetched in batch if _claim(fetched) in ours]
    lost = [
        Settled(fetched, _LOST)
        for fetched in batch
        if _claim(fetched) not in ours and _claim(fetched) not in settled_before
    ]
    counts: Counter[str] = Counter({_LOST: len(lost)})
    if now is None or not held:
        return SettledBatch(+counts, lost)
    answered = [fetched for fetched in held if isinstance(fetched, Answered)]
    stored = stored_legs(connection, [_key(one) for one in answered]) if answered else {}
    # Decide.
    changes = {_key(one): leg_changes(connection, stored.get(_key(one)), one.legs) for one in answered}
    outcomes = [_decide(fetched, changes, now=now, rules=rules, chance=chance()) for fetched in held]
    settled = [
        Settled(fetched, _COUNTED_AS[type(outcome)]) for fetched, outcome in zip(held, outcomes, strict=True)
    ]
    counts.update(one.outcome for one in settled)
    for change in changes.values():
        counts["legs_inserted"] += len(change.inserted)
        counts["legs_updated"] += len(change.updated)
        counts["legs_unchanged"] += change.unchanged
    # Apply.
    upsert_legs(connection, changes, run_id=run_id)
    archive_responses(connection, _responses(held), run_id=run_id)
    settle_claims(
        connection,
        [_settlement(*one, changes.get(_key(one[0]))) for one in zip(held, outcomes, strict=True)],
    )
    return SettledBatch(+counts, [*lost, *settled])


def as_unstorable(fetched: Fetched, error: Exception, *, keeps_body: bool = True) -> Fetched:
    """The same request, after the database rejected a value of its answer."""
    if not isinstance(fetched, Answered | Failed):
        return fetched
    reason = " ".join(str(getattr(error, "orig", error)).split())
    rejected = UnstorableError(f"the database rejects it: {reason}")
    body = fetched.body if keeps_body else None
    return Failed(fetched.request, fetched.timing, rejected, fetched.status, body)


def leg_changes(
    connection: Connection, stored: Sequence[StoredLeg] | None, legs: Sequence[Leg]
) -> LegChanges:
    """What an answer's legs change in the stored ones, which this database may hold in fewer digits."""
    return compare_legs(stored, as_stored(connection, legs)) if stored else compare_legs((), legs)


def _claim(fetched: Fetched) -> ClaimedRequest:
    """The claim that is settled; a canary is never one."""
    if not isinstance(fetched.request, ClaimedRequest):
        raise TypeError(f"{type(fetched.request).__name__} is not a claim")
    return fetched.request


def _key(fetched: Fetched) -> RequestKey:
    return (fetched.request.account, fetched.request.request_id)


def _decide(
    fetched: Fetched,
    changes: Mapping[RequestKey, LegChanges],
    *,
    now: datetime,
    rules: WaitingRules,
    chance: float,
) -> Outcome:
    claim = _claim(fetched)
    match fetched:
        case Answered():
            change = changes[_key(fetched)]
            return decide_answer(
                claim, fetched.legs, fetched.count, change, now=now, rules=rules, chance=chance
            )
        case NotAsked():
            return Released()
        case Failed():
            error = fetched.error
        case Crashed():
            error = RequestError(f"{type(fetched.crash).__name__} in cdr-sync itself")
    return decide_failure(claim, error, now=now, rules=rules, chance=chance)


def _settlement(fetched: Fetched, outcome: Outcome, change: LegChanges | None) -> Settlement:
    """The change of the queue's row that an outcome means."""
    claim = _claim(fetched)
    base = Settlement(
        claim.id,
        claim.token,
        state="pending",
        fetched=int(isinstance(fetched, Answered)),
        leg_count=change.leg_count if change else 0,
        api_count=fetched.count if isinstance(fetched, Answered) else None,
        http_status=fetched.status if isinstance(fetched, Answered | Failed) else None,
    )
    match outcome:
        case Done():
            return replace(base, state="done")
        case Empty():
            return replace(base, state="empty")
        case PutOff(delay):
            error = _error_columns(fetched, fetched.error) if isinstance(fetched, Failed) else {}
            return replace(base, delay=delay.total_seconds(), attempts=-1, **error)
        case Released(delay, error_or_none):
            error = {} if error_or_none is None else _error_columns(fetched, error_or_none)
            wait = delay.total_seconds() if delay else None
            return replace(base, delay=wait, attempts=-1, http_status=None, **error)
        case RetryLater(delay, failure):
            return replace(base, delay=delay.total_seconds(), **_error_columns(fetched, failure))
        case Dead(failure):
            return replace(base, state="dead", **_error_columns(fetched, failure))


def _error_columns(fetched: Fetched, error: RequestError) -> dict[str, Any]:
    message = str(error).replace("\x00", "\ufffd")
    kind = _UNEXPECTED if isinstance(fetched, Crashed) else error.reason
    return {"error_kind": kind, "error": message.encode(errors="replace").decode()[:_ERROR_LENGTH]}


def _responses(held: Sequence[Fetched]) -> list[Response]:
    """The answers to archive: the valid ones, and those that broke the format."""
    kept = [
        one
        for one in held
        if isinstance(one, Answered)
        or (isinstance(one, Failed) and isinstance(one.error, _ARCHIVED) and one.body is not None)
    ]
    return [make_response(*_key(one), one.status, one.body or b"") for one in kept]


_ARCHIVED = (MalformedError, UnreadableError, UnstorableError)
