"""What a run is limited to, and what it did."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

from etl.sync.latency import Latency

if TYPE_CHECKING:
    from etl.sync.asking import Asked

SHOWN = 5  # examples, where more would fill a line
# The outcomes of a claim, in the order of a summary: with what is in hand they add up to the claims.
OUTCOMES = {
    "done": "done",
    "empty": "empty",
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
