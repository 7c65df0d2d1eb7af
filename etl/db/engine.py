"""Open the database and run transactions: time-outs, SQLite files, supported servers, conflicts."""

from __future__ import annotations

import logging
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
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

# A database that does not answer must end a command, and not hang it. What stands in the URL comes first,
# such as `?connect_timeout=3`, or `?timeout=5` for SQLite.
_SQLITE_ARGUMENTS = {"timeout": 30}  # seconds that a statement waits for another writer
_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "postgresql"),
    "postgres": ("postgresql+psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mysql+pymysql", "mysql"),
}
_READ_SECONDS = 70  # for one answer of a server, which gives a statement up after 60
LONG_READ_SECONDS = 3_600  # for whoever reads much: before its first row, a server has to look at all of them
_POSTGRESQL_ARGUMENTS = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,  # milliseconds until sent data must be acknowledged
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    # To compile a statement takes longer than any of ours takes without.
    "options": "-c statement_timeout=60s -c lock_timeout=30s -c idle_in_transaction_session_timeout=60s"
    " -c jit=off",
    "application_name": "cdr-sync",
}
_MYSQL_ARGUMENTS = {
    "connect_timeout": 10,
    "write_timeout": _READ_SECONDS,
    "charset": "utf8mb4",
    # SQLAlchemy would ask for FOUND_ROWS, by which an INSERT counts the rows too that were there before.
    "client_flag": 0,
    # A value that does not fit is refused, and never cut in silence.
    "sql_mode": "STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION,ERROR_FOR_DIVISION_BY_ZERO",
    # Whoever freezes in a transaction loses it after a while. MySQL, to which this is a comment, lacks that.
    "init_command": "SET SESSION innodb_lock_wait_timeout = 30, time_zone = '+00:00'"
    " /*M! , idle_transaction_timeout = 60 */",
}
_OLDEST_SERVERS = {
    "SQLite": (3, 35),
    "PostgreSQL": (13,),
    "MariaDB": (10, 6),
    "MySQL": (8, 0, 19),
}
# The path of a file, which holds no password as a URL can that somebody misspelt.
_PATH = re.compile(r"[/.~][^:@?]*|[^:@?]+\.(db|sqlite3?)")
_REMEDY = "run `cdr-sync db upgrade`"
# The pool logs a traceback of its own where it cannot roll a dead connection back. What failed is told in one
# line anyway, so that it goes only to those who ask for it.
logging.getLogger("sqlalchemy.pool").addHandler(logging.NullHandler())


def read_url(text_: str) -> URL:
    """Read a database URL, picking our driver where it names none.

    Raises:
        SettingsError: it is no URL, or of a database that is not supported. The URL is not repeated,
            since it can hold a password.
    """
    try:
        url = make_url(text_)
    except (exc.ArgumentError, ValueError):
        told = "database_url is no URL such as sqlite:////var/lib/cdr.sqlite3"
        if _PATH.fullmatch(text_):
            path = os.path.abspath(os.path.expanduser(text_))  # noqa: PTH100, PTH111 (pathlib's fail for ~nobody)
            told += f": did you mean sqlite:///{path}?"
        raise SettingsError(told) from None
    if url.drivername in _DRIVERS:
        url = url.set(drivername=_DRIVERS[url.drivername][0])
    if url.get_backend_name() not in ("sqlite", "postgresql", "mysql", "mariadb"):
        raise SettingsError(
            f"database_url: {url.get_backend_name()!r} is not supported: use sqlite, postgresql or mysql"
        )
    return url


def shown_url(text_: str) -> str:
    """A database URL for people: without its password, which its query can hold too."""
    return read_url(text_).set(query={}).render_as_string(hide_password=True)


def sqlite_path(text_: str) -> Path | None:
    """The file of a SQLite URL; None for other databases, and for SQLite in memory."""
    return _path_in(read_url(text_))


def _path_in(url: URL) -> Path | None:
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def open_engine(url_text: str, *, read_seconds: int | None = None) -> Engine:
    """Make an engine whose transactions are of the kind that the queue's statements rely on.

    `read_seconds` is how long one answer of a server may take where the URL does not say.
    """
    url = read_url(url_text)
    with _telling_of_options(url, TypeError, ValueError):
        if url.get_backend_name() == "sqlite":
            return _sqlite_engine(url)
        return _server_engine(url, read_seconds or _READ_SECONDS)


def _sqlite_engine(url: URL) -> Engine:
    _require_file(_path_in(url))
    engine = create_engine(url, connect_args=_unless_in(url, _SQLITE_ARGUMENTS))
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    _connect_by(engine, url, sqlite3.connect)
    return engine


