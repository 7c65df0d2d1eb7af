"""Run the migrations: on the connection that `cdr-sync db` passes, or for the `alembic` command."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from alembic import context
from alembic.ddl.mysql import MySQLImpl
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Column, Connection, Index, Table, inspect
from sqlalchemy.types import TypeEngine

from etl.db import SCHEMA_REVISION
from etl.db.dialects import ExactText, Instant, LongText, Money
from etl.db.engine import open_engine
from etl.db.schema import is_in_models
from etl.db.tables import metadata
from etl.db.views import comment_views
from etl.settings import load_settings


class SkipWhatIsDone(MySQLImpl):
    """Skips the steps of a migration that a stopped run of it has taken already.

    Each DDL statement commits by itself on MySQL and MariaDB. SQL that a migration executes itself must be
    repeatable, as `DROP VIEW IF EXISTS` is.
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


def render_item(kind: str, item: object, _context: object) -> str | bool:
    """Write our column types into new migrations by their names in 0001, which imports nothing of `etl`."""
    plain = {LongText: "BODY", Instant: "INSTANT", Money: "MONEY", ExactText: "exact_text(…)"}
    if kind == "type" and isinstance(item, TypeEngine):
        return next((text for ours, text in plain.items() if isinstance(item, ours)), False)
    return False


def comment_newest_views(ctx: MigrationContext, heads: Collection[str], **_: object) -> None:
    """Comment the views as the models do, whose text a migration would only repeat."""
    if SCHEMA_REVISION in heads and ctx.connection is not None:
        comment_views(ctx.connection)


def migrate(connection: Connection) -> None:
    """Run what the command asked for, in one transaction where the database supports that."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        include_object=is_in_models,
        render_item=render_item,
        render_as_batch=True,
        on_version_apply=comment_newest_views,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    raise SystemExit("Migrations read the database that they change, so they cannot run offline (--sql)")

given = context.config.attributes.get("connection")
if given is not None:
    migrate(given)
else:
    with open_engine(load_settings({}).database_url).begin() as own:
        migrate(own)
