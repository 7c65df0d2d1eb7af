"""What tests share: real databases that the migrations built, the simulated API, and waits that are short."""

from __future__ import annotations

import faulthandler
import os
import shutil
import sys
import threading
from collections import Counter
from datetime import timedelta
from itertools import count
from time import monotonic

import pytest
from servers import MariadbServer, NoServerError, PostgresqlServer
from sqlalchemy import func, select, update

from etl.db.connection import open_engine, read_url, reading, sqlite_path
from etl.db.request_queue import database_now, enqueue_requests
from etl.db.schema import create_sqlite_file, upgrade
from etl.db.tables import PENDING, RUNNING, cdr_requests
from etl.settings import DEFAULT_ACCOUNT, Account, Settings
from etl.simulator import Simulator
from etl.sync.job import Job
from etl.sync.start import repeat_transaction, run_sync
from etl.sync.stopping import Stop
from etl.sync.summary import Limits

a_moment = threading.Event().wait
OUTCOMES = ("done", "empty", "put_off", "retried", "released", "dead", "lost_leases")


def guard(work, *, seconds=30.0, on_hang=lambda: None):
    """Do what could hang, and fail where it does, after telling what every thread is doing."""
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
    """A real database, read and changed as a person with SQL would, in words that every dialect has."""

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
        """Settings with every wait short. Durations are given in seconds."""
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
        self, settings=None, *, stop=None, seconds=30.0, make_asker=None, on_progress=lambda _: None, **limits
    ):
        """One run in this process, the job's own way of asking replaced where one is given."""
        settings = self.settings() if settings is None else settings
        stop = Stop() if stop is None else stop
        arguments = {"limits": Limits(**limits), "stop": stop, "on_progress": on_progress}
        accounts = list(settings.accounts.values())

        def run():
            if make_asker is None:
                return run_sync(self.engine, settings, accounts, **arguments)
            asking = {"make_asker": make_asker, "repeat_transaction": repeat_transaction}
            return Job(self.engine, settings, **asking, **arguments).run(accounts)

        def leave():
            stop.request(15)
            stop.request(15)

        return guard(run, seconds=seconds, on_hang=leave)

    def work_off(self, settings=None, *, but=(), seconds=30.0, **options):
        """Run as cron would, again and again, until nothing waits but what is named; the runs' summaries."""
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
    """How many claims of a run came to nothing that the ledger knows: 0 in a true ledger."""
    counts = Counter(counts)
    return counts["claimed"] - sum(counts[name] for name in OUTCOMES)


DATABASES = ("sqlite", "postgresql", "mariadb")


def pytest_addoption(parser):
    parser.addoption(
        "--databases",
        default=",".join(DATABASES),
        help=f"run the database tests on these alone, of {', '.join(DATABASES)} (default: all)",
    )


def pytest_generate_tests(metafunc):
    """Let every test that uses a database run on each of them."""
    if "fresh_database" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("databases").split(",")
        if unknown := set(chosen) - set(DATABASES):
            raise pytest.UsageError(f"--databases: {', '.join(unknown)} is none of {', '.join(DATABASES)}")
        metafunc.parametrize("fresh_database", chosen, indirect=True, scope="session")


class SqliteFiles:
    """Makes SQLite files, each a copy of one that the migrations built."""

    def __init__(self, make_folder):
        self.make_folder = make_folder
        self.template = self._create("migrated")
        _migrate(self.template)

    def __call__(self, *, is_migrated=True):
        url = self._create("database")
        if is_migrated:
            shutil.copyfile(sqlite_path(self.template), sqlite_path(url))
        return url

    def _create(self, name):
        url = f"sqlite:///{self.make_folder(name) / 'cdr.sqlite3'}"
        create_sqlite_file(url)
        return url

    def drop(self, url):
        """Leave the file to whoever looks into a test that failed; pytest clears the folders up."""


class ServerDatabases:
    """Makes databases on a server of our own."""

    def __init__(self, server):
        self.server = server
        self.names = (f"cdr_{number}" for number in count())

    def __call__(self, *, is_migrated=True):
        name = next(self.names)
        self.server.create(name)
        url = self.server.url_of(name)
        if is_migrated:
            _migrate(url)
        return url

    def drop(self, url):
        self.server.drop(read_url(url).database)


def _migrate(url):
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def server_of():
    """A function that gives the test server of a name, started when it is first asked for."""
    running = {}

    def start(name):
        if name not in running:
            server = {"postgresql": PostgresqlServer, "mariadb": MariadbServer}[name]()
            try:
                server.start()
            except BaseException:
                server.remove()
                raise
            running[name] = server
        return running[name]

    yield start
    for server in running.values():
        server.remove()


@pytest.fixture(scope="session")
def fresh_database(request, tmp_path_factory, server_of):
    """Makes databases, and drops them; returns their URLs. The one place that knows how."""
    if request.param == "sqlite":
        return SqliteFiles(tmp_path_factory.mktemp)
    try:
        return ServerDatabases(server_of(request.param))
    except NoServerError as error:
        is_required = any(os.environ.get(name) for name in ("CI", "CDR_SYNC_REQUIRE_DATABASES"))
        (pytest.fail if is_required else pytest.skip)(f"no {request.param}: {error}")


@pytest.fixture
def database_url(fresh_database):
    url = fresh_database()
    yield url
    fresh_database.drop(url)


@pytest.fixture
def engine(database_url):
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def unmigrated_engine(fresh_database):
    url = fresh_database(is_migrated=False)
    engine = open_engine(url)
    yield engine
    engine.dispose()
    fresh_database.drop(url)


@pytest.fixture
def database(engine):
    return Database(engine)


@pytest.fixture
def simulator():
    with Simulator() as running:
        yield running


@pytest.fixture
def system(engine, simulator):
    return System(engine, simulator)


@pytest.fixture
def settings(system):
    return system.settings


@pytest.fixture(name="guard", scope="session")
def _guard():
    return guard


@pytest.fixture(name="unexplained", scope="session")
def _unexplained():
    return unexplained


@pytest.fixture(scope="module")
def lasting_system(fresh_database):
    """A system for a whole module of tests, which look at what one long run did."""
    engine = open_engine(fresh_database())
    with Simulator() as running:
        yield System(engine, running)
    engine.dispose()
