"""The schema's history: Alembic, through the same settings as every other command, and the check for drift.

Alembic is slow to import, so only the commands that need it import this module.
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
from etl.db.indexes import DAY_INDEX, NAMES_OF_INDEXES, is_in_models, metadata
from etl.db.views import VIEWS
from etl.errors import DatabaseUnavailableError, FailedCheckError, SchemaError, UsageError

_MIGRATION_SECONDS = 30  # how long a migrator waits for another
_IS_READ_BY_OTHERS = "2BP01"  # of what is to be dropped, on PostgreSQL; the others drop it all the same
_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_folder() -> Path:
    """Where the migrations are: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "migrations"
    return inside if inside.is_dir() else _PACKAGE.parent / "migrations"


def upgrade(engine: Engine, revision: str = "head", *, patience: int = _MIGRATION_SECONDS) -> None:
    """Bring the schema up to a revision. Two at once are safe: the second waits, and finds it done.

    `patience` is how many seconds a server waits for another migrator, and for whoever holds a table.

    Raises:
        UsageError: there is no such revision.
        SchemaError: the database is another application's, or somebody's own views read what is made anew.
        DatabaseUnavailableError: somebody else has been at work for longer than `patience`.
    """
    if engine.dialect.name == "sqlite":
        # WAL lets readers read beside a writer. The mode is kept in the file. Where somebody else is at
        # work in it, it cannot be changed, and is what that somebody made it.
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
    """Take the schema back to a revision. For `patience` and errors see `upgrade`."""
    _run(engine, lambda connection: command.downgrade(_config(connection), revision), patience)


def _run(engine: Engine, migrate: Callable[[Connection], None], patience: int) -> None:
    try:
        with engine.begin() as connection, _alone(connection, patience):
            require_supported_server(connection)
            lift_limits(connection)  # an index on millions of legs takes its time
            migrate(connection)
    except CommandError as error:
        raise UsageError(f"{error}; `cdr-sync db current` tells where the schema is") from error
    except DBAPIError as error:
        original: Any = error.orig
        if getattr(original, "sqlstate", None) == _IS_READ_BY_OTHERS:
            views = "; ".join(original.diag.message_detail.splitlines())
            raise SchemaError(
                f"Views of somebody's own are in the way: {views}. Drop them, run the same command again, "
                "and make them anew"
            ) from error
        if not is_conflict(error):
            raise
        raise DatabaseUnavailableError(
            "Another session holds a table that is to be changed, or is migrating too: run the same command "
            "again when it has ended"
        ) from error


def _require_own_names(connection: Connection) -> None:
    """Refuse a database in which another application has tables or views of our names.

    Raises:
        SchemaError: it is such a database; the message names them.
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
            if not _is_left_of_first_migration(connection, name)
        }
    elif missing := sorted(metadata.tables.keys() - tables):  # all are of the first migration
        raise SchemaError(
            f"The schema is noted as {revision}, but lacks {', '.join(missing)}: if a downgrade was stopped, "
            "run it again; if this is another application's database, give cdr-sync one of its own"
        )
    if foreign:
        raise SchemaError(
            f"The database has {', '.join(sorted(foreign))} of another application's: "
            "give cdr-sync a database of its own"
        )


def _is_left_of_first_migration(connection: Connection, table: str) -> bool:
    """Whether a table is ours, though no revision is noted: where DDL commits by itself, it can be."""
    if connection.dialect.name in ("sqlite", "postgresql"):
        return False
    comment = inspect(connection).get_table_comment(table)["text"]
    return comment == metadata.tables[table].comment


@contextmanager
def _alone(connection: Connection, patience: int) -> Iterator[None]:
    """Wait until nobody else migrates this database. On SQLite the writing transaction does that.

    Nor does any later statement wait longer for a reader, since all others would queue up behind it.

    Raises:
        DatabaseUnavailableError: somebody else has been at it for too long.
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
            # DDL commits on MySQL, so that no transaction could hold others off. The lock's name is one for
            # the whole server, and ends after 64 characters.
            name = "CONCAT('cdr-sync db ', MD5(DATABASE()))"
            if not connection.scalar(text(f"SELECT GET_LOCK({name}, {patience})")):
                raise DatabaseUnavailableError("Somebody else is migrating this database: try again later")
            connection.execute(text(f"SET SESSION lock_wait_timeout = {patience}"))
            try:
                yield
            finally:
                # A lost connection has given all of it back.
                with suppress(DBAPIError, PendingRollbackError):
                    connection.execute(text("SET SESSION lock_wait_timeout = DEFAULT"))
                    connection.execute(text(f"SELECT RELEASE_LOCK({name})"))


