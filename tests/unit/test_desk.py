"""The desk of an account: how much it takes on, what it holds, and what it gives back."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.cdr.legs import ClaimedRequest, Leg
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
from etl.sync.account import Desk, News
from etl.sync.fetching import Asked

NOON = datetime(2021, 11, 16, 12, tzinfo=UTC)
LEG = Leg(
    "b", "", "9100000000", None, None, None, NOON, 4, None, None, direction="", status="missed", extra=None
)
DOWN = CallConnectionError("no connection to the API")
UNKNOWN = NotFoundError("code 404 in the body")
MALFORMED = MalformedError("`cdr[0].time` is missing")


class FakeAskers:
    """Threads that begin with nothing by themselves."""

    def __init__(self):
        self.inbox: list[Asked] = []

    def put(self, request: ClaimedRequest, *, is_canary: bool = False) -> None:
        self.inbox.append(Asked(request, is_canary))

    def take_back(self) -> list[Asked]:
        taken, self.inbox = self.inbox, []
        return taken


def request(number: int) -> ClaimedRequest:
    return ClaimedRequest(number, "default", f"id-{number}", f"token-{number}", 1, 0, NOON)


def new_desk(*, workers=4, **keywords) -> Desk:
    return Desk(FakeAskers(), workers=workers, **keywords)


def hand(desk: Desk, *requests: ClaimedRequest) -> None:
    desk.take_in(requests)
    desk.hand_out(requests)


def put(desk: Desk, *numbers: int) -> None:
    """Have requests asked for, all of which the threads begin with."""
    hand(desk, *(request(number) for number in numbers))
    desk.askers.inbox.clear()


def told(verdicts):
    """Verdicts in short: each request, and whether it was counted or released."""
    return [
        (verdict.asked.request.id, "released" if verdict.is_released else "counted") for verdict in verdicts
    ]


def answer(desk, number, error=None, *, legs=(LEG,), crash=None, is_stopping=False, ended=0.0, took=0.0):
    legs = () if error or crash else legs
    asked = Asked(request(number), calls=1, legs=legs, error=error, crash=crash, seconds=[took], ended=ended)
    return told(desk.take(asked, is_stopping=is_stopping))


def canary_of(desk: Desk) -> Asked | None:
    """The canary, which a thread begins with now; None where it was not asked."""
    found = [asked for asked in desk.askers.inbox if asked.is_canary]
    desk.askers.inbox = [asked for asked in desk.askers.inbox if not asked.is_canary]
    assert len(found) <= 1
    return found[0] if found else None


def answer_canary(desk, error=None, *, crash=None, is_stopping=False):
    canary = canary_of(desk)
    assert canary is not None
    canary.error, canary.crash = error, crash
    return told(desk.take(canary, is_stopping=is_stopping))


def held_desk(*, ended=0.0, **keywords) -> Desk:
    """A desk with a canary, on which five requests have failed in a row, and two are on their way."""
    desk = new_desk(canary="good", **keywords)
    put(desk, *range(1, 8))
    for number in range(1, 6):
        assert answer(desk, number, DOWN, ended=ended) == []
    return desk


def counted(*numbers):
    return [(number, "counted") for number in numbers]


def released(*numbers):
    return [(number, "released") for number in numbers]


# --- Room --------------------------------------------------------------------------------------------


def test_before_the_first_valid_answer_three_are_on_their_way():
    desk = new_desk()
    assert desk.room() == 3
    put(desk, 1, 2)
    assert desk.room() == 1
    put(desk, 3)
    assert desk.room() == 0
    answer(desk, 1, DOWN)

    assert desk.room() == 1


def test_a_probe_is_one_request():
    desk = new_desk(is_probe=True)
    assert desk.room() == 1
    put(desk, 1)

    assert desk.room() == 0


def test_after_the_first_valid_answer_a_free_thread_always_finds_work():
    desk = new_desk(workers=4)
    put(desk, 1)
    answer(desk, 1)

    assert desk.room() == 8


def test_no_more_is_claimed_until_the_threads_run_short():
    desk = new_desk(workers=4)
    put(desk, *range(1, 10))
    rooms = []
    for number in range(1, 10):
        answer(desk, number)
        rooms.append(desk.room())

    assert rooms == [0, 0, 0, 0, 4, 5, 6, 7, 8]


def test_a_closed_desk_takes_on_nothing():
    assert new_desk(is_closed=True).room() == 0


def test_a_probe_that_is_answered_makes_room_for_all():
    desk = new_desk(workers=4, is_probe=True)
    put(desk, 1)
    answer(desk, 1)

    assert desk.room() == 8


# --- Valid answers -----------------------------------------------------------------------------------


def test_a_valid_answer_is_settled_at_once():
    desk = new_desk()
    put(desk, 1)

    assert answer(desk, 1) == counted(1)
    assert not desk.is_waiting
    assert desk.news.canary == "id-1"


def test_an_answer_without_legs_is_valid_and_no_canary():
    desk = new_desk()
    put(desk, 1)

    assert answer(desk, 1, legs=()) == counted(1)
    assert desk.had_answer
    assert desk.news.canary is None


@pytest.mark.parametrize("alive", [None, MALFORMED, NotReadyError("not yet")])
def test_a_sign_of_life_settles_the_failures_held_as_their_own(alive):
    desk = new_desk()
    put(desk, 1, 2, 3)
    assert answer(desk, 1, DOWN) == []
    assert answer(desk, 2, ServerError("503")) == []

    assert answer(desk, 3, alive) == counted(1, 2, 3)
    assert not desk.is_tail


def test_an_answer_that_was_asked_for_before_a_failure_says_nothing_about_it():
    """It may have been there before the outage was, and have been read late."""
    desk = new_desk(canary="good")
    put(desk, 1, 2, 3)
    desk.is_exhausted = True
    answer(desk, 1, DOWN, ended=5.0)
    answer(desk, 2, DOWN, ended=7.0)

    assert answer(desk, 3, ended=8.0, took=2.0) == counted(1, 3)
    assert desk.is_tail
    assert desk.judge() == []
    assert answer_canary(desk, DOWN) == released(2)


def test_nor_does_it_while_the_canary_is_on_its_way():
    desk = held_desk(ended=5.0)

    assert answer(desk, 6, ended=6.0, took=2.0) == counted(6)
    assert answer_canary(desk, DOWN) == released(1, 2, 3, 4, 5)


def test_failures_are_counted_in_a_row_from_the_latest_valid_answer():
    desk = new_desk(canary="good")
    put(desk, *range(1, 10))
    for number in (1, 2, 3, 4):
        answer(desk, number, DOWN)
    answer(desk, 5)
    for number in (6, 7, 8, 9):
        answer(desk, number, DOWN)

    assert canary_of(desk) is None


def test_a_crash_of_our_own_says_nothing_about_the_others():
    desk = new_desk()
    put(desk, 1, 2, 3)
    answer(desk, 1, DOWN)

    assert answer(desk, 2, crash=ZeroDivisionError()) == counted(2)
    assert not desk.had_answer
    assert answer(desk, 3) == counted(1, 3)


def test_an_answer_that_was_given_back_meanwhile_is_not_looked_at():
    desk = new_desk()
    put(desk, 1)
    assert told(desk.give_back_all()) == released(1)

    assert answer(desk, 1) == []
    assert answer(desk, 99) == []


# --- Five in a row -----------------------------------------------------------------------------------


def test_five_failures_in_a_row_ask_the_canary_once_and_hold_everything():
    desk = held_desk()

    assert desk.awaits_canary
    assert desk.is_waiting
    assert desk.room() == 0
    canary = canary_of(desk)
    assert (canary.request.request_id, canary.request.account) == ("good", "default")
    assert answer(desk, 6, DOWN) == []
    assert canary_of(desk) is None


@pytest.mark.parametrize("alive", [None, MALFORMED, NotReadyError("not yet")])
def test_a_canary_that_answers_makes_the_failures_count(alive):
    desk = held_desk()
    assert answer(desk, 6, DOWN) == []

    assert answer_canary(desk, alive) == counted(1, 2, 3, 4, 5, 6)
    assert (desk.is_closed, desk.api_down, desk.refused) == (False, None, None)
    assert desk.room() > 0


def test_a_canary_without_legs_answers_too():
    assert answer_canary(held_desk()) == counted(1, 2, 3, 4, 5)


@pytest.mark.parametrize("failure", [CallTimeoutError("no answer within 30 s"), ServerError("503")])
def test_a_canary_that_fails_gives_everything_back_and_closes_the_desk(failure):
    desk = held_desk()

    assert answer_canary(desk, failure) == released(1, 2, 3, 4, 5)
    assert (desk.api_down, desk.refused) == (str(failure), None)
    assert desk.room() == 0


def test_a_canary_that_is_refused_says_that_the_credentials_are():
    desk = held_desk()

    assert answer_canary(desk, UNKNOWN) == released(1, 2, 3, 4, 5)
    assert (desk.api_down, desk.refused) == (None, str(UNKNOWN))
    assert desk.room() == 0


def test_a_canary_that_crashes_in_our_own_code_makes_nobody_guilty():
    desk = held_desk()

    assert answer_canary(desk, crash=ZeroDivisionError("a bug")) == released(1, 2, 3, 4, 5)
    assert not desk.had_answer


def test_what_comes_in_after_the_desk_has_closed_is_given_back_or_kept():
    desk = held_desk()
    answer_canary(desk, DOWN)

    assert answer(desk, 6, DOWN) == released(6)
    assert answer(desk, 7) == counted(7)
    assert not desk.is_waiting


def test_what_no_thread_has_begun_with_is_given_back_with_the_rest():
    desk = new_desk(canary="good")
    put(desk, *range(1, 6))
    hand(desk, request(6))
    for number in range(1, 6):
        answer(desk, number, DOWN)

    assert sorted(answer_canary(desk, DOWN)) == released(1, 2, 3, 4, 5, 6)
    assert desk.askers.inbox == []
    assert not desk.is_waiting


def test_without_a_canary_five_failures_in_a_row_open_the_breaker():
    desk = new_desk()
    put(desk, *range(1, 7))
    for number in range(1, 5):
        assert answer(desk, number, DOWN) == []

    assert answer(desk, 5, DOWN) == released(1, 2, 3, 4, 5)
    assert desk.api_down == str(DOWN)
    assert desk.room() == 0
    assert answer(desk, 6, DOWN) == released(6)


def test_a_valid_answer_while_the_canary_is_on_its_way_settles_what_is_held():
    desk = held_desk()

    assert answer(desk, 6) == counted(1, 2, 3, 4, 5, 6)
    assert answer_canary(desk) == []


def test_a_probe_that_fails_closes_the_desk_and_uses_no_attempt():
    desk = new_desk(is_probe=True)
    put(desk, 1)

    assert answer(desk, 1, DOWN) == released(1)
    assert desk.api_down == str(DOWN)


def test_a_probe_that_fails_asks_the_canary_where_there_is_one():
    desk = new_desk(is_probe=True, canary="good")
    put(desk, 1)

    assert answer(desk, 1, DOWN) == []
    assert answer_canary(desk) == counted(1)


# --- Refusals ----------------------------------------------------------------------------------------


def test_a_404_before_any_valid_answer_asks_the_canary():
    desk = new_desk(canary="good")
    put(desk, 1)

    assert answer(desk, 1, UNKNOWN) == []
    assert answer_canary(desk) == counted(1)
    assert desk.refused is None


def test_a_404_for_the_canary_too_refuses_the_credentials():
    desk = new_desk(canary="good")
    put(desk, 1, 2)
    answer(desk, 1, UNKNOWN)

    assert answer_canary(desk, UNKNOWN) == released(1)
    assert desk.refused == str(UNKNOWN)
    assert answer(desk, 2, UNKNOWN) == released(2)


def test_without_a_canary_three_404s_refuse_the_credentials():
    desk = new_desk()
    put(desk, 1, 2, 3)
    assert answer(desk, 1, UNKNOWN) == []
    assert answer(desk, 2, UNKNOWN) == []

    assert answer(desk, 3, UNKNOWN) == released(1, 2, 3)
    assert (desk.refused, desk.api_down) == (str(UNKNOWN), None)
    assert desk.room() == 0


def test_a_404_after_a_valid_answer_waits_for_the_next_one():
    desk = new_desk(canary="good")
    put(desk, 1, 2, 3)
    answer(desk, 1)

    assert answer(desk, 2, UNKNOWN) == []
    assert canary_of(desk) is None
    assert answer(desk, 3) == counted(2, 3)


# --- The tail of a run -------------------------------------------------------------------------------


def test_at_the_tail_the_canary_tells_whose_failure_it_was():
    desk = new_desk(canary="good")
    put(desk, 1)
    desk.is_exhausted = True

    assert answer(desk, 1, DOWN) == []
    assert not desk.is_tail
    assert answer_canary(desk) == counted(1)


def test_at_the_tail_an_outage_is_found_by_the_canary():
    desk = new_desk(canary="good")
    put(desk, 1)
    answer(desk, 1, DOWN)
    desk.is_exhausted = True
    assert desk.is_tail
    assert told(desk.judge()) == []

    assert answer_canary(desk, DOWN) == released(1)
    assert desk.api_down == str(DOWN)


def test_there_is_no_tail_while_more_is_on_its_way_or_due():
    desk = new_desk(canary="good")
    put(desk, 1, 2)
    desk.is_exhausted = True
    assert answer(desk, 1, DOWN) == []
    assert canary_of(desk) is None
    desk.is_exhausted = False
    assert answer(desk, 2, DOWN) == []

    assert canary_of(desk) is None
    assert told(desk.judge()) == []


def test_nothing_held_is_nothing_to_judge():
    assert new_desk(canary="good").judge() == []


def test_after_a_valid_answer_and_without_a_canary_failures_at_the_tail_are_their_own():
    desk = new_desk()
    put(desk, 1, 2)
    answer(desk, 1, MALFORMED)
    desk.is_exhausted = True

    assert answer(desk, 2, DOWN) == counted(2)


# --- Pauses, and stopping ----------------------------------------------------------------------------


def test_a_pause_that_the_api_asks_for_is_for_the_whole_account():
    desk = new_desk()
    put(desk, 1, 2, 3)
    asked = Asked(request(1), error=RateLimitedError("429", retry_after=90.0))
    desk.take(asked, is_stopping=False)

    assert desk.news.pause_seconds == 90.0
    assert desk.room() == 0
    assert (desk.api_down, desk.refused) == (None, None)
    assert answer(desk, 2, DOWN) == released(2)
    assert answer(desk, 3) == counted(3)


def test_a_limit_without_a_pause_is_a_failure_like_any():
    desk = new_desk()
    put(desk, 1, 2)

    assert answer(desk, 1, RateLimitedError("429")) == []
    assert answer(desk, 2) == counted(1, 2)


def test_while_stopping_a_failure_is_given_back_and_an_answer_kept():
    desk = new_desk(canary="good")
    put(desk, 1, 2, 3)

    assert answer(desk, 1, DOWN, is_stopping=True) == released(1)
    assert answer(desk, 2, is_stopping=True) == counted(2)
    assert answer(desk, 3, MALFORMED, is_stopping=True) == counted(3)


def test_while_stopping_a_canary_that_fails_accuses_nobody():
    desk = held_desk()

    assert answer_canary(desk, DOWN, is_stopping=True) == released(1, 2, 3, 4, 5)
    assert desk.api_down is None


def test_while_stopping_a_canary_that_answers_is_believed():
    assert answer_canary(held_desk(), is_stopping=True) == counted(1, 2, 3, 4, 5)


def test_giving_back_leaves_what_the_threads_have_begun_with():
    desk = new_desk()
    put(desk, 1, 2)
    answer(desk, 2, DOWN)
    hand(desk, request(3))

    assert sorted(told(desk.give_back())) == released(2, 3)
    assert told(desk.give_back()) == []
    assert desk.is_waiting
    assert answer(desk, 1) == counted(1)


def test_a_canary_that_no_thread_has_begun_with_is_taken_back_and_forgotten():
    desk = held_desk()

    assert told(desk.give_back()) == released(1, 2, 3, 4, 5)
    assert not desk.awaits_canary
    assert sorted(told(desk.give_back_all())) == released(6, 7)
    assert not desk.is_waiting


# --- Whole runs --------------------------------------------------------------------------------------


def work(desk: Desk, due: list[int], error_of) -> tuple[Counter, int]:
    """A run as the coordinator has it: returns the verdicts' counts, and how many calls it took."""
    verdicts, calls = [], 0
    while True:
        room = desk.room()
        if room > 0:
            claimed, due = due[:room], due[room:]
            for number in claimed:
                hand(desk, request(number))
            desk.is_exhausted = len(claimed) < room
        elif not desk.awaits_canary:
            desk.is_exhausted = not desk.is_waiting
        if not desk.is_waiting and not desk.is_tail:
            break
        if desk.askers.inbox:
            asked = desk.askers.inbox.pop(0)
            calls += 1
            asked.error = error_of(asked.request.request_id)
            asked.legs = () if asked.error else (LEG,)
            verdicts += desk.take(asked, is_stopping=False)
        if desk.is_tail:
            verdicts += desk.judge()
    assert len({number for number, _ in told(verdicts)}) == len(verdicts)
    return Counter(what for _, what in told(verdicts)), calls


