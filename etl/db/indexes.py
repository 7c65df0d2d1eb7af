"""The indexes of the queue. Apart from the tables, since only migrations and checks need to know them.

Where the database can, an index holds only rows of one state, so that a million done ones cost nothing.
"""

from __future__ import annotations

from sqlalchemy import Index, text

from etl.db.tables import cdr_requests, metadata, sync_runs

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
# The runs that have not ended, or ended without a word.
Index(
    "ix_sync_runs_running",
    sync_runs.c.outcome,
    sqlite_where=text("outcome = 'running'"),
    postgresql_where=text("outcome = 'running'"),
)

__all__ = ["metadata"]
