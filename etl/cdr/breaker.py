"""Circuit breaker: whose failure is it, the request's, the API's, or that of our credentials?

The number of failures cannot show it: at the end of a run only the bad requests are left. So failures in a
row are held, neither counted nor given back, until one of two things happens. A valid answer shows that the
API works: they were the requests' own. Or the rules below give up waiting and ask the *canary*: the account's
latest request known to be good, asked for once more.

A breaker is closed (the API works), open (nothing more is claimed in this run), or half-open (it was open
when the run began, or another machine opened it: one request probes the API).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Generic, Protocol, TypeVar

from etl.errors import (
    MalformedError,
    NotReadyError,
    RefusedError,
    RequestError,
    TransientError,
    UnauthorizedError,
)

FAILURES_IN_A_ROW = 5
REFUSALS_IN_A_ROW = 3


# --- The rules ---------------------------------------------------------------------------------------


class Verdict(Enum):
    """What failures in a row mean."""

    HOLD = auto()  # not known yet: see what comes next
    ASK_CANARY = auto()  # ask for the request that is known to be good
    COUNT = auto()  # the requests' own failures
    API_DOWN = auto()  # the API does not work: give everything back
    REFUSED = auto()  # the credentials are refused: give everything back


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known when failures are judged."""

    failures: int  # held, all since the last valid answer
    refusals: int  # how many of the latest ones are refusals (404, 401, 403, 407)
    is_unauthorized: bool  # the latest one is 401, 403 or 407
    all_transient: bool  # every one may pass by itself
    had_answer: bool  # this run has had a valid answer from the account
    has_canary: bool
    is_half_open: bool
    is_last: bool  # nothing else of the account is in flight or due

    @property
    def is_row(self) -> bool:
        """Whether enough failures came in a row to suspect the API."""
        return self.failures >= FAILURES_IN_A_ROW

    @property
    def all_refused(self) -> bool:
        """Whether every failure is a refusal."""
        return self.refusals == self.failures


Rule = tuple[str, Callable[[Evidence], bool], Verdict]

# The first rule that matches decides.
RULES: tuple[Rule, ...] = (
    # With a canary, the canary decides; the rules only say when to ask it.
    (
        "canary: refused before any valid answer",
        lambda e: e.has_canary and e.refusals > 0 and not e.had_answer,
        Verdict.ASK_CANARY,
    ),
    ("canary: the probe failed", lambda e: e.has_canary and e.is_half_open, Verdict.ASK_CANARY),
    ("canary: five in a row", lambda e: e.has_canary and e.is_row, Verdict.ASK_CANARY),
    ("canary: nothing else will answer", lambda e: e.has_canary and e.is_last, Verdict.ASK_CANARY),
    ("canary: wait for the next answer", lambda e: e.has_canary, Verdict.HOLD),
    # Without one, no valid answer ever had legs.
    (
        "three refusals in a row before any valid answer",
        lambda e: not e.had_answer and e.refusals >= REFUSALS_IN_A_ROW,
        Verdict.REFUSED,
    ),
    (
        "unauthorized before any valid answer",
        lambda e: not e.had_answer and e.is_unauthorized,
        Verdict.REFUSED,
    ),
    (
        "the API knows us, and refuses only these requests",
        lambda e: e.had_answer and e.all_refused and (e.is_row or e.is_last),
        Verdict.COUNT,
    ),
    ("refusals after a valid answer", lambda e: e.had_answer and e.all_refused, Verdict.HOLD),
    (
        "every one of a row, or the probe, is refused",
        lambda e: e.all_refused and (e.is_row or e.is_half_open),
        Verdict.REFUSED,
    ),
    ("five in a row, or the probe, failed", lambda e: e.is_row or e.is_half_open, Verdict.API_DOWN),
    ("wait for the next answer", lambda e: not e.is_last, Verdict.HOLD),
    # The API never worked for us, so nothing says that it is the requests: an outage uses no attempt.
    (
        "an outage before the first valid answer ever",
        lambda e: not e.had_answer and e.all_transient,
        Verdict.API_DOWN,
    ),
    ("nothing else will answer", lambda _: True, Verdict.COUNT),
)


def judge(evidence: Evidence) -> Verdict:
    """Judge failures in a row by the first rule that matches."""
    return next(verdict for _, matches, verdict in RULES if matches(evidence))


def judge_canary(error: RequestError | None) -> Verdict:
    """Judge by the canary's result; None is a valid answer."""
    if error is None or shows_life(error):
        return Verdict.COUNT
    return Verdict.REFUSED if isinstance(error, RefusedError) else Verdict.API_DOWN


def shows_life(error: RequestError) -> bool:
    """Whether this failure proves that the API works and accepts our credentials."""
    return isinstance(error, MalformedError | NotReadyError)


# --- The breaker of one account during a run ---------------------------------------------------------


class Failure(Protocol):
    """A failed request, as far as the breaker looks at it."""

    @property
    def error(self) -> RequestError:
        """Why it failed."""

    @property
    def ended(self) -> float:
        """When it failed, by the monotonic clock."""


