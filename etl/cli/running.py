"""What the commands that run the job share: the run itself, its progress, its log, and its summary."""

from __future__ import annotations

import shlex
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etl.cli.output import counted
from etl.errors import MalformedError, RequestError, UnreadableError
from etl.sync.fetching import Answered, Failed
from etl.sync.summary import OUTCOMES

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from etl.cli.app import App
    from etl.log import Log
    from etl.settings import Account
    from etl.sync.fetching import Fetched
    from etl.sync.settle import Settled
    from etl.sync.summary import Limits, Summary

_LONGEST_QUOTE = 200  # characters
_LINE_SECONDS = 5.0  # between two lines of progress, off a terminal
_WORDS = {
    "done": "done",
    "put_off": "not final",
    "retried": "to retry",
    "dead": "dead",
    "without_legs": "without legs",
}

OnProgress = Callable[[Mapping[str, int]], None]


def run_job(
    app: App,
    accounts: list[Account],
    limits: Limits,
    *,
    engine: Engine | None = None,
    command: str = "sync",
    logs_progress: bool = False,
) -> Summary:
    """Run the job once, with progress, until it ends or a signal comes; then warn of what is wrong around it.

    Args:
        app: the call of the command line.
        accounts: whose requests to ask for.
        limits: what the run is limited to.
        engine: the database; by default that of the settings.
        command: what the ledger calls the run.
        logs_progress: whether lines of progress are logged off a terminal.
    """
    from etl.sync.run import run_sync  # noqa: PLC0415 (an idle run does not need it)
    from etl.sync.signals import stop_on_signals  # noqa: PLC0415 (as above)

    names = [one.name for one in accounts]
    engine = engine or app.engine()
    log = app.log if logs_progress else None
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
            observers=[RequestLog(app.log)],
        )
    _warn_of_unconfigured_accounts(app, engine)
    _warn_of_shared_file(app, engine)
    return summary


# --- Summary and problems ----------------------------------------------------------------------------


def summary_document(summary: Summary) -> dict[str, object]:
    """A run as one document with every count, zeros included."""
    names = ("claimed", *OUTCOMES, "api_calls", "legs_inserted", "legs_updated", "legs_unchanged")
    return {
        "run": summary.run_id,
        "outcome": summary.outcome,
        **{name: summary.counts[name] for name in names},
    }


def summary_text(summary: Summary) -> str:
    """A run for people: the outcomes add up to the claims."""
    counts = summary.counts
    outcomes = ", ".join(f"{counts[name]:,} {words}" for name, words in OUTCOMES.items() if counts[name])
    new, changed, same = (counts[f"legs_{what}"] for what in ("inserted", "updated", "unchanged"))
    return (
        f"Run {summary.run_id}: {counted(counts['claimed'], 'claim')} = {outcomes or 'nothing was due'}\n"
        f"{counted(counts['api_calls'], 'API call')}; legs: {new:,} new, {changed:,} changed, "
        f"{same:,} unchanged"
    )


def report_problems(app: App, summary: Summary) -> None:
    """Log one line for each thing that a person must do something about, with what to do."""
    log = app.log
    log.bind(run=summary.run_id)
    for name, error in summary.refused.items():
        problem = f"PIOPIY rejects the credentials of account {name!r} ({error}). Check its app ID and secret"
        if error.is_web_page:
            problem = (
                f"Account {name!r} gets no answer from PIOPIY's API ({error}). "
                "If CDR_SYNC_API_URL is right, check app ID and secret"
            )
        log.error(
            f"{problem}: `cdr-sync doctor` tries them. All requests were given back; no attempt was used.",
            account=name,
        )
    for name, error in summary.api_down.items():
        log.error(
            f"The API does not work for account {name!r} ({error}). Nothing is lost: all requests were given "
            "back, and the next run tries again. `cdr-sync status` shows since when.",
            account=name,
        )
    if summary.dead:
        examples = [fetched.request.request_id for fetched in summary.dead_examples]
        log.error(_deaths_text(summary), **({"request_ids": examples} if examples else {}))
    if lost := summary.counts["lost_leases"]:
        log.warning(
            f"{counted(lost, 'answer')} came after the lease had expired and another run had taken over: "
            "not stored. If this happens often, raise CDR_SYNC_LEASE."
        )
    for one in summary.crashed[:1]:
        app.report_failure(
            one.crash,
            run=summary.run_id,
            request_id=one.request.request_id,
            account=one.request.account,
        )


def _deaths_text(summary: Summary) -> str:
    """How many became dead, one of them with what was wrong, and what to do."""
    text = f"{counted(summary.dead, 'request')} became dead"
    remedy = "see `cdr-sync requests list --state dead`, and `cdr-sync requests retry` to ask again."
    known = [(one.request, error) for one in summary.dead_examples if (error := _error_of(one)) is not None]
    if not known:
        return f"{text}: {remedy}"
    request, error = known[0]
    if isinstance(error, MalformedError | UnreadableError):
        remedy = (
            "see `cdr-sync requests list --state dead`. Its answer is archived: report it, and "
            "`cdr-sync reprocess` settles it when a later version can read it."
        )
    such_as = "" if summary.dead == 1 else "such as "
    quoted = f"{_one_line(request.request_id)} ({error.reason}: {_one_line(str(error))})"
    return f"{text}, {such_as}{quoted}: {remedy}"


