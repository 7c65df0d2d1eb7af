"""The product as tests see it: a database, read by SQL that every dialect has, and the job with its API."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections import Counter
from datetime import timedelta
from time import monotonic

import pytest
from sqlalchemy import func, select, update

from etl.db.dialects import database_now
from etl.db.engine import reading
from etl.db.queue import enqueue_requests
from etl.db.states import PENDING, RUNNING
from etl.db.tables import cdr_requests
from etl.piopiy.client import CdrApi, Credentials
from etl.settings import DEFAULT_ACCOUNT, Account, Settings
from etl.sync.fetching import fetch
from etl.sync.run import Run, run_sync
from etl.sync.signals import Stop
from etl.sync.summary import Limits

a_moment = threading.Event().wait
PATIENCE = 60.0  # seconds that anything in this process may take on a busy machine
OUTCOMES = ("done", "without_legs", "put_off", "retried", "released", "dead", "lost_leases")


def numbered(scenario, count):
    """As many request IDs that get this scenario."""
    return [f"{scenario}-{number}" for number in range(count)]


def guard(work, *, seconds=PATIENCE, on_hang=lambda: None):
    """Do what could hang; if it does, print what every thread is doing and fail."""
    result = {}

    def call():
        try:
            result["value"] = work()
        except BaseException as error:  # noqa: BLE001 (raised again below, in the test's own thread)
            result["error"] = error

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        faulthandler.dump_traceback(file=sys.__stderr__)
        on_hang()
        thread.join(5)
        pytest.fail(f"still at it after {seconds:g} s")
    if "error" in result:
        raise result["error"]
    return result["value"]


class Database:
    """A real database, read and changed as a person with SQL would."""

    def __init__(self, engine):
        self.engine = engine

    def now(self):
        with reading(self.engine) as connection:
            return database_now(connection)

    def rows(self, table, **wanted):
        """The rows of a table in the order of its key, all columns by name."""
        query = select(table).where(*(table.c[name] == value for name, value in wanted.items()))
        with reading(self.engine) as connection:
            return list(connection.execute(query.order_by(*table.primary_key)).mappings())

    def row(self, table, **wanted):
        (row,) = self.rows(table, **wanted)
        return row

    def request(self, request_id, account=DEFAULT_ACCOUNT):
        return self.row(cdr_requests, account=account, request_id=request_id)

    def states(self):
        """How many requests are in each state; states that none is in are left out."""
        column = cdr_requests.c.state
        with reading(self.engine) as connection:
            return dict(connection.execute(select(column, func.count()).group_by(column)).tuples().all())

    def is_untouched(self):
        """Whether requests are pending and none of them has used an attempt or failed."""
        rows = self.rows(cdr_requests, state=PENDING)
        return {(row["attempts"], row["reclaims"], row["last_error_kind"]) for row in rows} == {(0, 0, None)}

    def enqueue(self, *request_ids, account=DEFAULT_ACCOUNT, batch=None, delay=timedelta(0)):
        with self.engine.begin() as connection:
            return enqueue_requests(connection, request_ids, account=account, batch=batch, delay=delay)

    def change(self, *request_ids, **values):
        """Change requests by hand; without IDs all of them."""
        which = cdr_requests.c.request_id.in_(request_ids) if request_ids else cdr_requests.c.id > 0
        with self.engine.begin() as connection:
            connection.execute(update(cdr_requests).where(which).values(values))


class System(Database):
    """The whole product: a real database, and the simulated API over real sockets."""

    def __init__(self, engine, simulator):
        super().__init__(engine)
        self.simulator = simulator

    def settings(self, **changes):
        """Settings in which every wait is short. Durations are in seconds."""
        account = Account(DEFAULT_ACCOUNT, self.simulator.app_id, "simulated-secret")
        values = {
            "api_url": self.simulator.url,
            "workers": 4,
            "tries": 1,
            "max_attempts": 3,
            "retry_delay": 0.02,
            "request_timeout": 5,
            "lease": 60,
            "settle": 0,
            "empty_delay": 0.02,
            "accounts": {account.name: account},
            **changes,
        }
        durations = ("retry_delay", "request_timeout", "lease", "settle", "empty_for", "empty_delay")
        for name in durations:
            if name in values:
                values[name] = timedelta(seconds=values[name])
        return Settings(**values)

    def sync(
        self,
        settings=None,
        *,
        stop=None,
        seconds=PATIENCE,
        make_fetcher=None,
        on_progress=lambda _: None,
        **limits,
    ):
        """Run the job once in this process, with another way of fetching if one is given."""
        settings = self.settings() if settings is None else settings
        stop = Stop() if stop is None else stop
        arguments = {"limits": Limits(**limits), "stop": stop, "on_progress": on_progress}
        accounts = list(settings.accounts.values())

        def run():
            if make_fetcher is None:
                return run_sync(self.engine, settings, accounts, **arguments)
            return Run(self.engine, settings, make_fetcher=make_fetcher, **arguments).run(accounts)

        def leave():
            stop.request(15)
            stop.request(15)

        return guard(run, seconds=seconds, on_hang=leave)

    def fetcher(self, account):
        """Ask the simulator over HTTP, once per request, as a thread of a run does."""
        api = CdrApi(self.simulator.url, timeout=PATIENCE)
        credentials = Credentials(account.app_id, account.secret)

        def ask(request_id):
            return api.fetch_answer(request_id, credentials)

        return lambda request: fetch(request, ask, lambda once: once(), region="IN", secret=account.secret)

    def work_off(self, settings=None, *, but=(), seconds=PATIENCE, **options):
        """Run like cron, again and again, until nothing waits except `but`; return the runs' summaries."""
        deadline = monotonic() + seconds
        column = cdr_requests.c
        waiting = select(func.count()).where(
            column.state.in_((PENDING, RUNNING)), column.request_id.not_in(list(but))
        )
        summaries = [self.sync(settings, **options)]
        while True:
            with reading(self.engine) as connection:
                count = connection.scalar(waiting)
            if not count:
                return summaries
            if monotonic() > deadline:
                pytest.fail(f"{count} requests still wait after {len(summaries)} runs")
            a_moment(0.05)
            summaries.append(self.sync(settings, **options))


def unexplained(counts):
    """How many claims of a run have no outcome in the ledger: 0 if the ledger is right."""
    counts = Counter(counts)
    return counts["claimed"] - sum(counts[name] for name in OUTCOMES)
