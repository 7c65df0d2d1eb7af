"""Migrate the schema with Alembic, and compare the database with the models.

Alembic is slow to import: only the commands that need it import this module.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError, SAWarning

from etl.db import SCHEMA_REVISION
from etl.db.engine import lift_limits, reading, require_supported_server, schema_revision
from etl.db.errors import is_conflict
from etl.db.tables import metadata
from etl.db.views import VIEWS
from etl.errors import DatabaseUnavailableError, FailedCheckError, SchemaError, UsageError

_MIGRATION_SECONDS = 30  # how long a migrator waits for another one
_HAS_DEPENDENTS = "2BP01"  # PostgreSQL does not drop a view that other views read; the others do
# The legs of a UTC day, by which the views per day find the calls of a month. Only the migrations have it: it
# is an index on an expression, and on MySQL and MariaDB one on a hidden column.
DAY_INDEX, _DAY_COLUMN = "ix_call_legs_call_day", "call_day"
_NAMES_OF_INDEXES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE schemaname = ANY (current_schemas(false))",
    "mysql": "SELECT index_name FROM information_schema.statistics WHERE table_schema = database()",
}
_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_folder() -> Path:
    """Where the migrations are: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "migrations"
    return inside if inside.is_dir() else _PACKAGE.parent / "migrations"


def upgrade(engine: Engine, revision: str = "head", *, patience: int = _MIGRATION_SECONDS) -> None:
    """Upgrade the schema to a revision. Two upgrades at once are safe: the second one waits.

    `patience` is how many seconds a server waits for another migrator, and for sessions that use a table.

    Raises:
        UsageError: the revision does not exist.
        SchemaError: the database belongs to another application, or views that are not ours depend on ours.
        DatabaseUnavailableError: another session was in the way for longer than `patience`.
    """
    if engine.dialect.name == "sqlite":
        # In WAL mode readers do not wait for a writer. The file keeps the mode. It cannot be changed while
        # another process uses the file, which set it itself.
        with engine.connect().execution_options(without_transaction=True) as connection:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            except OperationalError as error:
                if not is_conflict(error):
                    raise

    def migrate(connection: Connection) -> None:
        _require_own_names(connection)
        command.upgrade(_config(connection), revision)

    _run(engine, migrate, patience)


def downgrade(engine: Engine, revision: str, *, patience: int = _MIGRATION_SECONDS) -> None:
    """Downgrade the schema to a revision. For `patience` and errors see `upgrade`."""
    _run(engine, lambda connection: command.downgrade(_config(connection), revision), patience)


def _run(engine: Engine, migrate: Callable[[Connection], None], patience: int) -> None:
    try:
        with engine.begin() as connection, _alone(connection, patience):
            require_supported_server(connection)
            lift_limits(connection)  # an index on millions of legs takes its time
            migrate(connection)
    except CommandError as error:
        raise UsageError(str(error), remedy="`cdr-sync db current` prints the current revision") from error
    except DBAPIError as error:
        original: Any = error.orig
        if getattr(original, "sqlstate", None) == _HAS_DEPENDENTS:
            views = "; ".join(original.diag.message_detail.splitlines())
            raise SchemaError(
                f"Your own views depend on views that must be recreated: {views}",
                remedy="Drop them, run the command again, and recreate them",
            ) from error
        if not is_conflict(error):
            raise
        raise DatabaseUnavailableError(
            "Another session holds a table that must change, or is migrating too",
            remedy="Run the command again when it has ended",
        ) from error


def _require_own_names(connection: Connection) -> None:
    """Refuse a database in which another application has tables or views with our names.

    Raises:
        SchemaError: there are such tables or views; the message names them.
    """
    seen = inspect(connection)
    tables, views = set(seen.get_table_names()), set(seen.get_view_names())
    revision, our_views = schema_revision(connection), {view.name for view in VIEWS}
    foreign = (tables & our_views) | (views & metadata.tables.keys())
    if revision is None:
        foreign |= views & our_views
        foreign |= {
            name
            for name in tables & metadata.tables.keys()
            if not _is_from_stopped_migration(connection, name)
        }
    elif missing := sorted(metadata.tables.keys() - tables):  # all are of the first migration
        raise SchemaError(
            f"The database says that its schema is {revision}, but {', '.join(missing)} is missing",
            remedy="If a downgrade was stopped, run it again. If this is another application's database, "
            "use a separate one for cdr-sync",
        )
    if foreign:
        raise SchemaError(
            f"Another application has {', '.join(sorted(foreign))} in this database",
            remedy="Use a separate database for cdr-sync",
        )


def _is_from_stopped_migration(connection: Connection, table: str) -> bool:
    """Whether a table is ours although no revision is stored: possible where DDL commits by itself."""
    if connection.dialect.name in ("sqlite", "postgresql"):
        return False
    comment = inspect(connection).get_table_comment(table)["text"]
    return comment == metadata.tables[table].comment