OUTAGES = [
    DOWN,
    CallTimeoutError("t"),
    ServerError("503"),
    UnreadableError("<html>"),
    RateLimitedError("429"),
]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: error.reason)
@pytest.mark.parametrize(
    ("canary", "due"), [*(("good", due) for due in (1, 2, 4, 5, 6, 1000)), (None, 5), (None, 6), (None, 1000)]
)
def test_an_outage_uses_no_attempt(error, canary, due):
    desk = new_desk(workers=8, canary=canary)
    counts, calls = work(desk, list(range(1, due + 1)), lambda _: error)

    assert counts["counted"] == 0
    assert counts["released"] >= 1
    assert desk.api_down == str(error)
    assert calls <= 12


@pytest.mark.parametrize("due", [1, 4])
def test_an_outage_uses_no_attempt_of_the_first_few_requests_ever(due):
    counts, _ = work(new_desk(workers=8), list(range(1, due + 1)), lambda _: DOWN)

    assert counts["counted"] == 0


@pytest.mark.parametrize("canary", ["good", None])
def test_refused_credentials_cost_a_few_calls_and_no_attempt(canary):
    desk = new_desk(workers=8, canary=canary)
    counts, calls = work(desk, list(range(1, 1001)), lambda _: UNKNOWN)

    assert counts["counted"] == 0
    assert desk.refused == str(UNKNOWN)
    assert calls <= 6


