"""What the commands that run the job share: the run itself, its progress, its log, and its summary."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etl.cdr.answers import DOUBT
from etl.cli.app import App
from etl.cli.output import counted
from etl.errors import MalformedError, UnreadableError
from etl.log import Log
from etl.sync.fetching import Asked
from etl.sync.summary import OUTCOMES, Committed, Settled

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from etl.log import Log
    from etl.settings import Account
    from etl.sync.summary import Limits, Observer, Summary


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
    from etl.sync.run import run_sync  # noqa: PLC0415
    from etl.sync.signals import stop_on_signals  # noqa: PLC0415

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
    from etl.db.engine import reading  # noqa: PLC0415

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
    from etl.db.engine import sqlite_path  # noqa: PLC0415

    if path := sqlite_path(app.settings.database_url):
        from etl.db.engine import sqlite_dangers  # noqa: PLC0415

        for danger in sqlite_dangers(engine, path):
            app.log.warning(danger)


class RequestLog:
    """Writes a line for each request that is settled, and gives every line of a run the run's number."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def hear_start(self, run_id: int) -> None:
        """Let every line from now on say which run it is of."""
        self._log.bind(run=run_id)

    def hear_commit(self, committed: Committed) -> None:
        """Tell of each request what became of it."""
        if self._log.is_verbose:
            for settled in committed.settled:
                self._tell(settled)

    def hear_canary(self, asked: Asked) -> None:
        """Tell what came of the request that is known to be good."""
        if self._log.is_verbose:
            how = "does not answer either" if asked.error else "answers"
            self._log.info(f"A request that is known to be good {how}", **_what_came_of(asked))

    def _tell(self, settled: Settled) -> None:
        asked, outcome = settled
        self._log.info(
            f"A request is {OUTCOMES[outcome]}",
            **_what_came_of(asked),
            outcome=outcome,
            attempt=asked.request.attempts,
        )


def _what_came_of(asked: Asked) -> dict[str, object]:
    """Which request it was, and what the API said; what there is nothing to say of is left out."""
    came = {
        "request_id": asked.request.request_id,
        "account": asked.request.account,
        "calls": asked.calls,
        "seconds": round(asked.ended - asked.began, 3) if asked.ended else None,
        "legs": len(asked.legs) if asked.ended and asked.error is None else None,
        "http_status": asked.status,
        "error_kind": asked.error.reason if asked.error else None,
        "error": str(asked.error) if asked.error else None,
    }
    return {name: value for name, value in came.items() if value is not None}


_WORDS = {
    "done": "done",
    "put_off": "not final",
    "retried": "to retry",
    "dead": "dead",
    "without_legs": "without legs",
}
_LINE_SECONDS = 5.0  # from one line to the next, off a terminal

Advance = Callable[[Mapping[str, int]], None]


@contextmanager
def watched(
    engine: Engine,
    *,
    accounts: Sequence[str] = (),
    batch: str | None = None,
    most: int | None = None,
    title: str = "sync",
    log: Log | None = None,
) -> Iterator[Advance]:
    """Show how a run gets on; yields what the run calls with each batch of counts.

    Off a terminal there is nothing, or with a log a line every few seconds.
    """
    due = _count_due(engine, accounts, batch, most) if sys.stderr.isatty() or log else 0
    if not due:
        yield lambda _counts: None
        return
    with _bar(title, due) if sys.stderr.isatty() or log is None else _lines(log, title, due) as advance:
        yield advance


def _count_due(engine: Engine, accounts: Sequence[str], batch: str | None, most: int | None) -> int:
    from etl.db.engine import reading  # noqa: PLC0415
    from etl.db.selection import Selection, count_requests  # noqa: PLC0415

    with reading(engine) as connection:
        counts = count_requests(connection, Selection(accounts=accounts, batch=batch, only_due=True))
    due = sum(counts.values())
    return due if most is None else min(due, most)


@contextmanager
def _bar(title: str, due: int) -> Iterator[Advance]:
    from rich.console import Console  # noqa: PLC0415 (only on a terminal)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (
        TextColumn(f"[bold]{title}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[outcomes]}"),
    )
    total: Counter[str] = Counter()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=due, outcomes="", rate="")

        def advance(counts: Mapping[str, int]) -> None:
            total.update(counts)
            settled = sum(total[name] for name in OUTCOMES)
            words = ", ".join(f"{total[name]:,} {word}" for name, word in _WORDS.items() if total[name])
            speed = progress.tasks[0].speed
            progress.update(
                task,
                completed=settled,
                total=max(due, settled),
                outcomes=words,
                rate=f"{speed:,.0f}/s" if speed else "",
            )

        yield advance


@contextmanager
def _lines(log: Log, title: str, due: int) -> Iterator[Advance]:
    total: Counter[str] = Counter()
    began = told = time.monotonic()

    def advance(counts: Mapping[str, int]) -> None:
        nonlocal told
        total.update(counts)
        now = time.monotonic()
        if now - told < _LINE_SECONDS:
            return
        told = now
        settled = sum(total[name] for name in OUTCOMES)
        rate = settled / (now - began)
        log.notice(
            f"{title}: {settled:,} of {max(due, settled):,} requests",
            settled=settled,
            total=max(due, settled),
            per_second=round(rate, 1),
            eta_seconds=round(max(0, due - settled) / rate) if rate else None,
            **{name: total[name] for name in OUTCOMES if total[name]},
        )

    yield advance
