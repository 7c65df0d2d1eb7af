"""The nine documented fields, whose types vary: what is accepted, to the digit, and what is malformed."""

from __future__ import annotations

import contextlib
import json
import tracemalloc
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from etl.cdr.answers import read_answer
from etl.cdr.legs import Leg
from etl.cdr.parsing import parse_legs
from etl.errors import MalformedError, UnreadableError

SAMPLE = """{"count": 2, "cdr": [
   {"duration": 4,  "balance": 1135.14, "rate": 0.39, "from": 4471000000, "to": 9100000000,
    "time": 1637069609000, "leg": "b", "direction": "outbound", "status": "answered"},
   {"duration": 10, "balance": 1134.75, "rate": 0.39, "from": 4471000000, "to": 9200000000,
    "time": 1637069609000, "leg": "a", "direction": "outbound", "status": "answered"}],
 "code": 200}"""
SAMPLE_TIME = datetime(2021, 11, 16, 13, 33, 29, tzinfo=UTC)

# A leg, each value as it stands in the answer's text.
SENT = {
    "duration": "4",
    "balance": "1135.14",
    "rate": "0.39",
    "from": "4471000000",
    "to": "9100000000",
    "time": "1637069609000",
    "leg": '"b"',
    "direction": '"outbound"',
    "status": '"answered"',
}
NOT_SENT = None


def parse_text(*legs: str, region: str = "IN") -> tuple[Leg, ...]:
    body = f'{{"code":200,"cdr":[{",".join(legs)}]}}'
    return parse_legs(read_answer(200, body.encode()), region=region)


def written(**changes: str | None) -> str:
    """A leg as text; `from_` stands for `from`, and NOT_SENT leaves a field out."""
    fields = SENT | {name.rstrip("_"): value for name, value in changes.items()}
    return "{" + ",".join(f"{json.dumps(n)}:{v}" for n, v in fields.items() if v is not NOT_SENT) + "}"


def parse(**changes: str | None) -> Leg:
    (leg,) = parse_text(written(**changes))
    return leg


def problem_of(**changes: str | None) -> str:
    with pytest.raises(MalformedError) as caught:
        parse(**changes)
    assert caught.value.reason == "malformed"
    return str(caught.value)


# --- The vendor's sample -----------------------------------------------------------------------------


def test_the_vendors_sample_is_read_to_the_digit():
    b, a = parse_legs(read_answer(200, SAMPLE.encode()), region="IN")

    assert (b.leg, b.from_number, b.to_number) == ("b", "4471000000", "9100000000")
    assert (b.from_e164, b.to_e164, b.to_country) == ("+914471000000", "+919100000000", "IN")
    assert (b.call_time, b.duration_seconds) == (SAMPLE_TIME, 4)
    assert (str(b.rate), str(b.balance)) == ("0.39", "1135.14")
    assert (b.direction, b.status, b.extra) == ("outbound", "answered", None)
    assert (a.leg, a.to_number, a.duration_seconds, str(a.balance)) == ("a", "9200000000", 10, "1134.75")
    assert a.call_time.isoformat() == "2021-11-16T13:33:29+00:00"
    assert a.end == SAMPLE_TIME + timedelta(seconds=10)


def test_legs_keep_the_order_in_which_they_were_sent():
    legs = parse_text(*(written(to=str(number)) for number in (9300000000, 9100000000, 9200000000)))

    assert [leg.to_number for leg in legs] == ["9300000000", "9100000000", "9200000000"]


def test_an_answer_without_legs_has_none():
    assert parse_text() == ()


def test_all_nine_fields_may_come_as_strings_with_spaces():
    as_text = {name: value if value.startswith('"') else f'"{value}"' for name, value in SENT.items()}
    with_spaces = {name: f'"  {value[1:-1]} "' for name, value in as_text.items()}
    expected = parse()

    assert parse_text(written(**as_text)) == (expected,)
    assert parse_text(written(**with_spaces)) == (expected,)


