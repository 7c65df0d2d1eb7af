"""Opening the database, and telling its failures in the words of this project."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, inspect, make_url, text

from etl.db import SCHEMA_REVISION
from etl.errors import CdrSyncError, DatabaseUnavailableError, SchemaError, SettingsError

# A database that does not answer must end a command, and not hang it. What stands in the URL comes first,
# such as `?connect_timeout=3`, or `?timeout=5` for SQLite.
_SQLITE_ARGUMENTS = {"timeout": 30}  # seconds that a statement waits for another writer
_DRIVERS = {
    "postgresql": ("postgresql+psycopg", "postgresql"),
    "postgres": ("postgresql+psycopg", "postgresql"),
    "mysql": ("mysql+pymysql", "mysql"),
    "mariadb": ("mariadb+pymysql", "mysql"),
}
_OUR_FAULTS = ("no such table", "no such column", "syntax error", "no such function")
_CONFLICTS = ("database is locked", "database table is locked")
# A CHECK that fails, on MySQL and on MariaDB: their driver does not count it among the refused values.
_FAILED_CHECKS = (3819, 4025)
_READ_SECONDS = 70  # for one answer of a server, which gives a statement up after 60
_POSTGRESQL_ARGUMENTS = {
    "connect_timeout": 10,
    "tcp_user_timeout": 30_000,  # milliseconds until sent data must be acknowledged
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "options": "-c statement_timeout=60s -c lock_timeout=30s -c idle_in_transaction_session_timeout=60s",
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
        raise SettingsError("database_url is no URL such as sqlite:////var/lib/cdr.sqlite3") from None
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
    url = read_url(text_)
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:":
        return None
    return Path(url.database)


def open_engine(url_text: str, *, read_seconds: int | None = None) -> Engine:
    """Make an engine whose transactions are of the kind that the queue's statements rely on.

    `read_seconds` is how long one answer of a server may take where the URL does not say.
    """
    url = read_url(url_text)
    read_seconds = read_seconds or _READ_SECONDS
    if url.get_backend_name() == "sqlite":
        _require_file(sqlite_path(url_text))
        engine = create_engine(url, connect_args=_unless_in(url, _SQLITE_ARGUMENTS))
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
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
        if is_postgresql:
            from etl.db.postgresql import bound_waits  # noqa: PLC0415 (imports the driver)

            bound_waits(engine, float(str(url.query.get("read_timeout", read_seconds))))
    except exc.NoSuchModuleError as error:
        raise SettingsError(f"database_url: {error}") from error
    except ModuleNotFoundError as error:
        extra = _DRIVERS[url.get_backend_name()][1]
        raise SettingsError(
            f"The driver for {extra} is not installed: run `pip install 'piopiy-cdr-sync[{extra}]'`"
        ) from error
    return engine


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


def is_conflict(error: BaseException) -> bool:
    """Whether a whole transaction failed only since others were at work, so that it can be repeated."""
    if not isinstance(error, exc.DBAPIError) or error.orig is None:
        return False
    if isinstance(error.orig, sqlite3.OperationalError):
        return any(words in str(error.orig) for words in _CONFLICTS)
    return _code(error.orig) in ("40001", "40P01", "55P03", 1213, 1205)


def _code(original: Any) -> object:
    """What a server calls an error: MySQL's own number, or else the SQLSTATE.

    MySQL's driver can tell a SQLSTATE too, but that of a lock wait's timeout says nothing: HY000.
    """
    number = original.args[0] if original.args else None
    return number if isinstance(number, int) else getattr(original, "sqlstate", None)


def is_worth_repeating(error: BaseException) -> bool:
    """Whether a whole transaction is to be tried again: after a conflict, or on a fresh connection.

    After a lost connection nobody knows whether the commit happened: whoever repeats it must find out first.
    """
    if is_conflict(error):
        return True
    if not isinstance(error, exc.DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    # A server that is just starting again refuses connections for some seconds: there is no statement then.
    return error.connection_invalidated or (error.statement is None and is_unreachable(error))


def is_bad_value(error: BaseException) -> bool:
    """Whether the database refused values, and not us."""
    cause = error.orig if isinstance(error, exc.StatementError) else error
    return (
        isinstance(error, exc.DataError | exc.IntegrityError)
        or isinstance(cause, OverflowError | UnicodeError)
        or (isinstance(error, exc.DBAPIError) and _code(error.orig) in _FAILED_CHECKS)
    )


def is_unreachable(error: BaseException) -> bool:
    """Whether the database cannot be reached or cannot work, as opposed to refusing one statement."""
    if not isinstance(error, exc.DBAPIError):
        return False
    if isinstance(error.orig, sqlite3.Error):
        # SQLite says of a broken file, and of a statement of ours that is wrong, the same: an error.
        is_ours = any(words in str(error.orig) for words in _OUR_FAULTS)
        return not is_ours and not isinstance(
            error, exc.IntegrityError | exc.ProgrammingError | exc.DataError
        )
    if is_bad_value(error):
        return False
    return error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError)


def told(error: BaseException) -> CdrSyncError | None:
    """The error in one line for a person; None where it is a fault of this program.

    The statement and its values stay out of it: they are no help to an operator, and can be private.
    """
    if isinstance(error, exc.DBAPIError) and is_unreachable(error):
        reason = " ".join(str(error.orig).split()) or type(error.orig).__name__
        return DatabaseUnavailableError(f"The database cannot be used: {reason}")
    return None