def _one_line(text: str) -> str:
    """Foreign text as part of a line of ours."""
    return "".join(character if character.isprintable() else " " for character in text)[:_LONGEST_QUOTE]


def _warn_of_unconfigured_accounts(app: App, engine: Engine) -> None:
    """Warn of requests that no run here asks for, because their account has no credentials."""
    from etl.db.accounts import waiting_accounts  # noqa: PLC0415 (as above)
    from etl.db.engine import reading  # noqa: PLC0415 (as above)

    with reading(engine) as connection:
        unknown = [name for name in waiting_accounts(connection) if name not in app.settings.accounts]
    for name in unknown:
        app.log.warning(
            f"Requests wait for account {name!r}, which has no credentials: add [accounts.{name}] to the "
            f"settings, or cancel them (`cdr-sync requests cancel --all-pending --account "
            f"{shlex.quote(name)}`).",
            account=name,
        )


def _warn_of_shared_file(app: App, engine: Engine) -> None:
    from etl.db.engine import sqlite_dangers, sqlite_path  # noqa: PLC0415 (as above)

    if path := sqlite_path(app.settings.database_url):
        for danger in sqlite_dangers(engine, path):
            app.log.warning(danger)


# --- Log lines about single requests -----------------------------------------------------------------


class RequestLog:
    """Gives every line of a run its number, and with --verbose logs one line per settled request."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def on_start(self, run_id: int) -> None:
        """Put the run's number into every line from now on."""
        self._log.bind(run=run_id)

    def on_settled(self, settled: Sequence[Settled]) -> None:
        """Log what became of each request."""
        if self._log.is_verbose:
            for fetched, outcome in settled:
                attempt = getattr(fetched.request, "attempts", None)
                self._log.info(
                    f"A request is {OUTCOMES[outcome]}",
                    **_details(fetched),
                    outcome=outcome,
                    attempt=attempt,
                )

    def on_canary(self, fetched: Fetched) -> None:
        """Log what came of a request known to be good."""
        if self._log.is_verbose:
            how = "does not answer either" if _error_of(fetched) else "answers"
            self._log.info(f"A request known to be good {how}", **_details(fetched))


def _error_of(fetched: Fetched) -> RequestError | None:
    return fetched.error if isinstance(fetched, Failed) else None


def _details(fetched: Fetched) -> dict[str, object]:
    """Which request it was, and what the API answered; what is not known is left out."""
    timing, error = fetched.timing, _error_of(fetched)
    details = {
        "request_id": fetched.request.request_id,
        "account": fetched.request.account,
        "calls": timing.calls,
        "seconds": round(timing.ended - timing.began, 3) if timing.ended else None,
        "legs": len(fetched.legs) if isinstance(fetched, Answered) else None,
        "http_status": fetched.status if isinstance(fetched, Answered | Failed) else None,
        "error_kind": error.reason if error else None,
        "error": str(error) if error else None,
    }
    return {name: value for name, value in details.items() if value is not None}


# --- Progress ----------------------------------------------------------------------------------------


@contextmanager
def watched(
    engine: Engine,
    *,
    accounts: Sequence[str] = (),
    batch: str | None = None,
    most: int | None = None,
    title: str = "sync",
    log: Log | None = None,
) -> Iterator[OnProgress]:
    """Show progress on stderr; yields what the run calls with the counts of each transaction.

    On a terminal it is a bar; elsewhere nothing, or with a log a line every few seconds.
    """
    due = _count_due(engine, accounts, batch, most) if sys.stderr.isatty() or log else 0
    if not due:
        yield lambda _counts: None
        return
    with _bar(title, due) if sys.stderr.isatty() or log is None else _lines(log, title, due) as on_progress:
        yield on_progress


def _count_due(engine: Engine, accounts: Sequence[str], batch: str | None, most: int | None) -> int:
    from etl.db.engine import reading  # noqa: PLC0415 (as above)
    from etl.db.selection import Selection, count_requests  # noqa: PLC0415 (as above)

    with reading(engine) as connection:
        counts = count_requests(connection, Selection(accounts=accounts, batch=batch, only_due=True))
    due = sum(counts.values())
    return due if most is None else min(due, most)


@contextmanager
def _bar(title: str, due: int) -> Iterator[OnProgress]:
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
def _lines(log: Log, title: str, due: int) -> Iterator[OnProgress]:
    total: Counter[str] = Counter()
    began = logged_at = time.monotonic()

    def advance(counts: Mapping[str, int]) -> None:
        nonlocal logged_at
        total.update(counts)
        now = time.monotonic()
        if now - logged_at < _LINE_SECONDS:
            return
        logged_at = now
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
