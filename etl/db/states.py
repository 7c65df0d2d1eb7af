"""The words that the tables hold: states of a request, lanes, and outcomes of a run. No SQLAlchemy here."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class _Word(StrEnum):
    """A word that is stored, shown and printed as it is, with the sentence that explains it."""

    meaning: str

    def __new__(cls, word: str, meaning: str) -> Self:
        self = str.__new__(cls, word)
        self._value_ = word
        self.meaning = meaning
        return self


class State(_Word):
    """The states of a request. The last four are final until a person or a backfill replays it."""

    PENDING = "pending", "to be fetched at run_after"
    RUNNING = "running", "claimed by a worker until lease_until"
    DONE = "done", "the answer is final, and its legs are stored"
    EMPTY = "empty", "no leg came within the time that an ID is waited for"
    DEAD = "dead", "given up; last_error_kind says why, and `cdr-sync requests retry` replays it"
    CANCELLED = "cancelled", "a person took it out of the queue"


class RunOutcome(_Word):
    """How a run ended, or that it has not."""

    RUNNING = "running", "not ended yet, or killed and not noticed yet"
    OK = "ok", "nothing that a person must do"
    DEAD_LETTERS = "dead_letters", "some requests became dead"
    API_DOWN = "api_down", "the circuit breaker opened"
    CREDENTIALS_REFUSED = "credentials_refused", "the API rejects the credentials"
    INTERRUPTED = "interrupted", "stopped by a signal; every claim was finished or given back"
    FAILED = "failed", "an unexpected error"
    ABANDONED = "abandoned", "killed; a later run noticed it and closed it"


# Plain text, because click and `repr` show an enum's members by their names.
PENDING, RUNNING, DONE, EMPTY, DEAD, CANCELLED = (state.value for state in State)
FINISHED = (DONE, EMPTY, DEAD, CANCELLED)
STATES = {state.value: state.meaning for state in State}
RUN_OUTCOMES = tuple(outcome.value for outcome in RunOutcome)
LIVE, BACKFILL = 0, 1  # numbers, so that ascending order is the order of claiming
LANES = {LIVE: "live", BACKFILL: "backfill"}
