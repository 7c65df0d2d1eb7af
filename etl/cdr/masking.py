"""Telephone numbers and agent IDs made unrecognizable: the country code and the last two digits stay."""

from __future__ import annotations

import re
from functools import lru_cache

from etl.cdr.numbers import read_number

_KEPT = 2
# What can be a number or an agent's ID in free text, whatever stands round it ("tel:98…", "98…@host"): seven
# digits with up to three other signs between one and the next, or five that are grouped as people do. A date
# or an amount can look the same, and is masked too.
_NUMBER = re.compile(r"\+?\d(?:[\W_]{0,3}\d){6,}|\+?\d(?:[ ()_-]?\d){4,}")

# Whom a leg called, in the sentences of the view data_quality: anything at all, and an agent's name too. What
# stands behind is the view's own, and its amounts and seconds stay.
_CALLED = re.compile(
    r"(?P<before>leg .+? (?:to|calls) )(?P<called>.+)"
    r"(?P<after>, whose country is unknown| is not in a later answer| lasts \d+ s, .*| has (?:no|the|a) .*)",
    re.DOTALL,
)


@lru_cache(maxsize=65_536)
def masked_number(text: str, region: str) -> str:
    """A number such as 4471000000 as `+91…00`; what is no valid number shows its last two characters alone.

    Args:
        text: the number or agent ID, as sent.
        region: ISO 3166 alpha-2 of numbers without a country code.
    """
    e164 = read_number(text.strip(), region).e164
    if e164 is None:
        return f"…{text[-_KEPT:]}" if len(text) > _KEPT else "…" * bool(text)
    import phonenumbers  # noqa: PLC0415 (slow to import)

    return f"+{phonenumbers.parse(e164).country_code}…{e164[-_KEPT:]}"


def masked_text(text: str, region: str) -> str:
    """Free text such as a status, without what can be a number in it."""
    return _NUMBER.sub(lambda found: masked_number(re.sub(r"[^\d+_]", "", found[0]), region), text)


def masked_detail(detail: str, region: str) -> str:
    """A sentence of the view data_quality, without whom it names as called."""
    found = _CALLED.fullmatch(detail)
    if found is None:
        return masked_text(detail, region)
    called = found["called"]
    hidden = called if called == "nobody" else masked_number(called, region)
    return f"{masked_text(found['before'], region)}{hidden}{found['after']}"
