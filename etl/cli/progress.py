"""The progress bar of a run: on a terminal only, on stderr."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from etl.sync.summary import OUTCOMES

if TYPE_CHECKING:
    from sqlalchemy import Engine

_WORDS = {"done": "done", "put_off": "not final", "retried": "to retry", "dead": "dead", "empty": "empty"}


@contextmanager
def watched(
    engine: Engine, *, accounts: Sequence[str] = (), batch: str | None = None, most: int | None = None
) -> Iterator[Callable[[Mapping[str, int]], None]]:
    """Show how a run gets on; yields what the run calls with each batch of counts."""
    if not sys.stderr.isatty():
        yield lambda _counts: None
        return
    from rich.console import Console  # noqa: PLC0415 (only on a terminal)
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    from etl.db.connection import reading  # noqa: PLC0415
    from etl.db.selection import Selection, count_requests  # noqa: PLC0415

    with reading(engine) as connection:
        due = sum(
            count_requests(connection, Selection(accounts=accounts, batch=batch, only_due=True)).values()
        )
    due = due if most is None else min(due, most)
    if not due:
        yield lambda _counts: None
        return
    columns = (
        TextColumn("[bold]sync"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[outcomes]}"),
    )
    total: Counter[str] = Counter()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("sync", total=due, outcomes="", rate="")

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
