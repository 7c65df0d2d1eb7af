"""Database servers of our own, from the system's binaries: each with its own folder, port and process.

They keep nothing safe from a power failure, so that they are fast, and stop by their process ID alone,
so that tests may kill and restart them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from time import monotonic

from sqlalchemy import exc, text

from etl.db.connection import open_engine

_a_moment = threading.Event().wait
_SECONDS_TO_START = 60
_SECONDS_TO_STOP = 20


class NoServerError(Exception):
    """There is no server to be had here; the message says why, and what helps."""


class Server:
    """A server that a test may start, stop and kill. A subclass knows its programs and their words."""

    scheme: str  # of the URL
    maintenance: str  # a database that is there from the start
    accounts: tuple[str, ...]  # of the system: who runs it where the tests run as root
    stop_signal = signal.SIGTERM  # ends it at once, whoever is connected

    def __init__(self):
        self.programs = self.find_programs()
        self.folder = Path(tempfile.mkdtemp(prefix="cdr-db-"))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = _free_port()
        self.process = None
        self.account = None  # the tests' own
        if os.geteuid() == 0:  # a server refuses to run as root
            self.account = _first_known(self.accounts)
            os.chown(self.folder, self.account.pw_uid, self.account.pw_gid)

    @property
    def url(self):
        return self.url_of(self.maintenance)

    def url_of(self, database):
        return f"{self.scheme}://cdr@127.0.0.1:{self.port}/{database}"

    def start(self):
        """Start it, and wait until it answers."""
        if not self.data.exists():
            done = subprocess.run(
                self.creation(), check=False, capture_output=True, text=True, **self._as_account()
            )
            if done.returncode:
                raise NoServerError(f"{self.creation()[0]} failed: {done.stdout}{done.stderr}".strip())
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, **self._as_account())
        deadline = monotonic() + _SECONDS_TO_START
        while not self._answers():
            if self.process.poll() is not None or monotonic() > deadline:
                self.kill()
                said = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
                raise NoServerError(f"{self.command()[0]} did not start: {said}")
            _a_moment(0.05)

    def stop(self):
        """Stop it as an operator would, or by force where that takes too long."""
        if self.process is not None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def kill(self):
        """End it as a power failure would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        """Stop it, and leave nothing behind."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def execute(self, *statements):
        """Run statements in the database that is there from the start, each on its own."""
        engine = open_engine(self.url)
        try:
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                for statement in statements:
                    connection.execute(text(statement))
        finally:
            engine.dispose()

    def _answers(self):
        with contextlib.suppress(exc.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def _as_account(self):
        """What makes a process of the server's account, in a folder that it may be in."""
        own = {"cwd": self.folder, "stdin": subprocess.DEVNULL}
        if self.account is None:
            return own
        return {**own, "user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}


class PostgresqlServer(Server):
    scheme = "postgresql"
    maintenance = "postgres"
    accounts = ("postgres", "nobody")
    stop_signal = signal.SIGINT  # the fast shutdown; SIGTERM would wait for every client

    @staticmethod
    def find_programs():
        newest_first = sorted(
            Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True
        )
        return _programs(("initdb", "postgres"), newest_first, "postgresql")

    def creation(self):
        words = ("--no-sync", "--auth=trust", "--username=cdr", "--encoding=UTF8", "--locale=C")
        return [self.programs["initdb"], f"--pgdata={self.data}", *words]

    def command(self):
        values = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
            "full_page_writes": "off",
            "synchronous_commit": "off",
            "shared_buffers": "64MB",
        }
        options = (word for name, value in values.items() for word in ("-c", f"{name}={value}"))
        return [self.programs["postgres"], "-D", str(self.data), *options]

    def create(self, database):
        self.execute(f"CREATE DATABASE {database}")

    def copy(self, template, database):
        self.execute(f"CREATE DATABASE {database} TEMPLATE {template}")

    def drop(self, database):
        self.execute(f"DROP DATABASE {database} WITH (FORCE)")


class MariadbServer(Server):
    scheme = "mariadb"
    maintenance = "mysql"
    accounts = ("mysql", "nobody")

    @staticmethod
    def find_programs():
        places = [Path("/usr/sbin"), Path("/usr/bin"), Path("/usr/local/bin")]
        return _programs(("mariadb-install-db", "mariadbd"), places, "mariadb-server")

    def creation(self):
        words = ("--auth-root-authentication-method=normal", "--skip-test-db")
        return [self.programs["mariadb-install-db"], "--no-defaults", f"--datadir={self.data}", *words]

    def command(self):
        first_words = self.folder / "first-words.sql"
        first_words.write_text(
            "CREATE OR REPLACE USER cdr@'127.0.0.1';\nGRANT ALL ON *.* TO cdr@'127.0.0.1';\n"
        )
        values = {
            "datadir": self.data,
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "init-file": first_words,
            "innodb-flush-log-at-trx-commit": 0,
            "innodb-flush-method": "nosync",
            "innodb-doublewrite": 0,
            "innodb-buffer-pool-size": "64M",
            "skip-name-resolve": 1,
        }
        options = (f"--{name}={value}" for name, value in values.items())
        return [self.programs["mariadbd"], "--no-defaults", *options]

    def create(self, database):
        self.execute(f"CREATE DATABASE {database}")

    def drop(self, database):
        self.execute(f"DROP DATABASE {database}")


def _programs(names, places, package):
    """Where a server's programs are: all of them from one place.

    Raises:
        NoServerError: they are nowhere.
    """
    for place in (*places, None):
        found = {name: shutil.which(name, path=place) for name in names}
        if all(found.values()):
            return found
    raise NoServerError(f"{' and '.join(names)} are not here: run `apt-get install {package}`")


def _first_known(names):
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoServerError(f"the tests run as root, and none of the users {', '.join(names)} is here to run it")


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
