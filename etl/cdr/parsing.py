"""Parses legs: the nine documented fields, whose types vary, become values of a fixed type.

Numbers arrive as numbers or as strings, money as `0.39`, `0` or `"17507.49999999892"`, times in milliseconds
here and in seconds in sibling webhooks. A value that fits is trimmed and kept; any other makes the answer
malformed, and the error names the field. Missing and null become None (an empty string for phone numbers),
never 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Context, Decimal

from etl.cdr.answers import Answer, describe
from etl.cdr.legs import Leg
from etl.cdr.numbers import read_number
from etl.errors import MalformedError

DOCUMENTED_FIELDS = frozenset(
    {"leg", "from", "to", "time", "duration", "rate", "balance", "direction", "status"}
)
# The widths of the columns: a longer value is malformed, and never cut.
LEG_LENGTH, NUMBER_LENGTH, WORD_LENGTH = 16, 64, 32
MONEY_DECIMALS, MONEY_INTEGER_DIGITS = 18, 20

# 10^11 seconds are the year 5138, 10^11 milliseconds the year 1973: no call can be read either way.
_MILLISECONDS_FROM = 100_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
_LATEST = datetime(2100, 1, 1, tzinfo=UTC)
_LONGEST_SECONDS = 2**31 - 1
_MONEY_QUANTUM = Decimal(1).scaleb(-MONEY_DECIMALS)
_EXACT = Context(prec=MONEY_DECIMALS + MONEY_INTEGER_DIGITS + 2, rounding=ROUND_HALF_EVEN)


def parse_legs(answer: Answer, *, region: str) -> tuple[Leg, ...]:
    """Turn an answer's legs into records, in the order in which they were sent.

    Args:
        answer: a valid answer.
        region: ISO 3166 alpha-2 country of phone numbers without a country code.

    Raises:
        MalformedError: a field breaks the format; the message names the field, its position and its value.
    """
    legs = []
    for position, sent in enumerate(answer.legs):
        try:
            legs.append(_parse_leg(sent, region))
        except _FieldError as error:
            raise MalformedError(f"`cdr[{position}].{error.field}` {error.problem}") from None
        except RecursionError:
            raise MalformedError(f"`cdr[{position}]` has a field that is nested too deeply") from None
    return tuple(legs)


class _FieldError(Exception):
    def __init__(self, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self.field = field
        self.problem = problem


def _parse_leg(sent: Mapping[str, object], region: str) -> Leg:
    from_number = _phone_number(sent, "from")
    to_number = _phone_number(sent, "to")
    caller = read_number(from_number, region)
    called = read_number(to_number, region)
    return Leg(
        leg=_leg_letter(sent),
        from_number=from_number,
        to_number=to_number,
        from_e164=caller.e164,
        to_e164=called.e164,
        to_country=called.country,
        call_time=_call_time(sent),
        duration_seconds=_duration(sent),
        rate=_money(sent, "rate"),
        balance=_money(sent, "balance"),
        direction=_word(sent, "direction"),
        status=_word(sent, "status"),
        extra=_extra(sent),
    )


def _leg_letter(sent: Mapping[str, object]) -> str:
    value = _text(sent, "leg", LEG_LENGTH)
    if not value:
        raise _FieldError("leg", "is missing, but it identifies the leg")
    return _storable(value.lower(), "leg", LEG_LENGTH)  # some letters get longer in lower case


def _word(sent: Mapping[str, object], field: str) -> str | None:
    return _text(sent, field, WORD_LENGTH) or None


def _text(sent: Mapping[str, object], field: str, length: int) -> str:
    value = sent.get(field)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _FieldError(field, f"is {describe(value)}, but a string was expected")
    return _storable(value.strip(), field, length)


def _storable(text: str, field: str, length: int) -> str:
    """Reject what some database would reject: too long, a NUL, half a surrogate pair."""
    if len(text) > length:
        raise _FieldError(field, f"is longer than {length} characters")
    if not text.isascii() or not text.isprintable():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _FieldError(field, "contains half a character (a lone surrogate)") from None
        if "\x00" in text:
            raise _FieldError(field, "contains a NUL character")
    return text


def _phone_number(sent: Mapping[str, object], field: str) -> str:
    """A phone number as text; any other text, such as an agent's ID, is kept too."""
    value = sent.get(field)
    if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
        # `int` does not write out the zeros of 0e-300000000, as formatting would.
        value = int(value) if value.adjusted() < NUMBER_LENGTH else str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 10**NUMBER_LENGTH:
            raise _FieldError(field, f"is longer than {NUMBER_LENGTH} digits")
        return str(value)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise _FieldError(field, f"is {describe(value)}, but a phone number was expected")
    return _storable(value.strip(), field, NUMBER_LENGTH)