# --- Telephone numbers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("9100000000", "9100000000"),
        ("9.1e9", "9100000000"),
        ("9100000000.0", "9100000000"),
        ('"04471000000"', "04471000000"),
        ('" 918000000000"', "918000000000"),
        ('"+914471000000"', "+914471000000"),
        ('"209_1111113"', "209_1111113"),
        ('"anonymous"', "anonymous"),
        ("0", "0"),
        ("null", ""),
        (NOT_SENT, ""),
        ('""', ""),
        ('"  "', ""),
        ("9" * 64, "9" * 64),
    ],
)
def test_a_phone_number_is_kept_as_sent_but_trimmed(sent, kept):
    leg = parse(from_=sent, to=sent)

    assert (leg.from_number, leg.to_number) == (kept, kept)


@pytest.mark.parametrize(
    ("sent", "e164", "country"),
    [
        ("4471000000", "+914471000000", "IN"),
        ('"04471000000"', "+914471000000", "IN"),
        ('" 914471000000"', "+914471000000", "IN"),
        ('"+914471000000"', "+914471000000", "IN"),
        ('"+442079460000"', "+442079460000", "GB"),
        ("442079460000", "+442079460000", "GB"),
        ('"+80012345678"', "+80012345678", None),  # international freephone, of no country
        ('"+44 20 7946 0000"', "+442079460000", "GB"),
        ('"+91 98400-12345"', "+919840012345", "IN"),
        ('"(044) 2345-6789"', "+914423456789", "IN"),
        ('"tel:+919840012345"', "+919840012345", "IN"),
        ('"98400.12345"', "+919840012345", "IN"),
        ('"98400 or 12345"', None, None),
        ('"209_1111113"', None, None),
        ('"anonymous"', None, None),
        ('"+"', None, None),
        ('"१२३४५६७८९०"', None, None),
        ("0", None, None),
        ("5", None, None),
        ("9" * 60, None, None),
        ("null", None, None),
    ],
)
def test_a_number_without_a_country_code_belongs_to_the_default_region(sent, e164, country):
    leg = parse(from_=sent, to=sent)

    assert (leg.from_e164, leg.to_e164, leg.to_country) == (e164, e164, country)


def test_the_default_region_can_be_changed():
    (leg,) = parse_text(written(to='"02079460000"'), region="GB")

    assert (leg.to_e164, leg.to_country) == ("+442079460000", "GB")


@pytest.mark.parametrize("field", ["from_", "to"])
@pytest.mark.parametrize(
    "sent", ["true", "false", "[]", "{}", "1.5", "NaN", "Infinity", "9" * 65, '"' + "9" * 65 + '"']
)
def test_an_invalid_phone_number_field_is_malformed(field, sent):
    assert f"cdr[0].{field.rstrip('_')}`" in problem_of(**{field: sent})


# --- Money -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["rate", "balance"])
@pytest.mark.parametrize(
    ("sent", "exact"),
    [
        ("0.39", "0.39"),
        ("0", "0"),
        ("-0.0", "0"),
        ('"0.450000"', "0.45"),
        ("17507.49999999892", "17507.49999999892"),
        ('"17507.49999999892"', "17507.49999999892"),
        ('" 0.39 "', "0.39"),
        ('"+0.39"', "0.39"),
        ("-12.5", "-12.5"),
        ('"-12.5"', "-12.5"),
        ("1.5e2", "150"),
        ('"1.5E+2"', "150"),
        ("39e-2", "0.39"),
        ("0.1", "0.1"),
        ("123456789012345678.123456789012345678", "123456789012345678.123456789012345678"),
        ('"123456789012345678.123456789012345678"', "123456789012345678.123456789012345678"),
        ("99999999999999999999", "99999999999999999999"),
        ("0.000000000000000001", "0.000000000000000001"),
    ],
)
def test_money_has_exactly_the_digits_that_were_sent(field, sent, exact):
    value = getattr(parse(**{field: sent}), field)

    assert isinstance(value, Decimal)
    assert value == Decimal(exact)


