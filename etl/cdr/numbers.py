"""Phone numbers: from the digits that the API sends to E.164 and a country.

A JSON number loses leading zeros and the plus: the vendor's sample `4471000000` is the Indian national
number +914471000000, not a British one. So a number is read as a national number of the default region
first, and only then as an international one without its plus. An invalid number stays unknown.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

_ALPHA_2 = 2


class PhoneNumber(NamedTuple):
    """A number in E.164 and its country in ISO 3166 alpha-2; None if unknown."""

    e164: str | None
    country: str | None


UNKNOWN = PhoneNumber(None, None)
_SEPARATORS = dict.fromkeys(map(ord, " -.()/\u00a0\u2010\u2011\u2012\u2013"))


@lru_cache(maxsize=65_536)
def read_number(text: str, region: str) -> PhoneNumber:
    """Read a number as it was sent.

    Args:
        text: digits as people and senders write them: with a plus or `tel:` in front, and blanks, dashes,
            dots or brackets between them.
        region: ISO 3166 alpha-2 country of numbers without a country code.
    """
    text = text.removeprefix("tel:").translate(_SEPARATORS)
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        return UNKNOWN
    import phonenumbers  # noqa: PLC0415 (slow to import, and not needed by an idle run)

    for candidate, home in ((text, region), (f"+{digits}", None)):
        try:
            number = phonenumbers.parse(candidate, home)
        except phonenumbers.NumberParseException:
            continue
        if phonenumbers.is_valid_number(number):
            country = phonenumbers.region_code_for_number(number)
            return PhoneNumber(
                phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164),
                country if country and len(country) == _ALPHA_2 and country.isalpha() else None,
            )
    return UNKNOWN
