"""Shell completion: labels, runs, accounts, states, files.

click's scripts call it; docs/operate.md says how to install them. An answer comes within a second or not at
all, and never as an error, because an error would be printed into the line that the user is typing.
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

_TIMEOUT = 1.0  # seconds
# Words from the database go into the user's command line: only those that a shell reads as one plain word,
# and that do not look like an option.
_PLAIN_WORD = re.compile(r"[^\W_][\w.:@%/+=-]*")


def complete_files(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """File names, which the shell completes itself."""
    return [CompletionItem(incomplete, type="file")]


def complete_labels(
    ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Labels of batches and backfills, the latest first."""
    from etl.db.idle import recent_labels  # noqa: PLC0415 (only when completing)

    return _offer(
        ctx, incomplete, lambda settings: ((label, None) for label in recent_labels(settings.database_url))
    )


def complete_runs(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Numbers of the latest runs, with their command and outcome."""
    from etl.db.idle import recent_runs  # noqa: PLC0415 (only when completing)

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
    """Accounts that have credentials."""
    return _offer(ctx, incomplete, lambda settings: ((name, None) for name in settings.accounts))


def complete_listed(words: Sequence[str], incomplete: str) -> list[CompletionItem[str]]:
    """The last of several words that are separated by commas. Words already given are not offered again."""
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
    """The words found with these settings that begin with what was typed; none after an error or time-out."""
    options = {name: ctx.find_root().params.get(name) for name in ("config", "database_url")}
    found: list[tuple[str, str | None]] = []

    def look() -> None:
        try:
            from etl.settings import load_settings  # noqa: PLC0415 (only when completing)

            found.extend(find(load_settings(options)))
        except Exception:  # noqa: BLE001, S110 (an error must not be printed into the command line)
            pass

    # If a server does not answer, the thread is abandoned; it ends with the process.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_TIMEOUT)
    return [
        CompletionItem(word, help=help_text)
        for word, help_text in list(found)
        if word.startswith(incomplete) and _PLAIN_WORD.fullmatch(word)
    ]
