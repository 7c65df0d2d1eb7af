"""The lines of a run's log about single requests: one a claim, for those who want to be told more."""

from __future__ import annotations

from etl.sync.asking import Asked
from etl.sync.observing import Committed, Settled
from etl.sync.summary import OUTCOMES
from etl.telemetry import Log


class RequestLog:
    """Writes a line for each request that is settled, and gives every line of a run the run's number."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def hear_start(self, run_id: int) -> None:
        """Let every line from now on say which run it is of."""
        self._log.bind(run=run_id)

    def hear_commit(self, committed: Committed) -> None:
        """Tell of each request what became of it."""
        if self._log.is_verbose:
            for settled in committed.settled:
                self._tell(settled)

    def hear_canary(self, asked: Asked) -> None:
        """Tell what came of the request that is known to be good."""
        if self._log.is_verbose:
            how = "does not answer either" if asked.error else "answers"
            self._log.info(f"A request that is known to be good {how}", **_what_came_of(asked))

    def _tell(self, settled: Settled) -> None:
        asked, outcome = settled
        self._log.info(
            f"A request is {OUTCOMES[outcome]}",
            **_what_came_of(asked),
            outcome=outcome,
            attempt=asked.request.attempts,
        )


def _what_came_of(asked: Asked) -> dict[str, object]:
    """Which request it was, and what the API said; what there is nothing to say of is left out."""
    came = {
        "request_id": asked.request.request_id,
        "account": asked.request.account,
        "calls": asked.calls,
        "seconds": round(asked.ended - asked.began, 3) if asked.ended else None,
        "legs": len(asked.legs) if asked.ended and asked.error is None else None,
        "http_status": asked.status,
        "error_kind": asked.error.reason if asked.error else None,
        "error": str(asked.error) if asked.error else None,
    }
    return {name: value for name, value in came.items() if value is not None}