def _server_engine(url: URL, read_seconds: int) -> Engine:
    is_postgresql = url.get_backend_name() == "postgresql"
    arguments = _unless_in(
        url, _POSTGRESQL_ARGUMENTS if is_postgresql else {**_MYSQL_ARGUMENTS, "read_timeout": read_seconds}
    )
    try:
        engine = create_engine(
            url.difference_update_query(["read_timeout"]) if is_postgresql else url,
            isolation_level="READ COMMITTED",  # repeatable read deadlocks claims on MySQL
            pool_pre_ping=True,
            connect_args=arguments,
        )
        connect: Callable[..., Any] = engine.dialect.connect
        if is_postgresql:
            from etl.db.postgresql import bounded_connect  # noqa: PLC0415 (imports the driver)

            connect = bounded_connect(float(str(url.query.get("read_timeout", read_seconds))))
        _connect_by(engine, url, connect)
    except exc.NoSuchModuleError as error:
        raise SettingsError(f"database_url: {error}") from error
    except ModuleNotFoundError as error:
        extra = _DRIVERS[url.get_backend_name()][1]
        raise SettingsError(
            f"The driver for {extra} is not installed: run `pip install 'piopiy-cdr-sync[{extra}]'`"
        ) from error
    return engine


def _connect_by(engine: Engine, url: URL, connect: Callable[..., Any]) -> None:
    @event.listens_for(engine, "do_connect")
    def _connect(dialect: Any, _record: Any, args: Any, parameters: Any) -> Any:
        with _telling_of_options(url, TypeError, ValueError, dialect.dbapi.ProgrammingError):
            return connect(*args, **parameters)


@contextmanager
def _telling_of_options(url: URL, *kinds: type[Exception]) -> Iterator[None]:
    """Tell of what a driver does not take before there is any connection: an option of the URL, or its value.

    Raises:
        SettingsError: in the driver's own words, without the password.
    """
    try:
        yield
    except kinds as error:
        said = hide_secret(str(error).partition("\n")[0], url.password or "")
        raise SettingsError(
            f"database_url (CDR_SYNC_DATABASE_URL) has what its driver does not take: {said}. "
            "Look at what follows its question mark first"
        ) from None


