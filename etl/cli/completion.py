"""What Tab offers in a shell: labels, runs, accounts, states, files.

Click's own scripts ask for it (docs/operate.md says how they are switched on). Whoever presses Tab gets an
answer within a second or none, and never an error: nothing here is worth a line across what they are typing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from etl.settings import Settings

_PATIENCE = 1.0  # seconds
# What is read from the database goes into somebody's command line: nothing that a shell would take for more
# than a word may, and nothing that looks like an option.
_HARMLESS = re.compile(r"[^\W_][\w.:@%/+=-]*")


def complete_files(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The names of files, which are the shell's own business."""
    return [CompletionItem(incomplete, type="file")]


def complete_labels(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The labels of batches and backfills, the latest first."""
    from etl.db.idle import recent_labels  # noqa: PLC0415

    return _offer(
        ctx, incomplete, lambda settings: ((label, None) for label in recent_labels(settings.database_url))
    )


def complete_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """The numbers of the latest runs, with what they were and how they ended."""
    from etl.db.idle import recent_runs  # noqa: PLC0415

    return _offer(
        ctx,
        incomplete,
        lambda settings: (
            (str(number), f"{command} {outcome}")
            for number, command, outcome in recent_runs(settings.database_url)
        ),
    )


def complete_accounts(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """The accounts that have credentials."""
    return _offer(ctx, incomplete, lambda settings: ((name, None) for name in settings.accounts))


def complete_listed(words: Sequence[str], incomplete: str) -> list[CompletionItem[str]]:
    """The last of several words with commas between them, each of which is named once."""
    before, comma, last = incomplete.rpartition(",")
    named = {word.strip() for word in before.split(",")}
    return [
        CompletionItem(f"{before}{comma}{word}")
        for word in words
        if word.startswith(last) and word not in named
    ]


def _offer(
    ctx: click.Context, incomplete: str, find: Callable[[Settings], Iterable[tuple[str, str | None]]]
) -> list[CompletionItem[str]]:
    """What is found with the settings and begins as what was typed; nothing if that fails or takes long."""
    options = {name: ctx.find_root().params.get(name) for name in ("config", "database_url")}
    found: list[tuple[str, str | None]] = []

    def look() -> None:
        try:
            from etl.settings import load_settings  # noqa: PLC0415

            found.extend(find(load_settings(options)))
        except Exception:  # noqa: BLE001, S110 (of no interest to somebody who is typing)
            pass

    # A server that does not answer is left behind with its thread, which ends with the process.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return [
        CompletionItem(word, help=help_text)
        for word, help_text in list(found)
        if word.startswith(incomplete) and _HARMLESS.fullmatch(word)
    ]
