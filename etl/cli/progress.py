"""How a run gets on, on stderr: a bar on a terminal; elsewhere lines, for the commands that want them."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etl.sync.summary import OUTCOMES

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from etl.telemetry import Log

_WORDS = {"done": "done", "put_off": "not final", "retried": "to retry", "dead": "dead", "empty": "empty"}
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
    from etl.db.connection import reading  # noqa: PLC0415
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
