"""Telephone numbers and agent IDs made unrecognizable: the country code and the last two digits stay."""

from __future__ import annotations

import re
from functools import lru_cache

from etl.cdr.numbers import read_number

_KEPT = 2
# What can be a number or an agent's ID in a sentence: five digits and more, grouped or not, which are neither
# part of a word nor an amount of money. A date can look the same, and is masked too.
_NUMBER = re.compile(r"(?<![\w.:-])\+?\d(?:[ ()_-]?\d){4,}(?![\w:]|\.\d)")

# Whom a leg called, in the sentences of the view data_quality: anything at all, and an agent's name too.
_CALLED = re.compile(
    r"(?P<before>leg \S+ (?:to|calls) )(?P<called>.+)"
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
    """A sentence whose numbers are masked, and whom a finding names as called."""
    if found := _CALLED.fullmatch(text):
        called = found["called"]
        hidden = called if called == "nobody" else masked_number(called, region)
        return f"{found['before']}{hidden}{found['after']}"
    return _NUMBER.sub(lambda found: masked_number(re.sub(r"[ ()-]", "", found[0]), region), text)
