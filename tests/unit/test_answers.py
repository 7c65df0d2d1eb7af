"""Which answers are valid, and what the others are: HTTP status, `code` in the body, and what `cdr` holds."""

from __future__ import annotations

import inspect
import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl import errors
from etl.cdr.answers import Answer, read_answer
from etl.errors import (
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RejectedError,
    RequestError,
    ServerError,
    TransientError,
    UnauthorizedError,
    UnreadableError,
)

LEGS = [{"leg": "b", "to": 9100000000}, {"leg": "a", "to": 9200000000}]
PAGE = b"<html><body><h1>404 Not Found</h1></body></html>"

CODES = [
    (202, NotReadyError, "not_ready"),
    (204, NotReadyError, "not_ready"),
    (425, NotReadyError, "not_ready"),
    (400, RejectedError, "rejected"),
    (409, RejectedError, "rejected"),
    (422, RejectedError, "rejected"),
    (401, UnauthorizedError, "unauthorized"),
    (403, UnauthorizedError, "unauthorized"),
    (407, UnauthorizedError, "unauthorized"),
    (404, NotFoundError, "not_found"),
    (429, RateLimitedError, "rate_limited"),
    (500, ServerError, "server_error"),
    (502, ServerError, "server_error"),
    (503, ServerError, "server_error"),
    (504, ServerError, "server_error"),
    (599, ServerError, "server_error"),
]
FORMS = {
    "code": lambda code: {"code": code},
    "code as text": lambda code: {"code": str(code)},
    "code as text with spaces": lambda code: {"code": f" {code} "},
    "cmi_code": lambda code: {"cmi_code": code},
    "cmi_code as text": lambda code: {"cmi_code": str(code)},
    "code beside error": lambda code: {"code": code, "error": True},
    "code null and cmi_code": lambda code: {"code": None, "cmi_code": code},
}
MESSAGES = [{}, {"msg": "Authentication Failed"}, {"msg": {"reason": "Missing parameter"}}, {"msg": None}]
CDRS = [{}, {"cdr": None}, {"cdr": []}, {"cdr": LEGS, "count": 2}, {"cdr": LEGS[0]}]


def body(**content) -> bytes:
    return json.dumps(content).encode()


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def error_of(status: int, sent: bytes, **keywords) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read_answer(status, sent, **keywords)
    return caught.value


# --- Valid answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_success_is_known_by_its_code_in_every_form(form):
    answer = read_answer(200, body(count=2, cdr=LEGS, **form(200)))

    assert answer == Answer(legs=tuple(LEGS), count=2)


def test_one_leg_may_come_without_a_list():
    answer = read_answer(200, body(count=1, cdr=LEGS[0], code=200))

    assert answer == Answer(legs=(LEGS[0],), count=1)


def test_an_answer_may_have_no_leg():
    assert read_answer(200, body(count=0, cdr=[], code=200)) == Answer(legs=(), count=0)


@pytest.mark.parametrize(
    ("count", "expected"),
    [({}, None), ({"count": None}, None), ({"count": 0}, 0), ({"count": "2"}, 2), ({"count": " 2 "}, 2)],
)
def test_the_count_may_be_missing_or_a_text(count, expected):
    assert read_answer(200, body(cdr=LEGS, code=200, **count)).count == expected


@pytest.mark.parametrize("count", [-1, True, "two", "-1", [2], {}, 10**18, "9" * 5000, 1.5])
def test_a_count_that_counts_nothing_breaks_the_format(count):
    error = error_of(200, body(cdr=LEGS, code=200, count=count))

    assert type(error) is MalformedError
    assert "`count`" in str(error)


def test_what_else_an_answer_says_does_not_matter():
    answer = read_answer(200, body(cdr=LEGS, code=200, msg="ok", page={"next": None}, error=False))

    assert answer.legs == tuple(LEGS)


def test_digits_reach_the_legs_as_they_were_sent():
    (leg,) = read_answer(200, b'{"code":200,"cdr":[{"rate":17507.49999999892,"balance":1135.10}]}').legs

    assert [str(leg["rate"]), str(leg["balance"])] == ["17507.49999999892", "1135.10"]


# --- Errors, by HTTP status and by code in the body --------------------------------------------------


