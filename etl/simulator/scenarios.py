"""Everything that the API can do with a request ID: one table from a scenario's name to what it does.

An ID of the form `<scenario>` or `<scenario>-<anything>` gets that scenario. The vendor's IDs have no dash
and never clash with these; a hash of seed and ID picks their scenario, in the shares of a mix.
Pure: no IO, no clock, and no randomness except the seed.
"""

from __future__ import annotations

import hashlib
import json
import math
import string
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from etl.simulator import calls
from etl.simulator.calls import SentLeg

SAMPLE_REQUEST_ID = "8DI2mXpy2K7qPI2Wi919AKS5LlzNEJKy7kb2Vg3IN9h"
FINAL = 1_000_000  # more asks than any scenario waits for

Ending = Enum("Ending", "KEEP CLOSE RESET STALL")  # what happens to the connection after a reply


@dataclass(frozen=True, slots=True)
class Manner:
    """How a reply goes over the wire."""

    # Takes the head, the body, and the simulator's `oversize_bytes`.
    pieces: Callable[[bytes, bytes, int], Iterable[bytes]] = lambda head, body, _: (head + body,)
    ending: Ending = Ending.KEEP
    framing: str = "Content-Length: {length}\r\n"  # if empty, the end of the connection ends the body
    drips: bool = False  # with a pause after every piece


WHOLE = Manner()


class Reply(NamedTuple):
    """One reply. `header` is one more line, which may contain `{retry_after}` or `{redirect_to}`."""

    status: int
    body: bytes
    header: str = ""
    content_type: str = "application/json; charset=utf-8"
    manner: Manner = WHOLE


_encode = json.JSONEncoder(separators=(",", ":")).encode


def json_reply(status: int, content: object, header: str = "") -> Reply:
    """Wrap a JSON document."""
    return Reply(status, _encode(content).encode(), header)


def html_reply(status: int, title: str, header: str = "") -> Reply:
    """Wrap a page, as a web server or a proxy in front of the API sends it."""
    page = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
    return Reply(status, page.encode(), header, "text/html; charset=utf-8")


def _documented(legs: list[SentLeg]) -> object:
    return {"count": len(legs), "cdr": legs, "code": 200}


@dataclass(frozen=True, slots=True)
class Scenario:
    """What the API does in one scenario: which legs it sends, in what reply, and how."""

    description: str
    shape: calls.Shape = calls.answered
    alter: Callable[[list[SentLeg], int], list[SentLeg]] | None = None  # by the number of asks before
    content: Callable[[list[SentLeg]], object] = _documented  # the JSON document with these legs
    manner: Manner = WHOLE
    reply: Reply | None = None  # in place of the legs
    first: Scenario | None = None  # what the first asks get
    has_just_ended: bool = False  # the call ends at the first ask


# --- The parts of which the table is made ------------------------------------------------------------


def _every_leg(description: str, **fields: object) -> Scenario:
    return Scenario(description, alter=lambda legs, _: [{**leg, **fields} for leg in legs])


def _late(legs: list[SentLeg], asked_before: int) -> list[SentLeg]:
    return legs if asked_before >= 2 else []  # noqa: PLR2004


def _json(description: str, status: int, content: object, header: str = "") -> Scenario:
    return Scenario(description, reply=json_reply(status, content, header))


def _page(description: str, status: int, title: str, header: str = "") -> Scenario:
    return Scenario(description, reply=html_reply(status, title, header))


def _error(code: int, message: object) -> object:
    return {"code": code, "msg": message}


def _rate_limited(retry_after: str) -> Scenario:
    header = f"Retry-After: {retry_after}\r\n"
    return _json("HTTP 429 with a `Retry-After`.", 429, _error(429, "Too many requests"), header)


def _flaky(fault: str, first: Scenario | None = None) -> Scenario:
    about = f"First ask: like `{fault}`. Later asks: like `answered`."
    return Scenario(about, first=first or BROKEN[fault])


