"""Keeps secrets out of everything that is stored, logged or shown.

The secret is in the body of each API request, and a broken API may echo what it was sent. So an answer is
cleaned before anything else happens to it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit

HIDDEN = "[secret]"
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


class Redaction:
    """The secrets of this process, and the one function that removes them from its output."""

    def __init__(self, *secrets: str) -> None:
        self._secrets: list[str] = []
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Add secrets. The longest is replaced first, in case it begins with a shorter one."""
        self._secrets = sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """A text without any of the secrets."""
        for secret in self._secrets:
            text = hide_secret(text, secret)
        return text


def password_in(url: str) -> str:
    """The password in a URL; empty if it has none or is not valid."""
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def hide_secret(text: str, secret: str) -> str:
    """A text without the secret, in any of its JSON escapes."""
    for form in _forms(secret):
        if form in text:
            text = text.replace(form, HIDDEN)
    return text


def hide_secret_in_bytes(body: bytes, secret: str) -> bytes:
    """A body without the secret, in any of its JSON escapes."""
    for form in _forms(secret):
        encoded = form.encode(errors="replace")
        if encoded in body:
            body = body.replace(encoded, HIDDEN.encode())
    return body


@lru_cache(maxsize=64)
def _forms(secret: str) -> tuple[str, ...]:
    """The forms of a secret: as it is, and with the various escapes of JSON; the longest first."""
    if not secret:
        return ()
    forms = {secret}
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        forms |= {escaped, escaped.replace("/", "\\/")}
    forms |= {_ESCAPE.sub(lambda match: f"\\u{match[1].upper()}", form) for form in forms}
    return tuple(sorted(forms, key=len, reverse=True))
