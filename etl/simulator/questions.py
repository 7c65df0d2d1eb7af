"""Reading a question to the API as strictly as the vendor documents it."""

from __future__ import annotations

import json
from typing import NamedTuple


class Question(NamedTuple):
    """A well-formed question, whose credentials nobody has looked at yet."""

    app_id: int
    secret: str
    request_id: str


def read_question(body: bytes) -> Question | None:
    """Read a body: `appid` a JSON number, `secret` and `request_id` texts; None where it is anything else."""
    try:
        content = json.loads(body.decode())
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    app_id, secret, request_id = content.get("appid"), content.get("secret"), content.get("request_id")
    # `type`, since true is an int to Python and none to JSON.
    if type(app_id) is not int or not isinstance(secret, str) or not isinstance(request_id, str):
        return None
    return Question(app_id, secret, request_id) if request_id else None
