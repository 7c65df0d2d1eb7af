"""Runs the migrations: on the connection that `cdr-sync db` hands over, or for the `alembic` command."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection
from sqlalchemy.types import TypeEngine

from etl.db.connection import open_engine
from etl.db.indexes import is_in_models, metadata
from etl.db.types import ExactText, Instant, LongText, Money
from etl.settings import load_settings


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
