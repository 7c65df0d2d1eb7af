"""What the commands share that run the job: the run itself, and what is told of it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from etl.cdr.answers import DOUBT
from etl.cli.app import App
from etl.cli.output import counted
from etl.cli.progress import watched
from etl.errors import MalformedError, UnreadableError
from etl.sync.summary import OUTCOMES

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from etl.settings import Account
    from etl.sync.observing import Observer
    from etl.sync.summary import Limits, Summary

_LONGEST_QUOTE = 200  # characters


def work(
    app: App,
    accounts: list[Account],
    limits: Limits,
    *,
    engine: Engine | None = None,
    command: str = "sync",
    tells_off_terminal: bool = False,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Run the job once, watched, and stopped by signals; warn of what is amiss around it."""
    from etl.cli.request_log import RequestLog  # noqa: PLC0415
    from etl.sync.start import run_sync  # noqa: PLC0415
    from etl.sync.stopping import stop_on_signals  # noqa: PLC0415

    names = [one.name for one in accounts]
    engine = engine or app.engine()
    log = app.log if tells_off_terminal else None
    with (
        stop_on_signals() as stop,
        watched(
            engine, accounts=names, batch=limits.batch, most=limits.most, title=command, log=log
        ) as on_progress,
    ):
        summary = run_sync(
            engine,
            app.settings,
            accounts,
            limits=limits,
            stop=stop,
            command=command,
            on_progress=on_progress,
            observers=(RequestLog(app.log), *observers),
        )
    _tell_of_strangers(app, engine)
    _tell_of_dangers(app, engine)
    return summary


def summary_document(summary: Summary) -> dict[str, object]:
    """A run as one document: every count is there, zeros included."""
    names = (
        "claimed",
        *OUTCOMES,
        "api_calls",
        "legs_inserted",
        "legs_updated",
        "legs_unchanged",
    )
    counts = {name: summary.counts[name] for name in names}
    return {"run": summary.run_id, "outcome": summary.outcome, **counts}


def summary_text(summary: Summary) -> str:
    """A run for people: the outcomes add up to the claims."""
    counts = summary.counts
    outcomes = ", ".join(f"{counts[name]:,} {words}" for name, words in OUTCOMES.items() if counts[name])
    new, changed, same = (counts[f"legs_{what}"] for what in ("inserted", "updated", "unchanged"))
    legs = f"{new:,} new, {changed:,} changed, {same:,} as before"
    return (
        f"Run {summary.run_id}: {counted(counts['claimed'], 'claim')} = {outcomes or 'nothing was due'}\n"
        f"{counted(counts['api_calls'], 'API call')}; legs: {legs}"
    )


def tell_problems(app: App, summary: Summary) -> None:
    """One line for each thing that a person must do something about, with what to do."""
    log = app.log
    log.bind(run=summary.run_id)
    for name, reason in summary.refused.items():
        told = f"PIOPIY refuses the credentials of account {name!r} ({reason}). Check its app ID and secret"
        if reason.endswith(DOUBT):
            told = (
                f"PIOPIY's API does not answer account {name!r} ({reason}). If it is, check app ID and secret"
            )
        log.error(
            f"{told}; `cdr-sync doctor` tries them. Every request was given back, and no attempt was used.",
            account=name,
        )
    for name, reason in summary.api_down.items():
        log.error(
            f"The API does not work for account {name!r} ({reason}). Nothing is lost: every request was "
            "given back, and the next run tries again. `cdr-sync status` tells since when.",
            account=name,
        )
    if summary.dead:
        examples = [asked.request.request_id for asked in summary.dead_examples]
        log.error(_deaths_text(summary), **({"request_ids": examples} if examples else {}))
    if lost := summary.counts["lost_leases"]:
        log.warning(
            f"{counted(lost, 'answer')} came after the lease had run out and another run had taken over, and "
            "nothing of that was stored. If it happens often, raise CDR_SYNC_LEASE."
        )
    for asked in summary.crashed[:1]:
        if asked.crash is not None:
            request = asked.request
            app.tell_failure(
                asked.crash,
                None,
                run=summary.run_id,
                request_id=request.request_id,
                account=request.account,
            )


def _deaths_text(summary: Summary) -> str:
    """How many became dead, one of them with what was wrong, and what to do."""
    text = f"{counted(summary.dead, 'request')} became dead"
    remedy = "see `cdr-sync requests list --state dead`, and `cdr-sync requests retry` to ask again."
    example = next((asked for asked in summary.dead_examples if asked.error is not None), None)
    if example is None or example.error is None:
        return f"{text}: {remedy}"
    request_id, error = _one_line(example.request.request_id), example.error
    if isinstance(error, MalformedError | UnreadableError):
        remedy = (
            "see `cdr-sync requests list --state dead`. Its answer is kept: report it, and `cdr-sync "
            "reprocess` settles it once a later version can read it."
        )
    such_as = "" if summary.dead == 1 else "such as "
    return f"{text}, {such_as}{request_id} ({error.reason}: {_one_line(str(error))}): {remedy}"


def _one_line(text: str) -> str:
    """What somebody else wrote, as part of a line of ours."""
    return "".join(character if character.isprintable() else " " for character in text)[:_LONGEST_QUOTE]


def _tell_of_strangers(app: App, engine: Engine) -> None:
    """Warn of requests that nobody asks for: their account has no credentials here."""
    from etl.db.accounts import waiting_accounts  # noqa: PLC0415
    from etl.db.connection import reading  # noqa: PLC0415

    with reading(engine) as connection:
        strangers = [name for name in waiting_accounts(connection) if name not in app.settings.accounts]
    for name in strangers:
        app.log.warning(
            f"Requests wait for account {name!r}, for which there are no credentials: add [accounts.{name}] "
            "to the settings, or cancel them (`cdr-sync requests cancel --all-pending --account "
            f"{shlex.quote(name)}`).",
            account=name,
        )


def _tell_of_dangers(app: App, engine: Engine) -> None:
    from etl.db.connection import sqlite_path  # noqa: PLC0415

    if path := sqlite_path(app.settings.database_url):
        from etl.db.sqlite_files import sqlite_dangers  # noqa: PLC0415

        for danger in sqlite_dangers(engine, path):
            app.log.warning(danger)
