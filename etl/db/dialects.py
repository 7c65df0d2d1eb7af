"""What differs from one database to the next: column types, instants, and SQL for the clock."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    Connection,
    DateTime,
    Dialect,
    Numeric,
    String,
    Text,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class Instant(TypeDecorator[datetime]):
    """An instant, aware and in UTC on this side of the database."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Microseconds on every database."""
        if dialect.name == "mysql":
            from sqlalchemy.dialects import mysql  # noqa: PLC0415 (slow to import)

            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Send UTC, without the zone where the database stores none."""
        if value is None or dialect.name == "postgresql":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return UTC."""
        return None if value is None else read_instant(value)


class Money(TypeDecorator[Decimal]):
    """An amount, exact to 18 decimals; on SQLite a double that gives back up to 15 significant digits.

    PostgreSQL keeps the digits as they were sent, the others pad them. Read back, all are without padding.
    """

    impl = Numeric(38, 18)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column's type. On SQLite the double is read as it is, and rounded here."""
        kinds: dict[str, TypeEngine[Any]]
        kinds = {"sqlite": Numeric(38, 18, asdecimal=False), "postgresql": Numeric()}
        return dialect.type_descriptor(kinds.get(dialect.name, Numeric(38, 18)))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Any:
        """Send what the database stores."""
        return float(value) if value is not None and dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return the digits without trailing zeros."""
        if value is None:
            return None
        return digits_of_double(value) if dialect.name == "sqlite" else Decimal(f"{value.normalize():f}")


def digits_of_double(value: float | Decimal) -> Decimal:
    """The decimal number that a double stands for: 15 significant digits, as SQLite itself shows it."""
    return Decimal(f"{float(value):.15g}")


class ExactText(TypeDecorator[str]):
    """Text that identifies: compared by its exact bytes, case and trailing spaces included."""

    impl = String
    cache_ok = True

    def __init__(self, length: int) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the collation that neither folds case nor pads. Its name differs by server."""
        if dialect.name == "mysql":
            from sqlalchemy.dialects import mysql  # noqa: PLC0415 (slow to import)

            is_mariadb = getattr(dialect, "is_mariadb", False)
            collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
            return dialect.type_descriptor(mysql.VARCHAR(self.length, charset="utf8mb4", collation=collation))
        if dialect.name == "postgresql":
            return dialect.type_descriptor(String(self.length, collation="C"))
        return dialect.type_descriptor(String(self.length))


class LongText(Text):
    """Text as long as an answer can be; plain TEXT ends at 64 kB on MySQL."""


@compiles(LongText, "mysql")
def _long_text_mysql(element: LongText, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return "MEDIUMTEXT"


def instant_text(value: datetime, dialect_name: str) -> str:
    """An aware instant as text that the database reads as the same instant."""
    text = value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
    return f"{text}+00" if dialect_name == "postgresql" else text


def read_instant(value: str | datetime) -> datetime:
    """An aware instant in UTC, from what a driver returns for a column that has no type here."""
    instant = datetime.fromisoformat(value) if isinstance(value, str) else value
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


class db_now(FunctionElement[datetime]):  # noqa: N801 (it reads as the SQL function that it is)
    """The current instant by the database's clock."""

    type = Instant()
    inherit_cache = True


@compiles(db_now)
def _now(element: db_now, compiler: Any, **kw: Any) -> str:  # noqa: ARG001
    return now_sql(compiler.dialect.name)


def now_sql(dialect_name: str) -> str:
    """The SQL of `db_now()`. The database evaluates it, once in each statement."""
    return {
        # SQLite counts milliseconds; the zeros make it the one format that instants have there.
        "sqlite": "strftime('%Y-%m-%d %H:%M:%f000', 'now')",
        "postgresql": "statement_timestamp()",
        "mysql": "utc_timestamp(6)",
    }[dialect_name]


def later_sql(dialect_name: str, seconds: str) -> str:
    """The SQL of `db_now()` plus a number of seconds, which is an SQL expression such as `:delay`."""
    return {
        "sqlite": f"strftime('%Y-%m-%d %H:%M:%f000', 'now', ({seconds}) || ' seconds')",
        "postgresql": f"statement_timestamp() + make_interval(secs => {seconds})",
        "mysql": f"utc_timestamp(6) + interval round(({seconds}) * 1000000) microsecond",
    }[dialect_name]


def database_now(connection: Connection) -> datetime:
    """The current instant by the database's clock."""
    statement = text(f"SELECT {now_sql(connection.dialect.name)} AS now").columns(now=Instant)
    now: datetime | None = connection.scalar(statement)
    if now is None:  # pragma: no cover (no database answers so)
        raise RuntimeError("the database has no clock")
    return now
