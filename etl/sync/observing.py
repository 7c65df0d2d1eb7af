"""What others may hear of a run while it works, such as its log and its trace. Hearing changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from etl.sync.asking import Asked


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