@pytest.mark.parametrize(("code", "kind", "reason"), CODES)
def test_an_http_status_says_what_failed_whatever_the_body_says(code, kind, reason):
    bodies = [b"", PAGE, b"{", body(code=code, msg="no"), body(code=200, cdr=LEGS, count=2), body(code=404)]

    for sent in bodies:
        error = error_of(code, sent)
        assert (type(error), error.reason, error.http_status) == (kind, reason, code)


@pytest.mark.parametrize(("code", "kind", "reason"), CODES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_code_in_the_body_of_http_200_says_what_failed(form, code, kind, reason):
    for message, cdr in itertools.product(MESSAGES, CDRS):
        sent = body(**form(code), **message, **cdr)
        error = error_of(200, sent)
        assert (type(error), error.reason, error.http_status) == (kind, reason, 200)


@pytest.mark.parametrize("status", [200, 201, 206])
@pytest.mark.parametrize("code", [404, "404"])
@pytest.mark.parametrize("cdr", CDRS, ids=str)
def test_a_404_inside_a_success_is_never_an_answer(status, code, cdr):
    assert type(error_of(status, body(code=code, **cdr))) is NotFoundError
    assert type(error_of(status, body(cmi_code=code, **cdr))) is NotFoundError


@pytest.mark.parametrize(
    "code", [0, -200, 20, 2000, 199, 999, 10**4000, "0", "9" * 5000, "0000002004", "1000000000000000200"]
)
def test_a_code_of_no_known_meaning_is_rejected(code):
    assert type(error_of(200, body(code=code, cdr=LEGS))) is RejectedError


def test_the_api_is_quoted_in_the_message():
    assert "Authentication Failed" in str(error_of(200, body(code=407, msg="Authentication Failed")))
    assert "Missing parameter" in str(error_of(200, body(code=404, msg={"reason": "Missing parameter"})))
    assert "404 Not Found" in str(error_of(404, PAGE))


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 500, 503])
def test_a_web_page_that_no_outage_explains_raises_the_question_of_the_url(status):
    assert ("is CDR_SYNC_API_URL right?" in str(error_of(status, b"\n" + PAGE))) == (status < 500)
    assert "CDR_SYNC_API_URL" not in str(error_of(status, b"no page"))
    assert "CDR_SYNC_API_URL" not in str(error_of(status, body(code=404, msg="<b>no</b>")))


def test_a_message_stays_short_enough_to_read():
    for sent in (body(code=500, msg="x" * 100_000), b"x" * 100_000, body(code=500, msg=[["x"] * 99_999])):
        assert len(str(error_of(500, sent))) < 500


def test_a_limit_carries_the_pause_that_was_asked_for():
    assert error_of(429, b"", retry_after=17.0).retry_after == 17.0
    assert error_of(200, body(code=429), retry_after=17.0).retry_after == 17.0
    assert error_of(429, b"").retry_after is None


# --- No answers at all -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"  \n",
        b"null",
        b"true",
        b"200",
        b"NaN",
        b'"code"',
        b"[]",
        json.dumps(LEGS).encode(),
        PAGE,
        b"{",
        b'{"code":200,"cdr":[',
        b'{"code":200,"cdr":[]}}',
        b"\xff\xfe\x00",
        b'{"code":200,"cdr":[{"status":"\xff"}]}',
        nested(100_000).encode(),
        b'{"code":200,"cdr":' + nested(100_000).encode() + b"}",
        b'{"code":200,"cdr":[{"time":' + b"9" * 5_000 + b"}]}",
        b"{}",
        b'{"cdr":[]}',
        b'{"code":null,"cdr":[]}',
        b'{"code":true,"cdr":[]}',
        b'{"code":"OK","cdr":[]}',
        b'{"code":"","cdr":[]}',
        b'{"code":NaN,"cdr":[]}',
        b'{"code":[200],"cdr":[]}',
        b'{"code":{"code":200},"cdr":[]}',
        '{"code":"²⁰⁰","cdr":[]}'.encode(),
        b'{"CODE":200,"cdr":[]}',
    ],
    ids=lambda sent: repr(sent[:30]),
)
def test_what_is_no_answer_is_unreadable_and_worth_another_try(sent):
    error = error_of(200, sent)

    assert (type(error), error.reason, error.http_status) == (UnreadableError, "malformed", 200)
    assert isinstance(error, TransientError)


