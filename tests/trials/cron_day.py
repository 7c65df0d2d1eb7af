"""A day under cron in a minute: a run each minute, an outage, an answer that breaks the format, a new secret.

Typed as `python tests/trials/cron_day.py`. From run to run, the instants in the database are put back by what
is to pass: the job keeps time by nothing else. What a run printed is the mail that cron would send; all of it
must be lines that a person has to act on. Exits with 1 where it is not.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.health_checks import health_check
from support.operators import Operator, true_legs

from etl.monitoring import value_in_file
from etl.simulator.scenarios import make_request_id
from etl.simulator.server import Simulator, wall_clock

DAY = 24 * 60  # minutes
FAILING, REFUSING, WELL_AGAIN = (
    180,
    210,
    240,
)  # the API answers 503, then its port is closed, then all is well
MALFORMED = 480
STRANGER = 600
NEW_SECRET, SECRET_MENDED = 720, 740
EVENTS = ((FAILING, WELL_AGAIN), (MALFORMED, MALFORMED), (STRANGER, STRANGER), (NEW_SECRET, SECRET_MENDED))
AROUND = 2  # minutes before and after an event in which each minute has its run
FRESH = 90  # minutes in which a request need not be done, however seldom there is a run
LAG, PROBED = 15, 5  # minutes that the probe allows, and those from one to the next
TOLD = {
    65: r"^1 request became dead, malformed_duration-1 \(malformed: `cdr\[0\]\.duration` .+\): "
    r"see `cdr-sync requests list .+`cdr-sync reprocess` ",
    69: r"^The API does not work for account 'default' \(.+\)\. Nothing is lost: .+ next run tries again\.",
    77: r"^PIOPIY rejects the credentials of account 'default' \(.+\)\. Check its app ID and secret: ",
}

# What waits, and what is known of the API and the last runs; what is over need not be moved.
WAITING = "state = 'pending'"
NOT_OVER = (
    (
        "call_legs",
        ("call_time",),
        f"request_id IN (SELECT request_id FROM cdr_requests WHERE {WAITING})",  # noqa: S608 (our own words)
    ),
    ("cdr_requests", ("enqueued_at", "run_after", "updated_at"), WAITING),
    ("api_accounts", ("breaker_opened_at", "paused_until", "updated_at"), "TRUE"),
    (
        "sync_runs",
        ("started_at", "seen_at", "finished_at"),
        "id > (SELECT MAX(id) FROM sync_runs) - 100",
    ),
)
EARLIER = "strftime('%Y-%m-%d %H:%M:%f000', {}, ?)"


def whole_seconds():
    """The simulator's clock, whose instants stay exact however often they are put back."""
    return float(int(wall_clock()))


def code_at(minute):
    """The exit code that a run of this minute must have."""
    if FAILING <= minute < WELL_AGAIN:
        return 69
    if minute == MALFORMED:
        return 65
    return 77 if NEW_SECRET <= minute < SECRET_MENDED else 0


def may_be_late(minute):
    """Whether the probe must say no; None where it may."""
    for begin, end in ((FAILING, WELL_AGAIN), (NEW_SECRET, SECRET_MENDED)):
        if begin + LAG <= minute < end:
            return None if minute == begin + LAG else True
    return False


def minutes(last, every):
    """The minutes that have a run: one in so many, and each of those around the events."""
    return [
        minute
        for minute in range(last)
        if minute % every == 0 or any(begin - AROUND <= minute <= end + AROUND for begin, end in EVENTS)
    ]


def arriving(minute):
    """The requests of a minute: good ones, a call that has just ended, some that come late or fail once."""
    yield from (make_request_id(2 * minute + number) for number in (0, 1))
    yield f"in_progress-{minute}"
    every_so_often = {"late": 5, "not_ready": 11, "flaky_500": 7, "flaky_reset": 13, "none": 60}
    yield from (f"{scenario}-{minute}" for scenario, every in every_so_often.items() if minute % every == 0)
    if minute == MALFORMED:
        yield "malformed_duration-1"


@dataclass(frozen=True)
class Run:
    """A run, and what was to be seen of it."""

    minute: int
    code: int
    mail: str
    probe: int | None  # the exit code of `status --max-lag`, where it was typed
    written_code: float | None  # the exit code in the metrics

    @property
    def lines(self):
        """What the lines of the mail say."""
        return [json.loads(line)["event"] for line in self.mail.splitlines()]