def check(engine: Engine) -> None:
    """Find out whether the schema is the newest, and whether tables and views are what this version expects.

    Raises:
        FailedCheckError: it is not, or they are not; the message names the differences.
    """
    with reading(engine) as connection:
        found = schema_revision(connection)
        if found != SCHEMA_REVISION:
            raise FailedCheckError(
                f"The schema is {found or 'not there'}, and {SCHEMA_REVISION} is needed: "
                "run `cdr-sync db upgrade`"
            )
        differences = found_differences(connection, texts_of_views(connection.dialect.name))
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise FailedCheckError(f"The tables differ from the models:\n{lines}")


def texts_of_views(dialect_name: str) -> dict[str, str]:
    """The queries of all views, each after those that it reads, as the newest migration of them has them."""
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


Difference = tuple[object, ...]


def found_differences(connection: Connection, texts_of_views: Mapping[str, str]) -> list[Difference]:
    """All differences: a word for each, and what it is about. The connection is of no use afterwards."""
    differences = _differences_of_tables(connection)
    of_views = _differences_of_columns(connection)
    return differences + (of_views or _differences_of_texts(connection, texts_of_views))


def _differences_of_tables(connection: Connection) -> list[Difference]:
    options = {"compare_type": True, "compare_server_default": False, "include_object": is_in_models}
    context = MigrationContext.configure(connection, opts=options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SAWarning)  # of an index that it cannot read: see below
        differences: list[Difference] = compare_metadata(context, metadata)
    if DAY_INDEX not in connection.scalars(text(NAMES_OF_INDEXES[connection.dialect.name])).all():
        differences.append(("missing_index", DAY_INDEX))
    return differences


def _differences_of_columns(connection: Connection) -> list[Difference]:
    """What `compare_metadata`, which looks at tables alone, would say of the views."""
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
            break  # PostgreSQL takes no other statement in this transaction
        expected = [column.name for column in view.columns]
        differences += [("missing_column", view.name, name) for name in expected if name not in found]
        differences += [("unknown_column", view.name, name) for name in found if name not in expected]
    return differences


def _differences_of_texts(connection: Connection, texts: Mapping[str, str]) -> list[Difference]:
    """Which views have another query than they should. MySQL and MariaDB, which rewrite it, cannot tell."""
    match connection.dialect.name:
        case "sqlite":
            kept = text("SELECT name, sql FROM sqlite_master WHERE type = 'view'")
            found = dict(connection.execute(kept).tuples().all())
            expected = {name: f"CREATE VIEW {name} AS\n{query}".rstrip() for name, query in texts.items()}
        case "postgresql":
            # It rewrites a query too, always in the same way, and once more what it wrote: where a view
            # was restored from a dump.
            try:
                found = _rewritten(connection, _told(connection, texts))
                expected = _rewritten(connection, _rewritten(connection, texts))
            except DBAPIError as error:
                return [("views_not_compared", str(error.orig))]
        case _:
            return []
    return [("changed_view", name) for name in texts if found[name] != expected[name]]


def _rewritten(connection: Connection, queries: Mapping[str, str]) -> dict[str, str]:
    """The queries as PostgreSQL tells them once they are views, which hide the lasting ones for a moment."""
    with connection.begin_nested() as moment:
        for name, query in queries.items():
            connection.exec_driver_sql(f"CREATE TEMPORARY VIEW {name} AS {query}")
        told = _told(connection, queries)
        moment.rollback()
    return told


def _told(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    definition = text("SELECT pg_get_viewdef(CAST(:name AS regclass))")
    return {name: connection.execute(definition, {"name": name}).scalar_one() for name in names}
