"""A large backfill beside fresh requests: stopped at a terminal, resumed on another machine, and counted.

Typed as `python tests/trials/backfill_beside_live.py --database postgresql --requests 20000`. A request comes
every second, cron's runs come and go, and a backfill of all older ones works beside them. Ctrl-C at the
terminal ends it; on a machine of another name `--resume` goes on. Exits with 1 where a leg is missing, a call
too many, or a fresh request had to wait for the backfill.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
import threading
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.operators import CONSOLE_SCRIPT, finish
from support.soak import SERVERS, make_site
from support.terminals import Terminal

from etl.db.tables import cdr_requests, sync_runs
from etl.simulator.scenarios import make_request_id
from etl.simulator.server import Simulator

LABEL = "trial"
HOST = "second-machine"
# A machine to the job: another name, and process numbers of its own.
ELSEWHERE = ("unshare", "--uts", "--pid", "--fork", "--mount-proc")
ELSEWHERE += ("sh", "-c", f'hostname {HOST} && exec "$@"', "-")
FRESH_SECONDS = 2.0  # in which a fresh request is done, once a run may take it


class CountingSimulator(Simulator):
    """Notes the order in which requests are asked for."""

    def __init__(self, **options):
        super().__init__(**options)
        self.order = []

    def _answer(self, request_id):
        self.order.append(request_id)
        return super()._answer(request_id)


@dataclass(frozen=True)
class Beat:
    """How cron starts its runs: every so many seconds, each for so long."""

    every: float
    limit: float
    threads: int = 8

    @property
    def words(self):
        return ("--time-limit", f"{self.limit}s", "--workers", self.threads)


class Cron(threading.Thread):
    """Runs `cdr-sync sync --time-limit …` every beat until the day is over."""

    def __init__(self, site, beat):
        super().__init__(daemon=True)
        self.site, self.beat = site, beat
        self.ended = []
        self.is_over = threading.Event()

    def run(self):
        running = []
        while True:
            running.append(self.site.start("sync", *self.beat.words))
            if self.is_over.wait(self.beat.every):
                break
        self.ended = [finish(process, 2 * self.beat.every + 60) for process in running]


class Arrivals(threading.Thread):
    """Enqueues a request every second; notes how many calls the API had had by then."""

    def __init__(self, site):
        super().__init__(daemon=True)
        self.site = site
        self.calls_before = {}
        self.is_over = threading.Event()

    def run(self):
        for number in count():
            if self.is_over.wait(1.0):
                return
            request_id = f"answered-fresh-{number}"
            self.calls_before[request_id] = len(self.site.simulator.order)
            self.site.enqueue(request_id)


@dataclass(frozen=True)
class Freshness:
    """How long a fresh request took, from its turn on, and how many older ones were asked for meanwhile."""

    request_id: str
    seconds: float
    calls_ahead: int | None  # None where no run was there to take it when it came


class Trial:
    """The backfill, and what came of it."""

    def __init__(self, site, requests, beat):
        self.site, self.beat = site, beat
        self.older = [make_request_id(number) for number in range(requests)]
        self.cron, self.arrivals = Cron(site, beat), Arrivals(site)

    def prepare(self):
        """Have all of them asked for once, a month ago."""
        for start in range(0, len(self.older), 5_000):
            self.site.enqueue(*self.older[start : start + 5_000])
        self.site.change(state="done", finished_at=self.site.now())

    def carry_out(self, *, stop_after):
        """Stop the backfill at a terminal after so many calls, and resume it elsewhere."""
        simulator = self.site.simulator
        words = (CONSOLE_SCRIPT, "backfill", "--only", "done", "--batch", LABEL)
        self.terminal = Terminal(self.site.operator, words, width=120)
        self.terminal.watch_until(lambda: simulator.order, 120)
        self.cron.start()
        self.arrivals.start()
        self.terminal.watch_until(lambda: len(simulator.order) >= stop_after, 900)
        self.terminal.child.sendintr()
        self.terminal.finish()
        self.resumed = finish(
            self.site.operator.start("backfill", "--resume", LABEL, program=(*ELSEWHERE, CONSOLE_SCRIPT)),
            1200,
        )
        self.arrivals.is_over.set()
        self.arrivals.join()
        self.cron.is_over.set()
        self.cron.join()
        self.last = self.site.run("sync")  # takes what came after cron's last run

    def freshness(self):
        """How each fresh request fared by the database's clock; its turn comes once a run may take it."""
        runs = [row for row in self.site.rows(sync_runs) if row["command"] == "sync"]
        for row in self.site.rows(cdr_requests, lane=0):
            request_id, came = row["request_id"], row["enqueued_at"]
            if request_id not in self.arrivals.calls_before or row["finished_at"] is None:
                continue
            takers = [run for run in runs if self._until(run) > came]
            turn = max(came, min(run["started_at"] for run in takers))
            seconds = (row["finished_at"] - turn).total_seconds()
            place = self.site.simulator.order.index(request_id)
            ahead = place - self.arrivals.calls_before[request_id] if turn == came else None
            yield Freshness(request_id, seconds, ahead)

    def _until(self, run):
        """Until when a run is sure to claim: a second before its time limit, or its end if that is first."""
        return min(run["finished_at"], run["started_at"] + timedelta(seconds=self.beat.limit - 1))

    def lines(self):
        """The lines of the log in which the resumed backfill reported its progress."""
        lines = [json.loads(line) for line in self.resumed.stderr.splitlines()]
        return [line for line in lines if "eta_seconds" in line]

    def violations(self):
        """What is not as it has to be, apart from time, one sentence each."""
        yield from self._untold()
        site, total = self.site, len(self.older) + len(self.arrivals.calls_before)
        calls, (in_ledger,) = site.simulator.total_calls, site.ledger("api_calls")
        if site.states() != {"done": total}:
            yield f"of {total} requests, not all are done: {site.states()}"
        if calls > total + 1 or calls != in_ledger:
            yield f"{calls} calls for {total} requests; the ledger says {in_ledger}"
        if site.stored_legs() != site.true_legs():
            yield "the stored legs are not those of the API"

    def _untold(self):
        """What the operator should have seen and did not, or the other way round."""
        hosts = {row["host"] for row in self.site.rows(sync_runs)}
        if (self.terminal.code, self.resumed.code) != (130, 0):
            yield f"the backfill ended with {self.terminal.code}, and resumed with {self.resumed.code}"
        if not re.search(rf"backfill ━+.* \d+/{len(self.older)} +\d+/s +\d+:\d\d", self.terminal.text):
            yield "the terminal had no bar with speed and time left"
        if f"--resume {LABEL}" not in self.terminal.text:
            yield "the terminal did not say how to go on"
        if not self.lines():
            yield "off the terminal no line said how it got on"
        if len(hosts) != 2 or HOST not in hosts:
            yield f"the runs were on {hosts}"
        for one in [*self.cron.ended, self.last]:
            if one.code != 0 or not self._may_be_said(one.all):
                yield f"a run of cron ended with {one.code}: {one.all!r}"

    def _may_be_said(self, said):
        """Nothing; but on SQLite that several machines use the file, which is so here."""
        is_shared = self.site.database_kind == "sqlite" and "Several machines" in said
        return said == "" or (is_shared and said.count("\n") == 1)

    def figures(self):
        fresh = list(self.freshness())
        seconds = [one.seconds for one in fresh]
        ahead = [one.calls_ahead for one in fresh if one.calls_ahead is not None]
        return {
            "database": self.site.database_kind,
            "backfilled": len(self.older),
            "fresh": len(fresh),
            "median s": f"{median(seconds):.2f}",
            "max s": f"{max(seconds):.2f}",
            "calls ahead": max(ahead),
            "calls": self.site.simulator.total_calls,
            "legs expected": len(self.site.true_legs()),
            "found": len(self.site.stored_legs()),
        }