class Day:
    """The machine on which cron starts the runs."""

    def __init__(self, operator, simulator, pings, *, are_processes):
        self.operator, self.simulator, self.pings = operator, simulator, pings
        self.runs = []
        self._are_processes = are_processes
        self.secret = operator.home / "secret"
        self.metrics = operator.home / "cdr-sync.prom"
        self.secret.write_text(simulator.secret)
        self.secret.chmod(0o600)
        del operator.environment["PIOPIY_SECRET"]
        operator.environment |= {
            "PIOPIY_SECRET_FILE": str(self.secret),
            "CDR_SYNC_METRICS_FILE": str(self.metrics),
            "CDR_SYNC_PING_URL": pings.url,
        }
        if not are_processes:  # pauses between tries would take their time, however fast the day goes
            operator.environment["CDR_SYNC_TRIES"] = "1"

    def live_through(self, all_minutes, *, has_stranger=False):
        self._type("db", "upgrade")
        now = 0
        for minute in all_minutes:
            self._let_pass(minute - now)
            now = minute
            self._happen(minute)
            insert = "INSERT INTO cdr_requests (request_id, account) VALUES (?, ?)"
            for request_id in arriving(minute):
                self.operator.rows(insert, request_id, "default")
            if has_stranger and minute == STRANGER:
                self.operator.rows(insert, "answered-1", "sales")
            code, mail = self._type("sync", "--time-limit", "55s")
            is_probed = minute % PROBED == 0
            probe = self._type("status", "--max-lag", f"{LAG}m")[0] if is_probed else None
            written = value_in_file(self.metrics, "cdr_sync_last_run_exit_code")
            self.runs.append(Run(minute, code, mail, probe, written))

    def _let_pass(self, some_minutes):
        """Put all that is not over yet into the past: to the job it is the same as if time had passed."""
        for table, columns, which in NOT_OVER:
            changes = ", ".join(f"{column} = {EARLIER.format(column)}" for column in columns)
            put_back = f"UPDATE {table} SET {changes} WHERE {which}"  # noqa: S608 (our own words)
            self.operator.rows(put_back, *(f"-{some_minutes} minutes" for _ in columns))
        waiting = self.operator.rows(f"SELECT request_id FROM cdr_requests WHERE {WAITING}")  # noqa: S608
        first_asked = self.simulator._first_asked
        for (request_id,) in waiting:
            if request_id in first_asked:
                first_asked[request_id] -= 60 * some_minutes

    def _happen(self, minute):
        if minute == FAILING:
            self.simulator.outage = "error_503"
        elif minute == REFUSING:
            self.simulator.stop()
        elif minute == WELL_AGAIN:
            self.simulator.outage = None
            self.simulator.start()
        elif minute == NEW_SECRET:
            self.simulator.secret = "another-secret"
        elif minute == SECRET_MENDED:
            self.secret.write_text("another-secret")

    def _type(self, *words):
        if self._are_processes:
            finished = self.operator.run(*words)
            return finished.code, finished.all
        result = self.operator.type(*words)
        return result.exit_code, result.output

    # What is looked at in the evening

    def violations(self):
        """What is not as it has to be, one sentence each."""
        for run in self.runs:
            at = f"{run.minute // 60:02}:{run.minute % 60:02}"
            if run.code != code_at(run.minute):
                yield f"{at}: exit code {run.code} instead of {code_at(run.minute)}"
            must_tell = [TOLD[run.code]] if run.code in TOLD else []
            is_told = len(run.lines) == len(must_tell) and all(map(re.search, must_tell, run.lines))
            if not is_told:
                yield f"{at}: the mail says {run.mail!r}"
            if None not in (run.probe, may_be_late(run.minute)) and may_be_late(run.minute) != run.probe:
                yield f"{at}: the probe ends with {run.probe}"
            if run.written_code != run.code:
                yield f"{at}: the metrics tell of exit code {run.written_code}"
        if self.pings.steps != [step for run in self.runs for step in ("start", str(run.code))]:
            yield "the pings of the health check do not tell of the runs one after the other"
        yield from self._left_undone()

    def _left_undone(self):
        """Whatever could be done by the evening and is not."""
        last = self.runs[-1].minute
        rows = self.operator.rows("SELECT request_id, state, attempts FROM cdr_requests")
        for request_id, state, attempts in rows:
            scenario, _, minute = request_id.partition("-")
            is_fresh = minute.isdigit() and last - int(minute) < FRESH
            wanted = {"none": "pending", "malformed_duration": "dead"}.get(scenario, "done")
            if state != wanted and not (is_fresh and state == "pending"):
                yield f"{request_id} is {state}"
            if attempts > 1 + scenario.startswith("flaky"):
                yield f"{request_id} used {attempts} attempts"
        done = {request_id for request_id, state, _ in rows if state == "done"}
        stored = [leg for leg in self.operator.stored_legs() if leg[0] in done]
        if stored != true_legs(self.simulator, sorted(done)):
            yield "the stored legs are not those of the API"

    def report(self):
        """The day's mail, each line with how often it came, and what became of the requests."""
        yield f"{len(self.runs)} runs, {len(self.pings.pings)} pings, {self.simulator.total_calls} API calls"
        mails = Counter((run.code, line) for run in self.runs for line in run.lines or ["(no mail)"])
        for (code, line), times in mails.items():
            yield f"  {times:>5} times exit {code}: {line}"
        states = self.operator.states()
        yield "  requests: " + ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


@contextmanager
def morning(*, are_processes=False):
    """Give a day before it begins."""
    with (
        tempfile.TemporaryDirectory(prefix="cdr-day-") as folder,
        Simulator(clock=whole_seconds) as simulator,
        health_check() as pings,
    ):
        operator = Operator(Path(folder))
        operator.connect(simulator)
        yield Day(operator, simulator, pings, are_processes=are_processes)


def read_words():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="a run in so many minutes where nothing happens")
    parser.add_argument("--processes", action="store_true", help="start a process for each run, as cron does")
    return parser.parse_args()


def main():
    words = read_words()
    with morning(are_processes=words.processes) as day:
        day.live_through(minutes(DAY, words.every))
        violations = list(day.violations())
        lines = [*day.report(), *(f"VIOLATION: {violation}" for violation in violations)]
        lines.append(f"{len(violations)} violations" if violations else "no line that nobody had to act on")
        sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
