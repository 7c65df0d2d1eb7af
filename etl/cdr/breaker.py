"""Whose failure is it: the request's own, the API's, or that of our credentials?

Counting failures alone cannot tell: at the tail of a run only the bad requests are left. So failures that
come in a row are held, unsettled, until a valid answer shows that the API works, or until the *canary*
does: the account's latest request that is known to be good, asked for once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, auto

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


class Judgement(Enum):
    """What a row of failures means."""

    UNDECIDED = auto()  # hold them, and see what comes next
    ASK_CANARY = auto()  # ask for the request that is known to be good
    OWN = auto()  # the requests' own failures: they count
    API_DOWN = auto()  # give everything back and open the breaker
    REFUSED = auto()  # the credentials are refused: give everything back


def shows_life(error: RequestError) -> bool:
    """Whether this failure proves that the API works and knows us, as a broken format does."""
    return isinstance(error, MalformedError | NotReadyError)


def judge_row(
    row: Sequence[RequestError], *, had_answer: bool, has_canary: bool, is_probe: bool, is_tail: bool
) -> Judgement:
    """Judge the failures of different requests since the last valid answer.

    Args:
        row: the failures, oldest first; not empty.
        had_answer: this run has had a valid answer from this account.
        has_canary: there is a request to ask for that is known to be good.
        is_probe: the breaker was open, and these requests were to find out whether it still has to be.
        is_tail: nothing else of this account is on its way or due.
    """
    latest_refusals = 0
    for error in reversed(row):
        if not isinstance(error, RefusedError):
            break
        latest_refusals += 1
    is_suspect = bool(latest_refusals) and not had_answer
    if has_canary:
        asks = is_suspect or is_probe or is_tail or len(row) >= FAILURES_IN_A_ROW
        return Judgement.ASK_CANARY if asks else Judgement.UNDECIDED
    if is_suspect and (latest_refusals >= REFUSALS_IN_A_ROW or isinstance(row[-1], UnauthorizedError)):
        return Judgement.REFUSED
    if latest_refusals == len(row) and had_answer:
        return Judgement.OWN if is_tail or len(row) >= FAILURES_IN_A_ROW else Judgement.UNDECIDED
    if is_probe or len(row) >= FAILURES_IN_A_ROW:
        return Judgement.REFUSED if latest_refusals == len(row) else Judgement.API_DOWN
    if not is_tail:
        return Judgement.UNDECIDED
    # The API never worked for us, so that nothing says it is the requests: an outage uses no attempt.
    is_outage = not had_answer and all(isinstance(error, TransientError) for error in row)
    return Judgement.API_DOWN if is_outage else Judgement.OWN


def judge_canary(error: RequestError | None) -> Judgement:
    """Judge by what the canary brought: None where it was a valid answer."""
    if error is None or shows_life(error):
        return Judgement.OWN
    return Judgement.REFUSED if isinstance(error, RefusedError) else Judgement.API_DOWN
