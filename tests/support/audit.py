"""Counts what a soak left: nothing may be lost, duplicated or unexplained."""

from __future__ import annotations

import signal
from collections import Counter

from etl.db.tables import call_legs, cdr_requests
from support.injuries import NOT_LISTENING, WRONG_SECRET
from support.ledgers import contradictions
from support.systems import OUTCOMES

MAX_ATTEMPTS = 8
# Scenarios that always fail, with the error kind of their death; and those that take several calls.
BAD = {"malformed_money": "malformed", "rejected": "rejected", "error_500": "server_error"}
SLOW = {"late": 3, "count_mismatch": 2, "flaky_500": 2, "flaky_reset": 2, "flaky_truncated": 2}
# One after the other, by number; an empty word stands for an ID such as the vendor's.
SCENARIOS = ("",) * 36 + (*BAD, *SLOW, "twins", "several_b", "text_numbers", "chunked", "missed")
# What a request can die of besides, if it has bad luck with its last attempts.
_ELSE = {"lease_expired", "server_error", "connection", "timeout", "malformed", "not_found"}


def scenario_of(request_id):
    return request_id.partition("-")[0] if "-" in request_id else ""


class Audit:
    """Reads everything once; see `violations` and `figures`."""

    def __init__(self, site, runs, injuries, *, threads, seconds):
        self.runs, self.injuries, self.seconds = runs, injuries, seconds
        self._threads = threads
        self._requests = site.rows(cdr_requests)
        self._legs = site.rows(call_legs)
        self._is_true = site.stored_legs() == site.true_legs()
        self._sums = dict(
            zip((names := (*OUTCOMES, "claimed", "api_calls")), site.ledger(*names), strict=True)
        )
        self._contradictions = list(contradictions(site.engine))
        self._open_runs = site.outcomes().count("running")
        self._calls = site.simulator.calls
        self._calls_in_outages = Counter(site.simulator._calls_in_outage)
        self._states = Counter(row["state"] for row in self._requests)
        self._reclaims = sum(row["reclaims"] for row in self._requests)

    def violations(self):
        """Sentences that say what is wrong."""
        return [
            *self._wrong_requests(),
            *self._wrong_counts(),
            *self._wrong_runs(),
        ]

    def _wrong_requests(self):
        for row in self._requests:
            scenario, state, kind = scenario_of(row["request_id"]), row["state"], row["last_error_kind"]
            name = f"{row['request_id']} is {state}, {kind}, {row['attempts']} attempts"
            if scenario not in BAD:
                if state != "done":
                    yield f"{name}, where it ought to be done"
            elif state != "dead":
                yield f"{name}, where it ought to be dead"
            elif kind != BAD[scenario] and not (kind in _ELSE and row["attempts"] >= MAX_ATTEMPTS):
                yield f"{name}, where it ought to have died of {BAD[scenario]}"
        if not self._is_true:
            yield "the stored legs are not those of the API"
        if changed := sum(leg["revision"] != 1 for leg in self._legs):
            yield f"{changed} legs were changed, though the API never changed its mind"

    def _wrong_counts(self):
        if self._sums["done"] != self._states["done"]:
            yield f"{self._sums['done']} completions for {self._states['done']} requests that are done"
        yield from self._contradictions
        if self.extra_calls > self.explained_calls:
            yield f"{self.extra_calls} extra calls, of which {self.explained_calls} are explained"

    def _wrong_runs(self):
        for run in self.runs:
            if run.code not in self._codes_of(run):
                yield f"a run exited with {run.code}: {run.output.strip()[-500:]}"
            if "Traceback" in run.output or "bug in cdr-sync" in run.output:
                yield f"a run that crashed: {run.output.strip()[-500:]}"
        if self._open_runs:
            yield f"{self._open_runs} runs are still open in the ledger"

    def _codes_of(self, run):
        """The exit codes that a run may have, after what was done to it."""
        codes = {0, 65, 69}
        if self.injuries[f"outage: {WRONG_SECRET}"]:
            codes.add(77)
        if signal.SIGKILL in run.signals:
            codes.add(-signal.SIGKILL)
        if signal.SIGTERM in run.signals:
            codes |= {143, -signal.SIGTERM}  # the latter before it could listen
        return codes

    @property
    def extra_calls(self):
        """The calls outside outages beyond what each request needs."""
        needed = {
            row["request_id"]: 2 * row["attempts"]
            if (scenario := scenario_of(row["request_id"])) in BAD
            else SLOW.get(scenario, 1)
            for row in self._requests
        }
        outside = self._calls - self._calls_in_outages
        return sum(max(0, calls - needed.get(name, 0)) for name, calls in outside.items())

    @property
    def explained_calls(self):
        """How many calls can have been for nothing.

        The answers to claims that were cut short or given back; a canary for each failure that was looked
        into; and what was on its way to a worker that froze, or from an API that was stopped.
        """
        freezes = sum(count for name, count in self.injuries.items() if name.startswith("freeze"))
        cut = freezes + self.injuries[f"outage: {NOT_LISTENING}"] * 4
        return self._reclaims + self._sums["released"] + self._sums["retried"] + cut * self._threads

    def figures(self):
        """The report of the soak."""
        codes = Counter(run.code for run in self.runs)
        return {
            "took": f"{self.seconds:.0f} s",
            **{name: self.injuries[name] for name in sorted(self.injuries)},
            "requests": ", ".join(f"{count} {state}" for state, count in sorted(self._states.items())),
            "legs": len(self._legs),
            "runs by exit code": ", ".join(f"{code}: {count}" for code, count in sorted(codes.items())),
            "claims": ", ".join(f"{count} {name}" for name, count in self._sums.items()),
            "reclaims": self._reclaims,
            "API calls": f"{self._calls.total()}, in outages {self._calls_in_outages.total()}",
            "extra calls": f"{self.extra_calls}, explained up to {self.explained_calls}",
        }
