"""How complete the records of a period are, in numbers and in sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from etl.db.states import EMPTY
from etl.report.period import Period

if TYPE_CHECKING:
    from etl.db.streams import RequestCount, Waiting

# What becomes of requests, as the view sync_coverage calls it.
OUTCOMES = ("asked", "done", "without_legs", "dead", "cancelled", "waiting")


@dataclass(frozen=True, slots=True)
class Coverage:
    """What became of the requests that were enqueued in a period, and what is still to come."""

    period: Period
    accounts: Mapping[str, Mapping[str, int]]  # by account and outcome
    waiting: Mapping[str, Waiting]  # by account; those of any time
    last_enqueued_at: datetime | None
    missing_legs: int
    dead: int  # requests of any time

    @property
    def total(self) -> dict[str, int]:
        """All accounts together."""
        return {name: sum(counts[name] for counts in self.accounts.values()) for name in OUTCOMES}

    @property
    def complete_until(self) -> datetime | None:
        """All requests that were enqueued before it are finished; None where none waits."""
        since = min((one.since for one in self.waiting.values()), default=None)
        return None if since is None else since.astimezone(self.period.zone)

    def sentences(self) -> list[str]:
        """What a reader must know before any number: up to when it is complete, and what is missing."""
        return [self._complete(), *self._lacking()]

    def _complete(self) -> str:
        if self.last_enqueued_at is None:
            return "No request was ever enqueued: nothing is known of any call."
        if self.complete_until is None:
            last = _shown(self.last_enqueued_at.astimezone(self.period.zone))
            begins = "No request waits" if self.dead else "Complete: no request waits"
            return f"{begins}; all of them, the last one of {last}, are finished."
        count = sum(one.count for one in self.waiting.values())
        return (
            f"Complete until {_shown(self.complete_until)}: every request enqueued before that is finished. "
            f"{_counted(count, 'request waits', 'requests wait, the oldest')} since then."
        )

    def _lacking(self) -> list[str]:
        total = self.total
        lacking = []
        if not self.accounts and self.last_enqueued_at is not None:
            lacking.append("No request was enqueued in this period.")
        if total["dead"]:
            words = _counted(total["dead"], "request is dead and is", "requests are dead and are")
            lacking.append(
                f"Of those asked in the period, {words} missing here: `cdr-sync requests list --state dead` "
                "tells which and why."
            )
        if elsewhere := self.dead - total["dead"]:
            words = _counted(elsewhere, "request that was", "requests that were")
            verb = "is" if elsewhere == 1 else "are"
            lacking.append(
                f"{words} enqueued at other times {verb} dead, and may have had calls in the period."
            )
        if total["without_legs"]:
            lacking.append(
                f"For {_counted(total['without_legs'], 'request', 'requests')} the API knew no call."
            )
        if total["cancelled"]:
            lacking.append(f"{_counted(total['cancelled'], 'request was', 'requests were')} cancelled.")
        if self.missing_legs:
            words = _counted(self.missing_legs, "leg is", "legs are")
            lacking.append(f"{words} left out, since a later answer no longer held them.")
        return lacking


def coverage_of(
    period: Period,
    counts: Iterable[RequestCount],
    waiting: Iterable[Waiting],
    *,
    last_enqueued_at: datetime | None,
    missing_legs: int,
    dead: int,
) -> Coverage:
    """Put the counts of requests together: what is neither finished nor cancelled waits."""
    accounts: dict[str, dict[str, int]] = {}
    for one in counts:
        of_account = accounts.setdefault(one.account, dict.fromkeys(OUTCOMES, 0))
        of_account["asked"] += one.count
        outcome = "without_legs" if one.state == EMPTY else one.state
        of_account[outcome if outcome in OUTCOMES else "waiting"] += one.count
    by_account = {its.account: its for its in waiting}
    return Coverage(period, dict(sorted(accounts.items())), by_account, last_enqueued_at, missing_legs, dead)


def _shown(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}"


def _counted(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