@pytest.mark.parametrize("cdr", [{}, {"cdr": None}, {"cdr": "none"}, {"cdr": 0}, {"cdr": True}, {"cdr": ""}])
def test_success_without_a_list_of_legs_is_never_taken_for_no_legs(cdr):
    error = error_of(200, body(code=200, count=0, **cdr))

    assert (type(error), error.reason) == (UnreadableError, "malformed")
    assert "`cdr`" in str(error)


@pytest.mark.parametrize("leg", [None, 5, 0.39, "b", True, [], ["b"]])
def test_a_leg_that_is_no_object_breaks_the_format_and_is_named(leg):
    error = error_of(200, body(code=200, cdr=[LEGS[0], leg]))

    assert (type(error), error.reason) == (MalformedError, "malformed")
    assert "cdr[1]" in str(error)


def test_no_depth_of_nesting_is_anything_but_an_error_of_ours():
    for depth in [*range(1, 700, 41), *range(700, 1300, 7)]:
        for sent in (f'{{"code":500,"msg":{nested(depth)}}}', nested(depth), f'{{"code":{nested(depth)}}}'):
            assert error_of(200, sent.encode()).reason in ("server_error", "malformed")
            assert error_of(500, sent.encode()).reason == "server_error"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
STATUSES = st.sampled_from([200, 201, 202, 204, 400, 401, 404, 418, 429, 500, 503]) | st.integers(400, 599)


@given(STATUSES, st.binary(max_size=30))
def test_any_bytes_are_no_answer(status, sent):
    assert error_of(status, sent).reason in ALL_REASONS


@given(
    status=STATUSES,
    content=st.fixed_dictionaries(
        {},
        optional={
            "code": st.sampled_from([200, "200", 404, "404", 407, 500]) | JSON,
            "cmi_code": st.sampled_from([200, 404]) | JSON,
            "cdr": st.lists(st.dictionaries(st.text(max_size=3), JSON, max_size=2), max_size=3) | JSON,
            "count": st.integers(-1, 3) | JSON,
            "msg": JSON,
        },
    ),
)
def test_an_answer_is_either_a_success_in_all_places_or_an_error_of_ours(status, content):
    sent = json.dumps(content).encode()
    if status not in (200, 201) or "200" not in (
        str(content.get(name)).strip() for name in ("code", "cmi_code")
    ):
        assert error_of(status, sent).reason in ALL_REASONS
        return
    try:
        answer = read_answer(status, sent)
    except RequestError:
        return

    assert all(isinstance(leg, dict) for leg in answer.legs)
    assert isinstance(content["cdr"], dict | list)


# --- The tree of errors ------------------------------------------------------------------------------

CLASSES = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if kind.__module__ == "etl.errors"]
GROUPS = (RequestError, TransientError, errors.RefusedError)  # never raised themselves, but for crashes
REQUEST_ERRORS = [kind for kind in CLASSES if issubclass(kind, RequestError) and kind not in GROUPS]
ALL_REASONS = {kind.reason for kind in REQUEST_ERRORS}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_drawn_in_the_tree(kind):
    assert re.search(rf"^\W*{kind.__name__} ", errors.__doc__, re.MULTILINE)


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_the_tree_says_the_reason_of_every_failure_of_a_request(kind):
    assert re.search(rf"{kind.__name__} +{kind.reason} ", errors.__doc__)


@pytest.mark.parametrize("kind", [kind for kind in CLASSES if issubclass(kind, errors.CdrSyncError)][1:])
def test_the_tree_says_the_exit_code_of_every_failure_of_a_command(kind):
    assert re.search(rf"{kind.__name__} .* exit {kind.exit_code}\b", errors.__doc__)


def test_the_documented_words_are_those_of_the_errors():
    documented = (
        "timeout connection server_error rate_limited not_found not_ready malformed too_large redirected"
    )

    assert set(documented.split()) <= ALL_REASONS


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_the_drawn_branch_of_an_error_is_its_base_class(kind):
    lines = errors.__doc__.splitlines()
    position = next(n for n, line in enumerate(lines) if re.search(rf"\W{kind.__name__} ", line))
    depth = lines[position].index(kind.__name__)
    above = next(line for line in reversed(lines[:position]) if 0 <= re.search(r"\w", line).start() < depth)

    assert kind.__base__.__name__ in above
