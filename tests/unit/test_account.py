"""One account during a run: how much it claims, what it holds and gives back, and its permits.

How failures are judged is proved in test_breaker.py; here it is how the account acts on it.
"""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.operators import wait_until

from etl.cdr.legs import ClaimedRequest, Leg
from etl.errors import (
    CallConnectionError,
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RejectedError,
    RequestError,
    ServerError,
    TooLargeError,
    UnauthorizedError,
)
from etl.sync.account import AccountRun, AccountUpdate, Claimed, Permits
from etl.sync.fetching import Answered, Canary, Crashed, Failed, NotAsked, Timing

NOON = datetime(2021, 11, 16, 12, tzinfo=UTC)
LEG = Leg("b", "", "9100000000", None, None, None, NOON, 4, None, None, "", "missed", None)
DOWN = CallConnectionError("no connection to the API")
UNKNOWN = NotFoundError("code 404 in the body")
MALFORMED = MalformedError("`cdr[0].time` is missing")
BUG = ZeroDivisionError("a bug of ours")


class Threads:
    """Fetching threads that begin with nothing by themselves."""

    def __init__(self):
        self.inbox = []

    def put(self, request):
        self.inbox.append(request)

    def take_back(self):
        taken, self.inbox = self.inbox, []
        return taken

    def begin(self, how_many=None):
        """Begin with the oldest requests; returns them."""
        begun = self.inbox[:how_many]
        del self.inbox[: len(begun)]
        return begun


def request(number):
    return ClaimedRequest(number, "default", f"id-{number}", f"token-{number}", 1, 0, NOON)


def result_of(asked, result=None, *, legs=(LEG,), ended=0.0, took=0.0):
    """What came of a request: an answer, or the failure or the crash that is given."""
    timing = Timing(0.0, ended, (took,))
    if isinstance(result, RequestError):
        return Failed(asked, timing, result)
    if isinstance(result, Exception):
        return Crashed(asked, timing, result)
    return Answered(asked, timing, 200, b"{}", legs, len(legs))


def in_short(results):
    """Which requests can be settled, and whether they count or are given back."""
    return [(one.request.id, "given back" if isinstance(one, NotAsked) else "counts") for one in results]


def count(*numbers):
    return [(number, "counts") for number in numbers]


def given_back(*numbers):
    return [(number, "given back") for number in numbers]


class Account:
    """An account with requests in flight, in short words."""

    def __init__(self, *numbers, workers=4, **known):
        self.threads = Threads()
        self.run = AccountRun("default", self.threads, workers=workers, **known)
        self.claim(*numbers)
        self.threads.begin()

    def claim(self, *numbers, is_exhausted=False):
        claimed = Claimed([request(number) for number in numbers], is_exhausted=is_exhausted)
        self.run.note_claimed(claimed)
        self.run.hand_out(claimed)

    def receive(self, number, result=None, *, is_stopping=False, **how):
        return in_short(self.run.receive(result_of(request(number), result, **how), is_stopping=is_stopping))

    def receive_canary(self, result=None, *, is_stopping=False):
        (canary,) = self.threads.begin()
        assert isinstance(canary, Canary)
        return in_short(self.run.receive(result_of(canary, result), is_stopping=is_stopping))

    @property
    def claims(self):
        return self.run.capacity().claims


def awaiting_canary():
    """An account of which five requests failed in a row; two are in flight, and so is the canary."""
    account = Account(*range(1, 8), canary="good")
    for number in range(1, 6):
        assert account.receive(number, DOWN) == []
    assert account.threads.inbox == [Canary("default", "good")]
    return account


# --- Capacity ----------------------------------------------------------------------------------------


def test_before_the_first_valid_answer_three_requests_are_in_flight():
    account = Account()
    claims = [account.claims]
    account.claim(1, 2)
    claims.append(account.claims)
    account.claim(3)
    claims.append(account.claims)
    account.receive(1, DOWN)

    assert [*claims, account.claims] == [3, 1, 0, 1]


def test_a_half_open_breaker_lets_one_probe_through_until_it_is_answered():
    account = Account(is_breaker_open=True)
    first = account.run.capacity()
    account.claim(1)
    second = account.claims
    account.receive(1)

    assert (first.claims, first.is_probe, second) == (1, True, 0)
    assert (account.claims, account.run.capacity().is_probe) == (8, False)


def test_more_is_claimed_only_when_the_threads_run_short():
    account = Account(*range(1, 10))
    claims = []
    for number in range(1, 10):
        account.receive(number)
        claims.append(account.claims)

    assert claims == [0, 0, 0, 0, 4, 5, 6, 7, 8]


def test_a_paused_account_claims_nothing():
    assert Account(is_paused=True).claims == 0


