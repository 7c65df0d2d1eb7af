"""Mask phone numbers and agent IDs: the country code and the last two digits stay."""

from __future__ import annotations

import re
from functools import lru_cache

from etl.cdr.numbers import read_number

_KEPT = 2
# What can be a number or an agent's ID in free text, also in "tel:98…" or "98…@host": seven digits with up to
# three other characters between them, or five grouped as people write them. A date or an amount can look the
# same, and is masked too.
_NUMBER = re.compile(r"\+?\d(?:[\W_]{0,3}\d){6,}|\+?\d(?:[ ()_-]?\d){4,}")


@lru_cache(maxsize=65_536)
def masked_number(text: str, region: str) -> str:
    """A number such as 4471000000 as `+91…00`; of what is not a valid number, the last two characters.

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
    """Free text such as a status, with everything masked that can be a number."""
    return _NUMBER.sub(lambda found: masked_number(re.sub(r"[^\d+_]", "", found[0]), region), text)
