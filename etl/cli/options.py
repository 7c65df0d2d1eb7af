"""Options that several commands share, and the types that they have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import click

from etl.settings import parse_duration


class Duration(click.ParamType[timedelta]):
    """A duration such as 30s, 15m, 72h, 7d, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Read it, or say what is wrong."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Duration()
account_option = click.option("--account", metavar="NAME", help="Account from the settings.")
batch_option = click.option("--batch", metavar="LABEL", help="Batch that the requests were labelled with.")
dry_run_option = click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
limit_option = click.option(
    "--limit",
    "most",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    default=50,
    show_default=True,
    help="How many rows at most.",
)