F = TypeVar("F", bound=Failure)


@dataclass(frozen=True, slots=True)
class Hold:
    """Nothing is decided yet."""


@dataclass(frozen=True, slots=True)
class AskCanary:
    """Ask for this request once; hold everything until its answer is there."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Count(Generic[F]):
    """These failures are the requests' own."""

    failures: Sequence[F]


@dataclass(frozen=True, slots=True)
class GiveBack(Generic[F]):
    """These failures say nothing about their requests: give them back without using an attempt."""

    failures: Sequence[F]


Ruling = Hold | AskCanary | Count[F] | GiveBack[F]


@dataclass(frozen=True, slots=True)
class Problem:
    """Why the breaker is open: the API is down, or refuses the credentials."""

    error: RequestError
    is_refusal: bool


class Breaker(Generic[F]):
    """The circuit breaker of one account during one run.

    Args:
        canary: a request known to be good; None if there is none yet.
        is_open: the breaker was open when the run began: half-open now.
    """

    def __init__(self, *, canary: str | None = None, is_open: bool = False) -> None:
        self.canary = canary
        self.had_answer = False
        self.awaits_canary = False
        self.problem: Problem | None = None
        self._is_known_open = is_open  # by all machines
        self._held: list[F] = []
        self._was_answered = False  # a valid answer counted what was held while the canary was in flight

    @property
    def is_half_open(self) -> bool:
        """Whether one request probes if the API works again."""
        return self._is_known_open and not self.had_answer

    @property
    def closes(self) -> bool:
        """Whether to publish to all machines that the API works again."""
        return self._is_known_open and self.had_answer and self.problem is None

    @property
    def holds(self) -> bool:
        """Whether failures are held."""
        return bool(self._held)

    def note_opened_elsewhere(self) -> None:
        """Half-open the breaker, because another machine opened it; the next answer decides."""
        if not self._is_known_open:
            self._is_known_open, self.had_answer = True, False

    def note_closed_everywhere(self) -> None:
        """Note that all machines know that the API works."""
        self._is_known_open = False

    def answered(self, *, asked_at: float, good: str | None = None) -> Count[F]:
        """Note a valid answer: what failed before it was asked for failed by itself.

        Args:
            asked_at: when its call began, by the monotonic clock. An answer that was asked for before a
                failure may have been given before an outage began, and says nothing about that failure.
            good: the request to ask for as the canary from now on; None keeps the present one.
        """
        if good is not None:
            self.canary = good
        self.had_answer = True
        own = [failure for failure in self._held if failure.ended <= asked_at]
        self._held = [failure for failure in self._held if failure.ended > asked_at]
        self._was_answered = not self._held
        return Count(own)

    def failed(self, failure: F, *, is_last: bool) -> Ruling[F]:
        """Hold a failure, and judge all that are held."""
        self._held.append(failure)
        return self.judge(is_last=is_last)

    def judge(self, *, is_last: bool) -> Ruling[F]:
        """Judge the failures that are held; `is_last`: nothing else of the account is in flight or due."""
        if not self._held or self.awaits_canary:
            return Hold()
        verdict = judge(self._evidence(is_last=is_last))
        match verdict:
            case Verdict.HOLD:
                return Hold()
            case Verdict.COUNT:
                return Count(self.release())
            case Verdict.ASK_CANARY:
                self.awaits_canary, self._was_answered = True, False
                return AskCanary(str(self.canary))
            case _:
                return self._open(verdict, self._held[-1].error)

    def canary_came(self, error: RequestError | None, *, is_stopping: bool) -> Ruling[F]:
        """Judge by the canary's answer; while stopping, a failure does not open the breaker."""
        self.awaits_canary = False
        verdict = judge_canary(error)
        if error is None or verdict is Verdict.COUNT or self._was_answered:
            self.had_answer = True
            return Count(self.release())
        return GiveBack(self.release()) if is_stopping else self._open(verdict, error)

    def forget_canary(self) -> None:
        """Note that no answer of the canary will come."""
        self.awaits_canary = False

    def release(self) -> list[F]:
        """Take out all failures that are held."""
        held, self._held = self._held, []
        return held

    def _open(self, verdict: Verdict, error: RequestError) -> GiveBack[F]:
        self.problem = Problem(error, is_refusal=verdict is Verdict.REFUSED)
        return GiveBack(self.release())

    def _evidence(self, *, is_last: bool) -> Evidence:
        errors = [failure.error for failure in self._held]
        refusals = 0
        for error in reversed(errors):
            if not isinstance(error, RefusedError):
                break
            refusals += 1
        return Evidence(
            failures=len(errors),
            refusals=refusals,
            is_unauthorized=isinstance(errors[-1], UnauthorizedError),
            all_transient=all(isinstance(error, TransientError) for error in errors),
            had_answer=self.had_answer,
            has_canary=self.canary is not None,
            is_half_open=self.is_half_open,
            is_last=is_last,
        )