def _half_of_body(head: bytes, body: bytes, _: int) -> Iterable[bytes]:
    return (head + body[: len(body) // 2],)


def _chunks(head: bytes, body: bytes, _: int) -> Iterator[bytes]:
    yield head
    for chunk in (*(body[start : start + 100] for start in range(0, len(body), 100)), b""):
        yield b"%x\r\n%b\r\n" % (len(chunk), chunk)


def _bytewise(at_once: bytes, rest: bytes) -> Iterator[bytes]:
    yield at_once
    yield from (bytes([byte]) for byte in rest)


def _oversize(head: bytes, _: bytes, size: int) -> Iterator[bytes]:
    """Blanks, which JSON allows anywhere, so only the size of such a body is wrong; memory stays flat."""
    yield head
    piece = b" " * 65_536
    for start in range(0, size, len(piece)):
        yield piece[: size - start]


_EXTRA_FIELDS = {"record": None, "user": "209_1111113", "hangup": {"by": "callee", "q850": 16}}
# 200 compressed members of one megabyte of blanks each, which gzip reads as one stream. 16 means gzip.
_BOMB = zlib.compress(b" " * 2**20, wbits=zlib.MAX_WBITS | 16) * 200

# --- The table ---------------------------------------------------------------------------------------

# fmt: off
# Valid answers, the same on every ask. A job must store their legs as they are.
VALID: Mapping[str, Scenario] = {
    "sample": Scenario("The answer in the vendor's documentation, byte for byte.",
        alter=lambda _, __: [dict(leg) for leg in calls.SAMPLE_LEGS]),
    "answered": Scenario("Legs a and b, both answered."),
    "missed": Scenario("Leg a only, not answered.", calls.missed),
    "several_b": Scenario("Several b legs: failed tries, then an answered one.", calls.several_b),
    "twins": Scenario("Two b legs with the same nine values; they are two legs.", calls.twins),
    "text_numbers": Scenario(
        'Numbers as text, money as "0.450000", a space in place of the plus, an agent ID as `to`.',
        alter=lambda legs, _: [calls.as_text(leg) for leg in legs]),
    "single_object": Scenario("`cdr` is one object in place of a list.", calls.missed,
        content=lambda legs: {"count": 1, "cdr": legs[0], "code": 200}),
    "null_money": _every_leg("`rate` and `balance` are null.", rate=None, balance=None),
    "long_money": _every_leg('Money with more digits than a float holds: "17507.49999999892".',
        balance="17507.49999999892"),
    "extra_fields": Scenario("Legs with fields that are not in the documentation.",
        alter=lambda legs, _: [{**leg, **_EXTRA_FIELDS, "hop": number} for number, leg in enumerate(legs)]),
    "seconds": Scenario("`time` in epoch seconds in place of milliseconds.",
        alter=lambda legs, _: [{**leg, "time": leg["time"] // 1000} for leg in legs]),
    "count_mismatch": Scenario("`count` is one more than the number of legs.",
        content=lambda legs: {"count": len(legs) + 1, "cdr": legs, "code": 200}),
    "cmi_code": Scenario('Success as `cmi_code`: "200" in place of `code`: 200.',
        content=lambda legs: {"count": len(legs), "cdr": legs, "cmi_code": "200"}),
    "chunked": Scenario("A valid answer in chunked transfer coding.",
        manner=Manner(_chunks, framing="Transfer-Encoding: chunked\r\n")),
}
# Valid answers that are not final: a later ask gets another answer.
CHANGING: Mapping[str, Scenario] = {
    "none": Scenario("Never any legs.", alter=lambda _, __: []),
    "late": Scenario("No legs for the first two asks, then all of them.", alter=_late),
    "not_ready": Scenario("Code 202 for the first two asks, then all legs.", alter=_late,
        content=lambda legs: _documented(legs) if legs else _error(202, "CDR is not ready")),
    "in_progress": Scenario("The call ends at the first ask, so its legs may still change.",
        has_just_ended=True),
    "growing": Scenario("One leg on the first ask, all of them later; the call has just ended.",
        calls.several_b, lambda legs, asked: legs if asked else legs[:1], has_just_ended=True),
    "shrinking": Scenario("All legs on the first ask, one less later; the call has just ended.",
        calls.several_b, lambda legs, asked: legs[1:] if asked else legs, has_just_ended=True),
    "changing": Scenario("Leg a is a second longer from the second ask on; the call has just ended.",
        has_just_ended=True,
        alter=lambda legs, asked: [*legs[:-1], {**legs[-1], "duration": legs[-1]["duration"] + bool(asked)}]),
}
# Failures that never end.
BROKEN: Mapping[str, Scenario] = {
    "not_found_body": _json("HTTP 200 with code 404 in the body.", 200, _error(404, "Invalid request id")),
    "not_found": _json("HTTP 404 with JSON.", 404, _error(404, "Invalid request id")),
    "not_found_html": _page("HTTP 404 with HTML.", 404, "404 Not Found"),
    "unauthorized_body": _json("HTTP 200 with code 407 in the body.",
        200, {"code": 407, "error": True, "msg": "Authentication Failed"}),
    "rejected": _json("HTTP 200 with code 400 in the body.", 200, _error(400, "Bad request")),
    "error_500": _json("HTTP 500 with JSON.", 500, _error(500, "Internal server error")),
    "error_503": _page("HTTP 503 with HTML.", 503, "503 Service Temporarily Unavailable"),
    "rate_limited": _rate_limited("{retry_after}"),
    "body_500": _json("HTTP 200 with code 500 in the body.", 200, _error(500, "Something went wrong")),
    "msg_object": _json("HTTP 200 with code 500, and an object as `msg`.",
        200, _error(500, {"error": "Something went wrong", "at": "cdr"})),
    "reset": Scenario("The connection is reset before the answer.",
        manner=Manner(lambda *_: (), Ending.RESET)),
    "empty_reply": Scenario("The connection is closed without a byte.",
        manner=Manner(lambda *_: (), Ending.CLOSE)),
    "stall_headers": Scenario("The headers begin and never end.",
        manner=Manner(lambda head, *_: (head[: len(head) // 2],), Ending.STALL)),
    "stall_body": Scenario("The body begins and never ends.", manner=Manner(_half_of_body, Ending.STALL)),
    "drip_headers": Scenario("A valid answer, byte by byte.",
        manner=Manner(lambda head, body, _: _bytewise(b"", head + body), drips=True)),
    "drip_body": Scenario("Whole headers, then the body byte by byte.",
        manner=Manner(lambda head, body, _: _bytewise(head, body), drips=True)),
    "garbage": Scenario("HTTP 200 with bytes that are not JSON.",
        reply=Reply(200, b"\x00\xff\xfe<<< this is no JSON >>>")),
    "not_an_object": _json("HTTP 200 with a JSON list.", 200, [{"code": 200}]),
    "truncated": Scenario("The connection is closed before all bytes of `Content-Length` are sent.",
        manner=Manner(_half_of_body, Ending.CLOSE)),
    "cut": Scenario("No `Content-Length`, and the connection is closed in the middle of the body.",
        manner=Manner(_half_of_body, framing="")),
    "malformed_money": _every_leg("`rate` is true.", rate=True),
    "malformed_nan": _every_leg("`rate` is NaN, which JSON does not allow.", rate=math.nan),
    "malformed_time": _every_leg("`time` is a word.", time="yesterday"),
    "malformed_duration": _every_leg("`duration` is a word.", duration="four"),
    "missing_leg_field": Scenario("A leg without its `leg`.",
        alter=lambda legs, _: [*legs[:-1], {name: legs[-1][name] for name in legs[-1] if name != "leg"}]),
    "missing_cdr": _json("Success without `cdr`.", 200, {"count": 2, "code": 200}),
    "null_cdr": _json("Success with null as `cdr` and a count.", 200, {"count": 2, "cdr": None, "code": 200}),
    "oversize": Scenario("A very large body without a `Content-Length`.",
        manner=Manner(_oversize, framing="")),
    "oversize_declared": Scenario("A very large body with a `Content-Length`.",
        manner=Manner(_oversize, framing="Content-Length: {oversize_bytes}\r\n")),
    "gzip_bomb": Scenario("A small compressed body that unpacks to 200 MB.",
        reply=Reply(200, _BOMB, "Content-Encoding: gzip\r\n")),
    "redirect": _page("HTTP 307 to another address.", 307, "307 Moved", "Location: {redirect_to}\r\n"),
}
# Failures that pass.
FLAKY: Mapping[str, Scenario] = {
    "flaky_500": _flaky("error_500"),
    "flaky_503_html": _flaky("error_503"),
    "flaky_reset": _flaky("reset"),
    "flaky_429": _flaky("rate_limited", _rate_limited("1")),  # one second, whatever the simulator's setting
    "flaky_timeout": _flaky("stall_headers"),
    "flaky_truncated": _flaky("truncated"),
    "flaky_body_500": _flaky("body_500"),
}
# fmt: on
SCENARIOS: Mapping[str, Scenario] = {**VALID, **CHANGING, **FLAKY, **BROKEN}

HEALTHY = {"answered": 0.60, "missed": 0.20, "several_b": 0.08, "text_numbers": 0.08, "twins": 0.04}
# One request in four is unusual, in every way that ends within seconds.
_DEMO_FAULTS = (
    *("flaky_500", "flaky_503_html", "flaky_reset", "flaky_truncated", "flaky_body_500", "flaky_429"),
    *("not_found_body", "unauthorized_body", "rejected", "redirect", "malformed_money", "malformed_time"),
    *("none", "in_progress", "growing", "shrinking", "changing", "count_mismatch", "null_money"),
    *("extra_fields", "single_object"),
)
_DEMO_SHARE = 0.012

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID_LENGTH = 43


def scenario_of(request_id: str, seed: int = 1, weights: Mapping[str, float] = HEALTHY) -> str:
    """Return the name of an ID's scenario: the one that it names, or one drawn by hash from `weights`."""
    if request_id == SAMPLE_REQUEST_ID:
        return "sample"
    name = request_id.partition("-")[0]
    if name in SCENARIOS:
        return name
    drawn = int.from_bytes(calls.digest_of(request_id, seed)[:6]) / 2**48 * sum(weights.values())
    for name, share in weights.items():
        drawn -= share
        if drawn < 0:
            return name
    return name


def legs_at(
    name: str,
    request_id: str,
    seed: int = 1,
    *,
    epoch: float,
    days: int = 1,
    asked_before: int = FINAL,
    first_asked: float | None = None,
) -> list[SentLeg]:
    """Return the legs of an ID in the scenario `name` after so many asks; by default, the final legs.

    The call takes place on one of the `days` before `epoch`. If the scenario says that it has just ended, it
    ended when the ID was `first_asked` for. Both instants are epoch seconds.
    """
    scenario = SCENARIOS[name]
    dice = calls.Dice(calls.digest_of(request_id, seed)[6:])
    legs = calls.invent_legs(scenario.shape, dice, epoch=epoch, days=days)
    if scenario.has_just_ended:
        ended = int((epoch if first_asked is None else first_asked) * 1000)
        legs = [{**leg, "time": ended - leg["duration"] * 1000} for leg in legs]
    return legs if scenario.alter is None else scenario.alter(legs, asked_before)


def reply_to(name: str, legs: list[SentLeg], *, asked_before: int = 0, failures: int = 1) -> Reply:
    """Return the reply of a scenario with these legs; a `flaky_` scenario fails `failures` times first."""
    scenario = SCENARIOS[name]
    if scenario.first is not None and asked_before < failures:
        scenario = scenario.first
    reply = scenario.reply or json_reply(200, scenario.content(legs))
    return reply if scenario.manner is WHOLE else reply._replace(manner=scenario.manner)


def make_request_id(number: int, seed: int = 1) -> str:
    """Make the ID with this number: 43 characters like the vendor's, the same for the same seed."""
    value = int.from_bytes(hashlib.blake2b(f"request {seed}:{number}".encode()).digest())
    characters = []
    for _ in range(_ID_LENGTH):
        value, position = divmod(value, len(_ALPHABET))
        characters.append(_ALPHABET[position])
    return "".join(characters)


def parse_faults(spec: str) -> Mapping[str, float]:
    """Read a mix such as `flaky_500=0.05,none=0.02`: these shares, and healthy answers for the rest.

    `demo` is a mix of its own; an empty text means healthy answers only.

    Raises:
        ValueError: an unknown scenario or an invalid share; the message says which.
    """
    if spec.strip() == "demo":
        shares = dict.fromkeys(_DEMO_FAULTS, _DEMO_SHARE)
    else:
        shares = dict(_parse_share(part.strip()) for part in spec.split(",") if part.strip())
    total = math.fsum(shares.values())
    if total > 1 + 1e-9:
        raise ValueError(f"the shares add up to {total:g}, which is more than 1")
    rest = {name: share for name, share in HEALTHY.items() if name not in shares}
    scale = max(0.0, 1 - total) / sum(rest.values()) if rest else 0.0
    return {**shares, **{name: share * scale for name, share in rest.items() if scale}}


def _parse_share(part: str) -> tuple[str, float]:
    name, _, text = (word.strip() for word in part.partition("="))
    check_scenario(name)
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"`{part}` has no valid share. Use a number from 0 to 1, such as `{name}=0.05`")
    return name, share


def check_scenario(name: str) -> None:
    """Raise a ValueError, with the names that exist, for an unknown scenario."""
    if name not in SCENARIOS:
        raise ValueError(f"`{name}` is not a scenario. Use one of {', '.join(sorted(SCENARIOS))}")
