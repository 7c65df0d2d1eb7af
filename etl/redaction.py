"""Keeping the secret out of everything that is stored, logged or shown.

The secret travels in the body of each question, and an API that is out of order may well repeat what it
was sent. So what comes back is cleaned before anybody looks at it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from urllib.parse import unquote, urlsplit

HIDDEN = "[secret]"
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


class Redaction:
    """Every secret that this process knows, and the one way in which they are kept out of what it tells."""

    def __init__(self, *secrets: str) -> None:
        self._secrets: list[str] = []
        self.add(*secrets)

    def add(self, *secrets: str) -> None:
        """Learn of more secrets. The longest come first: where one begins with another, nothing is left."""
        self._secrets = sorted({*self._secrets, *filter(None, secrets)}, key=len, reverse=True)

    def clean(self, text: str) -> str:
        """A text as it may be told."""
        for secret in self._secrets:
            text = hide_secret(text, secret)
        return text


def password_in(url: str) -> str:
    """The password in a URL; empty where it has none, or cannot be read."""
    try:
        return unquote(urlsplit(url).password or "")
    except ValueError:
        return ""


def hide_secret(text: str, secret: str) -> str:
    """A text without the secret, however JSON would escape it."""
    for form in _forms(secret):
        if form in text:
            text = text.replace(form, HIDDEN)
    return text


def hide_secret_in_bytes(body: bytes, secret: str) -> bytes:
    """A body without the secret, however JSON would escape it."""
    for form in _forms(secret):
        encoded = form.encode(errors="replace")
        if encoded in body:
            body = body.replace(encoded, HIDDEN.encode())
    return body


@lru_cache(maxsize=64)
def _forms(secret: str) -> tuple[str, ...]:
    """The ways to write a secret: as it is, and as JSON with its various escapes; the longest first."""
    if not secret:
        return ()
    forms = {secret}
    for escaped in (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]):
        forms |= {escaped, escaped.replace("/", "\\/")}
    forms |= {_ESCAPE.sub(lambda match: f"\\u{match[1].upper()}", form) for form in forms}
    return tuple(sorted(forms, key=len, reverse=True))
