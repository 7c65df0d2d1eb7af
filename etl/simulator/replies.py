"""What is sent for a scenario: status, headers, body, and the manner in which they go over the wire.

Pure: the connection that carries a reply out is in `etl.simulator.connection`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache

from etl.simulator.alterations import SentLeg
from etl.simulator.calls import ASKS_WITHOUT_LEGS
from etl.simulator.scenarios import FLAKY

_JSON, _HTML = "application/json; charset=utf-8", "text/html; charset=utf-8"
_MEGABYTE = 2**20
_BOMB_MEGABYTES = 200

encode = json.JSONEncoder(separators=(",", ":")).encode


class Manner(Enum):
    """How a reply goes over the wire: whole, or in one of the ways in which that goes wrong."""

    WHOLE = auto()
    CHUNKED = auto()
    RESET = auto()
    EMPTY = auto()
    STALLED_HEADERS = auto()
    STALLED_BODY = auto()
    DRIPPED = auto()
    DRIPPED_BODY = auto()
    TRUNCATED = auto()
    CUT = auto()
    ENDLESS = auto()
    LARGE = auto()


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply to one request; `headers` are those beyond the type and the length."""

    status: int
    body: bytes
    content_type: str = _JSON
    headers: tuple[tuple[str, str], ...] = ()
    manner: Manner = Manner.WHOLE


def json_reply(status: int, content: object) -> Reply:
    """Wrap a JSON document."""
    return Reply(status, encode(content).encode())


def html_reply(status: int, title: str) -> Reply:
    """Wrap a page as a web server or a proxy in front of the API would send it."""
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Reply(status, page.encode(), _HTML)


REFUSED = json_reply(200, {"code": 404, "msg": "Invalid app id or secret"})

_FIXED: Mapping[str, Reply] = {
    "not_found_body": json_reply(200, {"code": 404, "msg": "Invalid request id"}),
    "not_found": json_reply(404, {"code": 404, "msg": "Invalid request id"}),
    "not_found_html": html_reply(404, "404 Not Found"),
    "unauthorized_body": json_reply(200, {"code": 407, "error": True, "msg": "Authentication Failed"}),
    "rejected": json_reply(200, {"code": 400, "msg": "Bad request"}),
    "error_500": json_reply(500, {"code": 500, "msg": "Internal server error"}),
    "error_503": html_reply(503, "503 Service Temporarily Unavailable"),
    "body_500": json_reply(200, {"code": 500, "msg": "Something went wrong"}),
    "msg_object": json_reply(200, {"code": 500, "msg": {"error": "Something went wrong", "at": "cdr"}}),
    "garbage": Reply(200, b"\x00\xff\xfe<<< this is no JSON >>>"),
    "not_an_object": json_reply(200, [{"code": 200}]),
    "null_cdr": json_reply(200, {"count": 0, "cdr": None, "code": 200}),
    "missing_cdr": json_reply(200, {"count": 2, "code": 200}),
}
_NOT_READY = json_reply(200, {"code": 202, "msg": "CDR is not ready"})
_MANNERS: Mapping[str, Manner] = {
    "chunked": Manner.CHUNKED,
    "reset": Manner.RESET,
    "empty_reply": Manner.EMPTY,
    "stall_headers": Manner.STALLED_HEADERS,
    "stall_body": Manner.STALLED_BODY,
    "drip_headers": Manner.DRIPPED,
    "drip_body": Manner.DRIPPED_BODY,
    "truncated": Manner.TRUNCATED,
    "cut": Manner.CUT,
    "oversize": Manner.ENDLESS,
    "oversize_declared": Manner.LARGE,
}


def reply_to(
    scenario: str,
    legs: Sequence[SentLeg],
    *,
    asked_before: int = 0,
    failures: int = 1,
    retry_after: float | str = 1,
    redirect_to: str = "/elsewhere",
) -> Reply:
    """Say what is sent for a scenario.

    Args:
        scenario: its name.
        legs: what `legs_at` gives for the same ask.
        asked_before: how many times this ID was asked for before.
        failures: how many asks a `flaky_` scenario fails before it is good.
        retry_after: the header of `rate_limited`, in seconds or as an HTTP date.
        redirect_to: where `redirect` points to.
    """
    if scenario in FLAKY:
        scenario, retry_after = FLAKY[scenario] if asked_before < failures else "answered", 1
    if scenario == "not_ready" and asked_before < ASKS_WITHOUT_LEGS:
        return _NOT_READY
    if scenario in _FIXED:
        return _FIXED[scenario]
    match scenario:
        case "rate_limited":
            limited = json_reply(429, {"code": 429, "msg": "Too many requests"})
            return replace(limited, headers=(("Retry-After", str(retry_after)),))
        case "redirect":
            return replace(html_reply(307, "307 Moved"), headers=(("Location", redirect_to),))
        case "gzip_bomb":
            return Reply(200, _gzip_bomb(), headers=(("Content-Encoding", "gzip"),))
    reply = _valid(scenario, legs)
    return replace(reply, manner=_MANNERS[scenario]) if scenario in _MANNERS else reply


def _valid(scenario: str, legs: Sequence[SentLeg]) -> Reply:
    match scenario:
        case "single_object":
            content: dict[str, object] = {"count": 1, "cdr": legs[0], "code": 200}
        case "cmi_code":
            content = {"count": len(legs), "cdr": legs, "cmi_code": "200"}
        case "count_mismatch":
            content = {"count": len(legs) + 1, "cdr": legs, "code": 200}
        case _:
            content = {"count": len(legs), "cdr": legs, "code": 200}
    return Reply(200, encode(content).encode())


@cache
def _gzip_bomb() -> bytes:
    """As many compressed members of one megabyte of blanks each, which gzip reads as one stream."""
    return gzip.compress(b" " * _MEGABYTE, mtime=0) * _BOMB_MEGABYTES
