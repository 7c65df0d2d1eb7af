"""Which answers are valid, and which error every other one raises: by HTTP status, `code` and `cdr`."""

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
from etl.sync.summary import _RUN_OUTCOMES

LEGS = [{"leg": "b", "to": 9100000000}, {"leg": "a", "to": 9200000000}]
PAGE = b"<html><body><h1>404 Not Found</h1></body></html>"
WITH_AND_WITHOUT_HTML = (b"\n" + PAGE, b"no page", b'{"code": 404, "msg": "<b>no</b>"}')

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
def test_a_success_is_recognised_by_its_code_in_every_form(form):
    answer = read_answer(200, body(count=2, cdr=LEGS, **form(200)))

    assert answer == Answer(legs=tuple(LEGS), count=2)


def test_a_single_leg_may_come_as_an_object_instead_of_a_list():
    answer = read_answer(200, body(count=1, cdr=LEGS[0], code=200))

    assert answer == Answer(legs=(LEGS[0],), count=1)


def test_an_answer_may_have_no_legs():
    assert read_answer(200, body(count=0, cdr=[], code=200)) == Answer(legs=(), count=0)


@pytest.mark.parametrize(
    ("count", "expected"),
    [({}, None), ({"count": None}, None), ({"count": 0}, 0), ({"count": "2"}, 2), ({"count": " 2 "}, 2)],
)
def test_the_count_may_be_missing_or_a_string(count, expected):
    assert read_answer(200, body(cdr=LEGS, code=200, **count)).count == expected


@pytest.mark.parametrize("count", [-1, True, "two", "-1", [2], {}, 10**18, "9" * 5000, 1.5])
def test_a_count_that_is_not_a_number_of_legs_is_malformed(count):
    error = error_of(200, body(cdr=LEGS, code=200, count=count))

    assert type(error) is MalformedError
    assert "`count`" in str(error)


def test_other_fields_of_an_answer_are_ignored():
    answer = read_answer(200, body(cdr=LEGS, code=200, msg="ok", page={"next": None}, error=False))

    assert answer.legs == tuple(LEGS)


def test_numbers_keep_the_digits_that_were_sent():
    (leg,) = read_answer(200, b'{"code":200,"cdr":[{"rate":17507.49999999892,"balance":1135.10}]}').legs

    assert [str(leg["rate"]), str(leg["balance"])] == ["17507.49999999892", "1135.10"]


# --- Errors, by HTTP status and by code in the body --------------------------------------------------


@pytest.mark.parametrize(("code", "kind", "reason"), CODES)
def test_an_http_error_status_decides_the_error_whatever_the_body_says(code, kind, reason):
    bodies = [b"", PAGE, b"{", body(code=code, msg="no"), body(code=200, cdr=LEGS, count=2), body(code=404)]

    for sent in bodies:
        error = error_of(code, sent)
        assert (type(error), error.reason, error.http_status) == (kind, reason, code)


@pytest.mark.parametrize(("code", "kind", "reason"), CODES)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_code_in_the_body_of_http_200_decides_the_error(form, code, kind, reason):
    for message, cdr in itertools.product(MESSAGES, CDRS):
        sent = body(**form(code), **message, **cdr)
        error = error_of(200, sent)
        assert (type(error), error.reason, error.http_status) == (kind, reason, 200)


@pytest.mark.parametrize("status", [200, 201, 206])
@pytest.mark.parametrize("code", [404, "404"])
@pytest.mark.parametrize("cdr", CDRS, ids=str)
def test_a_404_in_the_body_of_a_2xx_is_never_a_valid_answer(status, code, cdr):
    assert type(error_of(status, body(code=code, **cdr))) is NotFoundError
    assert type(error_of(status, body(cmi_code=code, **cdr))) is NotFoundError


@pytest.mark.parametrize(
    "code", [0, -200, 20, 2000, 199, 999, 10**4000, "0", "9" * 5000, "0000002004", "1000000000000000200"]
)
def test_an_unknown_code_is_rejected(code):
    assert type(error_of(200, body(code=code, cdr=LEGS))) is RejectedError


