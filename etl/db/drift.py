"""What of the tables and views in a database differs from what this version expects."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError, SAWarning

from etl.db.indexes import DAY_INDEX, NAMES_OF_INDEXES, is_in_models, metadata
from etl.db.views import VIEWS

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
