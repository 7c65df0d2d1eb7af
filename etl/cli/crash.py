"""Telling of a fault of this program: where it is, without the values that were at hand."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path

FAULT = "this is a fault of cdr-sync itself; please report these lines"
_OURS = Path(__file__).resolve().parent.parent


def crash_fields(error: BaseException) -> dict[str, object]:
    """Where it went wrong. Messages of foreign errors can hold rows or requests, so they stay out."""
    return {"exception": _name_of(error), "frames": list(_frames(error))}


def crash_text(error: BaseException, context: Mapping[str, object]) -> str:
    """The same for people, and what it was about."""
    about = [f"{name} {value}" for name, value in context.items()]
    lines = [*_frames(error), _name_of(error), *([", ".join(about)] if about else [])]
    return "\n  ".join([f"cdr-sync: {FAULT}:", *lines])


def _frames(error: BaseException) -> Iterator[str]:
    frames = traceback.extract_tb(error.__traceback__)
    for frame in [*(one for one in frames[:-3] if _OURS in Path(one.filename).parents), *frames[-3:]]:
        yield f"{frame.filename}:{frame.lineno} in {frame.name}"


def _name_of(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}"
