"""What becomes of a request: final, asked again, tried again, dead or given back, and after how long."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import builders
from support.builders import claimed

from etl.cdr.legs import ClaimedRequest, Leg, StoredLeg, compare_legs
from etl.cdr.outcomes import Dead, Done, Empty, PutOff, Released, RetryLater, WaitingRules
from etl.cdr.outcomes import decide_answer as decide_answer_fully
from etl.cdr.outcomes import decide_failure as decide_failure_fully
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RedirectedError,
    RejectedError,
    RequestError,
    ServerError,
    TooLargeError,
    UnauthorizedError,
    UnreadableError,
    UnstorableError,
)

NOW = datetime(2024, 5, 1, 12, tzinfo=UTC)
SECOND, MINUTE, HOUR, DAY = (timedelta(seconds=n) for n in (1, 60, 3600, 86_400))
NOTHING = timedelta(0)
SIX_HOURS = 6 * HOUR


def rules(**changes) -> WaitingRules:
    """The documented defaults, unless changed."""
    defaults = {
        "max_attempts": 8,
        "retry_delay": 30 * SECOND,
        "settle": 15 * MINUTE,
        "empty_for": 72 * HOUR,
        "empty_delay": MINUTE,
    }
    return WaitingRules(**(defaults | changes))


def request(*, age=HOUR, attempts=1, fetches=0) -> ClaimedRequest:
    return claimed(attempts=attempts, fetches=fetches, enqueued_at=NOW - age)


def leg(*, ended=HOUR, seconds: int | None = 60, letter="b") -> Leg:
    """A leg that ended so long ago."""
    begun = NOW - ended - timedelta(seconds=seconds or 0)
    return builders.leg(letter, call_time=begun, duration_seconds=seconds)


def decide_answer(legs, *, of=None, count=None, stored=(), chance=1.0, **changes):
    before = [StoredLeg(each, 1, 1, False) for each in stored]
    return decide_answer_fully(
        of or request(),
        legs,
        count,
        compare_legs(before, legs),
        now=NOW,
        rules=rules(**changes),
        chance=chance,
    )


def decide_failure(error, *, of=None, chance=1.0, **changes):
    return decide_failure_fully(of or request(), error, now=NOW, rules=rules(**changes), chance=chance)


# --- Legs, and when they are final -------------------------------------------------------------------


def test_legs_are_final_once_the_youngest_ended_settle_ago():
    assert decide_answer([leg(ended=15 * MINUTE), leg(ended=HOUR, letter="a")], count=2) == Done()


def test_before_that_the_answer_is_asked_for_again_when_the_time_has_come():
    outcome = decide_answer([leg(ended=10 * MINUTE, letter="a"), leg(ended=HOUR)], count=2)

    assert isinstance(outcome, PutOff)
    assert outcome.delay == 5 * MINUTE


def test_a_call_ends_its_duration_after_its_time():
    begun_long_ago = leg(ended=MINUTE, seconds=7200)

    assert decide_answer([begun_long_ago], count=1).delay == 14 * MINUTE


def test_a_leg_of_unknown_duration_counts_from_its_time():
    assert decide_answer([leg(ended=16 * MINUTE, seconds=None)]) == Done()
    assert decide_answer([leg(ended=14 * MINUTE, seconds=None)]).delay == MINUTE


def test_the_time_to_settle_is_waited_for_in_one_go_also_where_it_is_long():
    outcome = decide_answer([leg(ended=NOTHING)], of=request(age=NOTHING), count=1, settle=24 * HOUR)

    assert outcome.delay == 24 * HOUR


def test_without_a_time_to_settle_legs_are_final_at_once():
    assert decide_answer([leg(ended=NOTHING)], count=1, settle=NOTHING) == Done()


def test_a_call_time_in_the_future_is_not_waited_for_forever():
    far = leg(ended=-20_000 * DAY)
    young = decide_answer([far], of=request(age=HOUR), count=1)

    assert isinstance(young, PutOff)
    assert NOTHING < young.delay <= 71 * HOUR
    assert decide_answer([far], of=request(age=72 * HOUR), count=1) == Done()
    assert decide_answer([far], of=request(age=72 * HOUR, fetches=9), count=1) == Done()


def test_legs_settle_also_where_ids_without_legs_are_not_waited_for():
    outcome = decide_answer([leg(ended=5 * MINUTE)], of=request(age=MINUTE), count=1, empty_for=NOTHING)

    assert isinstance(outcome, PutOff)
    assert outcome.delay == 10 * MINUTE


def test_legs_of_a_call_long_after_enqueueing_settle_too():
    outcome = decide_answer([leg(ended=MINUTE)], of=request(age=80 * HOUR), count=1)

    assert isinstance(outcome, PutOff)
    assert outcome.delay == 14 * MINUTE


# --- A count that disagrees --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_a_count_that_disagrees_is_asked_for_again(count):
    legs = [leg(), leg(letter="a")]

    assert isinstance(decide_answer(legs, count=count), PutOff)


@pytest.mark.parametrize("count", [2, None])
def test_a_count_that_agrees_or_was_not_sent_is_final(count):
    assert decide_answer([leg(), leg(letter="a")], count=count) == Done()


def test_a_second_answer_with_the_same_legs_confirms_them():
    legs = [leg(), leg(letter="a")]

    assert decide_answer(legs, of=request(fetches=1), count=3, stored=legs) == Done()


def test_a_second_answer_with_other_legs_confirms_nothing():
    legs = [leg(), leg(letter="a")]

    assert isinstance(decide_answer(legs, of=request(fetches=1), count=3, stored=legs[:1]), PutOff)
    assert isinstance(decide_answer(legs[:1], of=request(fetches=1), count=3, stored=legs), PutOff)


def test_the_same_legs_confirm_nothing_before_they_have_settled():
    legs = [leg(ended=MINUTE)]

    assert isinstance(decide_answer(legs, of=request(fetches=1), count=3, stored=legs), PutOff)


def test_a_count_that_disagrees_is_confirmed_also_long_after_enqueueing():
    outcome = decide_answer([leg()], of=request(age=80 * HOUR), count=3)

    assert isinstance(outcome, PutOff)
    assert NOTHING < outcome.delay <= SIX_HOURS


# --- No legs -----------------------------------------------------------------------------------------


def test_no_legs_are_no_success():
    outcome = decide_answer([], count=0)

    assert isinstance(outcome, PutOff)
    assert outcome.delay == MINUTE


@pytest.mark.parametrize("count", [0, 2, None])
def test_an_id_without_legs_ends_as_empty_after_empty_for(count):
    just_before = request(age=72 * HOUR - SECOND)

    assert isinstance(decide_answer([], of=just_before, count=count), PutOff)
    assert decide_answer([], of=request(age=72 * HOUR), count=count) == Empty()
    assert decide_answer([], of=request(age=1000 * DAY), count=count) == Empty()


def test_an_id_without_legs_ends_at_once_where_nothing_is_waited_for():
    assert decide_answer([], of=request(age=NOTHING), empty_for=NOTHING) == Empty()


def test_the_delay_grows_with_every_answer_without_legs_up_to_6_hours():
    delays = [decide_answer([], of=request(fetches=n), empty_for=30 * DAY).delay for n in range(12)]

    assert delays[:3] == [MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert delays == sorted(delays)
    assert delays[-1] == SIX_HOURS


def test_the_last_delay_ends_with_empty_for():
    outcome = decide_answer([], of=request(age=72 * HOUR - MINUTE, fetches=9))

    assert outcome.delay == MINUTE


def test_no_request_is_asked_for_over_and_over_even_where_no_delay_is_set():
    assert decide_answer([], empty_delay=NOTHING).delay == timedelta(seconds=1)


def test_attempts_play_no_part_in_waiting():
    assert isinstance(decide_answer([], of=request(attempts=99)), PutOff)
    assert isinstance(decide_answer([leg(ended=MINUTE)], of=request(attempts=99)), PutOff)
    assert decide_answer([leg()], of=request(attempts=99)) == Done()


# --- Failures ----------------------------------------------------------------------------------------

PASSING = [
    CallTimeoutError("t"),
    CallConnectionError("c"),
    ServerError("s"),
    RateLimitedError("r"),
    UnreadableError("u"),
    NotFoundError("n"),
    UnauthorizedError("a"),
    RejectedError("r"),
    RedirectedError("r"),
    TooLargeError("l"),
    RequestError("a crash"),
]
KINDS = [type(error).__name__ for error in PASSING]


@pytest.mark.parametrize("error", PASSING, ids=KINDS)
def test_a_failed_claim_is_tried_again_later(error):
    assert decide_failure(error) == RetryLater(30 * SECOND, error)


@pytest.mark.parametrize("error", PASSING, ids=KINDS)
def test_a_request_is_dead_with_its_last_attempt(error):
    assert isinstance(decide_failure(error, of=request(attempts=7)), RetryLater)
    assert decide_failure(error, of=request(attempts=8)) == Dead(error)
    assert decide_failure(error, of=request(attempts=9)) == Dead(error)
    assert decide_failure(error, of=request(attempts=1), max_attempts=1) == Dead(error)


@pytest.mark.parametrize("error", [MalformedError("m"), UnstorableError("u")])
def test_an_answer_that_cannot_be_used_is_dead_at_once(error):
    assert decide_failure(error, of=request(attempts=1)) == Dead(error)


def test_the_delay_doubles_with_every_attempt_up_to_6_hours():
    error = ServerError("s")
    outcomes = [decide_failure(error, of=request(attempts=n), max_attempts=99) for n in range(1, 15)]
    delays = [outcome.delay for outcome in outcomes]

    assert delays[:4] == [30 * SECOND, MINUTE, 2 * MINUTE, 4 * MINUTE]
    assert delays[9] == 30 * SECOND * 2**9
    assert delays[10:] == [SIX_HOURS] * 4


def test_chance_takes_off_up_to_a_half_also_at_the_cap():
    for attempts, full in ((1, 30 * SECOND), (12, SIX_HOURS)):
        tried = request(attempts=attempts)
        assert decide_failure(ServerError("s"), of=tried, max_attempts=99, chance=0.0).delay == full / 2
        assert decide_failure(ServerError("s"), of=tried, max_attempts=99, chance=0.5).delay == full * 0.75


def test_no_retry_delay_is_no_delay():
    assert decide_failure(ServerError("s"), of=request(attempts=5), retry_delay=NOTHING).delay == NOTHING


DELAYS = st.timedeltas(NOTHING, 365 * DAY)


@given(
    attempts=st.integers(1, 10**6),
    first=DELAYS,
    chance=st.floats(0, 1, exclude_max=True),
)
@example(attempts=41, first=2 * MINUTE, chance=0.0)
def test_every_back_off_is_between_a_half_and_the_whole_of_the_rule(attempts, first, chance):
    outcome = decide_failure(
        ServerError("s"),
        of=request(attempts=attempts),
        max_attempts=10**6 + 1,
        retry_delay=first,
        chance=chance,
    )
    seconds = min(SIX_HOURS.total_seconds(), first.total_seconds() * 2.0 ** min(attempts - 1, 500))

    assert 0.5 * seconds - 1e-6 <= outcome.delay.total_seconds() <= seconds + 1e-6


@given(
    fetches=st.integers(0, 10**6),
    age=st.timedeltas(NOTHING, 400 * DAY),
    first=DELAYS,
    empty_for=DELAYS,
    chance=st.floats(0, 1, exclude_max=True),
)
@example(fetches=41, age=NOTHING, first=2 * MINUTE, empty_for=30 * DAY, chance=0.0)
def test_no_wait_for_legs_is_negative_or_longer_than_6_hours_or_than_empty_for(
    fetches, age, first, empty_for, chance
):
    outcome = decide_answer(
        [], of=request(age=age, fetches=fetches), empty_delay=first, empty_for=empty_for, chance=chance
    )

    if age >= empty_for:
        assert outcome == Empty()
    else:
        assert NOTHING <= outcome.delay <= min(SIX_HOURS, empty_for - age)


# --- Given back, and not ready -----------------------------------------------------------------------


@pytest.mark.parametrize("seconds", [17.0, 3600.0, 86_400.0])
def test_a_pause_that_the_api_asks_for_uses_no_attempt(seconds):
    error = RateLimitedError("r", retry_after=seconds)

    assert decide_failure(error, of=request(attempts=8)) == Released(timedelta(seconds=seconds), error)


def test_a_pause_puts_a_request_off_for_a_day_at_most():
    outcome = decide_failure(RateLimitedError("r", retry_after=1e9))

    assert isinstance(outcome, Released)
    assert outcome.delay == DAY


def test_not_ready_is_waited_for_without_an_attempt():
    outcome = decide_failure(NotReadyError("not yet"), of=request(attempts=99, age=MINUTE))

    assert isinstance(outcome, PutOff)
    assert NOTHING < outcome.delay <= SIX_HOURS


def test_not_ready_is_waited_for_longer_each_time_and_not_forever():
    ages = [NOTHING, HOUR, 5 * HOUR, 20 * HOUR, 60 * HOUR]
    delays = [decide_failure(NotReadyError("n"), of=request(age=age)).delay for age in ages]

    assert delays == sorted(delays)
    assert delays[0] == MINUTE
    assert delays[-1] <= SIX_HOURS
    assert decide_failure(NotReadyError("n"), of=request(age=71 * HOUR)).delay <= HOUR
    assert isinstance(decide_failure(NotReadyError("n"), of=request(age=72 * HOUR)), Dead)