def _decimal(sent: Mapping[str, object], field: str) -> Decimal | None:
    """A number, sent as a number or as a string, with exactly the digits that were sent."""
    value = sent.get(field)
    if value is None:
        return None
    if isinstance(value, str):
        text = value.strip()
        if not text:
            return None  # some senders write "" for a value that there is not
        try:
            number = _EXACT.create_decimal(Decimal(text)) if text.isascii() and "_" not in text else None
        except ArithmeticError:  # not a number, or too large for the context
            number = None
    elif isinstance(value, int | Decimal) and not isinstance(value, bool):
        number = Decimal(value)
    else:
        number = None
    if number is None or not number.is_finite():
        raise _FieldError(field, f"is {describe(value)}, but a number was expected")
    return number


def _money(sent: Mapping[str, object], field: str) -> Decimal | None:
    """An amount of money, exact to 18 decimals; real amounts need fewer."""
    value = _decimal(sent, field)
    if value is None:
        return None
    if value and value.adjusted() >= MONEY_INTEGER_DIGITS:
        raise _FieldError(field, f"is {describe(value)}, which is too large for an amount of money")
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -MONEY_DECIMALS:
        value = value.quantize(_MONEY_QUANTUM, context=_EXACT)
    return value


def _duration(sent: Mapping[str, object]) -> int | None:
    """Whole seconds. A fraction is rounded half up; the archive keeps what was sent."""
    value = _decimal(sent, "duration")
    if value is None:
        return None
    if value < 0 or value.adjusted() > len(str(_LONGEST_SECONDS)):
        raise _FieldError("duration", f"is {describe(value)}, but a number of seconds was expected")
    seconds = int(value.to_integral_value(rounding=ROUND_HALF_UP))
    if seconds > _LONGEST_SECONDS:
        raise _FieldError("duration", f"is {describe(value)}, but a number of seconds was expected")
    return seconds


def _call_time(sent: Mapping[str, object]) -> datetime:
    """The time of the call, from epoch milliseconds or seconds; their size shows which."""
    value = _decimal(sent, "time")
    if value is None:
        raise _FieldError("time", "is missing, but it identifies the leg")
    if value > 0 and value.adjusted() < MONEY_INTEGER_DIGITS:
        microseconds = int(value * (1_000 if value >= _MILLISECONDS_FROM else 1_000_000))
        if microseconds < (_LATEST - _EPOCH) // timedelta(microseconds=1):
            instant = _EPOCH + timedelta(microseconds=microseconds)
            if instant >= _EARLIEST:
                return instant
    raise _FieldError("time", f"is {describe(value)}, which is not a time between 2000 and 2100")


def _extra(sent: Mapping[str, object]) -> Mapping[str, object] | None:
    """The undocumented fields, unchanged; None if there are none."""
    if DOCUMENTED_FIELDS.issuperset(sent):
        return None
    return {
        _storable(name, "extra", 255): _plain(value, name)
        for name, value in sorted(sent.items())
        if name not in DOCUMENTED_FIELDS
    }


def _plain(value: object, field: str) -> object:
    """A value that every JSON column stores and returns unchanged: no NUL, no digits lost to a float."""
    match value:
        case str():
            return _storable(value, field, 65_536)
        case Decimal():
            as_float = float(value)
            return as_float if value.is_finite() and Decimal(repr(as_float)) == value else str(value)
        case int() if not isinstance(value, bool) and abs(value) >= 2**63:
            return str(value)
        case list():
            return [_plain(inner, field) for inner in value]
        case dict():
            return {_storable(name, field, 255): _plain(inner, field) for name, inner in value.items()}
        case _:
            return value
