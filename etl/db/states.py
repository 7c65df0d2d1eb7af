"""The words of the tables for states, lanes and outcomes. Nothing else, so that everybody may import them."""

from __future__ import annotations

PENDING, RUNNING, DONE, EMPTY, DEAD, CANCELLED = (
    "pending",
    "running",
    "done",
    "empty",
    "dead",
    "cancelled",
)
STATES = {
    PENDING: "to be asked for at run_after",
    RUNNING: "claimed by a worker until lease_until",
    DONE: "the answer is final, and its legs are stored",
    EMPTY: "no leg came within the time that an ID is waited for",
    DEAD: "given up; last_error_kind says why, and `cdr-sync requests retry` replays it",
    CANCELLED: "a person took it out of the queue",
}
FINISHED = (DONE, EMPTY, DEAD, CANCELLED)
LIVE, BACKFILL = 0, 1
LANES = {LIVE: "live", BACKFILL: "backfill"}
RUN_OUTCOMES = (
    "running",
    "ok",
    "dead_letters",
    "api_down",
    "credentials_refused",
    "interrupted",
    "failed",
    "abandoned",
)