def read_words():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", *SERVERS), action="append", help="one, or several")
    parser.add_argument("--requests", type=int, default=20_000)
    return parser.parse_args()


def main():
    words = read_words()
    if shutil.which("unshare") is None:
        sys.exit("There is no unshare here, by which a process gets another host name")
    is_well = True
    for place, database in enumerate(words.database or ("sqlite", *SERVERS)):
        with (
            CountingSimulator(latency=0.05) as simulator,
            make_site(database, simulator) as (site, _),
        ):
            site.operator.environment |= {"CDR_SYNC_LEASE": "5m", "CDR_SYNC_REQUEST_TIMEOUT": "30s"}
            site.operator.environment |= {"CDR_SYNC_WORKERS": "8"}
            trial = Trial(site, words.requests, Beat(60.0, 55.0))
            trial.prepare()
            trial.carry_out(stop_after=words.requests // 3)
            figures = trial.figures()
            violations = list(trial.violations())
            violations += [
                f"{one.request_id} took {one.seconds:.2f} s"
                for one in trial.freshness()
                if one.seconds > FRESH_SECONDS
            ]
        if place == 0:
            sys.stdout.write("  ".join(f"{name:>13}" for name in figures) + "\n")
        sys.stdout.write("  ".join(f"{value!s:>13}" for value in figures.values()) + "\n")
        sys.stdout.write("".join(f"VIOLATION: {violation}\n" for violation in violations))
        sys.stdout.flush()
        is_well = is_well and not violations
    sys.stdout.write("nothing lost, nothing asked twice, fresh ones first\n" if is_well else "")
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    main()
