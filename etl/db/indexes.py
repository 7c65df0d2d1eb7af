"""The indexes. Apart from the tables, since only migrations and checks need to know them.

Where the database can, an index holds only rows of one state, so that a million done ones cost nothing.
"""

from __future__ import annotations

from sqlalchemy import Index, text

from etl.db.tables import call_legs, cdr_requests, metadata, sync_runs

_column = cdr_requests.c

# The order of a claim: within one state, account and lane, what has been due longest.
Index(
    "ix_cdr_requests_due",
    _column.state,
    _column.account,
    _column.lane,
    _column.run_after,
    _column.id,
    sqlite_where=text("state = 'pending'"),
    postgresql_where=text("state = 'pending'"),
)
# The claims that may have run out.
Index(
    "ix_cdr_requests_leased",
    _column.state,
    _column.lease_until,
    sqlite_where=text("state = 'running'"),
    postgresql_where=text("state = 'running'"),
)
# The dead letters by their reason: few among many, and counted every minute where metrics are written.
Index(
    "ix_cdr_requests_dead",
    _column.state,
    _column.last_error_kind,
    sqlite_where=text("state = 'dead'"),
    postgresql_where=text("state = 'dead'"),
)
# What carries one label: claimed in the order of a claim, and counted by state.
Index(
    "ix_cdr_requests_batch",
    _column.batch,
    _column.state,
    _column.account,
    _column.lane,
    _column.run_after,
    _column.id,
    sqlite_where=text("batch IS NOT NULL"),
    postgresql_where=text("batch IS NOT NULL"),
)
# The calls of some time, for analysts and exports.
Index("ix_call_legs_call_time", call_legs.c.call_time)
# The calls of a number.
Index(
    "ix_call_legs_from_e164",
    call_legs.c.from_e164,
    sqlite_where=text("from_e164 IS NOT NULL"),
    postgresql_where=text("from_e164 IS NOT NULL"),
)
Index(
    "ix_call_legs_to_e164",
    call_legs.c.to_e164,
    sqlite_where=text("to_e164 IS NOT NULL"),
    postgresql_where=text("to_e164 IS NOT NULL"),
)
# The runs that have not ended, or ended without a word.
Index(
    "ix_sync_runs_running",
    sync_runs.c.outcome,
    sqlite_where=text("outcome = 'running'"),
    postgresql_where=text("outcome = 'running'"),
)

# The legs of a UTC day, by which the daily views find the calls of a month. It is known to migrations alone,
# since it is an index on an expression where the database has such, and else one on a hidden column.
DAY_INDEX, _DAY_COLUMN = "ix_call_legs_call_day", "call_day"
NAMES_OF_INDEXES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE schemaname = ANY (current_schemas(false))",
    "mysql": "SELECT index_name FROM information_schema.statistics WHERE table_schema = database()",
    "mariadb": "SELECT index_name FROM information_schema.statistics WHERE table_schema = database()",
}


def is_in_models(_object: object, name: str | None, *_: object) -> bool:
    """Whether Alembic finds a thing in the models too, and so is to compare it."""
    return name not in (DAY_INDEX, _DAY_COLUMN)


__all__ = ["DAY_INDEX", "NAMES_OF_INDEXES", "is_in_models", "metadata"]
