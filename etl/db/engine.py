"""Open the database and run transactions: time-outs, SQLite files, supported servers, conflicts."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import (
    URL,
    Connection,
    Engine,
    create_engine,
    event,
    exc,
    func,
    inspect,
    make_url,
    select,
    text,
)

from etl.db import SCHEMA_REVISION
from etl.db.errors import is_worth_repeating
from etl.db.tables import sync_runs
from etl.errors import DatabaseUnavailableError, SchemaError, SettingsError
from etl.redaction import hide_secret

# MariaDB is the dialect `mysql`, too; `dialect.is_mariadb` distinguishes them once there is a connection.
_SYNONYMS = {"postgres": "postgresql", "mariadb": "mysql"}
_DRIVERS = {"sqlite": "", "postgresql": "psycopg", "mysql": "pymysql"}
_OLDEST_SERVERS = {"SQLite": (3, 35), "PostgreSQL": (13,), "MariaDB": (10, 6), "MySQL": (8, 0, 19)}
# A database that does not answer must end a command instead of blocking it. What the URL says comes first,
# such as `?connect_timeout=3`, or `?timeout=5` for SQLite.
_READ_SECONDS = 70  # for one answer of a server, which ends a statement after 60
LONG_READ_SECONDS = 3_600  # for a long read: a server may have to read all rows before it returns the first
_SQLITE_ARGUMENTS = {"timeout": 30}  # seconds that a statement waits for another writer
_POSTGRESQL_ARGUMENTS = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,  # milliseconds until sent data must be acknowledged
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # Compiling a statement takes longer than running any of ours without.
    "options": "-c statement_timeout=60s -c lock_timeout=30s -c idle_in_transaction_session_timeout=60s"
    " -c jit=off",
    "application_name": "cdr-sync",
}
_MYSQL_ARGUMENTS = {
    "connect_timeout": 10,
    "write_timeout": _READ_SECONDS,
    "charset": "utf8mb4",
    # SQLAlchemy would ask for FOUND_ROWS, by which an INSERT counts rows that existed before, too.
    "client_flag": 0,
    # A value that does not fit is rejected, and never cut silently.
    "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO",
    # A process that freezes in a transaction loses it after a while. MySQL has no such setting; for it this
    # part is a comment.
    "init_command": "SET SESSION innodb_lock_wait_timeout = 30, time_zone = '+00:00'"
    " /*M! , idle_transaction_timeout = 60 */",
}
# The path of a file. It holds no password, as a misspelt URL can.
_PATH = re.compile(r"[/.~][^:@?]*|[^:@?]+\.(db|sqlite3?)")
# The pool logs a traceback of its own where it cannot roll back on a dead connection. The error is reported
# in one line anyway.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())


# --- URLs --------------------------------------------------------------------------------------------


def read_url(url_text: str) -> URL:
    """Read a database URL, and choose our driver where it names none.

    Raises:
        SettingsError: it is not a valid URL, or the database is not supported. The URL is not repeated,
            because it can hold a password.
    """
    try:
        url = make_url(url_text)
    except (exc.ArgumentError, ValueError):
        remedy = "Use a URL such as sqlite:////var/lib/cdr.sqlite3"
        if _PATH.fullmatch(url_text):
            path = os.path.abspath(os.path.expanduser(url_text))  # noqa: PTH100, PTH111 (pathlib's fail for ~nobody)
            remedy = f"Did you mean sqlite:///{path}?"
        raise SettingsError("database_url is not a valid URL", remedy=remedy) from None
    scheme, _, driver = url.drivername.partition("+")
    dialect = _SYNONYMS.get(scheme, scheme)
    if dialect not in _DRIVERS:
        raise SettingsError(
            f"database_url: {scheme!r} is not supported", remedy="Use sqlite, postgresql, mysql or mariadb"
        )
    driver = driver or _DRIVERS[dialect]
    return url.set(drivername=f"{dialect}+{driver}" if driver else dialect)


def shown_url(url_text: str) -> str:
    """A database URL for people: without its password, which its query can hold, too."""
    return read_url(url_text).set(query={}).render_as_string(hide_password=True)


def sqlite_path(url_text: str) -> Path | None:
    """The file of a SQLite URL; None for other databases, and for SQLite in memory."""
    url = read_url(url_text)
    is_file = url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:"
    return Path(url.database) if is_file and url.database else None


# --- Engines -----------------------------------------------------------------------------------------


def open_engine(url_text: str, *, read_seconds: int | None = None) -> Engine:
    """Create an engine whose transactions are of the kind that the queue's statements rely on.

    `read_seconds` is how long one answer of a server may take if the URL does not say.
    """
    url = read_url(url_text)
    with _reporting_options(url, TypeError, ValueError):
        if url.get_backend_name() == "sqlite":
            _require_file(sqlite_path(url_text))
            return _sqlite_engine(url)
        return _server_engine(url, read_seconds or _READ_SECONDS)


def _sqlite_engine(url: URL) -> Engine:
    engine = create_engine(url, connect_args=_unless_in(url, _SQLITE_ARGUMENTS))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    _connect_by(engine, url, sqlite3.connect)
    return engine


def _server_engine(url: URL, read_seconds: int) -> Engine:
    dialect = url.get_backend_name()
    options: dict[str, Any] = {
        "isolation_level": "READ COMMITTED",  # repeatable read deadlocks claims on MySQL
        "pool_pre_ping": True,
    }
    try:
        if dialect == "postgresql":
            seconds = float(str(url.query.get("read_timeout", read_seconds)))
            arguments = _unless_in(url, _POSTGRESQL_ARGUMENTS)
            own_url = url.difference_update_query(["read_timeout"])  # our option, which the driver lacks
            engine = create_engine(own_url, connect_args=arguments, **options)
            connect = _bounded_psycopg_connect(seconds)
        else:
            arguments = _unless_in(url, {**_MYSQL_ARGUMENTS, "read_timeout": read_seconds})
            engine = create_engine(url, connect_args=arguments, **options)
            connect = engine.dialect.connect
    except exc.NoSuchModuleError as error:
        raise SettingsError(f"database_url: {error}") from error
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"The driver for {dialect} is not installed",
            remedy=f"Run `pip install 'piopiy-cdr-sync[{dialect}]'`",
        ) from error
    _connect_by(engine, url, connect)
    return engine


def _bounded_psycopg_connect(seconds: float) -> Callable[..., Any]:
    """A `connect` whose connections wait no longer than this for an answer.

    psycopg itself waits forever. The server's own time-outs do not help where the network swallows
    everything, or the server is frozen.
    """
    import psycopg  # noqa: PLC0415 (an optional dependency)

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
            return super().wait(self._until(gen, monotonic() + seconds), *args, **kwargs)

        def _until(self, gen: Generator[Any, Any, Any], ends_at: float) -> Generator[Any, Any, Any]:
            """The driver's own steps: each yields what it waits for and is sent what came."""
            try:
                wanted = next(gen)
                while True:
                    came = yield wanted
                    if not came and monotonic() > ends_at:
                        self.pgconn.finish()  # its state is unknown
                        raise psycopg.OperationalError(f"no answer from the server within {seconds:g} s")
                    wanted = gen.send(came)
            except StopIteration as end:
                return end.value

    return BoundedConnection.connect


