"""Runs the migrations: on the connection that `cdr-sync db` hands over, or for the `alembic` command."""

from __future__ import annotations

from typing import Any

from alembic import context
from alembic.ddl.mysql import MariaDBImpl, MySQLImpl
from sqlalchemy import Column, Connection, Index, Table, inspect
from sqlalchemy.types import TypeEngine

from etl.db.engine import open_engine
from etl.db.indexes import is_in_models, metadata
from etl.db.dialects import ExactText, Instant, LongText, Money
from etl.settings import load_settings


class OnlyWhatIsLeft(MySQLImpl):
    """Takes no step of a migration twice: each looks first whether it has been taken.

    DDL commits by itself here, so that what a stopped migration did is there when it is run again. Steps that
    are SQL of a migration's own must be repeatable by themselves, as `DROP VIEW IF EXISTS` is.
    """

    __dialect__ = "mysql"

    def _has(self, table: str | None, column: str | None = None, index: str | None = None) -> bool:
        seen = inspect(self.connection)
        if table is None or not seen.has_table(table):
            return False
        if column is not None:
            return column in (each["name"] for each in seen.get_columns(table))
        return index is None or seen.has_index(table, index)

    def create_table(self, table: Table, **options: Any) -> None:
        if not self._has(table.name):
            super().create_table(table, **options)

    def drop_table(self, table: Table, **options: Any) -> None:
        if self._has(table.name):
            super().drop_table(table, **options)

    def add_column(self, table_name: str, column: Column[Any], **options: Any) -> None:
        if not self._has(table_name, column=column.name):
            super().add_column(table_name, column, **options)

    def drop_column(self, table_name: str, column: Column[Any], **options: Any) -> None:
        if self._has(table_name, column=column.name):
            super().drop_column(table_name, column, **options)

    def create_index(self, index: Index, **options: Any) -> None:
        if not self._has(index.table.name, index=index.name):
            super().create_index(index, **options)

    def drop_index(self, index: Index, **options: Any) -> None:
        if self._has(index.table.name, index=index.name):
            super().drop_index(index, **options)


class OnlyWhatIsLeftOnMariadb(OnlyWhatIsLeft, MariaDBImpl):
    """The same, by the other name that the dialect has."""

    __dialect__ = "mariadb"


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Write our column types into new migrations as plain ones: a migration imports nothing of `etl`."""
    plain = {
        LongText: "sa.Text()",
        Instant: "INSTANT",
        Money: "sa.Numeric(38, 18)",
        ExactText: "exact_text(…)",
    }
    if kind == "type" and isinstance(item, TypeEngine):
        return next((text for ours, text in plain.items() if isinstance(item, ours)), False)
    return False


def migrate(connection: Connection) -> None:
    """Run what the command asked for, in one transaction where the database can."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=is_in_models,
        render_item=render_item,
        render_as_batch=True,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Migrations look at the database that they change: run them online")

handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    migrate(handed_over)
else:
    with open_engine(load_settings({}).database_url).begin() as own:
        migrate(own)