def test_nothing_is_claimed_while_the_canary_is_in_flight():
    assert awaiting_canary().claims == 0


def test_a_run_that_is_limited_claims_no_more_than_is_left():
    account = Account()

    assert [account.run.capacity(most).claims for most in (2, 0, -1, 99)] == [2, 0, 0, 3]


def test_an_account_with_nothing_in_flight_is_idle():
    account = Account()
    idle = account.run.capacity().is_idle
    account.claim(1)

    assert (idle, account.run.capacity().is_idle) == (True, False)


# --- Results -----------------------------------------------------------------------------------------


def test_a_valid_answer_can_be_settled_at_once():
    account = Account(1)

    assert account.receive(1) == count(1)
    assert not account.run.is_waiting


@pytest.mark.parametrize("alive", [None, MALFORMED, NotReadyError("not yet")])
def test_a_sign_of_life_makes_held_failures_count(alive):
    account = Account(1, 2, 3)
    held = [account.receive(1, DOWN), account.receive(2, ServerError("503"))]

    assert held == [[], []]
    assert account.receive(3, alive) == count(1, 2, 3)
    assert not account.run.has_undecided


def test_an_answer_without_legs_is_a_canary_for_this_run_and_not_published():
    account = Account(*range(1, 8))
    account.receive(1, legs=())
    for number in range(2, 7):
        account.receive(number, DOWN)

    assert account.threads.inbox == [Canary("default", "id-1")]
    assert account.run.unpublished(0.0).canary is None


def test_a_crash_of_our_own_says_nothing_about_other_failures():
    account = Account(1, 2, 3)
    account.receive(1, DOWN)

    assert account.receive(2, BUG) == count(2)
    assert account.receive(3) == count(1, 3)


def test_an_answer_to_a_claim_that_was_given_back_is_ignored():
    account = Account(1)
    assert in_short(account.run.give_back_all()) == given_back(1)

    assert account.receive(1) == []
    assert account.receive(99) == []


def test_a_request_without_a_permit_is_given_back():
    account = Account(1)

    assert in_short(account.run.receive(NotAsked(request(1)), is_stopping=False)) == given_back(1)
    assert not account.run.is_waiting


def test_while_stopping_a_failure_is_given_back_and_an_answer_kept():
    account = Account(1, 2, 3, canary="good")

    assert account.receive(1, DOWN, is_stopping=True) == given_back(1)
    assert account.receive(2, is_stopping=True) == count(2)
    assert account.receive(3, MALFORMED, is_stopping=True) == count(3)


# --- The canary, and what an open breaker means ------------------------------------------------------


def test_a_canary_that_is_answered_makes_the_failures_count():
    account = awaiting_canary()

    assert account.receive_canary() == count(1, 2, 3, 4, 5)
    assert account.run.problem is None
    assert account.claims > 0


@pytest.mark.parametrize(("error", "is_refusal"), [(DOWN, False), (UNKNOWN, True)])
def test_an_open_breaker_gives_everything_back_and_claims_nothing(error, is_refusal):
    account = awaiting_canary()

    assert account.receive_canary(error) == given_back(1, 2, 3, 4, 5)
    assert (account.run.problem.error, account.run.problem.is_refusal) == (error, is_refusal)
    assert account.claims == 0
    assert account.receive(6, DOWN) == given_back(6)
    assert account.receive(7) == count(7)
    assert not account.run.is_waiting


@pytest.mark.parametrize("came", [BUG, RateLimitedError("429", retry_after=600.0)])
def test_a_canary_that_shows_nothing_about_the_api_ends_claiming_and_opens_no_breaker(came):
    account = awaiting_canary()

    assert account.receive_canary(came) == given_back(1, 2, 3, 4, 5)
    assert account.run.problem is None
    assert account.claims == 0


def test_a_canary_without_a_permit_does_not_open_the_breaker():
    account = awaiting_canary()
    (canary,) = account.threads.begin()

    assert in_short(account.run.receive(NotAsked(canary), is_stopping=False)) == given_back(1, 2, 3, 4, 5)
    assert account.run.problem is None


def test_what_no_thread_has_begun_with_is_given_back_with_the_rest():
    account = Account(*range(1, 6))
    account.claim(6)
    results = [account.receive(number, DOWN) for number in range(1, 6)]

    assert sorted(results[-1]) == given_back(1, 2, 3, 4, 5, 6)
    assert not account.run.is_waiting


def test_failures_at_the_end_are_decided_only_when_nothing_else_is_in_flight_or_due():
    account = Account(1, 2, canary="good")
    account.claim(is_exhausted=True)
    account.receive(1, DOWN)
    waiting = list(account.threads.inbox)
    account.receive(2, DOWN)

    assert waiting == []
    assert account.receive_canary() == count(1, 2)