@pytest.mark.parametrize("canary", ["id-3", None])
def test_where_one_call_in_three_fails_every_request_is_settled(canary):
    desk = new_desk(workers=8, canary=canary)
    counts, calls = work(
        desk, list(range(1, 301)), lambda name: DOWN if int(name.partition("-")[2]) % 3 == 1 else None
    )

    assert counts == {"counted": 300}
    assert (desk.api_down, desk.refused) == (None, None)
    assert calls <= 320


def test_bad_requests_at_the_tail_are_their_own_failures_where_the_canary_answers():
    desk = new_desk(workers=8, canary="good")
    counts, calls = work(desk, list(range(1, 31)), lambda name: None if name == "good" else UNKNOWN)

    assert counts == {"counted": 30}
    assert calls <= 45


# --- Any sequence of events --------------------------------------------------------------------------

RESULTS: list[RequestError | Exception | None] = [
    None,
    None,
    DOWN,
    DOWN,
    ServerError("503"),
    UNKNOWN,
    UnauthorizedError("407"),
    MALFORMED,
    NotReadyError("not yet"),
    RejectedError("400"),
    TooLargeError("large"),
    RateLimitedError("429"),
    RateLimitedError("429", retry_after=9.0),
    ZeroDivisionError("a bug of ours"),
]
EVENTS = st.one_of(
    st.tuples(st.just("put"), st.integers(1, 8)),
    st.tuples(st.just("begin"), st.integers(1, 8)),
    st.tuples(st.just("answer"), st.integers(0, 20), st.sampled_from(RESULTS)),
    st.tuples(st.just("answer_all"), st.sampled_from(RESULTS)),
    st.tuples(st.just("exhaust"), st.booleans()),
    st.sampled_from([("give_back",), ("judge",), ("stop",)]),
)