def _connect_by(engine: Engine, url: URL, connect: Callable[..., Any]) -> None:
    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: Any, args: Any, parameters: Any) -> Any:
        with _reporting_options(url, TypeError, ValueError, dialect.dbapi.ProgrammingError):
            return connect(*args, **parameters)


@contextmanager
def _reporting_options(url: URL, *kinds: type[Exception]) -> Iterator[None]:
    """Report what a driver rejects before there is a connection: an option of the URL, or its value.

    Raises:
        SettingsError: in the driver's own words, without the password.
    """
    try:
        yield
    except kinds as error:
        said = hide_secret(str(error).partition("\n")[0], url.password or "")
        raise SettingsError(
            f"database_url (CDR_SYNC_DATABASE_URL): the driver rejects it: {said}",
            remedy="Check what follows its question mark first",
        ) from None


def _unless_in(url: URL, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Our arguments of a connection, without those that the URL gives itself."""
    return {name: value for name, value in arguments.items() if name not in url.query}


def _require_file(path: Path | None) -> None:
    """Refuse to create a database by merely reading it."""
    if path is not None and path.is_dir():
        raise DatabaseUnavailableError(f"{path} is a folder, not a database", remedy="Name a file in it")
    if path is not None and not path.exists():
        raise SchemaError(
            f"There is no database at {path} yet",
            remedy="Run `cdr-sync enqueue` or `cdr-sync db upgrade`, which create it",
        )


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:  # noqa: ARG001
    # sqlite3 must not begin transactions by itself: it would begin deferred ones, and a deferred transaction
    # that starts to write fails at once if another writer was faster.
    connection.isolation_level = None
    # FULL: a commit survives a power failure, in WAL mode too.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("without_transaction", False):
        connection.exec_driver_sql("BEGIN" if options.get("reads_only", False) else "BEGIN IMMEDIATE")


# --- Transactions ------------------------------------------------------------------------------------


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads, and so never waits for a writer on SQLite."""
    with engine.connect().execution_options(reads_only=True) as connection:
        yield connection


@contextmanager
def long_reading(engine: Engine) -> Iterator[Connection]:
    """A connection for long reads: all of them see the database as it was at the first statement.

    The server does not end slow statements, and waits for a slow reader. How long this side waits for an
    answer is set by the engine: open it with `read_seconds=LONG_READ_SECONDS`.
    """
    with reading(engine) as connection:
        if engine.dialect.name != "sqlite":  # where every transaction is a snapshot
            connection.execution_options(isolation_level="REPEATABLE READ")
        lift_limits(connection)
        yield connection


def lift_limits(connection: Connection) -> None:
    """Let a server end no statement of this transaction for being slow."""
    slow_reader = f"SESSION net_write_timeout = {LONG_READ_SECONDS}"
    limits = {
        "PostgreSQL": ("LOCAL statement_timeout = 0", "LOCAL idle_in_transaction_session_timeout = 0"),
        "MariaDB": (slow_reader, "SESSION max_statement_time = 0", "SESSION idle_transaction_timeout = 0"),
        "MySQL": (slow_reader, "SESSION max_execution_time = 0"),
    }
    name, _ = server_of(connection)
    for limit in limits.get(name, ()):  # SQLite has none
        connection.execute(text(f"SET {limit}"))


T = TypeVar("T")


def in_transaction(
    engine: Engine,
    work: Callable[[Connection], T],
    *,
    was_done: Callable[[Connection, T], bool] = lambda _connection, _result: False,
) -> T:
    """Do something in one transaction; after a conflict or a lost connection, do all of it again.

    A connection can break after the database has committed and before it has said so.

    Args:
        engine: the database.
        work: what to do in the transaction, once per try.
        was_done: whether the transaction before was committed after all. It is called in the next
            transaction, with the result of `work`. Work that may be done twice does not need it.
    """
    results: list[T] = []

    def once() -> T:
        with engine.begin() as connection:
            if not (results and was_done(connection, results[-1])):
                results.append(work(connection))
            return results[-1]

    try:
        return once()
    except Exception as error:
        if not is_worth_repeating(error):
            raise
    from etl.retrying import retry_transaction  # noqa: PLC0415 (slow to import, and rarely needed)

    return retry_transaction(once, is_transient=is_worth_repeating)


# --- Server and schema -------------------------------------------------------------------------------


def server_of(connection: Connection) -> tuple[str, tuple[int, ...]]:
    """The name and version of the database; the version is empty if it is unknown."""
    dialect = connection.dialect
    mysql = "MariaDB" if getattr(dialect, "is_mariadb", False) else "MySQL"
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mysql": mysql}[dialect.name]
    return name, tuple(dialect.server_version_info or ())


def require_supported_server(connection: Connection) -> None:
    """Refuse a server that is too old for the statements of the queue.

    Raises:
        DatabaseUnavailableError: it is too old; the message names its version and the one needed.
    """
    name, found = server_of(connection)
    oldest = _OLDEST_SERVERS[name]
    if found and found < oldest:
        raise DatabaseUnavailableError(
            f"The server is {name} {_dotted(found)}; cdr-sync needs {_dotted(oldest)} or later",
            remedy="Upgrade the server, or use another one",
        )


def _dotted(version: Iterable[object]) -> str:
    return ".".join(str(part) for part in version)


def require_current_schema(connection: Connection) -> None:
    """Refuse to work on a schema that is not the one this version needs.

    Raises:
        SchemaError: the schema is missing, older or newer.
    """
    require_supported_server(connection)
    found = schema_revision(connection)
    if found == SCHEMA_REVISION:
        return
    if found is not None and found > SCHEMA_REVISION:
        raise SchemaError(
            f"The database's schema is {found}, newer than the {SCHEMA_REVISION} of this cdr-sync",
            remedy="Upgrade cdr-sync",
        )
    reason = "The database has no tables of cdr-sync yet"
    if found is not None:
        reason = f"The database's schema is {found}, older than the {SCHEMA_REVISION} needed"
    raise SchemaError(reason, remedy="Run `cdr-sync db upgrade`")


def is_empty(connection: Connection) -> bool:
    """Whether the database has no tables at all."""
    return not inspect(connection).get_table_names()


def schema_revision(connection: Connection) -> str | None:
    """The migration that the database is at; None if there is none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


# --- SQLite files ------------------------------------------------------------------------------------

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = (
    *("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"),
    *("fuse.glusterfs", "fuse.s3fs", "fuse.sshfs"),
)
_LATEST_RUNS = 1_000  # whose hosts are compared


def create_sqlite_file(url_text: str) -> None:
    """Create a SQLite file and its folder, for their owner alone, unless it exists."""
    path = sqlite_path(url_text)
    if path is not None and not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise DatabaseUnavailableError(f"Cannot create {path}: {error.strerror}") from error


def sqlite_dangers(engine: Engine, path: Path) -> list[str]:
    """Warnings for a person: why this file is not safe where it is, or as it is used."""
    dangers = []
    kind = file_system_of(path)
    if kind in _NETWORK:
        dangers.append(
            f"{path} is on a network file system ({kind}), where SQLite's locks are not reliable. "
            "Move it to a local disk, or use PostgreSQL or MariaDB."
        )
    with reading(engine) as connection:
        newest = connection.scalar(select(func.max(sync_runs.c.id))) or 0
        recent = select(sync_runs.c.host).where(sync_runs.c.id > newest - _LATEST_RUNS)
        hosts = connection.scalars(recent.distinct().order_by(sync_runs.c.host)).all()
    if len(hosts) > 1:
        dangers.append(
            f"Several machines ({', '.join(hosts[:5])}) use the SQLite file {path}, whose locks work on one "
            "machine only. Use PostgreSQL or MariaDB."
        )
    return dangers


def file_system_of(path: Path, mounts: Path | None = None) -> str | None:
    """The type of file system that a path is on; None if the system does not say."""
    try:
        lines = (mounts or _MOUNTS).read_text().splitlines()
    except OSError:
        return None
    best, kind = -1, None
    place = path.resolve()
    for line in lines:
        fields, _, rest = line.partition(" - ")
        mounted_at = Path(fields.split()[4].encode().decode("unicode_escape"))
        if place.is_relative_to(mounted_at) and len(mounted_at.parts) >= best:
            best, kind = len(mounted_at.parts), rest.split()[0]
    return kind