def test_while_more_may_be_due_failures_are_held():
    account = Account(1, canary="good")
    account.claim(is_exhausted=False)
    account.receive(1, DOWN)

    assert account.run.has_undecided
    assert account.run.judge(is_stopping=False) == []


def test_while_stopping_held_failures_are_given_back():
    account = Account(1)
    account.receive(1, DOWN)

    assert in_short(account.run.judge(is_stopping=True)) == given_back(1)


# --- Pauses ------------------------------------------------------------------------------------------


def test_a_long_pause_holds_for_the_whole_account():
    account = Account(1, 2, 3)
    account.receive(1, RateLimitedError("429", retry_after=90.0))

    assert account.run.unpublished(0.0).pause_seconds == 90.0
    assert account.claims == 0
    assert account.run.problem is None
    assert account.receive(2, DOWN) == given_back(2)
    assert account.receive(3) == count(3)


def test_a_rate_limit_without_a_pause_is_a_failure_like_any():
    account = Account(1, 2)

    assert account.receive(1, RateLimitedError("429")) == []
    assert account.receive(2) == count(1, 2)


# --- Giving back -------------------------------------------------------------------------------------


def test_giving_back_leaves_what_the_threads_have_begun_with():
    account = Account(1, 2)
    account.receive(2, DOWN)
    account.claim(3)

    assert sorted(in_short(account.run.give_back())) == given_back(2, 3)
    assert in_short(account.run.give_back()) == []
    assert account.receive(1) == count(1)


def test_a_canary_that_no_thread_has_begun_with_is_forgotten():
    account = awaiting_canary()

    assert in_short(account.run.give_back()) == given_back(1, 2, 3, 4, 5)
    assert account.threads.inbox == []
    assert sorted(in_short(account.run.give_back_all())) == given_back(6, 7)
    assert not account.run.is_waiting


# --- What machines share -----------------------------------------------------------------------------


def test_a_pause_found_elsewhere_ends_claiming_and_is_not_published_again():
    account = Account()
    account.run.note_elsewhere(is_breaker_open=False, is_paused=True)

    assert account.claims == 0
    assert account.run.unpublished(0.0) == AccountUpdate()


def test_a_breaker_opened_elsewhere_waits_for_the_next_answer_which_closes_it():
    account = Account(1, 2)
    account.receive(1)
    account.run.note_elsewhere(is_breaker_open=True, is_paused=False)
    before = (account.claims, account.run.unpublished(0.0).closes_breaker)
    account.receive(2)

    assert before == (0, False)
    assert (account.claims, account.run.unpublished(0.0).closes_breaker) == (8, True)


def test_what_is_published_is_not_published_again():
    account = Account(1, 2, is_breaker_open=True)
    account.receive(1)
    account.receive(2, RateLimitedError("429", retry_after=90.0))
    update = account.run.unpublished(0.0)
    account.run.note_published(update, 0.0)

    assert update == AccountUpdate(canary="id-1", closes_breaker=True, pause_seconds=90.0)
    assert account.run.unpublished(1000.0) == AccountUpdate()


def test_an_open_breaker_is_published_with_its_reason():
    account = awaiting_canary()
    account.receive_canary(DOWN)

    assert account.run.unpublished(0.0).breaker_reason == str(DOWN)


def test_the_canary_is_published_now_and_then_and_at_the_end():
    account = Account(1, 2)
    account.receive(1)
    account.run.note_published(account.run.unpublished(0.0), 0.0)
    account.receive(2)

    assert account.run.unpublished(29.0).canary is None
    assert account.run.unpublished(30.0).canary == "id-2"
    assert account.run.unpublished(1.0, is_closing=True).canary == "id-2"


def test_what_could_not_be_written_is_published_later():
    account = Account(1)
    account.receive(1)
    account.run.note_published(AccountUpdate(), 0.0)

    assert account.run.unpublished(0.0).canary == "id-1"


# --- Any sequence of events --------------------------------------------------------------------------

RESULTS = [
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
    BUG,
]
EVENTS = st.one_of(
    st.tuples(st.just("claim"), st.integers(1, 8), st.booleans()),
    st.tuples(st.just("begin"), st.integers(1, 8)),
    st.tuples(st.just("answer"), st.integers(0, 20), st.sampled_from(RESULTS)),
    st.tuples(st.just("answer_all"), st.sampled_from(RESULTS)),
    st.sampled_from([("give_back",), ("judge",), ("stop",)]),
)


