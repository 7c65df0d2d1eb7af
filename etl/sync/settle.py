"""Settling: one transaction that stores what answers hold and says what becomes of their requests.

Gather what is ours and what is stored, decide by the rules, apply. The fence comes first: of a claim that
is no longer ours, nothing is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection

from etl.cdr.legs import Leg, LegChanges, StoredLeg, compare_legs
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
from etl.errors import RequestError, UnstorableError
from etl.settings import Settings
from etl.sync.fetching import Asked

_UNEXPECTED = "unexpected"  # a crash of our own, in place of an error's reason
_ERROR_LENGTH = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a request, and how it is to be taken: counted, or given back unjudged."""

    asked: Asked
    is_released: bool = False

    def as_unstorable(self, error: Exception, *, keeps_body: bool = True) -> Verdict:
        """The same request, once the database refused what its answer holds."""
        reason = " ".join(str(getattr(error, "orig", error)).split())
        refused = UnstorableError(f"the database refuses it: {reason}")
        body = self.asked.body if keeps_body else None
        return Verdict(replace(self.asked, legs=(), count=None, body=body, error=refused))


def waiting_rules(settings: Settings) -> WaitingRules:
    """How long requests are waited for, as it is configured."""
    return WaitingRules(
        max_attempts=settings.max_attempts,
        retry_delay=settings.retry_delay,
        settle=settings.settle,
        empty_for=settings.empty_for,
        empty_delay=settings.empty_delay,
    )


def settle(
    connection: Connection,
    verdicts: Sequence[Verdict],
    *,
    run_id: int,
    rules: WaitingRules,
    chance: Callable[[], float],
    on_settled: Callable[[Asked, str], None] = lambda _asked, _outcome: None,
) -> Counter[str]:
    """Settle some claims in the transaction of this connection; `on_settled` hears what became of each.

    Returns:
        How many claims came to what, and how many legs changed, by the names of the ledger's columns.
    """
    now, ours, settled_before = fence(connection, [verdict.asked.request for verdict in verdicts])
    held = [verdict for verdict in verdicts if verdict.asked.request in ours]
    counts: Counter[str] = Counter(lost_leases=len(verdicts) - len(held) - len(settled_before))
    for verdict in verdicts:
        if verdict.asked.request not in ours and verdict.asked.request not in settled_before:
            on_settled(verdict.asked, "lost_leases")
    if now is None or not held:
        return +counts
    answered = [
        v.asked for v in held if not v.is_released and v.asked.error is None and v.asked.crash is None
    ]
    stored = stored_legs(connection, [_key(asked) for asked in answered]) if answered else {}
    changes: dict[RequestKey, LegChanges] = {
        _key(asked): leg_changes(connection, stored.get(_key(asked)), asked.legs) for asked in answered
    }
    settlements = []
    for verdict in held:
        outcome = _decide(verdict, changes, now=now, rules=rules, chance=chance())
        counts[_COUNTED_AS[type(outcome)]] += 1
        on_settled(verdict.asked, _COUNTED_AS[type(outcome)])
        settlements.append(_settlement(verdict.asked, outcome, changes.get(_key(verdict.asked))))
    for change in changes.values():
        counts["legs_inserted"] += len(change.inserted)
        counts["legs_updated"] += len(change.updated)
        counts["legs_unchanged"] += change.unchanged
    upsert_legs(connection, changes, run_id=run_id)
    archive_responses(connection, _responses(held), run_id=run_id)
    settle_claims(connection, settlements)
    return +counts


_COUNTED_AS: dict[type[Outcome], str] = {
    Done: "done",
    Empty: "empty",
    PutOff: "put_off",
    RetryLater: "retried",
    Dead: "dead",
    Released: "released",
}


def leg_changes(
    connection: Connection, stored: Sequence[StoredLeg] | None, legs: Sequence[Leg]
) -> LegChanges:
    """What an answer's legs change in the stored ones, which this database may hold in fewer digits."""
    return compare_legs(stored, as_stored(connection, legs)) if stored else compare_legs((), legs)


def _key(asked: Asked) -> RequestKey:
    return (asked.request.account, asked.request.request_id)


def _decide(
    verdict: Verdict,
    changes: Mapping[RequestKey, LegChanges],
    *,
    now: datetime,
    rules: WaitingRules,
    chance: float,
) -> Outcome:
    asked = verdict.asked
    if verdict.is_released:
        return Released()
    if asked.crash is not None:
        error = RequestError(f"{type(asked.crash).__name__} in cdr-sync itself")
        return decide_failure(asked.request, error, now=now, rules=rules, chance=chance)
    if asked.error is not None:
        return decide_failure(asked.request, asked.error, now=now, rules=rules, chance=chance)
    return decide_answer(
        asked.request,
        asked.legs,
        asked.count,
        changes[_key(asked)],
        now=now,
        rules=rules,
        chance=chance,
    )


def _settlement(asked: Asked, outcome: Outcome, change: LegChanges | None) -> Settlement:
    """The change of the queue's row that an outcome means."""
    request = asked.request
    has_answer = change is not None and not isinstance(outcome, Released)
    base = Settlement(
        request.id,
        request.token,
        state="pending",
        fetched=int(has_answer),
        leg_count=change.leg_count if change else 0,
        api_count=asked.count if has_answer else None,
        http_status=asked.status,
    )
    match outcome:
        case Done():
            return replace(base, state="done")
        case Empty():
            return replace(base, state="empty")
        case PutOff(delay):
            told = {} if asked.error is None else _told(asked, asked.error)
            return replace(base, delay=delay.total_seconds(), attempts=-1, **told)
        case Released(delay, error):
            told = {} if error is None else _told(asked, error)
            wait = delay.total_seconds() if delay else None
            return replace(base, delay=wait, attempts=-1, http_status=None, **told)
        case RetryLater(delay, error):
            return replace(base, delay=delay.total_seconds(), **_told(asked, error))
        case Dead(error):
            return replace(base, state="dead", **_told(asked, error))


def _told(asked: Asked, error: RequestError) -> dict[str, Any]:
    message = str(error).replace("\x00", "\ufffd")
    kind = _UNEXPECTED if asked.crash is not None else error.reason
    return {"error_kind": kind, "error": message.encode(errors="replace").decode()[:_ERROR_LENGTH]}


def _responses(held: Sequence[Verdict]) -> list[Response]:
    """The answers worth keeping: the valid ones, and those that broke the format."""
    return [
        make_response(*_key(v.asked), v.asked.status, v.asked.body)
        for v in held
        if not v.is_released
        and v.asked.body is not None
        and (v.asked.error is None or v.asked.error.reason in ("malformed", "unstorable"))
    ]
