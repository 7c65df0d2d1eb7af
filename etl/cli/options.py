"""Options that several commands share, and the types that they have."""

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
        """Read it, or say what is wrong."""
        if isinstance(value, timedelta):
            return value
        try:
            return parse_duration(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class LocalInstant(click.ParamType[datetime]):
    """A day or an instant of ISO 8601, which may name no zone."""

    name = "instant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Read it, or say what is wrong."""
        if isinstance(value, datetime):
            return value
        try:
            return self._placed(datetime.fromisoformat(value.strip()))
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no instant: write 2026-11-01, or 2026-11-01T12:30:00Z", param, ctx)

    def _placed(self, instant: datetime) -> datetime:
        return instant


class Instant(LocalInstant):
    """A day or an instant of ISO 8601, in UTC where it names no zone."""

    def _placed(self, instant: datetime) -> datetime:
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Share:
    """A number, or so many in a hundred."""

    amount: float
    is_percent: bool

    def of(self, total: int) -> int:
        """How many that is of so many; at least one."""
        return max(1, ceil(total * self.amount / 100) if self.is_percent else int(self.amount))


class NumberOrPercent(click.ParamType[Share]):
    """A number such as 20, or a share such as 5%."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        """Read it, or say what is wrong."""
        if isinstance(value, Share):
            return value
        text = value.strip()
        is_percent = text.endswith("%")
        try:
            amount = float(text[:-1]) if is_percent else float(int(text))
        except (ValueError, OverflowError):
            amount = -1.0
        if not 0 < amount <= (100 if is_percent else 10**12):
            self.fail(f"{value!r} is neither a number such as 20 nor a share such as 5%", param, ctx)
        return Share(amount, is_percent)


class Name(click.ParamType[str]):
    """A name of so many characters at most, and of one at least: a variable of a shell may be empty."""

    name = "name"

    def __init__(self, longest: int) -> None:
        self._longest = longest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Take it, or say what is wrong."""
        text = str(value)
        if not 0 < len(text) <= self._longest:
            self.fail(f"it has {len(text):,} characters, where 1 to {self._longest} can be", param, ctx)
        return text


def label_option(name: str, *, help_text: str) -> Callable[[_F], _F]:
    """An option that takes the label of a batch."""
    return click.option(
        name, type=Name(LONGEST_ID), metavar="LABEL", shell_complete=complete_labels, help=help_text
    )


def file_option(name: str, *, help_text: str) -> Callable[[_F], _F]:
    """An option that takes the name of a file."""
    return click.option(name, metavar="FILE", shell_complete=complete_files, help=help_text)


def error_kinds() -> list[str]:
    """All words of `last_error_kind`: the reasons of errors, and the two that no answer gave."""
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
    """--since and --until, which bound a period half-open; one that ends before it begins is refused."""

    def add(function: _F) -> _F:
        for name, help_text in (("--until", until), ("--since", since)):
            option = click.option(name, type=INSTANT, metavar="T", callback=_in_order, help=help_text)
            function = option(function)
        return function

    return add


def _in_order(ctx: click.Context, param: click.Parameter, value: datetime | None) -> datetime | None:
    """Hold the one of a period's ends that is read last against the other."""
    ends = {**ctx.params, str(param.name): value}
    since, until = ends.get("since"), ends.get("until")
    if since is not None and until is not None and since >= until:
        said = f"--since {since:%Y-%m-%d %H:%M} is not before --until ({until:%Y-%m-%d %H:%M})"
        raise UsageError(f"{said}: swap or change them")
    return value


account_option = click.option(
    "--account",
    type=Name(LONGEST_NAME),
    metavar="NAME",
    shell_complete=complete_accounts,
    help="Account from the settings.",
)
batch_option = label_option("--batch", help_text="Only those with this label.")
error_kind_option = click.option(
    "--error-kind",
    type=click.Choice(error_kinds()),
    metavar="KIND",
    help="Only those whose last claim failed so, such as timeout.",
)
from_file_option = file_option("--from-file", help_text="Read IDs from FILE, or from - for standard input.")
time_limit_option = click.option(
    "--time-limit", type=DURATION, help="Stop claiming after this time, such as 50s."
)
workers_option = click.option(
    "--workers", type=click.IntRange(1, 256), metavar="N", help="Threads that ask the API."
)
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