@contextmanager
def _alone(connection: Connection, patience: int) -> Iterator[None]:
    """Wait until no other session migrates this database. On SQLite the writing transaction does that.

    No later statement waits longer for a reader either: all other sessions would queue behind it.

    Raises:
        DatabaseUnavailableError: another session has been migrating for too long.
    """
    match connection.dialect.name:
        case "sqlite":
            yield
        case "postgresql":
            # Both end with the transaction.
            connection.execute(text(f"SET LOCAL lock_timeout = '{patience}s'"))
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('cdr-sync db'))"))
            yield
        case _:
            # DDL commits on MySQL, so a transaction cannot keep others out. The name of the lock is valid on
            # the whole server, and has at most 64 characters.
            name = "CONCAT('cdr-sync db ', MD5(DATABASE()))"
            if not connection.scalar(text(f"SELECT GET_LOCK({name}, {patience})")):
                raise DatabaseUnavailableError(
                    "Another session is migrating this database", remedy="Try again later"
                )
            connection.execute(text(f"SET SESSION lock_wait_timeout = {patience}"))
            try:
                yield
            finally:
                # A lost connection has released both.
                with suppress(DBAPIError, PendingRollbackError):
                    connection.execute(text("SET SESSION lock_wait_timeout = DEFAULT"))
                    connection.execute(text(f"SELECT RELEASE_LOCK({name})"))


def check(engine: Engine) -> None:
    """Check that the schema is the newest, and that tables and views are what this version expects.

    Raises:
        FailedCheckError: one of them is not; the message names the differences.
    """
    with reading(engine) as connection:
        found = schema_revision(connection)
        if found != SCHEMA_REVISION:
            raise FailedCheckError(
                f"The schema is {found or 'missing'}, but this version needs {SCHEMA_REVISION}",
                remedy="Run `cdr-sync db upgrade`",
            )
        differences = _differences_of_tables(connection)
        texts = texts_of_views(connection.dialect.name)
        differences += _differences_of_columns(connection) or _differences_of_texts(connection, texts)
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise FailedCheckError(f"The tables differ from the models:\n{lines}")


def texts_of_views(dialect_name: str) -> dict[str, str]:
    """The queries of all views, each after those that it reads, from the newest migration that has them."""
    migrations = ScriptDirectory(str(migrations_folder())).walk_revisions()
    texts: dict[str, str] = next(
        migration.module.views(dialect_name) for migration in migrations if hasattr(migration.module, "views")
    )
    return texts


def _config(connection: Connection) -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def is_in_models(_object: object, name: str | None, *_: object) -> bool:
    """Whether the models have a thing that Alembic found in the database, which it then compares."""
    return name not in (DAY_INDEX, _DAY_COLUMN)


Difference = tuple[object, ...]


def _differences_of_tables(connection: Connection) -> list[Difference]:
    options = {"compare_type": True, "compare_server_default": False, "include_object": is_in_models}
    context = MigrationContext.configure(connection, opts=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # about DAY_INDEX, which it cannot read
        differences: list[Difference] = compare_metadata(context, metadata)
    if DAY_INDEX not in connection.scalars(text(_NAMES_OF_INDEXES[connection.dialect.name])).all():
        differences.append(("missing_index", DAY_INDEX))
    return differences


def _differences_of_columns(connection: Connection) -> list[Difference]:
    """The same for views, which `compare_metadata` does not look at."""
    there = set(inspect(connection).get_view_names())
    differences: list[Difference] = []
    for view in VIEWS:
        if view.name not in there:
            differences.append(("missing_view", view.name))
            continue
        try:
            found = list(connection.execute(text(f"SELECT * FROM {view.name} WHERE 1 = 0")).keys())
        except DBAPIError as error:
            differences.append(("broken_view", view.name, str(error.orig)))
            break  # PostgreSQL refuses any other statement in this transaction
        expected = [column.name for column in view.columns]
        differences += [("missing_column", view.name, name) for name in expected if name not in found]
        differences += [("unknown_column", view.name, name) for name in found if name not in expected]
    return differences


def _differences_of_texts(connection: Connection, texts: Mapping[str, str]) -> list[Difference]:
    """Views with the wrong query. Not on MySQL and MariaDB, which rewrite queries beyond comparison."""
    match connection.dialect.name:
        case "sqlite":
            kept = text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")
            found = dict(connection.execute(kept).tuples().all())
            expected = {name: f"CREATE VIEW {name} AS\n{query}".rstrip() for name, query in texts.items()}
        case "postgresql":
            # It rewrites queries too, but always in the same way. A view that was restored from a dump has
            # been rewritten twice.
            try:
                found = _rewritten(connection, _definitions(connection, texts))
                expected = _rewritten(connection, _rewritten(connection, texts))
            except DBAPIError as error:
                return [("views_not_compared", str(error.orig))]
        case _:
            return []
    return [("changed_view", name) for name in texts if found[name] != expected[name]]


def _rewritten(connection: Connection, queries: Mapping[str, str]) -> dict[str, str]:
    """The queries as PostgreSQL rewrites them: in temporary views, which hide the real ones for a moment."""
    with connection.begin_nested() as moment:
        for name, query in queries.items():
            connection.exec_driver_sql(f"CREATE TEMPORARY VIEW {name} AS {query}")
        rewritten = _definitions(connection, queries)
        moment.rollback()
    return rewritten


def _definitions(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    definition = text("SELECT pg_get_viewdef(CAST(:name AS regclass))")
    return {name: connection.execute(definition, {"name": name}).scalar_one() for name in names}
