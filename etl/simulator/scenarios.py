"""What can become of a question to the API: every scenario by name, and which request ID gets which.

An ID of the form `<scenario>` or `<scenario>-<anything>` gets that scenario. The vendor's IDs have no
dash, so that they never clash; they get a scenario by a hash of seed and ID, in the shares of a mix.
Pure: no IO, clock or randomness beyond the seed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping

SAMPLE_REQUEST_ID = "8DI2mXpy2K7qPI2Wi919AKS5LlzNEJKy7kb2Vg3IN9h"

# Valid answers, the same each time they are asked for, that a job must store as they are.
VALID: Mapping[str, str] = {
    "sample": "The answer that the vendor's documentation prints, value for value.",
    "answered": "Legs a and b, both answered.",
    "missed": "Leg a alone, which nobody answered.",
    "several_b": "Several b legs: failed tries and then an answered one.",
    "twins": "Two b legs that agree in all nine fields, and are two legs all the same.",
    "text_numbers": 'Numbers as text, money as "0.450000", a lost plus as a space, an agent ID as `to`.',
    "single_object": "`cdr` is one object where a list is documented.",
    "null_money": "`rate` and `balance` are null.",
    "long_money": 'Money with more digits than a float keeps: "17507.49999999892".',
    "extra_fields": "Legs with fields that the documentation does not know.",
    "seconds": "`time` in epoch seconds where milliseconds are documented.",
    "count_mismatch": "`count` says one more than there are legs.",
    "cmi_code": 'Success as `cmi_code`: "200" in place of `code`: 200.',
    "chunked": "A valid answer in chunked transfer coding.",
}
# Valid answers that are not the last word: asked again, the API says something else.
CHANGING: Mapping[str, str] = {
    "none": "Never a leg.",
    "late": "No legs for the first two asks, then all of them.",
    "not_ready": "Code 202 for the first two asks, then all legs.",
    "in_progress": "The call ended at the instant of the first ask, so that its legs may still change.",
    "growing": "One leg at the first ask, and all of them later; the call has just ended.",
    "shrinking": "All legs at the first ask, and one less later; the call has just ended.",
    "changing": "Leg a is a second longer from the second ask on; the call has just ended.",
}
# Failures that pass: what each one does for the first ask, before it turns into `answered`.
FLAKY: Mapping[str, str] = {
    "flaky_500": "error_500",
    "flaky_503_html": "error_503",
    "flaky_reset": "reset",
    "flaky_429": "rate_limited",
    "flaky_timeout": "stall_headers",
    "flaky_truncated": "truncated",
    "flaky_body_500": "body_500",
}
# Failures for ever.
BROKEN: Mapping[str, str] = {
    "not_found_body": "HTTP 200 with code 404 in the body.",
    "not_found": "HTTP 404 with JSON.",
    "not_found_html": "HTTP 404 with HTML.",
    "unauthorized_body": "HTTP 200 with code 407 in the body.",
    "rejected": "HTTP 200 with code 400 in the body.",
    "error_500": "HTTP 500 with JSON.",
    "error_503": "HTTP 503 with HTML.",
    "rate_limited": "HTTP 429 with a `Retry-After`.",
    "body_500": "HTTP 200 with code 500 in the body.",
    "msg_object": "HTTP 200 with code 500 and a `msg` that is an object.",
    "reset": "The connection is reset before the answer.",
    "empty_reply": "The connection is closed without a byte.",
    "stall_headers": "The headers begin and never end.",
    "stall_body": "The body begins and never ends.",
    "drip_headers": "A valid answer, byte by byte from the first.",
    "drip_body": "Whole headers, and then the body byte by byte.",
    "garbage": "HTTP 200 with bytes that are no JSON.",
    "not_an_object": "HTTP 200 with a JSON list.",
    "truncated": "`Content-Length` promises more than is sent before the connection is closed.",
    "cut": "No `Content-Length`, and the connection is closed in the middle of the body.",
    "malformed_money": "`rate` is true.",
    "malformed_nan": "`rate` is NaN, which is no JSON.",
    "malformed_time": "`time` is no instant.",
    "malformed_duration": "`duration` is no number.",
    "missing_leg_field": "A leg without its `leg`.",
    "missing_cdr": "Success without `cdr`.",
    "null_cdr": "Success with a `cdr` of null.",
    "oversize": "A very large body of unsaid length.",
    "oversize_declared": "A very large body whose `Content-Length` says so.",
    "gzip_bomb": "A small compressed body that unfolds to 200 MB.",
    "redirect": "HTTP 307 to another address.",
}
SCENARIOS: Mapping[str, str] = {
    **VALID,
    **CHANGING,
    **{name: f"The first ask: `{fault}`. Then `answered`." for name, fault in FLAKY.items()},
    **BROKEN,
}

HEALTHY: Mapping[str, float] = {
    "answered": 0.60,
    "missed": 0.20,
    "several_b": 0.08,
    "text_numbers": 0.08,
    "twins": 0.04,
}
# One in four is out of the ordinary, in every way that ends within seconds.
_DEMO_FAULTS = (
    *("flaky_500", "flaky_503_html", "flaky_reset", "flaky_truncated", "flaky_body_500", "flaky_429"),
    *("not_found_body", "unauthorized_body", "rejected", "redirect", "malformed_money", "malformed_time"),
    *("none", "in_progress", "growing", "shrinking", "changing", "count_mismatch", "null_money"),
    *("extra_fields", "single_object"),
)
_DEMO_SHARE = 0.012

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_ID_LENGTH = 43


def digest_of(request_id: str, seed: int) -> bytes:
    """The 64 bytes from which all that is drawn for an ID is drawn."""
    return hashlib.blake2b(f"{seed}:{request_id}".encode(errors="surrogatepass")).digest()


def scenario_of(request_id: str, seed: int = 1, weights: Mapping[str, float] = HEALTHY) -> str:
    """Say which scenario an ID gets: the one that it names, or one drawn by hash from `weights`."""
    if request_id == SAMPLE_REQUEST_ID:
        return "sample"
    name = request_id.partition("-")[0]
    if name in SCENARIOS:
        return name
    drawn = int.from_bytes(digest_of(request_id, seed)[:6]) / 2**48 * sum(weights.values())
    for name, share in weights.items():
        drawn -= share
        if drawn < 0:
            return name
    return name


def make_request_id(number: int, seed: int = 1) -> str:
    """Make the ID of that number: 43 characters as the vendor's have, the same for the same seed."""
    value = int.from_bytes(hashlib.blake2b(f"request {seed}:{number}".encode()).digest())
    characters = []
    for _ in range(_ID_LENGTH):
        value, position = divmod(value, len(_ALPHABET))
        characters.append(_ALPHABET[position])
    return "".join(characters)


