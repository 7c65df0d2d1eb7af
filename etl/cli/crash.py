"""Telling of a fault of this program: where it is, without the values that were at hand."""

from __future__ import annotations

import traceback
from pathlib import Path

import click

_OURS = Path(__file__).resolve().parent.parent


def tell_crash(error: BaseException) -> None:
    """Write where it went wrong. Messages of foreign errors can hold rows or requests, so they stay out."""
    click.echo("cdr-sync: this is a fault of cdr-sync itself; please report these lines:", err=True)
    frames = traceback.extract_tb(error.__traceback__)
    for frame in [*(one for one in frames[:-3] if _OURS in Path(one.filename).parents), *frames[-3:]]:
        click.echo(f"  {frame.filename}:{frame.lineno} in {frame.name}", err=True)
    kind = type(error)
    click.echo(f"  {kind.__module__}.{kind.__qualname__}", err=True)
