"""Whose failure it is: the request's own, the API's, or that of the credentials."""

from __future__ import annotations

import pytest

from etl.cdr.breaker import Judgement, judge_canary, judge_row, shows_life
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    ServerError,
    UnauthorizedError,
    UnreadableError,
)

DOWN = CallConnectionError("no connection")
SLOW = CallTimeoutError("no answer in time")
BROKEN = ServerError("HTTP status 503")
NOISE = UnreadableError("no JSON")
LIMIT = RateLimitedError("HTTP status 429")
UNKNOWN = NotFoundError("code 404")
REFUSED = UnauthorizedError("code 407")
TRANSIENT = [DOWN, SLOW, BROKEN, NOISE, LIMIT]


def judge(row, *, answered=False, canary=False, probe=False, tail=False):
    return judge_row(row, had_answer=answered, has_canary=canary, is_probe=probe, is_tail=tail)


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("canary", [True, False])
@pytest.mark.parametrize("error", TRANSIENT)
def test_up_to_four_transient_failures_in_a_row_are_held(error, canary, answered):
    for length in range(1, 5):
        assert judge([error] * length, canary=canary, answered=answered) is Judgement.UNDECIDED


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("row", [TRANSIENT, [DOWN] * 5, [BROKEN] * 7])
def test_the_fifth_asks_the_canary(row, answered):
    assert judge(row, canary=True, answered=answered) is Judgement.ASK_CANARY


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("row", [TRANSIENT, [DOWN] * 5, [BROKEN] * 7])
def test_without_a_canary_the_fifth_opens_the_breaker(row, answered):
    assert judge(row, canary=False, answered=answered) is Judgement.API_DOWN


@pytest.mark.parametrize("row", [[UNKNOWN], [REFUSED], [DOWN, UNKNOWN], [UNKNOWN, UNKNOWN]])
def test_a_refusal_before_any_valid_answer_asks_the_canary_at_once(row):
    assert judge(row, canary=True) is Judgement.ASK_CANARY


@pytest.mark.parametrize("row", [[UNKNOWN], [UNKNOWN] * 2, [UNKNOWN] * 4])
@pytest.mark.parametrize("canary", [True, False])
def test_after_a_valid_answer_a_404_is_held_like_any_failure(row, canary):
    assert judge(row, answered=True, canary=canary) is Judgement.UNDECIDED


@pytest.mark.parametrize(
    ("row", "judgement"),
    [
        ([UNKNOWN], Judgement.UNDECIDED),
        ([UNKNOWN] * 2, Judgement.UNDECIDED),
        ([UNKNOWN] * 3, Judgement.REFUSED),
        ([DOWN, UNKNOWN, UNKNOWN, UNKNOWN], Judgement.REFUSED),
        ([UNKNOWN, UNKNOWN, DOWN], Judgement.UNDECIDED),
        ([UNKNOWN, DOWN, UNKNOWN, DOWN], Judgement.UNDECIDED),
        ([UNKNOWN, DOWN, UNKNOWN, DOWN, DOWN], Judgement.API_DOWN),
        ([REFUSED] * 3, Judgement.REFUSED),
        ([UNKNOWN, REFUSED, UNKNOWN], Judgement.REFUSED),
    ],
)
def test_without_a_canary_three_refusals_in_a_row_say_credentials(row, judgement):
    assert judge(row) is judgement


@pytest.mark.parametrize("length", [3, 5, 8])
@pytest.mark.parametrize("tail", [True, False])
def test_404s_after_a_valid_answer_never_say_credentials(length, tail):
    judgement = judge([UNKNOWN] * length, answered=True, canary=False, tail=tail)

    assert judgement in (Judgement.OWN, Judgement.UNDECIDED)


@pytest.mark.parametrize("error", [*TRANSIENT, UNKNOWN, REFUSED])
def test_a_probe_that_fails_asks_the_canary(error):
    assert judge([error], probe=True, canary=True) is Judgement.ASK_CANARY


@pytest.mark.parametrize("error", TRANSIENT)
def test_a_probe_that_fails_without_a_canary_leaves_the_breaker_open(error):
    assert judge([error], probe=True) is Judgement.API_DOWN


@pytest.mark.parametrize("error", [UNKNOWN, REFUSED])
def test_a_probe_that_is_refused_without_a_canary_gives_everything_back(error):
    assert judge([error], probe=True) is Judgement.REFUSED


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("row", [[DOWN], [BROKEN, SLOW], [UNKNOWN], [DOWN] * 4])
def test_at_the_tail_of_a_run_the_canary_is_asked(row, answered):
    assert judge(row, tail=True, canary=True, answered=answered) is Judgement.ASK_CANARY


@pytest.mark.parametrize("row", [[DOWN], [BROKEN, SLOW], [UNKNOWN], [DOWN] * 4])
def test_at_the_tail_of_a_run_that_had_answers_the_failures_are_their_own(row):
    assert judge(row, tail=True, answered=True) is Judgement.OWN


@pytest.mark.parametrize("row", [[UNKNOWN], [UNKNOWN] * 2])
def test_at_the_tail_one_or_two_404s_alone_do_not_say_credentials(row):
    assert judge(row, tail=True) is Judgement.OWN


@pytest.mark.parametrize("row", [[DOWN], [SLOW, DOWN], [BROKEN] * 4])
def test_an_outage_met_by_few_requests_before_any_answer_ever_is_not_their_failure(row):
    assert judge(row, tail=True) is Judgement.API_DOWN


@pytest.mark.parametrize("error", [None, MalformedError("no `time`"), NotReadyError("not yet")])
def test_a_canary_that_gets_an_answer_says_that_the_failures_are_their_own(error):
    assert judge_canary(error) is Judgement.OWN


@pytest.mark.parametrize("error", [UNKNOWN, REFUSED])
def test_a_canary_that_is_refused_says_credentials(error):
    assert judge_canary(error) is Judgement.REFUSED


@pytest.mark.parametrize("error", TRANSIENT)
def test_a_canary_that_fails_says_that_the_api_is_down(error):
    assert judge_canary(error) is Judgement.API_DOWN


@pytest.mark.parametrize("error", [MalformedError("no `time`"), NotReadyError("not yet")])
def test_a_broken_format_and_not_yet_show_that_the_api_works(error):
    assert shows_life(error)


@pytest.mark.parametrize("error", [*TRANSIENT, UNKNOWN, REFUSED])
def test_no_other_failure_shows_that_the_api_works(error):
    assert not shows_life(error)
