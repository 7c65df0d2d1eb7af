"""The database's clock, which is the only clock that decides anything.

Its SQL stands here for every database: the present instant, and instants before and after it.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Float, literal, text
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement

from etl.db.types import Instant


class db_now(FunctionElement[datetime]):  # noqa: N801 (it reads as the SQL function that it is)
    """The present instant by the database's clock."""

    type = Instant()
    inherit_cache = True


@compiles(db_now, "sqlite")
def _now_sqlite(element: db_now, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return now_sql("sqlite")


@compiles(db_now, "postgresql")
def _now_postgresql(element: db_now, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return now_sql("postgresql")


@compiles(db_now, "mysql", "mariadb")
def _now_mysql(element: db_now, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return now_sql("mysql")


def now_sql(dialect_name: str) -> str:
    """The SQL of `db_now()`. The database evaluates it, once in each statement."""
    return {
        # SQLite counts milliseconds; the zeros make it the one format that instants have there.
        "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "postgresql": "statement_timestamp()",
        "mysql": "utc_timestamp(6)",
        "mariadb": "utc_timestamp(6)",
    }[dialect_name]


def later_sql(dialect_name: str, seconds: str) -> str:
    """The SQL of `db_now()` plus a number of seconds, which is an SQL expression such as `:delay`."""
    return {
        "sqlite": f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')",
        "postgresql": f"statement_timestamp() + make_interval(secs => {seconds})",
        "mysql": f"utc_timestamp(6) + interval round(({seconds}) * 1000000) microsecond",
        "mariadb": f"utc_timestamp(6) + interval round(({seconds}) * 1000000) microsecond",
    }[dialect_name]


def seconds_ago(delay: timedelta) -> ColumnElement[datetime]:
    """An instant before `db_now()`, as an expression."""
    return _Later(literal(-delay.total_seconds(), Float()))


class _Later(FunctionElement[datetime]):
    """`db_now()` plus a number of seconds."""

    type = Instant()
    inherit_cache = True


@compiles(_Later)
def _later(element: _Later, compiler: Any, **kw: Any) -> str:
    (seconds,) = element.clauses
    return later_sql(compiler.dialect.name, compiler.process(seconds, **kw))


def database_now(connection: Connection) -> datetime:
    """The present instant by the database's clock."""
    statement = text(f"SELECT {now_sql(connection.dialect.name)} AS now").columns(now=Instant)
    now: datetime | None = connection.scalar(statement)
    if now is None:  # pragma: no cover (no database answers so)
        raise RuntimeError("the database has no clock")
    return now
