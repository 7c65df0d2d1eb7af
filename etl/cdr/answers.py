"""Reads the API's answer: a valid one gives legs, any other raises the error that says what is wrong.

An answer is valid if its HTTP status is 2xx and its body is a JSON object whose `code` (or `cmi_code`) is 200
and whose `cdr` is a list (or one object). The vendor's endpoints wrap errors into HTTP 200. An error
read as "no legs" would silently lose calls, so every other answer raises an error of its own class.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from etl.errors import (
    MalformedError,
    NotFoundError,
    NotReadyError,
    RateLimitedError,
    RejectedError,
    RequestError,
    ServerError,
    UnauthorizedError,
    UnreadableError,
)

SUCCESS = 200
_NOT_FOUND = frozenset({404})
_UNAUTHORIZED = frozenset({401, 403, 407})
_NOT_READY = frozenset({202, 204, 425})
_PASSING = frozenset({408})
_RATE_LIMITED = 429
_LONGEST_NUMBER = 18  # digits
_LARGEST_COUNT = 2**31 - 1
_MESSAGE_LENGTH = 200
# Added to a message where another server than the API may have answered. Code reads `is_web_page`.
_NOT_THE_API = "; that is an HTML page, not an API response: is CDR_SYNC_API_URL right?"

# Digits stay as they were sent: money must not pass through a binary float. NaN and Infinity are not JSON,
# but Python accepts them; they become Decimals, which the fields reject by name.
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal)


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid answer: the legs as they were sent, and the number of legs that the API states."""

    legs: tuple[Mapping[str, object], ...]
    count: int | None  # None if the answer has no `count`


def read_answer(status: int, body: bytes, *, retry_after: float | None = None) -> Answer:
    """Return the legs of a valid answer; raise an error for any other.

    Args:
        status: the HTTP status.
        body: the bytes of the body, after content decoding.
        retry_after: seconds, from the Retry-After header.

    Raises:
        RequestError: the subclass says what kind of failure it is; `reason` is its stable word.
    """
    if status != SUCCESS and (status < 200 or status >= 300 or status in _NOT_READY):  # noqa: PLR2004 (2xx)
        raise _error_for(status, f"HTTP status {status}{_quote(status, body)}", status, body, retry_after)
    content = _decode(status, body)
    code = _code_of(content)
    if code is None:
        raise UnreadableError(
            "the answer has no usable `code`, so nothing shows that it is a success", http_status=status
        )
    if code != SUCCESS:
        raise _error_for(code, f"code {code} in the body{_quote(status, body)}", status, body, retry_after)
    return _success(content, status)


def _success(content: Mapping[str, object], status: int) -> Answer:
    cdr = content.get("cdr")
    count = _count_of(content, status)
    if isinstance(cdr, dict) and cdr:
        cdr = [cdr]
    elif count == 0 and "cdr" in content and (cdr is None or cdr == {}):
        cdr = []  # other ways to send an empty list
    if not isinstance(cdr, list):
        raise UnreadableError(
            f"`cdr` is {describe(cdr)}, but a list of legs was expected", http_status=status
        )
    for position, leg in enumerate(cdr):
        if not isinstance(leg, dict):
            raise MalformedError(
                f"`cdr[{position}]` is {describe(leg)}, but a leg was expected", http_status=status
            )
    return Answer(legs=tuple(cdr), count=count)


def _decode(status: int, body: bytes) -> Mapping[str, object]:
    try:
        content = _json_of(body)
    except UnicodeDecodeError as error:
        place = f"byte 0x{body[error.start]:02x} at position {error.start}"
        raise UnreadableError(
            f"the body is not UTF-8 ({place}): it begins with {_beginning(status, body)}",
            http_status=status,
            is_web_page=_is_web_page(body),
        ) from error
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise UnreadableError(
            f"the body is not JSON: it begins with {_beginning(status, body)}",
            http_status=status,
            is_web_page=_is_web_page(body),
        ) from error
    if not isinstance(content, dict):
        raise UnreadableError(
            f"the body is {describe(content)}, but a JSON object was expected", http_status=status
        )
    return content


def _json_of(body: bytes) -> object:
    """The JSON document of a body. A byte order mark before it is ignored, as RFC 8259 (8.1) allows."""
    return _DECODER.decode(body.decode("utf-8-sig"))


def _code_of(content: Mapping[str, object]) -> int | None:
    """The code of the answer. Sibling endpoints call it `cmi_code` and sometimes send it as a string.

    If both are there, the one that reports a failure counts.
    """
    codes = [_whole_number(content[name]) for name in ("code", "cmi_code") if content.get(name) is not None]
    return next((code for code in codes if code != SUCCESS), SUCCESS) if codes else None


def _whole_number(value: object) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        # Further digits make no difference: such a long number has no meaning here.
        return int(text.lstrip("0")[:_LONGEST_NUMBER] or 0) if text.isascii() and text.isdigit() else None
    if isinstance(value, Decimal):  # in JSON, 200.0 is 200
        is_short = value.is_finite() and value.adjusted() < _LONGEST_NUMBER  # expands to few digits
        return int(value) if is_short and value == value.to_integral_value() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count_of(content: Mapping[str, object], status: int) -> int | None:
    sent = content.get("count")
    value = _whole_number(sent)
    if sent is not None and (value is None or not 0 <= value <= _LARGEST_COUNT):
        raise MalformedError(
            f"`count` is {describe(sent)}, but a number of legs was expected", http_status=status
        )
    return value


def _error_for(code: int, message: str, status: int, body: bytes, retry_after: float | None) -> RequestError:
    """The error that a code stands for, which is the HTTP status or the `code` in the body."""
    is_web_page = _is_web_page(body)
    if code == _RATE_LIMITED:
        return RateLimitedError(message, retry_after=retry_after, http_status=status, is_web_page=is_web_page)
    kind: type[RequestError] = RejectedError
    if code in _NOT_FOUND:
        kind = NotFoundError
    elif code in _UNAUTHORIZED:
        kind = UnauthorizedError
    elif code in _NOT_READY:
        kind = NotReadyError
    elif code in _PASSING or 500 <= code < 600:  # noqa: PLR2004 (5xx)
        kind = ServerError
    return kind(message, http_status=status, is_web_page=is_web_page)


def _quote(status: int, body: bytes) -> str:
    """The API's own `msg`, if the body is an object that has one; else the beginning of the body."""
    if not body:
        return ""
    try:
        content = _json_of(body)
    except (ValueError, RecursionError, InvalidOperation):
        return f": {_beginning(status, body)}"
    message = content.get("msg", content.get("message")) if isinstance(content, dict) else None
    if message is None:
        return ""
    return f": {str(message)[:_MESSAGE_LENGTH]!r}"


def _beginning(status: int, body: bytes) -> str:
    beginning = repr(body[:60].decode(errors="replace"))
    # The vendor's server answers an unknown path with a page and 404; a page with 5xx is an outage.
    return f"{beginning}{_NOT_THE_API}" if _is_web_page(body) and status < 500 else beginning  # noqa: PLR2004 (5xx)


def _is_web_page(body: bytes) -> bool:
    """Whether the body is HTML, which the API never sends, not even for an error."""
    return body.lstrip().startswith(b"<")


def describe(value: object) -> str:
    """A JSON value in words, for a message."""
    match value:
        case None:
            return "missing or null"
        case bool():
            return "true" if value else "false"
        case int() | Decimal():
            return f"the number {str(value)[:40]}"
        case str():
            return f"the text {value[:40]!r}"
        case list():
            return "a list"
        case _:
            return "an object"
