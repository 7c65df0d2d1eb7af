"""The indexes. Apart from the tables, because only migrations and checks need them.

Where the database can, an index holds only the rows that are looked for, so that a million done requests cost
nothing.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Column, Index, text

from etl.db.tables import call_legs, cdr_requests, metadata, sync_runs


def _index(name: str, *columns: Column[Any], rows: str | None = None) -> None:
    where = None if rows is None else text(rows)
    Index(name, *columns, sqlite_where=where, postgresql_where=where)


_request, _leg = cdr_requests.c, call_legs.c
_in_order_of_claims = (_request.state, _request.account, _request.lane, _request.run_after, _request.id)

_index("ix_cdr_requests_due", *_in_order_of_claims, rows="state = 'pending'")
# The requests with a label: claimed in the same order, and counted by state.
_index("ix_cdr_requests_batch", _request.batch, *_in_order_of_claims, rows="batch IS NOT NULL")
# The leases that may have expired.
_index("ix_cdr_requests_leased", _request.state, _request.lease_until, rows="state = 'running'")
# The dead letters by reason: few among many, and counted every minute where metrics are written.
_index("ix_cdr_requests_dead", _request.state, _request.last_error_kind, rows="state = 'dead'")
# The calls of a period, for analysts and exports.
_index("ix_call_legs_call_time", _leg.call_time)
# The calls of a number.
_index("ix_call_legs_from_e164", _leg.from_e164, rows="from_e164 IS NOT NULL")
_index("ix_call_legs_to_e164", _leg.to_e164, rows="to_e164 IS NOT NULL")
# The runs that have not ended, or were killed.
_index("ix_sync_runs_running", sync_runs.c.outcome, rows="outcome = 'running'")

# The legs of a UTC day, by which the views per day find the calls of a month. Only the migrations have it: it
# is an index on an expression, and on MySQL and MariaDB one on a hidden column.
DAY_INDEX, _DAY_COLUMN = "ix_call_legs_call_day", "call_day"
NAMES_OF_INDEXES = {
    "sqlite": "SELECT name FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname FROM pg_indexes WHERE schemaname = ANY (current_schemas(false))",
    "mysql": "SELECT index_name FROM information_schema.statistics WHERE table_schema = database()",
}


def is_in_models(_object: object, name: str | None, *_: object) -> bool:
    """Whether the models have a thing that Alembic found in the database, which it then compares."""
    return name not in (DAY_INDEX, _DAY_COLUMN)


__all__ = ["DAY_INDEX", "NAMES_OF_INDEXES", "is_in_models", "metadata"]
