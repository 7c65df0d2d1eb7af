"""The words that the tables hold: states of a request, lanes, and outcomes of a run. No SQLAlchemy here."""

from __future__ import annotations

# The last four are final until a person or a backfill replays the request.
STATES = {
    "pending": "to be fetched at run_after",
    "running": "claimed by a worker until lease_until",
    "done": "the answer is final, and its legs are stored",
    "empty": "no legs came within CDR_SYNC_EMPTY_FOR",
    "dead": "given up; last_error_kind says why, and `cdr-sync requests retry` replays it",
    "cancelled": "a person took it out of the queue",
}
PENDING, RUNNING, DONE, EMPTY, DEAD, CANCELLED = STATES
FINISHED = (DONE, EMPTY, DEAD, CANCELLED)
# How a run ended, or that it has not.
RUN_OUTCOMES = {
    "running": "not ended yet, or killed and not noticed yet",
    "ok": "nothing that a person must do",
    "dead_letters": "some requests became dead",
    "api_down": "the circuit breaker opened",
    "credentials_refused": "the API rejects the credentials",
    "interrupted": "stopped by a signal; every claim was finished or given back",
    "failed": "an unexpected error",
    "abandoned": "killed; a later run noticed it and closed it",
}
LIVE, BACKFILL = 0, 1  # numbers, so that ascending order is the order of claiming
LANES = {LIVE: "live", BACKFILL: "backfill"}
