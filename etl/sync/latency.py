"""How long API calls took, in classes: so much memory, however many calls there were."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, field

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
