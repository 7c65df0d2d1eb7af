"""Circuit breaker: one failure or an outage? The rules as a table, and the breaker by its properties."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.cdr.breaker import (
    FAILURES_IN_A_ROW,
    RULES,
    AskCanary,
    Breaker,
    Count,
    Evidence,
    GiveBack,
    Hold,
    Verdict,
    judge,
    judge_canary,
)
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RejectedError,
    RequestError,
    ServerError,
    TooLargeError,
    UnauthorizedError,
    UnreadableError,
)

DOWN = CallConnectionError("no connection")
SLOW = CallTimeoutError("no answer in time")
UNKNOWN = NotFoundError("code 404")
REFUSED = UnauthorizedError("code 407")
REJECTED = RejectedError("code 400")
TRANSIENT = [DOWN, SLOW, ServerError("503"), UnreadableError("no JSON"), RateLimitedError("429")]
ALIVE = [MalformedError("no `time`"), NotReadyError("not yet")]

HOLD, ASK, COUNT, API_DOWN, CREDENTIALS = (
    Verdict.HOLD,
    Verdict.ASK_CANARY,
    Verdict.COUNT,
    Verdict.API_DOWN,
    Verdict.REFUSED,
)


# --- The table ---------------------------------------------------------------------------------------

# Failures in a row, what is known (a: had an answer, c: has a canary, h: half-open, l: nothing else is in
# flight or due), and what they mean.
TABLE: list[tuple[list[RequestError], str, Verdict]] = [
    # Up to four failures that may pass are held, with or without a canary.
    *(([error] * n, known, HOLD) for error in TRANSIENT for n in (1, 4) for known in ("", "a", "c", "ac")),
    # The fifth asks the canary; without one it opens the breaker.
    *((row, known, ASK) for row in (TRANSIENT, [DOWN] * 5, [DOWN] * 7) for known in ("c", "ac")),
    *((row, known, API_DOWN) for row in (TRANSIENT, [DOWN] * 5, [DOWN] * 7) for known in ("", "a")),
    # A refusal before any valid answer may mean the credentials: ask the canary at once.
    *((row, "c", ASK) for row in ([UNKNOWN], [REFUSED], [DOWN, UNKNOWN], [UNKNOWN] * 2)),
    # After a valid answer the credentials are right: hold it like any failure.
    *(([UNKNOWN] * n, known, HOLD) for n in (1, 2, 4) for known in ("a", "ac")),
    # Without a canary, three 404s in a row, or one 401, say that the credentials are wrong.
    ([UNKNOWN], "", HOLD),
    ([UNKNOWN] * 2, "", HOLD),
    ([UNKNOWN] * 3, "", CREDENTIALS),
    ([DOWN, UNKNOWN, UNKNOWN, UNKNOWN], "", CREDENTIALS),
    ([REFUSED], "", CREDENTIALS),
    ([UNKNOWN, REFUSED], "", CREDENTIALS),
    ([UNKNOWN, UNKNOWN, DOWN], "", HOLD),
    ([UNKNOWN, DOWN, UNKNOWN, DOWN], "", HOLD),
    ([UNKNOWN, DOWN, UNKNOWN, DOWN, DOWN], "", API_DOWN),
    # After a valid answer, 404s are the requests' own.
    *(([UNKNOWN] * n, "a", COUNT) for n in (5, 8)),
    *(([UNKNOWN] * n, "al", COUNT) for n in (1, 3, 5)),
    # A probe that fails asks the canary; without one the breaker stays open.
    *(([error], "ch", ASK) for error in (*TRANSIENT, UNKNOWN, REFUSED, REJECTED)),
    *(([error], "h", API_DOWN) for error in (*TRANSIENT, REJECTED)),
    *(([error], "h", CREDENTIALS) for error in (UNKNOWN, REFUSED)),
    # When nothing else will answer, the canary decides; without one, what is known of the API does.
    *((row, known, ASK) for row in ([DOWN], [SLOW] * 2, [UNKNOWN], [DOWN] * 4) for known in ("cl", "acl")),
    *((row, "al", COUNT) for row in ([DOWN], [SLOW] * 2, [UNKNOWN], [DOWN] * 4, [REJECTED])),
    *((row, "l", COUNT) for row in ([UNKNOWN], [UNKNOWN] * 2, [REJECTED], [DOWN, REJECTED])),
    *((row, "l", API_DOWN) for row in ([DOWN], [SLOW, DOWN], [DOWN] * 4)),
]


def evidence_of(row, known):
    """What a breaker knows after these failures, taken from the breaker itself."""
    breaker = Breaker(canary="good" if "c" in known else None, is_open="h" in known)
    breaker.had_answer = "a" in known
    for error in row[:-1]:
        breaker._held.append(Failure(0, error))
    breaker._held.append(Failure(0, row[-1]))
    return breaker._evidence(is_last="l" in known)


@pytest.mark.parametrize(
    ("row", "known", "verdict"),
    TABLE,
    ids=[f"{'+'.join(type(e).__name__[:-5] for e in row)}-{known or 'nothing'}" for row, known, _ in TABLE],
)
def test_what_failures_in_a_row_mean(row, known, verdict):
    assert judge(evidence_of(row, known)) is verdict


def test_every_rule_decides_in_some_case_of_the_table():
    deciding = {
        next(name for name, matches, _ in RULES if matches(evidence_of(row, known)))
        for row, known, _ in TABLE
    }

    assert deciding == {name for name, _, _ in RULES}


def test_there_is_a_verdict_for_every_evidence():
    numbers = range(1, 8)
    for failures, refusals, *flags in product(numbers, range(8), *[(True, False)] * 6):
        if refusals <= failures:
            assert isinstance(judge(Evidence(failures, refusals, *flags)), Verdict)


def test_with_a_canary_nothing_is_decided_without_asking_it():
    for failures, *flags in product(range(1, 8), *[(True, False)] * 5):
        unauthorized, transient, answered, half_open, last = flags
        evidence = Evidence(failures, 1, unauthorized, transient, answered, True, half_open, last)
        assert judge(evidence) in (HOLD, ASK)


@pytest.mark.parametrize("error", [None, *ALIVE])
def test_a_canary_that_is_answered_makes_the_failures_count(error):
    assert judge_canary(error) is COUNT


@pytest.mark.parametrize("error", [UNKNOWN, REFUSED])
def test_a_canary_that_is_refused_means_the_credentials(error):
    assert judge_canary(error) is CREDENTIALS


@pytest.mark.parametrize("error", [*TRANSIENT, TooLargeError("large")])
def test_a_canary_that_fails_means_the_api(error):
    assert judge_canary(error) is API_DOWN


# --- The breaker -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Failure:
    """A failed request."""

    number: int
    error: RequestError = DOWN
    ended: float = 0.0


def fail(breaker, *numbers, error=DOWN, ended=0.0, is_last=False):
    """Let requests fail; returns the last ruling."""
    ruling = None
    for number in numbers:
        ruling = breaker.failed(Failure(number, error, ended), is_last=is_last)
    return ruling


def numbers_of(ruling):
    return [failure.number for failure in ruling.failures]


def breaker_awaiting_canary(ended=0.0):
    breaker = Breaker(canary="good")
    assert fail(breaker, 1, 2, 3, 4, 5, ended=ended) == AskCanary("good")
    return breaker


def test_a_valid_answer_counts_what_failed_before_it():
    breaker = Breaker()
    assert isinstance(fail(breaker, 1, 2), Hold)

    assert numbers_of(breaker.answered(asked_at=0.0)) == [1, 2]
    assert not breaker.holds


def test_an_answer_that_was_asked_for_before_a_failure_says_nothing_about_it():
    """It may have been given before the outage began, and have been read late."""
    breaker = Breaker(canary="good")
    fail(breaker, 1, ended=5.0)
    fail(breaker, 2, ended=7.0)

    assert numbers_of(breaker.answered(asked_at=6.0)) == [1]
    assert breaker.judge(is_last=True) == AskCanary("good")
    assert numbers_of(breaker.canary_came(DOWN, is_stopping=False)) == [2]


def test_failures_in_a_row_are_counted_from_the_latest_valid_answer():
    breaker = Breaker(canary="good")
    fail(breaker, 1, 2, 3, 4)
    breaker.answered(asked_at=0.0)

    assert isinstance(fail(breaker, 6, 7, 8, 9), Hold)


def test_while_the_canary_is_in_flight_everything_is_held_and_it_is_asked_once():
    breaker = breaker_awaiting_canary()

    assert isinstance(fail(breaker, 6, 7), Hold)
    assert numbers_of(breaker.canary_came(None, is_stopping=False)) == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(("error", "is_refusal"), [(SLOW, False), (UNKNOWN, True)])
def test_a_canary_that_fails_opens_the_breaker_and_gives_everything_back(error, is_refusal):
    breaker = breaker_awaiting_canary()
    ruling = breaker.canary_came(error, is_stopping=False)

    assert isinstance(ruling, GiveBack)
    assert numbers_of(ruling) == [1, 2, 3, 4, 5]
    assert (breaker.problem.error, breaker.problem.is_refusal) == (error, is_refusal)


def test_while_stopping_a_canary_that_fails_does_not_open_the_breaker():
    breaker = breaker_awaiting_canary()

    assert isinstance(breaker.canary_came(DOWN, is_stopping=True), GiveBack)
    assert breaker.problem is None


def test_while_stopping_a_canary_that_is_answered_is_believed():
    assert isinstance(breaker_awaiting_canary().canary_came(None, is_stopping=True), Count)


def test_a_valid_answer_while_the_canary_is_in_flight_makes_its_failure_meaningless():
    breaker = breaker_awaiting_canary()

    assert numbers_of(breaker.answered(asked_at=0.0)) == [1, 2, 3, 4, 5]
    fail(breaker, 6)
    assert numbers_of(breaker.canary_came(DOWN, is_stopping=False)) == [6]
    assert breaker.problem is None


def test_an_answer_asked_for_earlier_does_not_make_the_canarys_failure_meaningless():
    breaker = breaker_awaiting_canary(ended=5.0)

    assert numbers_of(breaker.answered(asked_at=4.0)) == []
    assert isinstance(breaker.canary_came(DOWN, is_stopping=False), GiveBack)


def test_the_request_that_was_answered_last_is_the_next_canary():
    breaker = Breaker(canary="old")
    breaker.answered(asked_at=0.0, good="new")
    breaker.answered(asked_at=0.0)

    assert fail(breaker, 1, 2, 3, 4, 5) == AskCanary("new")


def test_a_breaker_that_was_open_is_half_open_until_a_valid_answer_and_closes_then():
    breaker = Breaker(is_open=True)
    before = (breaker.is_half_open, breaker.closes)
    breaker.answered(asked_at=0.0)
    after = (breaker.is_half_open, breaker.closes)
    breaker.note_closed_everywhere()

    assert before == (True, False)
    assert after == (False, True)
    assert not breaker.closes


def test_a_breaker_that_another_machine_opened_is_half_open_until_the_next_answer():
    breaker = Breaker()
    breaker.answered(asked_at=0.0)
    breaker.note_opened_elsewhere()
    half_open = breaker.is_half_open
    breaker.answered(asked_at=0.0)
    breaker.note_opened_elsewhere()  # it is still known as open: this machine's answer is not published yet

    assert half_open
    assert breaker.closes


def test_a_breaker_that_has_a_problem_never_closes():
    breaker = Breaker(is_open=True)
    fail(breaker, 1)
    breaker.answered(asked_at=0.0)

    assert breaker.problem is not None
    assert not breaker.closes


# --- Properties --------------------------------------------------------------------------------------

EVENTS = st.one_of(
    st.tuples(st.just("fail"), st.sampled_from([*TRANSIENT, UNKNOWN, REFUSED, REJECTED]), st.booleans()),
    st.tuples(st.just("answer"), st.floats(0, 50)),
    st.tuples(st.just("canary"), st.sampled_from([None, DOWN, UNKNOWN, *ALIVE]), st.booleans()),
    st.tuples(st.just("judge"), st.booleans()),
    st.just(("release",)),
)


def play(breaker, events):
    """Play events; returns how often each failure was counted or given back, and how many came."""
    decided: list[int] = []
    failures = 0
    for step, (word, *values) in enumerate(events):
        match word:
            case "fail":
                failures += 1
                ruling = breaker.failed(Failure(failures, values[0], float(step)), is_last=values[1])
            case "answer":
                ruling = breaker.answered(asked_at=values[0])
            case "canary" if breaker.awaits_canary:
                ruling = breaker.canary_came(values[0], is_stopping=values[1])
            case "judge":
                ruling = breaker.judge(is_last=values[0])
            case "release":
                ruling = GiveBack(breaker.release())
                breaker.forget_canary()
            case _:
                continue
        if isinstance(ruling, Count | GiveBack):
            decided += numbers_of(ruling)
    return decided, failures


@given(events=st.lists(EVENTS, max_size=60), canary=st.sampled_from(["good", None]), is_open=st.booleans())
def test_every_failure_is_decided_exactly_once(events, canary, is_open):
    breaker = Breaker(canary=canary, is_open=is_open)
    decided, failures = play(breaker, events)
    decided += [failure.number for failure in breaker.release()]

    assert sorted(decided) == list(range(1, failures + 1))


@given(
    errors=st.lists(st.sampled_from(TRANSIENT), min_size=1, max_size=30),
    canary=st.sampled_from(["good", None]),
)
def test_an_outage_never_counts_against_a_request(errors, canary):
    """Whatever fails, and however late it is judged: the canary fails too."""
    breaker = Breaker(canary=canary)
    for number, error in enumerate(errors, start=1):
        ruling = breaker.failed(Failure(number, error), is_last=number == len(errors))
        if isinstance(ruling, AskCanary):
            ruling = breaker.canary_came(DOWN, is_stopping=False)
        assert not isinstance(ruling, Count)
        if breaker.problem is not None:
            return
    assert len(errors) < FAILURES_IN_A_ROW or breaker.problem is not None
