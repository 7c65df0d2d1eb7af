"""Options that several commands share, and the types of option values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from math import ceil
from typing import Any, TypeVar

import click

from etl.cli.completion import complete_accounts, complete_files, complete_labels
from etl.errors import RequestError, UsageError
from etl.id_files import LONGEST_ID
from etl.settings import LONGEST_NAME, parse_duration

_F = TypeVar("_F", bound=Callable[..., Any])


class Duration(click.ParamType[timedelta]):
    """A duration such as 30s, 15m, 72h, 7d, or a number of seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Parse the value, or report what is wrong."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class LocalInstant(click.ParamType[datetime]):
    """A date or a time in ISO 8601, with or without a time zone."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Parse the value, or report what is wrong."""
        if isinstance(value, datetime):
            return value
        try:
            return self._placed(datetime.fromisoformat(value.strip()))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a valid time. Use 2026-11-01 or 2026-11-01T12:30:00Z", param, ctx)

    def _placed(self, instant: datetime) -> datetime:
        return instant


class Instant(LocalInstant):
    """A date or a time in ISO 8601, in UTC if it has no time zone."""

    def _placed(self, instant: datetime) -> datetime:
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Share:
    """A count or a percentage."""

    amount: float
    is_percent: bool

    def of(self, total: int) -> int:
        """The count that this is of `total`; at least 1."""
        return max(1, ceil(total * self.amount / 100) if self.is_percent else int(self.amount))


class NumberOrPercent(click.ParamType[Share]):
    """A count such as 20, or a percentage such as 5%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        """Parse the value, or report what is wrong."""
        if isinstance(value, Share):
            return value
        text = value.strip()
        is_percent = text.endswith("%")
        try:
            amount = float(text[:-1]) if is_percent else float(int(text))
        except (ValueError, OverflowError):
            amount = -1.0
        if not 0 < amount <= (100 if is_percent else 10**12):
            self.fail(
                f"{value!r} is not a valid limit. Use a count such as 20, or a percentage such as 5%",
                param,
                ctx,
            )
        return Share(amount, is_percent)


class Name(click.ParamType[str]):
    """A name with a limited length. An empty one is rejected: it comes from an empty shell variable."""

    name = "name"

    def __init__(self, longest: int) -> None:
        self._longest = longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or report what is wrong."""
        text = str(value)
        if not 0 < len(text) <= self._longest:
            self.fail(f"it has {len(text):,} characters. Use 1 to {self._longest}", param, ctx)
        return text


def label_option(name: str, *, help_text: str) -> Callable[[_F], _F]:
    """An option whose value is the label of a batch."""
    return click.option(
        name, type=Name(LONGEST_ID), metavar="LABEL", shell_complete=complete_labels, help=help_text
    )


def file_option(name: str, *, help_text: str) -> Callable[[_F], _F]:
    """An option whose value is a file name."""
    return click.option(name, metavar="FILE", shell_complete=complete_files, help=help_text)


def error_kinds() -> list[str]:
    """All words of `last_error_kind`: the reasons of request errors, and two that are not answers."""
    return sorted({*_reasons(RequestError), "lease_expired", "unexpected"})


def _reasons(error: type[RequestError]) -> Iterator[str]:
    yield error.reason
    for kind in error.__subclasses__():
        yield from _reasons(kind)


DURATION = Duration()
INSTANT = Instant()
LOCAL_INSTANT = LocalInstant()
NUMBER_OR_PERCENT = NumberOrPercent()


def period_options(*, since: str, until: str) -> Callable[[_F], _F]:
    """--since and --until, a half-open period. One that ends before it begins is rejected."""

    def add(function: _F) -> _F:
        for name, help_text in (("--until", until), ("--since", since)):
            option = click.option(name, type=INSTANT, metavar="T", callback=_in_order, help=help_text)
            function = option(function)
        return function

    return add


def _in_order(ctx: click.Context, param: click.Parameter, value: datetime | None) -> datetime | None:
    """Compare both ends of a period when the second one is parsed."""
    ends = {**ctx.params, str(param.name): value}
    since, until = ends.get("since"), ends.get("until")
    if since is not None and until is not None and since >= until:
        raise UsageError(
            f"--since {since:%Y-%m-%d %H:%M} is not before --until ({until:%Y-%m-%d %H:%M})",
            remedy="Swap or change them",
        )
    return value


account_option = click.option(
    "--account",
    type=Name(LONGEST_NAME),
    metavar="NAME",
    shell_complete=complete_accounts,
    help="Account from the settings.",
)
batch_option = label_option("--batch", help_text="Only requests with this label.")
error_kind_option = click.option(
    "--error-kind",
    type=click.Choice(error_kinds()),
    metavar="KIND",
    help="Only requests whose last claim failed with this error kind, such as timeout.",
)
from_file_option = file_option(
    "--from-file", help_text="Read IDs from FILE, or from standard input if FILE is -."
)
time_limit_option = click.option(
    "--time-limit", type=DURATION, help="Stop claiming after this time, such as 50s."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Threads that call the API."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Only show what would be done.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
limit_option = click.option(
    "--limit",
    "most",
    type=click.IntRange(1, 1_000_000),
    metavar="N",
    default=50,
    show_default=True,
    help="The largest number of rows.",
)
