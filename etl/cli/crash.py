"""Telling of a fault of this program: where it is, without the values that were at hand."""

from __future__ import annotations

import traceback

import click


def tell_crash(error: BaseException) -> None:
    """Write where it went wrong. Messages of foreign errors can hold rows or requests, so they stay out."""
    click.echo("cdr-sync: this is a fault of cdr-sync itself; please report these lines:", err=True)
    for frame in traceback.extract_tb(error.__traceback__)[-8:]:
        click.echo(f"  {frame.filename}:{frame.lineno} in {frame.name}", err=True)
    kind = type(error)
    click.echo(f"  {kind.__module__}.{kind.__qualname__}", err=True)