class Coordinator:
    """Plays events on a desk, and notes the verdicts on each request."""

    def __init__(self, desk: Desk):
        self.desk = desk
        self.begun: list[Asked] = []
        self.verdicts: Counter[int] = Counter()
        self.requests = 0
        self.is_stopping = False

    def note(self, verdicts):
        self.verdicts.update(verdict.asked.request.id for verdict in verdicts)

    def play(self, event):
        word, *numbers = event
        getattr(self, word)(*numbers)

    def put(self, how_many):
        for _ in range(0 if self.is_stopping else min(how_many, self.desk.room())):
            self.requests += 1
            hand(self.desk, request(self.requests))

    def begin(self, how_many):
        inbox = self.desk.askers.inbox
        self.begun += inbox[:how_many]
        del inbox[:how_many]

    def answer(self, which, result):
        if self.begun:
            self.take(self.begun.pop(which % len(self.begun)), result)

    def answer_all(self, result):
        begun, self.begun = self.begun, []
        for asked in begun:
            self.take(asked, result)

    def give_back(self):
        self.note(self.desk.give_back())

    def judge(self):
        self.note(self.desk.judge())

    def stop(self):
        self.is_stopping = True

    def exhaust(self, is_exhausted):
        self.desk.is_exhausted = is_exhausted

    def take(self, asked, result):
        asked.calls = 1
        if isinstance(result, RequestError):
            asked.error = result
        elif result is not None:
            asked.crash = result
        else:
            asked.legs = (LEG,)
        self.note(self.desk.take(asked, is_stopping=self.is_stopping))