def test_the_error_message_quotes_the_api():
    assert "Authentication Failed" in str(error_of(200, body(code=407, msg="Authentication Failed")))
    assert "Missing parameter" in str(error_of(200, body(code=404, msg={"reason": "Missing parameter"})))
    assert "404 Not Found" in str(error_of(404, PAGE))


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 500, 503])
def test_an_html_page_that_is_not_an_outage_asks_whether_the_url_is_right(status):
    page, text, answer = (error_of(status, sent) for sent in WITH_AND_WITHOUT_HTML)

    assert ("is CDR_SYNC_API_URL right?" in str(page)) == (status < 500)
    assert "CDR_SYNC_API_URL" not in f"{text} {answer}"


@pytest.mark.parametrize("status", [200, 400, 403, 404, 405, 429, 500, 503])
def test_an_error_says_whether_the_body_was_a_web_page(status):
    assert [error_of(status, sent).is_web_page for sent in WITH_AND_WITHOUT_HTML] == [True, False, False]


def test_an_error_message_stays_short():
    for sent in (body(code=500, msg="x" * 100_000), b"x" * 100_000, body(code=500, msg=[["x"] * 99_999])):
        assert len(str(error_of(500, sent))) < 500


def test_a_rate_limit_error_carries_the_requested_pause():
    assert error_of(429, b"", retry_after=17.0).retry_after == 17.0
    assert error_of(200, body(code=429), retry_after=17.0).retry_after == 17.0
    assert error_of(429, b"").retry_after is None


# --- Not an answer at all----------------------------------------------------------------------------


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
def test_a_body_that_is_not_an_answer_is_unreadable_and_transient(sent):
    error = error_of(200, sent)

    assert (type(error), error.reason, error.http_status) == (UnreadableError, "malformed", 200)
    assert isinstance(error, TransientError)


@pytest.mark.parametrize("cdr", [{}, {"cdr": "none"}, {"cdr": 0}, {"cdr": True}, {"cdr": ""}])
def test_a_success_without_a_list_of_legs_does_not_count_as_no_legs(cdr):
    error = error_of(200, body(code=200, count=0, **cdr))

    assert (type(error), error.reason) == (UnreadableError, "malformed")
    assert "`cdr`" in str(error)


@pytest.mark.parametrize("cdr", ["null", "{}", "[]"])
@pytest.mark.parametrize("count", ["0", "0.0", '"0"'])
def test_an_empty_list_is_also_sent_as_null_or_as_an_empty_object_with_a_count_of_0(cdr, count):
    answer = read_answer(200, f'{{"code": 200, "count": {count}, "cdr": {cdr}}}'.encode())

    assert (answer.legs, answer.count) == ((), 0)


@pytest.mark.parametrize("cdr", ["null", "{}"])
@pytest.mark.parametrize("count", ["1", "null"])
def test_null_or_an_empty_object_without_a_count_of_0_does_not_count_as_no_legs(cdr, count):
    error = error_of(200, f'{{"code": 200, "count": {count}, "cdr": {cdr}}}'.encode())

    assert type(error) is UnreadableError


@pytest.mark.parametrize(("code", "count"), [("200.0", "1.0"), ("2e2", "1"), ("200.00", "1.000")])
def test_a_whole_number_may_be_written_with_a_point_or_an_exponent(code, count):
    answer = read_answer(200, f'{{"code": {code}, "count": {count}, "cdr": [{{}}]}}'.encode())

    assert answer.count == 1


@pytest.mark.parametrize("count", ["1.5", "0.1e-300000000", "1e400", "-1.0"])
def test_a_count_that_is_not_a_whole_number_is_malformed(count):
    error = error_of(200, f'{{"code": 200, "count": {count}, "cdr": [{{}}]}}'.encode())

    assert type(error) is MalformedError


def test_a_byte_order_mark_before_the_answer_is_ignored():
    answer = read_answer(200, b'\xef\xbb\xbf{"code": 200, "count": 0, "cdr": []}')

    assert (answer.legs, answer.count) == ((), 0)


