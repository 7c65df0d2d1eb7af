"""Settling: what one answer, or one failure, does to the rows of its request."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import delete, event, text
from support import builders

from etl.cdr.answers import read_answer
from etl.cdr.outcomes import WaitingRules
from etl.cdr.parsing import parse_legs
from etl.db.engine import reading
from etl.db.legs import stored_legs
from etl.db.queue import Claimant, claim_requests
from etl.db.tables import RUN_COUNTS, call_legs, cdr_requests, cdr_responses, sync_runs
from etl.errors import (
    CallTimeoutError,
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RequestError,
    ServerError,
    UnreadableError,
)
from etl.sync.fetching import Answered, Crashed, Failed, NotAsked, Timing, fetch
from etl.sync.settle import settle

SECRET = "b2f1c0de-5ec2-4e7a-9f00-0123456789ab"
LONG_AGO = datetime(2021, 11, 16, 13, 33, 29, tzinfo=UTC)
RULES = WaitingRules(
    max_attempts=8,
    retry_delay=timedelta(seconds=30),
    settle=timedelta(minutes=15),
    empty_for=timedelta(hours=72),
    empty_delay=timedelta(minutes=1),
)


def leg(letter="b", **changes):
    number = "9100000000" if letter == "b" else "9200000000"
    return builders.leg(letter, **{"to_number": number, "call_time": LONG_AGO, **changes})


def body_of(legs):
    return json.dumps({"code": 200, "cdr": [repr(each) for each in legs]}).encode()


class Worker:
    """Claims requests, and settles them with answers made by hand."""

    def __init__(self, database, secret=SECRET):
        self.database = database
        self.secret = secret

    def claim(self, *request_ids):
        """Make requests due, whatever they are, and claim them; in the order of the IDs."""
        self.database.enqueue(*request_ids)
        self.database.change(*request_ids, state="pending", finished_at=None, run_after=self.database.now())
        with self.database.engine.begin() as connection:
            claimed = claim_requests(connection, "default", Claimant("", 1, timedelta(minutes=5)), most=100)
        by_id = {request.request_id: request for request in claimed}
        return [by_id[request_id] for request_id in request_ids]

    def settle(self, *results, rules=RULES, chance=1.0, run_id=1):
        with self.database.engine.begin() as connection:
            return settle(connection, results, run_id=run_id, rules=rules, chance=lambda: chance).counts

    def answered(self, *legs, request_id="one", count=None, body=None, **options):
        """Claim a request and settle it with an answer that holds these legs."""
        (request,) = self.claim(request_id)
        count = len(legs) if count is None else count
        body = body_of(legs) if body is None else body
        return self.settle(Answered(request, Timing(), 200, body, legs, count), **options)

    def failed(self, error, *, request_id="one", body=None, **options):
        (request,) = self.claim(request_id)
        return self.settle(Failed(request, Timing(), error, error.http_status, body), **options)


@pytest.fixture
def worker(database):
    return Worker(database)


@pytest.fixture
def legs(database):
    return lambda **wanted: database.rows(call_legs, **wanted)


def parsed(body):
    answer = read_answer(200, body)
    return parse_legs(answer, region="IN"), answer.count


# --- Legs --------------------------------------------------------------------------------------------


def test_a_first_answer_stores_its_legs_and_ends_the_request(worker, database, legs):
    counts = worker.answered(leg("b"), leg("a", duration_seconds=10), run_id=7)
    a, b = legs()
    row = database.request("one")

    assert counts == {"done": 1, "legs_inserted": 2}
    assert [a["leg"], b["leg"]] == ["a", "b"]
    assert [a["occurrence"], b["occurrence"]] == [1, 1]
    assert [a["revision"], b["revision"]] == [1, 1]
    assert [a["run_id"], b["run_id"]] == [7, 7]
    assert (a["missing_since"], a["first_seen_at"]) == (None, a["updated_at"])
    assert (row["state"], row["leg_count"], row["api_count"], row["fetches"]) == ("done", 2, 2, 1)
    assert (row["attempts"], row["last_error_kind"], row["last_http_status"]) == (1, None, 200)
    assert row["finished_at"] == row["updated_at"]
    assert (row["lease_token"], row["lease_until"]) == (None, None)


EVERY_FIELD = {
    "from_number": "",
    "from_e164": None,
    "to_e164": "+919100000000",
    "to_country": "IN",
    "duration_seconds": 5,
    "rate": Decimal("0.40"),
    "balance": None,
    "direction": "inbound",
    "status": None,
    "extra": {"hop": [1, 2.5, None, True, "é"], "q": {"850": 16}},
}


@pytest.mark.parametrize(("field", "value"), EVERY_FIELD.items(), ids=EVERY_FIELD)
def test_a_change_of_any_field_is_a_new_revision_of_that_leg_alone(worker, legs, field, value):
    worker.answered(leg("a"), leg("b"), run_id=1)
    a_before, b_before = legs()

    counts = worker.answered(leg("a"), leg("b", **{field: value}), run_id=2)
    a, b = legs()

    assert counts == {"done": 1, "legs_updated": 1, "legs_unchanged": 1}
    assert a == a_before
    assert (b["revision"], b["run_id"], b["first_seen_at"]) == (2, 2, b_before["first_seen_at"])
    assert b[field] == value


@pytest.mark.parametrize(("field", "value"), EVERY_FIELD.items(), ids=EVERY_FIELD)
def test_the_same_answer_again_changes_nothing(worker, legs, field, value):
    worker.answered(leg("a"), leg("b", **{field: value}), run_id=1)
    before = legs()

    counts = worker.answered(leg("b", **{field: value}), leg("a"), run_id=2)

    assert counts == {"done": 1, "legs_unchanged": 2}
    assert legs() == before


def test_null_and_zero_are_different_contents(worker, legs):
    nothing, zero = {"rate": None, "duration_seconds": None}, {"rate": Decimal(0), "duration_seconds": 0}
    worker.answered(leg(**nothing))

    counts = worker.answered(leg(**zero))

    assert counts["legs_updated"] == 1
    assert (legs()[0]["rate"], legs()[0]["duration_seconds"]) == (0, 0)


def test_a_leg_that_a_later_answer_no_longer_holds_is_marked_and_kept(worker, database, legs):
    worker.answered(leg("a"), leg("b"))

    counts = worker.answered(leg("a"))
    a, b = legs()

    assert counts == {"done": 1, "legs_unchanged": 1}
    assert a["missing_since"] is None
    assert b["missing_since"] == b["updated_at"]
    assert (b["revision"], b["rate"]) == (1, Decimal("0.39"))
    assert database.request("one")["leg_count"] == 1


def test_the_mark_keeps_the_instant_at_which_the_leg_was_missed_first(worker, legs):
    worker.answered(leg("a"), leg("b"))
    worker.answered(leg("a"))
    before = legs()

    worker.answered(leg("a"))

    assert legs() == before


def test_a_leg_that_reappears_loses_its_mark(worker, database, legs):
    worker.answered(leg("a"), leg("b"))
    worker.answered(leg("a"))

    worker.answered(leg("a"), leg("b"))
    _, b = legs()

    assert (b["missing_since"], b["revision"], b["occurrence"]) == (None, 1, 1)
    assert len(legs()) == 2
    assert database.request("one")["leg_count"] == 2


def test_a_leg_that_reappears_changed_is_a_new_revision(worker, legs):
    worker.answered(leg("a"), leg("b"))
    worker.answered(leg("a"))

    worker.answered(leg("a"), leg("b", duration_seconds=99))
    _, b = legs()

    assert (b["missing_since"], b["revision"], b["duration_seconds"]) == (None, 2, 99)


def test_an_answer_without_legs_marks_all_that_were_there(worker, database, legs):
    worker.answered(leg("a"), leg("b"))

    counts = worker.answered()

    assert counts == {"put_off": 1}
    assert all(row["missing_since"] for row in legs())
    assert database.request("one")["leg_count"] == 0


def test_twins_are_two_legs(worker, legs):
    worker.answered(leg("b"), leg("b"), leg("a"))

    assert [(row["leg"], row["occurrence"]) for row in legs()] == [("a", 1), ("b", 1), ("b", 2)]


def test_twins_that_come_again_in_any_order_stay_as_they_are(worker, legs):
    missed, answered = leg("b", status="missed"), leg("b", status="answered")
    worker.answered(missed, answered, leg("a"))
    before = legs()

    counts = worker.answered(leg("a"), answered, missed)

    assert counts == {"done": 1, "legs_unchanged": 3}
    assert legs() == before


def test_of_twins_the_one_that_is_gone_is_marked(worker, legs):
    missed, answered = leg("b", status="missed"), leg("b", status="answered")
    worker.answered(missed, answered)

    worker.answered(answered)

    assert {row["status"]: row["missing_since"] is not None for row in legs()} == {
        "missed": True,
        "answered": False,
    }


def test_a_third_twin_is_a_third_leg(worker, legs):
    worker.answered(leg("b"), leg("b"))

    counts = worker.answered(leg("b"), leg("b"), leg("b"))

    assert counts == {"done": 1, "legs_inserted": 1, "legs_unchanged": 2}
    assert [row["occurrence"] for row in legs()] == [1, 2, 3]


def test_the_same_legs_under_two_requests_are_different_legs(worker, legs):
    worker.answered(leg("a"), request_id="one")
    worker.answered(leg("a"), request_id="One")

    assert sorted(row["request_id"] for row in legs()) == ["One", "one"]
    assert [row["revision"] for row in legs()] == [1, 1]


def test_many_requests_are_settled_in_one_transaction_each_with_its_own_legs(worker, database, legs):
    ids = [f"{number}" for number in range(60)]
    answers = [
        Answered(request, Timing(), 200, b"{}", (leg("a", duration_seconds=n), leg("b")), 2)
        for n, request in enumerate(worker.claim(*ids))
    ]

    counts = worker.settle(*answers)

    assert counts == {"done": 60, "legs_inserted": 120}
    assert database.states() == {"done": 60}
    assert {row["request_id"]: row["duration_seconds"] for row in legs(leg="a")} == {
        str(n): n for n in range(60)
    }


def test_a_request_purged_and_enqueued_again_finds_the_legs_that_it_had(worker, database, legs):
    """`purge --what requests` leaves legs behind: they are no less known for that."""
    worker.answered(leg("a"), leg("b"))
    worker.answered(leg("a", duration_seconds=11), leg("b"))
    with database.engine.begin() as connection:
        connection.execute(delete(cdr_requests))

    counts = worker.answered(leg("a", duration_seconds=11))
    a, b = legs()

    assert counts == {"done": 1, "legs_unchanged": 1}
    assert a["revision"] == 2
    assert b["missing_since"] is not None


# --- Money -------------------------------------------------------------------------------------------

AMOUNTS = {
    "1135.14": "1135.14",
    "0.39": "0.39",
    "0": "0",
    "-12.5": "-12.5",
    "1e2": "100",
    '"0.450000"': "0.45",
    "0.1": "0.1",
    "123456789.123456": "123456789.123456",
    '"17507.49999999892"': "17507.4999999989",  # 15 of its 16 digits
    "0.000001": "0.000001",
    "null": None,
}


@pytest.mark.parametrize(("sent", "digits"), AMOUNTS.items(), ids=AMOUNTS)
def test_money_keeps_its_digits_and_comes_back_unchanged(worker, legs, sent, digits):
    body = (
        '{"code": 200, "count": 1, "cdr": [{"leg": "a", "to": 9200000000, "from": 4471000000,'
        f' "time": 1637069609000, "duration": 4, "rate": {sent}, "balance": {sent}}}]}}'
    ).encode()
    first, count = parsed(body)
    worker.answered(*first, count=count, body=body)
    (before,) = legs()

    again = worker.answered(*parsed(body)[0], body=body)

    if worker.database.engine.dialect.name == "sqlite":
        assert before["rate"] == before["balance"] == (None if digits is None else Decimal(digits))
    else:
        assert before["rate"] == first[0].rate
    assert again == {"done": 1, "legs_unchanged": 1}
    assert legs() == [before]


def test_on_sqlite_money_is_a_number_and_never_text(worker, database):
    if database.engine.dialect.name != "sqlite":
        pytest.skip("other databases have decimals")
    amounts = ("1135.14", "0.39", "17507.49999999892", "100", "0", "-5", "99999999999999999999")
    worker.answered(
        *(leg("b", rate=Decimal(amount), call_time=LONG_AGO + timedelta(seconds=n))
          for n, amount in enumerate(amounts))
    )  # fmt: skip
    with reading(database.engine) as connection:
        kinds = set(connection.scalars(text("SELECT typeof(rate) FROM call_legs")))
        larger = connection.scalars(text("SELECT rate FROM call_legs WHERE rate > 99 ORDER BY rate")).all()

    assert kinds <= {"real", "integer"}
    assert larger == [100, 1135.14, 17507.49999999892, 1e20]


# --- The archive -------------------------------------------------------------------------------------


def test_an_answer_is_archived_as_it_was_received(worker, database):
    body = '{"code": 200,  "cdr": [], "note": "größer"}'.encode()

    worker.answered(body=body, run_id=5)
    row = database.row(cdr_responses)

    assert row["body"] == body.decode()
    assert row["sha256"] == hashlib.sha256(body).hexdigest()
    assert (row["revision"], row["run_id"], row["http_status"]) == (1, 5, 200)


def test_only_an_answer_that_differs_from_the_one_before_is_a_new_revision(worker, database):
    for body in (b"one", b"one", b"two", b"two", b"one"):
        worker.answered(body=body)

    archived = database.rows(cdr_responses)

    assert [(row["revision"], row["body"]) for row in archived] == [(1, "one"), (2, "two"), (3, "one")]


def test_a_malformed_answer_is_archived_and_ends_the_request_with_the_field_named(worker, database, legs):
    body = b'{"code": 200, "cdr": [{"leg": "a", "rate": true}]}'
    error = MalformedError("`cdr[0].rate` is true, where a number was expected", http_status=200)

    counts = worker.failed(error, body=body)
    row = database.request("one")

    assert counts == {"dead": 1}
    assert (row["state"], row["last_error_kind"]) == ("dead", "malformed")
    assert "cdr[0].rate" in row["last_error"]
    assert database.row(cdr_responses)["body"] == body.decode()
    assert legs() == []


def test_bytes_that_are_no_text_are_archived_readably(worker, database):
    body = b"\x00\xff<<<"

    worker.failed(UnreadableError("the body is not JSON", http_status=200), body=body)
    row = database.row(cdr_responses)

    assert row["body"] == "\ufffd\ufffd<<<"
    assert row["sha256"] == hashlib.sha256(body).hexdigest()


def test_an_error_of_the_server_is_not_archived(worker, database):
    worker.failed(ServerError("HTTP status 500", http_status=500), body=b"Internal error")

    assert database.rows(cdr_responses) == []


def everything_stored(database):
    """All text that any table holds."""
    return "\n".join(
        json.dumps([str(value) for value in row.values()], ensure_ascii=False)
        for table in (cdr_requests, call_legs, cdr_responses, sync_runs)
        for row in database.rows(table)
    )


def ask_and_settle(worker, status, body):
    """Put a body through everything that an answer goes through: reading, parsing, settling."""

    class Reply:
        retry_after = None

    Reply.status, Reply.body = status, body
    (request,) = worker.claim("one")
    return worker.settle(
        fetch(request, lambda _: Reply, lambda once: once(), region="IN", secret=worker.secret)
    )


def echoing(secret):
    """What an API may say that repeats what it was sent."""
    sent = json.dumps({"appid": 2222222, "secret": secret, "request_id": "one"})
    a_leg = {"leg": "a", "to": 1, "time": 1637069609000, "duration": 1}
    return {
        "beside the legs": (200, json.dumps({"code": 200, "cdr": [a_leg], "secret": secret})),
        "in a leg": (200, json.dumps({"code": 200, "cdr": [{**a_leg, "secret": secret}]})),
        "inside a leg": (200, json.dumps({"code": 200, "cdr": [{**a_leg, "by": [{"key": secret}]}]})),
        "in a malformed leg": (200, json.dumps({"code": 200, "cdr": [{**a_leg, "rate": secret}]})),
        "as malformed count": (200, json.dumps({"code": 200, "cdr": [], "count": secret})),
        "in a message": (500, json.dumps({"code": 500, "msg": f"bad secret {secret}"})),
        "in a long message": (500, json.dumps({"code": 500, "msg": "x" * 180 + secret})),
        "as the whole body": (200, f"cannot read: {sent}"),
        "at the cut of a quotation": (200, f"invalid parameters in question: {sent}"),
        "in a page": (502, f"<html><p>{sent}</p></html>"),
    }


def longest_piece(secret, stored):
    """The longest beginning of the secret that stands in a text."""
    return next((secret[:n] for n in range(len(secret), 0, -1) if secret[:n] in stored), "")


@pytest.mark.parametrize("place", echoing(""))
def test_the_secret_is_never_stored_even_where_the_api_echoes_it(worker, database, place):
    status, body = echoing(SECRET)[place]

    ask_and_settle(worker, status, body.encode())

    assert len(longest_piece(SECRET, everything_stored(database))) < 8


ESCAPED = {
    "escaped slashes": ("pa/ss/word-12345678", lambda text_: text_.replace("/", "\\/")),
    "escaped quotes": ('pa"ss"word-12345678', lambda text_: text_),
    "escaped letters": ("pässwörd-12345678", lambda text_: text_),
}


@pytest.mark.parametrize(("secret", "escape"), ESCAPED.values(), ids=ESCAPED)
def test_the_secret_is_never_stored_in_the_escapes_of_json_either(database, secret, escape):
    worker = Worker(database, secret)
    body = escape(json.dumps({"code": 200, "cdr": [], "secret": secret}))

    ask_and_settle(worker, 200, body.encode())
    archived = database.row(cdr_responses)["body"]

    assert secret not in archived
    assert secret not in json.loads(archived).values()


# --- What becomes of the request ---------------------------------------------------------------------


def test_an_answer_without_legs_is_asked_for_again_and_uses_no_attempt(worker, database):
    counts = worker.answered()
    row = database.request("one")

    assert counts == {"put_off": 1}
    assert (row["state"], row["attempts"], row["fetches"], row["api_count"]) == ("pending", 0, 1, 0)
    assert row["run_after"] - row["updated_at"] == timedelta(minutes=1)
    assert (row["finished_at"], row["last_error_kind"]) == (None, None)


def test_the_wait_for_legs_grows_and_has_an_end(worker, database):
    waits = []
    for _ in range(12):
        worker.answered()
        row = database.request("one")
        waits.append((row["run_after"] - row["updated_at"]) / timedelta(minutes=1))

    assert waits[:4] == [1, 2, 4, 8]
    assert waits[-1] == 360  # six hours
    assert row["attempts"] == 0


def test_the_wait_for_legs_is_spread_by_chance(worker, database):
    worker.answered(chance=0.0)
    row = database.request("one")

    assert row["run_after"] - row["updated_at"] == timedelta(seconds=30)


def test_an_id_without_legs_for_long_ends_as_empty(worker, database):
    worker.answered()
    database.change("one", enqueued_at=database.now() - timedelta(hours=73))

    counts = worker.answered()
    row = database.request("one")

    assert counts == {"without_legs": 1}
    assert (row["state"], row["fetches"]) == ("empty", 2)
    assert row["finished_at"] is not None


def test_legs_to_agents_whose_names_differ_in_case_or_script_alone_are_legs_of_their_own(worker, legs):
    names = ["agent", "Agent", "àgent", "агент", "代理", "🙂"]
    counts = worker.answered(*(leg(to_number=name, status=name) for name in names))

    assert counts == {"done": 1, "legs_inserted": 6}
    assert {(row["to_number"], row["status"]) for row in legs()} == {(name, name) for name in names}


def test_legs_of_a_call_that_has_just_ended_are_stored_and_asked_for_again_once_settled(
    worker, database, legs
):
    now = database.now()
    just_ended = leg(call_time=now - timedelta(minutes=5), duration_seconds=240)

    counts = worker.answered(just_ended)
    row = database.request("one")

    assert counts == {"put_off": 1, "legs_inserted": 1}
    assert len(legs()) == 1
    assert (row["state"], row["attempts"], row["leg_count"]) == ("pending", 0, 1)
    # Ended a minute ago, and final a quarter of an hour after that.
    assert timedelta(0) <= row["run_after"] - (now + timedelta(minutes=14)) < timedelta(seconds=1)


def test_a_count_that_disagrees_is_final_once_a_second_answer_brings_the_same_legs(worker, database):
    first = worker.answered(leg("a"), count=2)
    after_first = database.request("one")
    second = worker.answered(leg("a"), count=2)
    row = database.request("one")

    assert (first["put_off"], second["done"]) == (1, 1)
    assert after_first["state"] == "pending"
    assert (row["state"], row["leg_count"], row["api_count"], row["attempts"]) == ("done", 1, 2, 1)


def test_a_count_that_disagrees_stays_open_while_the_legs_still_change(worker):
    worker.answered(leg("a"), count=3)

    assert worker.answered(leg("a"), leg("b"), count=3)["put_off"] == 1
    assert worker.answered(leg("a"), leg("b"), count=3)["done"] == 1


def test_a_failure_is_retried_later_each_time_and_at_last_the_request_is_dead(worker, database):
    waits, states = [], []
    for attempt in range(1, 9):
        worker.failed(ServerError("HTTP status 503", http_status=503))
        row = database.request("one")
        assert row["attempts"] == attempt
        waits.append((row["run_after"] - row["updated_at"]).total_seconds())
        states.append(row["state"])

    assert states == ["pending"] * 7 + ["dead"]
    assert waits[:7] == [30, 60, 120, 240, 480, 960, 1920]
    assert (row["last_error_kind"], row["last_http_status"]) == ("server_error", 503)
    assert row["last_error"] == "HTTP status 503"
    assert row["finished_at"] == row["updated_at"]


def test_the_wait_after_a_failure_is_spread_by_chance_and_ends_at_six_hours(worker, database):
    worker.failed(ServerError("down"), chance=0.0)
    row = database.request("one")
    shortest = row["run_after"] - row["updated_at"]
    database.change("one", attempts=100)
    worker.failed(ServerError("down"), rules=replace(RULES, max_attempts=1_000))
    row = database.request("one")

    assert shortest == timedelta(seconds=15)
    assert row["run_after"] - row["updated_at"] == timedelta(hours=6)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CallTimeoutError("no answer"), "timeout"),
        (NotFoundError("code 404", http_status=200), "not_found"),
        (RateLimitedError("429", http_status=429), "rate_limited"),
        (RequestError("code 400", http_status=200), "rejected"),
    ],
)
def test_a_failed_request_carries_the_word_and_the_sentence_of_its_failure(worker, database, error, kind):
    worker.failed(error)
    row = database.request("one")

    assert (row["state"], row["attempts"]) == ("pending", 1)
    assert (row["last_error_kind"], row["last_error"]) == (kind, str(error))
    assert row["last_http_status"] == error.http_status


def test_a_valid_answer_ends_the_word_of_the_failure_before_it(worker, database):
    worker.failed(ServerError("HTTP status 500", http_status=500))

    worker.answered(leg("a"))
    row = database.request("one")

    assert (row["state"], row["last_error_kind"], row["last_error"]) == ("done", None, None)
    assert row["last_http_status"] == 200


def test_not_ready_is_waited_for_without_an_attempt(worker, database):
    counts = worker.failed(NotReadyError("code 202 in the body", http_status=200))
    row = database.request("one")

    assert counts == {"put_off": 1}
    assert (row["state"], row["attempts"], row["fetches"]) == ("pending", 0, 0)
    assert row["last_error_kind"] == "not_ready"
    assert row["run_after"] > row["updated_at"]


def test_a_request_that_the_api_put_off_by_an_hour_is_given_back_until_then(worker, database):
    error = RateLimitedError("429", retry_after=3600.0, http_status=429)

    counts = worker.failed(error)
    row = database.request("one")

    assert counts == {"released": 1}
    assert (row["state"], row["attempts"]) == ("pending", 0)
    assert row["run_after"] - row["updated_at"] == timedelta(hours=1)


def test_a_request_that_is_given_back_keeps_nothing_and_uses_no_attempt(worker, database, legs):
    (request,) = worker.claim("one")

    counts = worker.settle(NotAsked(request))
    row = database.request("one")

    assert counts == {"released": 1}
    assert legs() == database.rows(cdr_responses) == []
    assert (row["state"], row["attempts"], row["fetches"], row["last_http_status"]) == ("pending", 0, 0, None)


def test_a_crash_of_our_own_uses_the_attempt_and_has_a_word_of_its_own(worker, database):
    (request,) = worker.claim("one")

    counts = worker.settle(Crashed(request, Timing(), ZeroDivisionError("of ours")))
    row = database.request("one")

    assert counts == {"retried": 1}
    assert (row["state"], row["attempts"], row["last_error_kind"]) == ("pending", 1, "unexpected")
    assert "ZeroDivisionError" in row["last_error"]


def test_settling_nothing_is_not_an_error(worker):
    assert worker.settle() == {}


def test_everything_that_is_counted_is_a_column_of_the_ledger(worker):
    counts = worker.answered(leg("a"))
    counts += worker.answered(leg("a", duration_seconds=9), request_id="two")
    counts += worker.failed(ServerError("down"), request_id="three")

    assert set(counts) <= set(RUN_COUNTS)


@pytest.mark.databases("sqlite")
def test_stored_legs_are_found_by_their_key_whatever_else_is_stored(worker, database):
    worker.answered(leg("a"), request_id="one")
    worker.answered(leg("a"), request_id="two")
    plans = []

    def explain(connection, _cursor, statement, parameters, *_):
        if "FROM call_legs" in statement and not statement.startswith("EXPLAIN"):
            plans.extend(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all())

    event.listen(database.engine, "before_cursor_execute", explain)
    with database.engine.begin() as connection:
        found = stored_legs(connection, [("default", "one"), ("default", "two"), ("default", "three")])
    steps = [step for *_, step in plans if "call_legs" in step]

    assert sorted(request_id for _, request_id in found) == ["one", "two"]
    assert len(steps) == 2
    assert all(step.startswith("SEARCH call_legs USING") for step in steps)


# --- One bad row and its neighbours ------------------------------------------------------------------


def no_letter(answered):
    """What the database rejects: a leg without a letter."""
    return replace(answered, legs=tuple(replace(each, leg=None) for each in answered.legs))


def too_large_a_count(answered):
    """What the driver rejects: a number of more than 64 bits."""
    return replace(answered, count=2**70)


@pytest.mark.parametrize("spoil", [no_letter, too_large_a_count])
def test_one_answer_that_the_database_rejects_never_costs_its_neighbours(system, unexplained, spoil):
    good = [f"answered-{number}" for number in range(20)]
    system.enqueue(*good[:10], "answered-bad", *good[10:])

    def make_fetcher(account, _permit):
        fetch_over_http = system.fetcher(account)

        def fetch_one(request):
            fetched = fetch_over_http(request)
            return spoil(fetched) if request.request_id == "answered-bad" else fetched

        return fetch_one

    summary = system.sync(make_fetcher=make_fetcher)
    bad = system.request("answered-bad")

    assert system.states() == {"done": 20, "dead": 1}
    assert (bad["last_error_kind"], bad["leg_count"]) == ("unstorable", 0)
    assert system.row(cdr_responses, request_id="answered-bad")["body"]
    assert len(system.rows(call_legs)) == 40
    assert summary.exit_code == 65
    assert unexplained(system.row(sync_runs)) == 0
    assert summary.counts["api_calls"] == system.simulator.total_calls == 21
