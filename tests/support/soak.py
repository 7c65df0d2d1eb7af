"""The chaos soak: workers, a database and an API are disturbed at random, then everything is counted.

Typed as `python tests/support/soak.py --database postgresql --seconds 60 --seed 1`. Workers run as cron would
start them, requests arrive all the time, and at moments drawn from the seed workers are killed, frozen and
terminated, the database is killed and started again, and the API fails in many ways. Then it heals, and what
is stored and counted must be exact. Exits with 1 where it is not. `--without fence` takes the fence out.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import threading
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from time import monotonic

sys.path.insert(0, str(Path(__file__).parents[1]))

from sqlalchemy import exc

from etl.db.engine import create_sqlite_file, open_engine
from etl.db.schema import upgrade
from etl.simulator.scenarios import make_request_id
from etl.simulator.server import Simulator
from support.audit import MAX_ATTEMPTS, SCENARIOS, Audit
from support.injuries import Hands, draw_injuries
from support.operators import finish, wait_until
from support.servers import MariadbServer, PostgresqlServer
from support.sites import Site

SERVERS = {"postgresql": PostgresqlServer, "mariadb": MariadbServer}
LEASE = 2.0
THREADS = 4
SETTINGS = {
    "CDR_SYNC_LEASE": f"{LEASE}s",
    "CDR_SYNC_REQUEST_TIMEOUT": "0.8s",
    "CDR_SYNC_WORKERS": str(THREADS),
    "CDR_SYNC_TRIES": "2",
    "CDR_SYNC_RETRY_DELAY": "0.01s",
    "CDR_SYNC_EMPTY_DELAY": "0.1s",
    # Kills alone must not use them up: hardly any request meets so many.
    "CDR_SYNC_MAX_ATTEMPTS": str(MAX_ATTEMPTS),
}
PATIENCE = 60.0  # seconds for everything to come to rest, once all is healed
FIRST, EACH_TIME, EVERY = 100, 6, 0.25  # requests at the start, and then so many every so many seconds


@dataclass
class Run:
    """One process of a worker, what was sent to it, and how it ended."""

    process: object
    signals: list = field(default_factory=list)
    code: int | None = None
    output: str = ""

    def send(self, number):
        if self.process.poll() is None:
            self.signals.append(number)
            self.process.send_signal(number)
            return self
        return None


class Cron(threading.Thread):
    """One line of a crontab: runs `cdr-sync sync` again and again."""

    def __init__(self, start):
        super().__init__(daemon=True)
        self.runs = []
        self.is_over = threading.Event()
        self._start = start

    def run(self):
        while not self.is_over.wait(0.1):
            run = Run(self._start("sync"))
            self.runs.append(run)
            finished = finish(run.process, PATIENCE)
            run.code, run.output = finished.code, finished.all

    def signal(self, number):
        """Send the present process a signal; None where there is none at the moment."""
        return self.runs[-1].send(number) if self.runs else None

    def has_claims(self, site):
        """Whether the present process holds requests."""
        pid = self.runs[-1].process.pid if self.runs else 0
        claims = "SELECT COUNT(*) FROM cdr_requests WHERE state = 'running' AND worker LIKE :worker"
        return site.sql(claims, worker=f"%process {pid},%") > [(0,)]


def enqueue_until(site, is_over, seed):
    """Enqueue requests of every scenario all the time, even while the database is down."""
    numbers = count()

    def more(how_many):
        for _, number in zip(range(how_many), numbers, strict=False):
            scenario = SCENARIOS[number % len(SCENARIOS)]
            yield f"{scenario}-{seed}-{number}" if scenario else make_request_id(number, seed)

    batch = list(more(FIRST))
    while batch or not is_over.wait(EVERY):
        batch = batch or list(more(EACH_TIME))
        with contextlib.suppress(exc.DBAPIError):
            site.enqueue(*batch)
            batch = []


@contextlib.contextmanager
def make_site(database, simulator):
    """A site with a database of its own; gives it, and the server that can be killed."""
    with tempfile.TemporaryDirectory(prefix="cdr-soak-") as folder, contextlib.ExitStack() as closing:
        home = Path(folder) / "home"
        home.mkdir()
        url, server = f"sqlite:///{folder}/soak.sqlite3", None
        if database in SERVERS:
            server = SERVERS[database]()
            closing.callback(server.remove)
            server.start()
            server.create("soak")
            url = server.url_of("soak")
        else:
            create_sqlite_file(url)
        engine = open_engine(url)
        closing.callback(engine.dispose)
        upgrade(engine)
        site = Site(url, engine, simulator, home, lambda **_: None)
        site.operator.environment |= SETTINGS
        closing.callback(site.operator.end_processes)
        yield site, server


def soak(site, server, *, seconds, seed, workers, start):
    """Disturb a site for this long, let it finish, and audit it."""
    began = monotonic()
    storm_is_over = threading.Event()
    enqueuer = threading.Thread(target=enqueue_until, args=(site, storm_is_over, seed), daemon=True)
    crons = [Cron(start) for _ in range(workers)]
    hands = Hands(site, crons, server)
    for thread in (enqueuer, *crons):
        thread.start()
    wait_until(lambda: site.states().get("done"))
    injuries = draw_injuries(seed, seconds=seconds, slots=workers, lease=LEASE, has_server=server is not None)
    hands.carry_out(injuries, until=seconds)
    site.simulator.latency = 0.0
    storm_is_over.set()
    enqueuer.join(PATIENCE)
    with contextlib.suppress(AssertionError):  # what still waits is found by the audit
        wait_until(lambda: not set(site.states()) & {"pending", "running"}, PATIENCE)
    for cron in crons:
        cron.is_over.set()
    for cron in crons:
        cron.join(PATIENCE)
    site.run("sync")  # closes what killed runs left open in the ledger
    runs = [run for cron in crons for run in cron.runs]
    return Audit(site, runs, hands.done, threads=THREADS, seconds=monotonic() - began)


def read_words():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", choices=("sqlite", *SERVERS), default="sqlite")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the storm lasts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=4, help="processes at once")
    parser.add_argument("--without", choices=("fence",), help="take this guard out: violations must show")
    return parser.parse_args()


def main():
    words = read_words()
    with (
        Simulator(seed=words.seed, latency=0.1) as simulator,
        make_site(words.database, simulator) as (site, server),
    ):
        start = site.start_unfenced if words.without else site.start
        audit = soak(site, server, seconds=words.seconds, seed=words.seed, workers=words.workers, start=start)
        violations = audit.violations()
        lines = [f"soak of {words.seconds:g} s on {words.database}, seed {words.seed}"]
        lines += [f"  {name:<28} {value}" for name, value in audit.figures().items()]
        lines += [f"VIOLATION: {violation}" for violation in violations]
        lines.append(f"{len(violations)} violations" if violations else "nothing lost, nothing doubled")
        sys.stdout.write("\n".join(lines) + "\n")
    sys.exit(1 if violations else 0)


if __name__ == "__main__":
    main()
