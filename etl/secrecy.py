"""Keeping the secret out of everything that is stored, logged or shown.

The secret travels in the body of each question, and an API that is out of order may well repeat what it
was sent. So what comes back is cleaned before anybody looks at it.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache

HIDDEN = "[secret]"
_ESCAPE = re.compile(r"\\u([0-9a-f]{4})")


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
