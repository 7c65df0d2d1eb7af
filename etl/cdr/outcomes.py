"""What becomes of a request: final, fetched again later, retried later, dead, or given back.

An answer without legs is not success, and legs can still change for a while after a call: both are asked
for again, and neither wait uses an attempt. A failure uses the attempt that its claim counted, and waits
longer each time. Chance and the present instant are arguments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from etl.cdr.legs import ClaimedRequest, Leg, LegChanges
from etl.errors import MalformedError, NotReadyError, RateLimitedError, RequestError, UnstorableError

LONGEST_DELAY = timedelta(hours=6)
SHORTEST_WAIT = timedelta(seconds=1)  # no run asks for one request over and over
_NOTHING = timedelta(0)


@dataclass(frozen=True, slots=True)
class WaitingRules:
    """How long to wait for the answers of a request, from the settings."""

    max_attempts: int
    retry_delay: timedelta
    settle: timedelta
    empty_for: timedelta
    empty_delay: timedelta


@dataclass(frozen=True, slots=True)
class Done:
    """The answer is final, and its legs are stored."""


@dataclass(frozen=True, slots=True)
class Empty:
    """No legs came within `empty_for`."""


@dataclass(frozen=True, slots=True)
class PutOff:
    """The answer is not final yet: ask again after `delay`. Uses no attempt."""

    delay: timedelta


@dataclass(frozen=True, slots=True)
class RetryLater:
    """This claim failed: try again after `delay`. Its attempt is used."""

    delay: timedelta
    error: RequestError


@dataclass(frozen=True, slots=True)
class Dead:
    """Given up until a person replays it: attempts are used up, or the answer cannot be used."""

    error: RequestError


@dataclass(frozen=True, slots=True)
class Released:
    """Given back without using its attempt. Due again after `delay`; zero means at once."""

    delay: timedelta = _NOTHING
    error: RequestError | None = None


Outcome = Done | Empty | PutOff | RetryLater | Dead | Released


def decide_answer(
    request: ClaimedRequest,
    legs: Sequence[Leg],
    count: int | None,
    changes: LegChanges,
    *,
    now: datetime,
    rules: WaitingRules,
    chance: float,
) -> Done | Empty | PutOff:
    """Decide what a valid answer means for its request.

    An answer with legs is final if its `count` agrees with them and its last leg ended `settle` or more ago.
    If `count` disagrees, the answer is final once a second one brings the same legs. An answer without legs
    is final `empty_for` after enqueueing.

    Args:
        request: the claimed request.
        legs: the legs of the answer.
        count: how many legs the answer says there are; None where it does not say.
        changes: what the legs change in the stored rows.
        now: the present instant by the database's clock.
        rules: how long to wait.
        chance: a random number from 0 to 1, so that requests enqueued together spread out.
    """
    waited_until = request.enqueued_at + rules.empty_for
    is_late = now >= waited_until
    growing = max(SHORTEST_WAIT, _growing(rules.empty_delay, request.fetches, chance))
    if not legs:
        return Empty() if is_late else PutOff(min(growing, waited_until - now))
    end = max(leg.end for leg in legs)
    if now < end + rules.settle:
        delay = end + rules.settle - now
        if end - now <= LONGEST_DELAY:
            return PutOff(delay)  # legs may still change
        # No call ends that far in the future: the time is wrong. Do not wait for it forever.
        if not is_late:
            return PutOff(min(delay, waited_until - now))
    is_confirmed = request.fetches > 0 and (changes.is_same or is_late)
    if count is not None and count != len(legs) and not is_confirmed:
        return PutOff(growing)
    return Done()


def decide_failure(
    request: ClaimedRequest, error: RequestError, *, now: datetime, rules: WaitingRules, chance: float
) -> RetryLater | PutOff | Dead | Released:
    """Decide what a failed claim means for its request, once the failure is known to be its own."""
    match error:
        case MalformedError() | UnstorableError():
            return Dead(error)
        case RateLimitedError(is_long=True, retry_after=float() as seconds):
            return Released(timedelta(seconds=min(seconds, 86_400.0)), error)
        case NotReadyError():
            age = now - request.enqueued_at
            if age >= rules.empty_for:
                return Dead(error)
            delay = min(max(age / 2, rules.empty_delay), LONGEST_DELAY, rules.empty_for - age)
            return PutOff(delay)
    if request.attempts >= rules.max_attempts:
        return Dead(error)
    return RetryLater(_growing(rules.retry_delay, request.attempts - 1, chance), error)


def _growing(first: timedelta, times: int, chance: float) -> timedelta:
    """A delay that doubles up to 6 h, of which chance takes off up to a half."""
    doubled = first.total_seconds() * 2.0 ** min(max(times, 0), 60)
    return timedelta(seconds=min(LONGEST_DELAY.total_seconds(), doubled)) * (0.5 + 0.5 * chance)
