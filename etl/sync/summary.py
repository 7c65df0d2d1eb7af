"""What a run is limited to, what it did, and who is notified while it works."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from etl.sync.fetching import Asked

if TYPE_CHECKING:
    from etl.sync.fetching import Asked


CLASSES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds: the most that each class holds


@dataclass(slots=True)
class Latency:
    """How many calls fell into each class, the last of which has no end, and their seconds together."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(CLASSES) + 1))
    total: float = 0.0

    def add(self, calls: Iterable[float]) -> None:
        """Count some calls by their seconds."""
        for seconds in calls:
            self.counts[bisect_left(CLASSES, seconds)] += 1
            self.total += seconds


SHOWN = 5  # examples, where more would fill a line
# The outcomes of a claim, in the order of a summary: with what is in hand they add up to the claims.
OUTCOMES = {
    "done": "done",
    "without_legs": "without legs",
    "put_off": "not final yet",
    "retried": "to be retried",
    "released": "given back",
    "dead": "dead",
    "lost_leases": "taken over by others",
}


def unsettled(counts: Mapping[str, int]) -> int:
    """How many claims have no outcome: those in a run's hand, or left behind by one that died."""
    return counts["claimed"] - sum(counts[name] for name in OUTCOMES)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run is limited to; None where it is not."""

    most: int | None = None
    time_limit: timedelta | None = None
    batch: str | None = None
    max_failures: int | None = None  # stop claiming once so many requests have failed


@dataclass(slots=True)
class Summary:
    """What a run did: its number in the ledger, its counts, and what a person must know."""

    run_id: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    api_down: dict[str, str] = field(default_factory=dict)  # account to reason
    refused: dict[str, str] = field(default_factory=dict)
    crashed: list[Asked] = field(default_factory=list)  # what failed by a fault of our own
    dead_examples: list[Asked] = field(default_factory=list)  # some of the requests that became dead
    signal: int | None = None
    has_too_many_failures: bool = False  # so many that the run stopped claiming
    rate_wait_seconds: float = 0.0  # how long the run waited for the rate limit
    latency: Latency = field(default_factory=Latency)

    @property
    def dead(self) -> int:
        """Requests that became dead: by their answer, or since their workers died time and again."""
        return self.counts["dead"] + self.counts["reaped_dead"]

    @property
    def outcome(self) -> str:
        """The outcome as the ledger calls it, the gravest where several apply."""
        if self.refused:
            return "credentials_refused"
        if self.api_down:
            return "api_down"
        if self.crashed:
            return "failed"
        if self.signal is not None:
            return "interrupted"
        return "dead_letters" if self.dead else "ok"

    @property
    def exit_code(self) -> int:
        """The exit code of the process, by sysexits where one fits."""
        codes = {"credentials_refused": 77, "api_down": 69, "failed": 1, "dead_letters": 65, "ok": 0}
        return codes[self.outcome] if self.outcome in codes else 128 + (self.signal or 0)


class Settled(NamedTuple):
    """What became of a claim."""

    asked: Asked
    outcome: str  # by the name of the ledger's column


class Committed(NamedTuple):
    """One transaction of the coordinator, by the monotonic clock of this process."""

    began: float
    ended: float
    settled: Sequence[Settled]
    claimed: int


class Observer(Protocol):
    """Hears of what has happened, in the coordinator's thread; it must neither raise nor wait."""

    def hear_start(self, run_id: int) -> None:
        """The run stands in the ledger under this number."""

    def hear_commit(self, committed: Committed) -> None:
        """A transaction that settled or claimed is committed."""

    def hear_canary(self, asked: Asked) -> None:
        """A request that is known to be good was asked for, only to find out whether the API works."""