def parse_faults(spec: str) -> Mapping[str, float]:
    """Read a mix such as `flaky_500=0.05,none=0.02`: these shares, and healthy answers for the rest.

    The word `demo` stands for a mix of its own, and nothing at all for healthy answers alone.

    Raises:
        ValueError: a name is no scenario, or a share is not one; the message says which.
    """
    if spec.strip() == "demo":
        return _with_healthy_rest(dict.fromkeys(_DEMO_FAULTS, _DEMO_SHARE))
    shares: dict[str, float] = {}
    for part in filter(None, (part.strip() for part in spec.split(","))):
        name, equals, share = (word.strip() for word in part.partition("="))
        check_scenario(name)
        if not equals:
            raise ValueError(f"`{part}` has no share: write for example `{name}=0.05`")
        shares[name] = _share(name, share)
    return _with_healthy_rest(shares)


def check_scenario(name: str) -> None:
    """Refuse a name that is no scenario.

    Raises:
        ValueError: the message lists the names that there are.
    """
    if name not in SCENARIOS:
        raise ValueError(f"`{name}` is no scenario; there are {', '.join(sorted(SCENARIOS))}")


def _share(name: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise ValueError(f"the share of `{name}` is `{text}`, where a number from 0 to 1 was expected")
    return share


def _with_healthy_rest(shares: Mapping[str, float]) -> Mapping[str, float]:
    total = math.fsum(shares.values())
    if total > 1 + 1e-9:
        raise ValueError(f"the shares add up to {total:g}, which is more than 1")
    rest = {name: share for name, share in HEALTHY.items() if name not in shares}
    scale = max(0.0, 1 - total) / sum(rest.values()) if rest else 0.0
    return {**shares, **{name: share * scale for name, share in rest.items() if scale}}