@given(
    events=st.lists(EVENTS, max_size=40),
    canary=st.sampled_from(["good", None]),
    is_probe=st.booleans(),
    workers=st.integers(1, 5),
)
def test_every_request_gets_exactly_one_verdict_whatever_happens(events, canary, is_probe, workers):
    played = Coordinator(new_desk(workers=workers, canary=canary, is_probe=is_probe))
    for event in events:
        played.play(event)
        assert all(times == 1 for times in played.verdicts.values())
        canaries = [asked for asked in (*played.begun, *played.desk.askers.inbox) if asked.is_canary]
        assert len(canaries) == played.desk.awaits_canary
    played.note(played.desk.give_back_all())
    for late in list(played.begun):
        played.take(late, None)

    assert played.verdicts == dict.fromkeys(range(1, played.requests + 1), 1)
    assert not played.desk.is_waiting
    assert not played.desk.is_tail


@given(events=st.lists(EVENTS, max_size=40), workers=st.integers(1, 5))
def test_what_is_on_its_way_never_exceeds_twice_the_threads_or_the_slow_start(events, workers):
    played = Coordinator(new_desk(workers=workers, canary="good"))
    for event in events:
        played.play(event)
        on_its_way = [asked for asked in (*played.begun, *played.desk.askers.inbox) if not asked.is_canary]
        assert len(on_its_way) <= max(3, 2 * workers)


