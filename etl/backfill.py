"""A backfill: select known requests, mark them with a label, forecast the run, work them off, resume.

Marking makes requests due in the backfill lane. Working off is an ordinary run that is limited to the label.
Any machine can resume it: what is left are the pending requests of the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine

from etl import replay
from etl.db.engine import reading
from etl.db.runs import recent_call_rate
from etl.db.selection import BatchFigures, Selection, batch_figures, batch_states, count_requests, new_label
from etl.db.states import PENDING, RUNNING
from etl.replay import BulkChange, ChangeResult
from etl.sync.signals import exit_on_sigterm
from etl.sync.summary import Limits, Summary


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would cost: API calls, one per request, and seconds. None where nothing is known yet."""

    calls: int
    per_second: float | None
    basis: str | None  # "rate_limit" or "latest_runs"
    seconds: float | None

    def document(self) -> dict[str, object]:
        """The forecast for programs."""
        return {
            "api_calls": self.calls,
            "expected_seconds": None if self.seconds is None else round(self.seconds, 1),
            "calls_per_second": None if self.per_second is None else round(self.per_second, 3),
            "speed_from": self.basis,
        }


@dataclass(frozen=True, slots=True)
class WorkedOff:
    """How a batch stands after a run. `summary` is None if nothing was left and nothing was run."""

    summary: Summary | None
    figures: BatchFigures
    limits: Limits

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        return self.summary.exit_code if self.summary else 0

    def document(self) -> dict[str, object]:
        """How the batch stands, and whether the API's counts agree with the stored legs, for programs."""
        return {
            "batch_by_state": dict(self.figures.states),
            "next_due_at": self.figures.next_due_at,
            "counts_compared": self.figures.counted,
            "count_mismatches": self.figures.mismatches,
            "mismatched": list(self.figures.examples),
        }


@dataclass(frozen=True, slots=True)
class Backfill:
    """A backfill by its label, of some accounts (none means any). A resumed one marks nothing."""

    engine: Engine
    label: str
    accounts: Sequence[str]
    marking: BulkChange | None = None

    @classmethod
    def begin(
        cls,
        engine: Engine,
        *,
        label: str | None,
        account: str | None,
        accounts: Sequence[str],
        states: Sequence[str],
        error_kind: str | None = None,
        batch: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> Backfill:
        """Plan a backfill of what is selected, under a new label where none is given.

        `account` is the one of listed IDs, to which unknown ones are added. `since` and `until` bound the
        time of enqueueing, half-open.
        """
        if label is None:
            with reading(engine) as connection:
                label = new_label(connection)
        selection = Selection(states, error_kind, accounts, batch, since=since, until=until)
        return cls(engine, label, accounts, BulkChange.to_backfill(selection, label, account=account))

    def preview(self, listed: Iterable[str] | None) -> ChangeResult:
        """Count what would be marked, of all that is selected or of listed IDs."""
        if self.marking is None:
            return ChangeResult()
        return replay.preview(self.engine, self.marking, listed)

    def mark(
        self,
        listed: Iterable[str] | None,
        *,
        on_chunk: Callable[[ChangeResult], None],
        on_interruption: Callable[[], None],
    ) -> ChangeResult:
        """Mark requests chunk by chunk. Interrupted, it leaves whole chunks; the same again marks the rest.

        Raises:
            KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came, and `on_interruption` was called.
        """
        if self.marking is None:
            return ChangeResult()
        try:
            with exit_on_sigterm():
                return replay.apply(self.engine, self.marking, listed, on_chunk=on_chunk)
        except (KeyboardInterrupt, SystemExit):
            on_interruption()
            raise

    def document(self, marked: ChangeResult) -> dict[str, object]:
        """What was marked, for programs; a dry run says the same."""
        return {
            "selected": marked.total,
            "by_state": marked.states,
            "left_alone": dict(marked.skipped),
            "already_marked": marked.already_marked,
        }

    def forecast(self, marked: ChangeResult, *, rate_limit: float) -> Forecast:
        """Forecast a run over what would be marked and over what the batch has due already.

        The speed is the rate limit, which each account has for itself, or else that of the latest runs.
        """
        due_now = Selection(accounts=self.accounts, batch=self.label, only_due=True)
        calls: Counter[str] = Counter(marked.accounts)
        with reading(self.engine) as connection:
            for (account, _), count in count_requests(connection, due_now).items():
                calls[account] += count
            total = calls.total()
            if rate_limit:
                return Forecast(total, rate_limit, "rate_limit", max(calls.values(), default=0) / rate_limit)
            per_second = recent_call_rate(connection)
        if per_second is None:
            return Forecast(total, None, None, None)
        return Forecast(total, per_second, "latest_runs", total / per_second)

    def work_off(
        self,
        run: Callable[[Limits], Summary],
        *,
        time_limit: timedelta | None,
        max_failures: Callable[[int], int] | None,
    ) -> WorkedOff:
        """Run the job for the batch, if anything of it is left, and read how the batch stands then.

        `run` starts the job within limits. `max_failures` gives the number of failed requests at which the
        run stops claiming, from the number of those that are pending.
        """
        with reading(self.engine) as connection:
            states = batch_states(connection, self.label, self.accounts)
        limits = Limits(None, time_limit, self.label, max_failures(states[PENDING]) if max_failures else None)
        summary = run(limits) if states[PENDING] or states[RUNNING] else None
        with reading(self.engine) as connection:
            return WorkedOff(summary, batch_figures(connection, self.label), limits)
