"""Reading what the API said: which answers are valid, and what the others are.

Only an HTTP status of 2xx, with a JSON object whose `code` (or `cmi_code`) is 200 and whose `cdr` is a
list (or one object), is a valid answer. The vendor's endpoints wrap errors into HTTP 200; to take one of
those for "no legs" would lose calls in silence, so that every other answer has a class of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Never

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
# What is said of it where it may not have been the API that answered.
DOUBT = "; that is a web page, and none of the API's answers: is CDR_SYNC_API_URL right?"

# Digits stay as they were sent: money must not pass through a binary float. NaN and Infinity, which are
# no JSON but which Python lets through, become Decimals that the fields refuse by name.
_DECODER = json.JSONDecoder(parse_float=Decimal, parse_constant=Decimal)


@dataclass(frozen=True, slots=True)
class Answer:
    """A valid answer: the legs as they were sent, and how many the API says there are."""

    legs: tuple[Mapping[str, object], ...]
    count: int | None  # None where the answer did not say


def read_answer(status: int, body: bytes, *, retry_after: float | None = None) -> Answer:
    """Tell a valid answer from all others.

    Args:
        status: the HTTP status.
        body: the decoded bytes of the body.
        retry_after: seconds, from the header of that name.

    Raises:
        RequestError: the subclass says what kind of failure it is; `reason` is its stable word.
    """
    if status != SUCCESS and (status < 200 or status >= 300 or status in _NOT_READY):  # noqa: PLR2004 (2xx)
        _raise_for_code(status, f"HTTP status {status}{_said(status, body)}", status, retry_after)
    content = _decode(status, body)
    code = _code_of(content)
    if code is None:
        raise UnreadableError(
            "the answer has no usable `code`, so that nothing says it is a success",
            http_status=status,
        )
    if code != SUCCESS:
        _raise_for_code(code, f"code {code} in the body{_said(status, body)}", status, retry_after)
    return _success(content, status)


def _success(content: Mapping[str, object], status: int) -> Answer:
    cdr = content.get("cdr")
    if isinstance(cdr, dict) and cdr:
        cdr = [cdr]
    if not isinstance(cdr, list):
        raise UnreadableError(
            f"`cdr` is {describe(cdr)}, where a list of legs was expected", http_status=status
        )
    for position, leg in enumerate(cdr):
        if not isinstance(leg, dict):
            raise MalformedError(
                f"`cdr[{position}]` is {describe(leg)}, where a leg was expected",
                http_status=status,
            )
    return Answer(legs=tuple(cdr), count=_count_of(content, status))


def _decode(status: int, body: bytes) -> Mapping[str, object]:
    try:
        content = _DECODER.decode(body.decode())
    except (ValueError, RecursionError, InvalidOperation) as error:
        raise UnreadableError(
            f"the body is not JSON: it begins with {_beginning(status, body)}", http_status=status
        ) from error
    if not isinstance(content, dict):
        raise UnreadableError(
            f"the body is {describe(content)}, where a JSON object was expected",
            http_status=status,
        )
    return content


def _code_of(content: Mapping[str, object]) -> int | None:
    """The code of the answer, which sibling endpoints call `cmi_code` and sometimes send as a string.

    Where both are there, the one that is no success counts.
    """
    codes = [_whole_number(content[name]) for name in ("code", "cmi_code") if content.get(name) is not None]
    return next((code for code in codes if code != SUCCESS), SUCCESS) if codes else None


def _whole_number(value: object) -> int | None:
    if isinstance(value, str):
        text = value.strip()
        # Digits beyond those change nothing: such a number means nothing here either way.
        return int(text.lstrip("0")[:_LONGEST_NUMBER] or 0) if text.isascii() and text.isdigit() else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _count_of(content: Mapping[str, object], status: int) -> int | None:
    sent = content.get("count")
    value = _whole_number(sent)
    if sent is not None and (value is None or not 0 <= value <= _LARGEST_COUNT):
        raise MalformedError(
            f"`count` is {describe(sent)}, where a number of legs was expected", http_status=status
        )
    return value


def _raise_for_code(code: int, message: str, status: int, retry_after: float | None) -> Never:
    """Raise the error that a code stands for, be it the HTTP status or the `code` in the body."""
    kind: type[RequestError] = RejectedError
    if code in _NOT_FOUND:
        kind = NotFoundError
    elif code in _UNAUTHORIZED:
        kind = UnauthorizedError
    elif code in _NOT_READY:
        kind = NotReadyError
    elif code == _RATE_LIMITED:
        raise RateLimitedError(message, retry_after=retry_after, http_status=status)
    elif code in _PASSING or 500 <= code < 600:  # noqa: PLR2004 (5xx)
        kind = ServerError
    raise kind(message, http_status=status)


def _said(status: int, body: bytes) -> str:
    """The API's own words, where the body is an object with a `msg`; else how the body begins."""
    if not body:
        return ""
    try:
        content = _DECODER.decode(body.decode())
    except (ValueError, RecursionError, InvalidOperation):
        return f": {_beginning(status, body)}"
    message = content.get("msg", content.get("message")) if isinstance(content, dict) else None
    if message is None:
        return ""
    return f": {str(message)[:_MESSAGE_LENGTH]!r}"


def _beginning(status: int, body: bytes) -> str:
    beginning = repr(body[:60].decode(errors="replace"))
    # A path that the vendor's server does not know gets a page and a 404; one that is down, a page and a 5xx.
    return f"{beginning}{DOUBT}" if is_page(body) and status < 500 else beginning  # noqa: PLR2004 (5xx)


def is_page(body: bytes) -> bool:
    """Whether it is a page of the web, which no answer of the API is, be it good or bad."""
    return body.lstrip().startswith(b"<")


def describe(value: object) -> str:
    """What a value of a JSON document is, in words for a message."""
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