# --- What other machines tell, and are told ------------------------------------------------------------


def test_a_pause_heard_of_closes_the_desk():
    desk = new_desk()
    desk.hear(is_breaker_open=False, is_paused=True)

    assert desk.room() == 0
    assert desk.news == News()


def test_a_breaker_heard_of_makes_the_next_answer_the_one_that_tells():
    desk = new_desk(workers=4)
    put(desk, 1, 2)
    answer(desk, 1)
    desk.hear(is_breaker_open=True, is_paused=False)
    room = desk.room()
    told_before = desk.news.closes_breaker
    answer(desk, 2)

    assert room == 0
    assert (told_before, desk.news.closes_breaker) == (False, True)
    assert desk.room() == 8


def test_a_breaker_that_is_closed_for_all_is_no_news_any_more():
    desk = new_desk(is_probe=True)
    put(desk, 1)
    answer(desk, 1)
    desk.breaker_was_closed()

    assert desk.news == News(canary="id-1")


def test_a_request_that_the_rate_limit_kept_from_being_asked_is_given_back():
    desk = new_desk()
    put(desk, 1)

    assert [v.is_released for v in desk.take(Asked(request(1), is_unasked=True), is_stopping=False)] == [True]
    assert not desk.is_waiting


def test_a_canary_that_the_rate_limit_kept_from_being_asked_accuses_nobody():
    desk = held_desk()
    canary = canary_of(desk)
    canary.is_unasked = True

    assert told(desk.take(canary, is_stopping=False)) == released(1, 2, 3, 4, 5)
    assert (desk.api_down, desk.refused) == (None, None)
    assert desk.room() == 0


def test_a_canary_that_is_asked_for_patience_pauses_the_account():
    desk = held_desk()

    assert answer_canary(desk, RateLimitedError("429", retry_after=600.0)) == released(1, 2, 3, 4, 5)
    assert (desk.api_down, desk.news.pause_seconds) == (None, 600.0)
