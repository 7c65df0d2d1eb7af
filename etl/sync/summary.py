"""What a run is limited to, what it did, and who is notified while it works."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Protocol

from etl.errors import ExitCode, RequestError

if TYPE_CHECKING:
    from etl.sync.fetching import Crashed, Fetched
    from etl.sync.settle import Settled

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
LATENCY_CLASSES = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)  # seconds: the most that each class holds
# The outcomes of a run, the gravest first, and the exit code of each; a signal exits with its own.
_RUN_OUTCOMES = {
    "credentials_refused": ExitCode.CREDENTIALS_REFUSED,
    "api_down": ExitCode.UNAVAILABLE,
    "failed": ExitCode.FAILED,
    "interrupted": ExitCode.OK,
    "dead_letters": ExitCode.DEAD_REQUESTS,
    "ok": ExitCode.OK,
}


def unsettled(counts: Mapping[str, int]) -> int:
    """How many claims have no outcome: those in a run's hand, or abandoned by one that died."""
    return counts["claimed"] - sum(counts[name] for name in OUTCOMES)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run is limited to; None for no limit."""

    most: int | None = None
    time_limit: timedelta | None = None
    batch: str | None = None
    max_failures: int | None = None  # stop claiming when this many requests have failed


@dataclass(slots=True)
class Latency:
    """How long API calls took: how many fell into each class (the last has no upper end), and their sum.

    So it takes the same memory, however many calls there were.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_CLASSES) + 1))
    total: float = 0.0

    def add(self, calls: Iterable[float]) -> None:
        """Count some calls by their seconds."""
        for seconds in calls:
            self.counts[bisect_left(LATENCY_CLASSES, seconds)] += 1
            self.total += seconds


@dataclass(slots=True)
class Summary:
    """What a run did: its number in the ledger, its counts, and what a person must know."""

    run_id: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    api_down: dict[str, RequestError] = field(default_factory=dict)  # by account
    refused: dict[str, RequestError] = field(default_factory=dict)
    crashed: list[Crashed] = field(default_factory=list)  # what failed by a fault of our own
    dead_examples: list[Fetched] = field(default_factory=list)  # some of the requests that became dead
    signal: int | None = None
    has_too_many_failures: bool = False  # so many that the run stopped claiming
    rate_wait_seconds: float = 0.0  # how long the run waited for the rate limit
    latency: Latency = field(default_factory=Latency)

    @property
    def dead(self) -> int:
        """Requests that became dead: by their answer, or because their workers died again and again."""
        return self.counts["dead"] + self.counts["reaped_dead"]

    @property
    def outcome(self) -> str:
        """The outcome as the ledger calls it, the gravest where several apply."""
        applies = {
            "credentials_refused": bool(self.refused),
            "api_down": bool(self.api_down),
            "failed": bool(self.crashed),
            "interrupted": self.signal is not None,
            "dead_letters": bool(self.dead),
            "ok": True,
        }
        return next(outcome for outcome in _RUN_OUTCOMES if applies[outcome])

    @property
    def exit_code(self) -> int:
        """The exit code of the process."""
        if self.outcome == "interrupted":
            return 128 + (self.signal or 0)
        return _RUN_OUTCOMES[self.outcome]


class Observer(Protocol):
    """Is notified of what has happened, in the coordinator's thread; it must neither raise nor wait."""

    def on_start(self, run_id: int) -> None:
        """The run is in the ledger under this number."""

    def on_settled(self, settled: Sequence[Settled]) -> None:
        """These claims are settled, and committed."""

    def on_canary(self, fetched: Fetched) -> None:
        """A request known to be good was asked for, to find out whether the API works."""
