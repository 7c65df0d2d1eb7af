"""Fixtures for all tests: migrated databases of each kind, the simulated API, and the system of both."""

from __future__ import annotations

import shutil
import signal
from itertools import count

import pytest
from support.servers import MariadbServer, NoServerError, PostgresqlServer, do_without
from support.systems import Database, System, guard, unexplained

from etl.db.engine import create_sqlite_file, open_engine, read_url, sqlite_path
from etl.db.schema import upgrade
from etl.simulator.server import Simulator

DATABASES = ("sqlite", "postgresql", "mariadb")


def pytest_addoption(parser):
    parser.addoption(
        "--databases",
        default=",".join(DATABASES),
        help=f"run database tests only on these, of {', '.join(DATABASES)} (default: all)",
    )


def pytest_configure(config):
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a job in the background: its children would ignore it too
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("markers", "databases(names…): the test concerns only these databases")
    config.addinivalue_line("markers", "heavy: keeps both cores busy or takes long; not part of `make test`")


def pytest_generate_tests(metafunc):
    """Run every test that uses a database on each of them, or on those that its marker names."""
    if "fresh_database" in metafunc.fixturenames:
        chosen = metafunc.config.getoption("databases").split(",")
        if unknown := set(chosen) - set(DATABASES):
            raise pytest.UsageError(f"--databases: {', '.join(unknown)} is not one of {', '.join(DATABASES)}")
        for mark in metafunc.definition.iter_markers("databases"):
            chosen = [name for name in chosen if name in mark.args]
        metafunc.parametrize("fresh_database", chosen, indirect=True, scope="session")


class SqliteFiles:
    """Creates SQLite files, each a copy of one migrated file."""

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
        """Keep the file for looking into a failed test; pytest deletes its folders."""


class ServerDatabases:
    """Creates databases on a server of the tests."""

    def __init__(self, server):
        self.server = server
        self.names = (f"cdr_{number}" for number in count())
        self.template = None

    def __call__(self, *, is_migrated=True):
        if is_migrated and self.server.can_copy:
            if self.template is None:
                self.template = self._create(is_migrated=True)
            name = next(self.names)
            self.server.copy(self.template, name)
        else:
            name = self._create(is_migrated=is_migrated)
        return self.server.url_of(name)

    def _create(self, *, is_migrated):
        name = next(self.names)
        self.server.create(name)
        if is_migrated:
            _migrate(self.server.url_of(name))
        return name

    def drop(self, url):
        self.server.drop(read_url(url).database)


def _migrate(url):
    engine = open_engine(url)
    upgrade(engine)
    engine.dispose()


@pytest.fixture(scope="session")
def server_of():
    """A function that returns the test server of a name, started at its first use."""
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
    """Creates databases, returns their URLs, and drops them. The only place that knows how."""
    if request.param == "sqlite":
        return SqliteFiles(tmp_path_factory.mktemp)
    try:
        return ServerDatabases(server_of(request.param))
    except NoServerError as error:
        do_without(f"no {request.param}: {error}")


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
    """A system for a whole module, whose tests look at what one long run did."""
    engine = open_engine(fresh_database())
    with Simulator() as running:
        yield System(engine, running)
    engine.dispose()
