"""What a failure of the database means: whether it passes, whose it is, and how a person is told."""

from __future__ import annotations

import sqlite3
from typing import Any

from sqlalchemy import exc

from etl.errors import CdrSyncError, DatabaseUnavailableError

_OUR_FAULTS = ("no such table", "no such column", "syntax error", "no such function")
_CONFLICTS = ("database is locked", "database table is locked")
# A CHECK that fails, on MySQL and on MariaDB: their driver does not count it among the refused values.
_FAILED_CHECKS = (3819, 4025)
# What PostgreSQL calls a right that the user lacks, and a role or standby that only reads. MySQL's driver
# counts its own among what cannot be used.
_FORBIDDEN = ("42501", "25006")


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
    if not isinstance(error, exc.DBAPIError):
        return None
    reason = " ".join(str(error.orig).split()) or type(error.orig).__name__
    if _code(error.orig) in _FORBIDDEN:
        return DatabaseUnavailableError(f"The database does not let this user do that: {reason}")
    if is_unreachable(error):
        return DatabaseUnavailableError(f"The database cannot be used: {reason}")
    return None
