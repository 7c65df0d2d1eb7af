"""The schema's history: Alembic, through the same settings as every other command.

Alembic takes long to import, so that only the commands that need it come here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, inspect, text
from sqlalchemy.exc import DBAPIError, OperationalError, SAWarning

from etl.db import SCHEMA_REVISION
from etl.db.connection import reading, require_supported_server, schema_revision
from etl.db.failures import is_conflict
from etl.db.indexes import DAY_INDEX, NAMES_OF_INDEXES, is_in_models, metadata
from etl.db.views import VIEWS
from etl.errors import DatabaseUnavailableError, FailedCheckError, UsageError

_MIGRATION_SECONDS = 30  # how long a migrator waits for another
_PACKAGE = Path(__file__).resolve().parent.parent


def migrations_folder() -> Path:
    """Where the migrations are: inside the package when installed, beside it in a checkout."""
    inside = _PACKAGE / "migrations"
    return inside if inside.is_dir() else _PACKAGE.parent / "migrations"


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Bring the schema up to a revision. Two at once are safe: the second waits, and finds it done."""
    if engine.dialect.name == "sqlite":
        # WAL lets readers read beside a writer. The mode is kept in the file. Where somebody else is at
        # work in it, it cannot be changed, and is what that somebody made it.
        with engine.connect().execution_options(without_transaction=True) as connection:
            try:
                connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            except OperationalError as error:
                if not is_conflict(error):
                    raise
    _run(engine, "upgrade", revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Take the schema back to a revision."""
    _run(engine, "downgrade", revision)


def _run(engine: Engine, direction: str, revision: str) -> None:
    with engine.begin() as connection, _alone(connection):
        require_supported_server(connection)
        config = _config(connection)
        try:
            {"upgrade": command.upgrade, "downgrade": command.downgrade}[direction](config, revision)
        except CommandError as error:
            raise UsageError(f"{error}; `cdr-sync db current` tells where the schema is") from error


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    """Wait until nobody else migrates this database. On SQLite the writing transaction does that.

    Raises:
        DatabaseUnavailableError: somebody else has been at it for too long.
    """
    match connection.dialect.name:
        case "sqlite":
            yield
        case "postgresql":
            # It ends with the transaction; waiting ends with `lock_timeout`.
            connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('cdr-sync db'))"))
            yield
        case _:
            # DDL commits on MySQL, so that no transaction could hold others off. The lock's name is one for
            # the whole server, and ends after 64 characters.
            name = "CONCAT('cdr-sync db ', MD5(DATABASE()))"
            if not connection.scalar(text(f"SELECT GET_LOCK({name}, {_MIGRATION_SECONDS})")):
                raise DatabaseUnavailableError("Somebody else is migrating this database: try again later")
            try:
                yield
            finally:
                with suppress(DBAPIError):  # a lost connection has given it back
                    connection.execute(text(f"SELECT RELEASE_LOCK({name})"))


def check(engine: Engine) -> None:
    """Find out whether the schema is the newest, and whether the tables are what the models say.

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
        options = {
            "compare_type": True,
            "compare_server_default": False,
            "include_object": is_in_models,
        }
        context = MigrationContext.configure(connection, opts=options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SAWarning)  # of an index that it cannot read: see below
            differences = compare_metadata(context, metadata)
        if DAY_INDEX not in connection.scalars(text(NAMES_OF_INDEXES[connection.dialect.name])).all():
            differences.append(("missing_index", DAY_INDEX))
        differences += _differences_of_views(connection)
    if differences:
        lines = "\n".join(f"  {difference}" for difference in differences)
        raise FailedCheckError(f"The tables differ from the models:\n{lines}")


def _differences_of_views(connection: Connection) -> list[tuple[object, ...]]:
    """What `compare_metadata`, which looks at tables alone, would say of the views."""
    there = set(inspect(connection).get_view_names())
    differences: list[tuple[object, ...]] = []
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


def _config(connection: Connection) -> Config:
    config = Config(stdout=io.StringIO())
    config.set_main_option("script_location", str(migrations_folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