def _unless_in(url: URL, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Our arguments of a connection, without those that the URL gives itself."""
    return {name: value for name, value in arguments.items() if name not in url.query}


def _require_file(path: Path | None) -> None:
    """Refuse to make a database by merely looking at it."""
    if path is not None and path.is_dir():
        raise DatabaseUnavailableError(f"{path} is a folder, and no database")
    if path is not None and not path.exists():
        raise SchemaError(
            f"There is no database at {path} yet: `cdr-sync enqueue` or `cdr-sync db upgrade` makes it"
        )


def _prepare_sqlite(connection: sqlite3.Connection, record: object) -> None:  # noqa: ARG001
    # sqlite3 must not begin transactions by itself: it would begin deferred ones, and a deferred
    # transaction that turns into a writing one fails at once where another writer was faster.
    connection.isolation_level = None
    # FULL: a commit outlives a power failure, in WAL mode too.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    options = connection.get_execution_options()
    if not options.get("without_transaction", False):
        connection.exec_driver_sql("BEGIN" if options.get("reads_only", False) else "BEGIN IMMEDIATE")


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A connection that only reads, and so never waits for a writer on SQLite."""
    with engine.connect().execution_options(reads_only=True) as connection:
        yield connection


@contextmanager
def long_reading(engine: Engine) -> Iterator[Connection]:
    """A connection that reads much, all of it as the database was at its first statement.

    A server ends no statement of it for being slow, and waits for whoever takes the rows slowly. How long an
    answer may take on this side is the engine's matter: open it with `read_seconds=LONG_READ_SECONDS`.
    """
    with reading(engine) as connection:
        if engine.dialect.name != "sqlite":  # where every transaction is a snapshot
            connection.execution_options(isolation_level="REPEATABLE READ")
        lift_limits(connection)
        yield connection


def lift_limits(connection: Connection) -> None:
    """Have a server end no statement of this transaction for being slow."""
    for limit in _limits_lifted(connection):
        connection.execute(text(f"SET {limit}"))


def _limits_lifted(connection: Connection) -> Sequence[str]:
    if connection.dialect.name == "postgresql":
        return "LOCAL statement_timeout = 0", "LOCAL idle_in_transaction_session_timeout = 0"
    if connection.dialect.name not in ("mysql", "mariadb"):
        return ()
    is_mariadb = getattr(connection.dialect, "is_mariadb", False)
    own = (
        ("max_statement_time = 0", "idle_transaction_timeout = 0")
        if is_mariadb
        else ("max_execution_time = 0",)
    )
    return tuple(f"SESSION {limit}" for limit in (*own, f"net_write_timeout = {LONG_READ_SECONDS}"))


def server_of(connection: Connection) -> tuple[str, tuple[int, ...]]:
    """What the database calls itself, and its version; empty where it does not tell."""
    dialect = connection.dialect
    name = {"sqlite": "SQLite", "postgresql": "PostgreSQL"}.get(dialect.name)
    if name is None:
        name = "MariaDB" if getattr(dialect, "is_mariadb", False) else "MySQL"
    return name, tuple(dialect.server_version_info or ())


def require_supported_server(connection: Connection) -> None:
    """Refuse a server that is too old for the statements of the queue.

    Raises:
        DatabaseUnavailableError: it is; the message names its version and the one needed.
    """
    name, found = server_of(connection)
    oldest = _OLDEST_SERVERS[name]
    if found and found < oldest:
        raise DatabaseUnavailableError(
            f"The server is {name} {_dotted(found)}; cdr-sync needs {_dotted(oldest)} or later"
        )


def _dotted(version: Iterable[object]) -> str:
    return ".".join(str(part) for part in version)


def require_current_schema(connection: Connection) -> None:
    """Refuse to work on a schema that is not the one this version needs.

    Raises:
        SchemaError: it is behind, ahead, or not there at all.
    """
    require_supported_server(connection)
    found = schema_revision(connection)
    if found is None:
        raise SchemaError(f"The database has no tables of cdr-sync yet: {_REMEDY}")
    if found > SCHEMA_REVISION:
        raise SchemaError(
            f"The database's schema is {found}, newer than the {SCHEMA_REVISION} of this cdr-sync: "
            "upgrade cdr-sync"
        )
    if found != SCHEMA_REVISION:
        raise SchemaError(f"The database's schema is {found}, behind the {SCHEMA_REVISION} needed: {_REMEDY}")


def is_empty(connection: Connection) -> bool:
    """Whether there is no table in the database at all."""
    return not inspect(connection).get_table_names()


def schema_revision(connection: Connection) -> str | None:
    """The migration that the database is at; None where there is none."""
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = ("9p", "afs", "ceph", "cifs", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs")
_NETWORK_FUSE = ("fuse.glusterfs", "fuse.s3fs", "fuse.sshfs")
_RUNS = 1_000  # the latest ones, in which other hosts are looked for


def create_sqlite_file(url_text: str) -> None:
    """Make the folder of a SQLite file that does not exist yet, for its owner alone."""
    path = sqlite_path(url_text)
    if path is not None and not path.exists():
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        except OSError as error:
            raise DatabaseUnavailableError(f"{path} cannot be made: {error.strerror}") from error


def sqlite_dangers(engine: Engine, path: Path) -> list[str]:
    """Sentences for a person: why this file is not safe where it is, or as it is used."""
    dangers = []
    kind = file_system_of(path)
    if kind in (*_NETWORK, *_NETWORK_FUSE):
        dangers.append(
            f"{path} lies on a network file system ({kind}), where SQLite's locks cannot be relied on: "
            "move it to a local disk, or use PostgreSQL or MariaDB."
        )
    with reading(engine) as connection:
        newest = connection.scalar(select(func.max(sync_runs.c.id))) or 0
        hosts = connection.scalars(
            select(sync_runs.c.host)
            .where(sync_runs.c.id > newest - _RUNS)
            .distinct()
            .order_by(sync_runs.c.host)
        ).all()
    if len(hosts) > 1:
        dangers.append(
            f"Several machines ({', '.join(hosts[:5])}) use the SQLite file {path}, whose locks hold on one "
            "machine only: use PostgreSQL or MariaDB."
        )
    return dangers


def file_system_of(path: Path, mounts: Path | None = None) -> str | None:
    """The kind of file system that a path is on; None where the system does not tell."""
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


T = TypeVar("T")


def in_transaction(
    engine: Engine,
    work: Callable[[Connection], T],
    *,
    was_done: Callable[[Connection, T], bool] = lambda _connection, _result: False,
) -> T:
    """Do something in one transaction; all of it again where that can help.

    A connection can break when the database has committed and has not said so yet.

    Args:
        engine: the database.
        work: what to do in the transaction; done once more for each try.
        was_done: tells, in a transaction that follows a failed one, whether that one was committed after
            all; it is given what `work` returned then. What is done twice without harm needs none.
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
    # That is seldom: only now is it loaded what an idle run does not need.
    from etl.retrying import retry_transaction  # noqa: PLC0415

    return retry_transaction(once, is_transient=is_worth_repeating)