def test_a_body_in_latin_1_is_unreadable_and_the_byte_is_named_with_its_position():
    error = error_of(200, '{"code": 200, "cdr": [{"status": "angenommen ä"}]}'.encode("latin-1"))

    assert type(error) is UnreadableError
    assert "not UTF-8 (byte 0xe4 at position 45)" in str(error)


@pytest.mark.parametrize("leg", [None, 5, 0.39, "b", True, [], ["b"]])
def test_a_leg_that_is_not_an_object_is_malformed_and_its_position_is_named(leg):
    error = error_of(200, body(code=200, cdr=[LEGS[0], leg]))

    assert (type(error), error.reason) == (MalformedError, "malformed")
    assert "cdr[1]" in str(error)


def test_any_depth_of_nesting_raises_a_request_error():
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
def test_random_bytes_raise_a_request_error(status, sent):
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
def test_any_json_is_either_a_success_in_all_its_fields_or_a_request_error(status, content):
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

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, Exception) and kind.__module__ == "etl.errors"
]
GROUPS = (RequestError, TransientError, errors.RefusedError)  # not raised themselves, except for crashes
REQUEST_ERRORS = [kind for kind in CLASSES if issubclass(kind, RequestError) and kind not in GROUPS]
COMMAND_ERRORS = [kind for kind in CLASSES if errors.CdrSyncError in kind.__mro__[1:]]
ALL_REASONS = {kind.reason for kind in REQUEST_ERRORS}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_error_is_in_the_tree_of_the_docstring(kind):
    assert re.search(rf"^\W*{kind.__name__} ", errors.__doc__, re.MULTILINE)


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_the_tree_names_the_reason_of_every_request_error(kind):
    assert re.search(rf"{kind.__name__} +{kind.reason} ", errors.__doc__)


@pytest.mark.parametrize("kind", COMMAND_ERRORS)
def test_the_tree_names_the_exit_code_of_every_command_error(kind):
    assert re.search(rf"{kind.__name__} .* exit {kind.exit_code}\b", errors.__doc__)


def test_the_reasons_of_the_contract_exist():
    documented = (
        "timeout connection server_error rate_limited not_found not_ready malformed too_large redirected"
    )

    assert set(documented.split()) <= ALL_REASONS


@pytest.mark.parametrize("kind", REQUEST_ERRORS)
def test_the_branch_of_an_error_in_the_tree_is_its_base_class(kind):
    lines = errors.__doc__.splitlines()
    position = next(n for n, line in enumerate(lines) if re.search(rf"\W{kind.__name__} ", line))
    depth = lines[position].index(kind.__name__)
    above = next(line for line in reversed(lines[:position]) if 0 <= re.search(r"\w", line).start() < depth)

    assert kind.__base__.__name__ in above


# --- Exit codes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graver", "less"),
    list(itertools.combinations(["credentials_refused", "api_down", "failed", "dead_letters", "ok"], 2)),
)
def test_a_run_ranks_its_outcomes_as_exit_codes_are_ranked(graver, less):
    assert list(_RUN_OUTCOMES).index(graver) < list(_RUN_OUTCOMES).index(less)
    assert errors.gravest([_RUN_OUTCOMES[graver], _RUN_OUTCOMES[less]]) == _RUN_OUTCOMES[graver]


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ([], 0),
        ([0, 0], 0),
        ([0, 65], 65),
        ([65, 69, 77, 78], 78),
        ([65, 69, 77], 77),
        ([65, 69, 1], 69),
        ([65, 1], 1),
        ([0, 143, 65], 143),
        ([0, 75], 75),
    ],
)
def test_where_several_exit_codes_apply_the_gravest_is_reported(codes, code):
    assert errors.gravest(codes) == errors.gravest(codes[::-1]) == code


def test_a_failure_prints_its_reason_and_its_remedy_and_keeps_them_apart():
    bare, full = errors.UsageError("No such file x"), errors.UsageError("No such file x", remedy="Create it")

    assert (str(bare), bare.reason, bare.remedy) == ("No such file x", "No such file x", "")
    assert (str(full), full.reason, full.remedy) == (
        "No such file x. Create it",
        "No such file x",
        "Create it",
    )