@pytest.mark.parametrize("field", ["rate", "balance"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_of_25_decimals_money_keeps_18(field, quote):
    value = getattr(parse(**{field: f"{quote}1.1234567890123456784444444{quote}"}), field)

    assert value == Decimal("1.123456789012345678")


@pytest.mark.parametrize("field", ["rate", "balance"])
@pytest.mark.parametrize("sent", ["null", NOT_SENT])
def test_missing_money_is_none_and_never_0(field, sent):
    assert getattr(parse(**{field: sent}), field) is None


@pytest.mark.parametrize("field", ["rate", "balance"])
@pytest.mark.parametrize(
    "sent",
    [
        "true",
        "false",
        "NaN",
        "Infinity",
        "-Infinity",
        '"NaN"',
        '"sNaN"',
        '"nan123"',
        '"inf"',
        '"-Infinity"',
        '"free"',
        '"1_000"',
        '"1,5"',
        '"0x10"',
        '"0.39 INR"',
        '"१२"',
        "[]",
        "[0.39]",
        "{}",
        "1e20",
        '"100000000000000000000"',
        "1e400",
        '"1e400"',
        "1e9999999",
        '"1e9999999"',
        '"1e999999999999999999999"',
        "-1e9999999",
        '"-1e9999999"',
    ],
)
def test_an_invalid_amount_of_money_is_malformed(field, sent):
    assert f"cdr[0].{field}`" in problem_of(**{field: sent})


@pytest.mark.parametrize("sent", ["0e-9999999", "1e-9999999", '"1e-9999999"', "0e9999999", '"0e9999999"'])
def test_a_zero_amount_stays_small_however_it_is_written(sent):
    value = parse(rate=sent).rate

    assert value == 0
    assert len(f"{value:f}") <= 40


@given(
    st.decimals(min_value="-1e20", max_value="1e20", places=18).filter(lambda value: abs(value) < 10**20)
    | st.decimals(min_value=-(10**6), max_value=10**6, places=6)
)
def test_every_amount_is_read_exactly_from_a_number_and_from_a_string(amount):
    legs = parse_text(
        written(rate=f"{amount:f}", balance=f'"{amount:f}"'), written(rate=str(amount), balance=f'"{amount}"')
    )

    assert {leg.rate for leg in legs} | {leg.balance for leg in legs} == {amount}


# --- Duration and time -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        ("4", 4),
        ("0", 0),
        ('"4"', 4),
        ('" 004 "', 4),
        ("4.0", 4),
        ('"4.000"', 4),
        ("4e1", 40),
        ("2147483647", 2147483647),
        ("null", None),
        (NOT_SENT, None),
    ],
)
def test_a_duration_is_rounded_to_whole_seconds(sent, seconds):
    assert parse(duration=sent).duration_seconds == seconds


@pytest.mark.parametrize(
    "sent",
    [
        "-1",
        '"-1"',
        "2147483648",
        "9" * 4000,
        "1e9999999",
        '"1e9999999"',
        "true",
        "NaN",
        "Infinity",
        '"ten"',
        '"00:10"',
        "[]",
        "{}",
    ],
)
def test_an_invalid_duration_is_malformed(sent):
    assert "cdr[0].duration`" in problem_of(duration=sent)


@pytest.mark.parametrize(
    ("sent", "iso"),
    [
        ("1637069609000", "2021-11-16T13:33:29+00:00"),
        ('"1637069609000"', "2021-11-16T13:33:29+00:00"),
        ('" 1637069609000 "', "2021-11-16T13:33:29+00:00"),
        ("1.637069609e12", "2021-11-16T13:33:29+00:00"),
        ("1637069609123", "2021-11-16T13:33:29.123000+00:00"),
        ("1637069609", "2021-11-16T13:33:29+00:00"),
        ('"1637069609"', "2021-11-16T13:33:29+00:00"),
        ("1637069609.5", "2021-11-16T13:33:29.500000+00:00"),
        ("946684800000", "2000-01-01T00:00:00+00:00"),
        ("946684800", "2000-01-01T00:00:00+00:00"),
        ("4102444799999", "2099-12-31T23:59:59.999000+00:00"),
        ("4102444799", "2099-12-31T23:59:59+00:00"),
    ],
)
def test_a_time_is_epoch_milliseconds_or_seconds(sent, iso):
    assert parse(time=sent).call_time.isoformat() == iso