class Player:
    """Plays events on an account, and notes how often each request is settled."""

    def __init__(self, account):
        self.account = account
        self.begun = []
        self.settled = Counter()
        self.requests = 0
        self.is_stopping = False

    def note(self, results):
        self.settled.update(one.request.id for one in results)

    def claim(self, how_many, is_exhausted):
        claims = 0 if self.is_stopping else min(how_many, self.account.claims)
        numbers = range(self.requests + 1, self.requests + claims + 1)
        self.requests += claims
        self.account.claim(*numbers, is_exhausted=is_exhausted)

    def begin(self, how_many):
        self.begun += self.account.threads.begin(how_many)

    def answer(self, which, result):
        if self.begun:
            self.receive(self.begun.pop(which % len(self.begun)), result)

    def answer_all(self, result):
        begun, self.begun = self.begun, []
        for asked in begun:
            self.receive(asked, result)

    def receive(self, asked, result):
        self.note(self.account.run.receive(result_of(asked, result), is_stopping=self.is_stopping))

    def give_back(self):
        self.note(self.account.run.give_back())

    def judge(self):
        self.note(self.account.run.judge(is_stopping=self.is_stopping))

    def stop(self):
        self.is_stopping = True


@given(
    events=st.lists(EVENTS, max_size=40),
    canary=st.sampled_from(["good", None]),
    is_open=st.booleans(),
    workers=st.integers(1, 5),
)
def test_every_request_is_settled_exactly_once_and_the_bounds_hold(events, canary, is_open, workers):
    player = Player(Account(workers=workers, canary=canary, is_breaker_open=is_open))
    for word, *values in events:
        getattr(player, word)(*values)
        out = [*player.begun, *player.account.threads.inbox]
        assert all(times == 1 for times in player.settled.values())
        assert sum(isinstance(one, Canary) for one in out) <= 1
        assert sum(not isinstance(one, Canary) for one in out) <= max(3, 2 * workers)
    player.note(player.account.run.give_back_all())
    for late in list(player.begun):
        player.receive(late, None)

    assert player.settled == dict.fromkeys(range(1, player.requests + 1), 1)
    assert not player.account.run.is_waiting
    assert not player.account.run.has_undecided


# --- Permits -----------------------------------------------------------------------------------------


class Crowd:
    """Some calls that all wait for a permit."""

    def __init__(self, calls, patience=60.0):
        self.woken = Counter()
        self.permits = Permits(lambda: self.woken.update(["woken"]), patience)
        self.taken = []
        self.threads = [threading.Thread(target=self.take, daemon=True) for _ in range(calls)]
        for thread in self.threads:
            thread.start()

    def take(self):
        self.taken.append(self.permits.take())

    def join(self):
        for thread in self.threads:
            thread.join(60)
        return Counter(self.taken)


def test_a_granted_permit_is_taken_at_once_without_waking_the_coordinator():
    crowd = Crowd(0)
    crowd.permits.grant(2)

    assert [crowd.permits.take(), crowd.permits.take()] == [True, True]
    assert crowd.woken.total() == 0
    assert crowd.permits.wanted == 0


def test_a_call_without_a_permit_waits_and_wakes_the_coordinator():
    crowd = Crowd(3)
    wait_until(lambda: crowd.permits.wanted == 3)
    taken_before = list(crowd.taken)
    crowd.permits.grant(3)

    assert crowd.join() == {True: 3}
    assert taken_before == []
    assert crowd.woken.total() == 3


def test_no_more_calls_go_through_than_are_granted():
    crowd = Crowd(5)
    wait_until(lambda: crowd.permits.wanted == 5)
    crowd.permits.grant(2)
    wait_until(lambda: len(crowd.taken) == 2)
    wanted = crowd.permits.wanted
    crowd.permits.close()

    assert crowd.join() == {True: 2, False: 3}
    assert wanted == 3


def test_closing_ends_every_wait_now_and_later():
    crowd = Crowd(2)
    wait_until(lambda: crowd.permits.wanted == 2)
    crowd.permits.close()

    assert crowd.join() == {False: 2}
    assert crowd.permits.take() is False


def test_a_call_waits_no_longer_than_its_patience_and_leaves_nothing_wanted():
    crowd = Crowd(1, patience=0.01)

    assert crowd.join() == {False: 1}
    assert crowd.permits.wanted == 0


def test_permits_are_asked_for_by_the_account_and_handed_out():
    permits = Permits(lambda: None, 60.0)
    run = AccountRun("default", Threads(), permits, workers=4)
    waiting = threading.Thread(target=permits.take, daemon=True)
    waiting.start()
    wait_until(lambda: run.capacity().permits == 1)
    run.hand_out(Claimed(permits=1))
    waiting.join(60)

    assert run.capacity().permits == 0
