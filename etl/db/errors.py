"""What an error of the database means: whether it passes, whose fault it is, and what to report.

Errors are distinguished by their codes, never by their texts: SQLite's result codes, MySQL's error numbers,
and the SQLSTATE of PostgreSQL.
"""

from __future__ import annotations

import sqlite3

from sqlalchemy import exc

from etl.errors import CdrSyncError, DatabaseUnavailableError

_Code = int | str | None

_CONFLICTS: dict[str, tuple[_Code, ...]] = {
    "sqlite": (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED),
    "postgresql": ("40001", "40P01", "55P03"),  # serialization failure, deadlock, lock timeout
    "mysql": (1205, 1213),  # lock timeout, deadlock
}
# SQLite's codes for a wrong statement, which is a bug here. A bad file or disk has more specific ones.
_SQLITE_BUGS = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_MISUSE, sqlite3.SQLITE_RANGE)
# A CHECK that fails, on MySQL and on MariaDB. Their driver does not raise IntegrityError for it.
_MYSQL_FAILED_CHECKS = (3819, 4025)
# PostgreSQL: a missing privilege, and a role or standby that is read-only.
_POSTGRESQL_FORBIDDEN = ("42501", "25006")


def _database_and_code(error: exc.DBAPIError) -> tuple[str, _Code]:
    """Which kind of database raised an error, and the error's code."""
    original = error.orig
    if isinstance(original, sqlite3.Error):
        # The driver's own errors have no code.
        extended: int | None = getattr(original, "sqlite_errorcode", None)
        return "sqlite", None if extended is None else extended & 0xFF  # the primary code is the last byte
    # PyMySQL's errors begin with MySQL's number. (The SQLSTATE is useless: HY000 for a lock timeout.)
    number = original.args[0] if original is not None and original.args else None
    if isinstance(number, int):
        return "mysql", number
    return "postgresql", getattr(original, "sqlstate", None)


def is_conflict(error: BaseException) -> bool:
    """Whether a transaction failed only because of other transactions, so that repeating it helps."""
    if not isinstance(error, exc.DBAPIError):
        return False
    database, code = _database_and_code(error)
    return code in _CONFLICTS[database]


def is_worth_repeating(error: BaseException) -> bool:
    """Whether to try a whole transaction again: after a conflict, or on a new connection.

    A lost connection leaves open whether the commit happened: find out before repeating the transaction.
    """
    if is_conflict(error):
        return True
    if not isinstance(error, exc.DBAPIError) or isinstance(error.orig, sqlite3.Error):
        return False
    # A server that is restarting refuses connections for some seconds. There is no statement then.
    return error.connection_invalidated or (error.statement is None and is_unreachable(error))


def is_bad_value(error: BaseException) -> bool:
    """Whether the database, or its driver, rejected a value."""
    cause = error.orig if isinstance(error, exc.StatementError) else error
    if isinstance(error, exc.DataError | exc.IntegrityError) or isinstance(
        cause, OverflowError | UnicodeError
    ):
        return True
    return isinstance(error, exc.DBAPIError) and _database_and_code(error)[1] in _MYSQL_FAILED_CHECKS


def is_unreachable(error: BaseException) -> bool:
    """Whether the database cannot be reached or cannot work, as opposed to rejecting one statement."""
    if not isinstance(error, exc.DBAPIError) or is_bad_value(error):
        return False
    if isinstance(error.orig, sqlite3.Error):
        return _database_and_code(error)[1] not in (None, *_SQLITE_BUGS)
    return error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError)


def user_error(error: BaseException) -> CdrSyncError | None:
    """The error to report to a person; None where it is a bug in this program.

    The statement and its values are left out: they do not help an operator, and they can be private.
    """
    if not isinstance(error, exc.DBAPIError):
        return None
    reason = " ".join(str(error.orig).split()) or type(error.orig).__name__
    if _database_and_code(error)[1] in _POSTGRESQL_FORBIDDEN:
        return DatabaseUnavailableError(f"The database user lacks a privilege: {reason}")
    if is_unreachable(error):
        return DatabaseUnavailableError(f"The database cannot be used: {reason}")
    return None