@pytest.mark.parametrize(
    "sent",
    [
        NOT_SENT,
        "null",
        "0",
        "-1637069609000",
        "946684799",
        "946684799999",
        "4102444800",
        "4102444800000",
        "1637069609000000",
        "9" * 4000,
        "1e9999999",
        '"1e9999999"',
        "1e-9999999",
        '"1e-9999999"',
        "true",
        "NaN",
        "Infinity",
        '"now"',
        '"2021-11-16T13:33:29Z"',
        '""',
        "[]",
        "{}",
    ],
)
def test_an_invalid_call_time_is_malformed(sent):
    assert "cdr[0].time`" in problem_of(time=sent)


@given(st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)))
def test_every_millisecond_is_read_exactly(naive):
    instant = naive.replace(microsecond=naive.microsecond // 1000 * 1000, tzinfo=UTC)
    milliseconds = (instant - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)

    assert parse(time=str(milliseconds)).call_time == instant


# --- Words -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["direction", "status"])
@pytest.mark.parametrize(
    ("sent", "word"),
    [
        ('"answered"', "answered"),
        ('" missed "', "missed"),
        ('"no-answer"', "no-answer"),
        ('"something new"', "something new"),
        ('"तुरंत"', "तुरंत"),
        ("null", None),
        (NOT_SENT, None),
        ('""', None),
        ('"  "', None),
        ('"' + "x" * 32 + '"', "x" * 32),
    ],
)
def test_direction_and_status_accept_any_word(field, sent, word):
    assert getattr(parse(**{field: sent}), field) == word


@pytest.mark.parametrize("field", ["leg", "direction", "status", "from_", "to"])
@pytest.mark.parametrize("sent", [r'"a\u0000b"', r'"\ud83d"', r'"x\udc00"', '"' + "x" * 300 + '"'])
def test_a_string_that_a_database_would_reject_is_malformed(field, sent):
    assert f"cdr[0].{field.rstrip('_')}`" in problem_of(**{field: sent})


@pytest.mark.parametrize("field", ["leg", "direction", "status"])
@pytest.mark.parametrize("sent", ["5", "0.5", "true", "NaN", "[]", "{}", '["a"]'])
def test_a_direction_or_status_that_is_not_a_string_is_malformed(field, sent):
    assert f"cdr[0].{field}`" in problem_of(**{field: sent})


@pytest.mark.parametrize("sent", [NOT_SENT, "null", '""', '"  "'])
def test_a_leg_without_a_leg_letter_is_malformed(sent):
    assert "cdr[0].leg`" in problem_of(leg=sent)


def test_a_malformed_leg_is_named_by_its_position():
    with pytest.raises(MalformedError, match=r"`cdr\[2\]\.rate` .*'free'"):
        parse_text(written(), written(), written(rate='"free"'), written(time="0"))


# --- Unknown fields ----------------------------------------------------------------------------------


def test_undocumented_fields_are_kept():
    leg = parse(agent='"209_1111113"', tags='["a",{"b":null,"c":true}]', queue="null", wait="2.5")

    assert leg.extra == {
        "agent": "209_1111113",
        "tags": ["a", {"b": None, "c": True}],
        "queue": None,
        "wait": 2.5,
    }


@pytest.mark.parametrize(
    "digits",
    [
        "0.1",
        "17507.49999999892",
        "17507.499999998920000001",
        "9007199254740993",
        "9223372036854775808",
        "-123456789012345678901234567890",
        "1e400",
        "1e-400",
        "0.30000000000000000001",
    ],
)
def test_undocumented_numbers_keep_all_their_digits(digits):
    kept = parse(fee=digits, inner=f'{{"fees":[{digits}]}}').extra
    read_again = json.loads(json.dumps(kept))

    assert Decimal(str(kept["fee"])) == Decimal(digits)
    assert Decimal(str(read_again["inner"]["fees"][0])) == Decimal(digits)


@pytest.mark.parametrize(
    "sent",
    [r'"a\u0000b"', r'"\ud83d"', r'["\u0000"]', r'{"\u0000":1}', r'{"x":{"\ud83d":1}}'],
)
def test_an_undocumented_field_that_a_database_would_reject_is_malformed(sent):
    assert "cdr[0].note`" in problem_of(note=sent)


@pytest.mark.parametrize("name", ["a\x00b", "\ud83d", "x" * 256])
def test_the_name_of_an_undocumented_field_must_be_storable_too(name):
    with pytest.raises(MalformedError, match=r"`cdr\[0\]\."):
        parse_text(written(**{name: "1"}))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"x":', "}")])
def test_an_undocumented_field_of_any_depth_parses_or_raises_a_request_error(opening, closing):
    for depth in [*range(10, 400, 40), *range(400, 1100, 10)]:
        text = written(note=opening * depth + "1" + closing * depth)
        with contextlib.suppress(MalformedError, UnreadableError):
            (leg,) = parse_text(text)
            assert json.dumps(leg.extra).count(closing) >= depth


# --- Any document whatever ---------------------------------------------------------------------------

ANY_TEXT = st.text(st.characters(exclude_categories=()), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.integers(-(10**40), 10**40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3),
    max_leaves=6,
)
ODD = [
    "1e400",
    "-1e400",
    "1e-400",
    "1e9999999",
    "0e9999999",
    "-0",
    "-0.0",
    "NaN",
    "Infinity",
    "-Infinity",
    '"1e9999999"',
    '"-1e9999999"',
    '"1e-9999999"',
    '"nan"',
    '"sNaN"',
    '"NaN999999999999999999999999999999999999999999999999"',
    '"infinity"',
    '"٣"',
    '"+"',
    '"++1"',
    '"\\u2028"',
    '"\\u0130\\u0130\\u0130\\u0130\\u0130\\u0130\\u0130\\u0130\\u0130\\u0130"',
    "9" * 4300,
    "1637069609000",
    '"1637069609000"',
    "0.39",
    '"b"',
]
ANY_VALUE = JSON.map(json.dumps) | st.sampled_from(ODD)
ANY_LEG = st.fixed_dictionaries(
    {name: st.just(value) | ANY_VALUE for name, value in SENT.items()}, optional={"note": ANY_VALUE}
)


def check_any_leg(text: str) -> None:
    try:
        (leg,) = parse_text(text)
    except MalformedError:
        return
    assert 0 < len(leg.leg) <= 16
    assert max(len(leg.from_number), len(leg.to_number)) <= 64
    assert max(len(leg.direction or ""), len(leg.status or "")) <= 32
    assert leg.call_time.tzinfo is UTC
    assert leg.duration_seconds is None or 0 <= leg.duration_seconds < 2**31
    for amount in (leg.rate, leg.balance):
        if amount is not None:
            assert abs(amount) < 10**20
            assert amount.as_tuple().exponent >= -18
    for name in (leg.leg, leg.from_number, leg.to_number, leg.direction or "", leg.status or ""):
        assert b"\x00" not in name.encode()
    assert "\\u0000" not in json.dumps(leg.extra, allow_nan=False)


@given(ANY_LEG)
@example(SENT | {"leg": '"' + "\\u0130" * 16 + '"'})  # a letter that is longer in lower case
def test_a_leg_of_any_values_parses_into_storable_values_or_is_malformed(fields):
    check_any_leg("{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items()) + "}")


@pytest.mark.parametrize("field", [*SENT, "note"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:20])
def test_an_odd_value_in_any_field_parses_or_is_malformed(field, value):
    check_any_leg(written(**{field: value}))


@given(JSON)
def test_any_other_document_in_place_of_a_leg_is_malformed(document):
    with pytest.raises(MalformedError, match=r"cdr\[0\]"):
        parse_text(json.dumps(document))


# --- What other senders write ------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["rate", "balance", "duration"])
@pytest.mark.parametrize("sent", ['""', '"  "'])
def test_an_empty_text_in_the_place_of_a_number_is_not_sent(field, sent):
    leg = parse(**{field: sent})

    assert {"rate": leg.rate, "balance": leg.balance, "duration": leg.duration_seconds}[field] is None


@pytest.mark.parametrize("sent", ["0e-300000000", "0e-999999999", "1e-300000000", "1e999999999"])
@pytest.mark.parametrize("field", ["from_", "to", "rate", "balance", "duration", "time", "more"])
def test_a_huge_exponent_is_never_written_out(field, sent):
    tracemalloc.start()
    try:
        with contextlib.suppress(MalformedError):
            parse(**{field: sent})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000  # bytes, where the digits would take hundreds of millions
