"""Let runs prove their commits, and let all machines share one rate limit.

Why: a connection can break after the database committed and before it said so. A run that numbers its
transactions in its own row of the ledger can look there whether the last one happened, and need not guess.
A process ID means something on one machine alone, and two machines can have one name. And a limit on calls
is a limit only if every process keeps to the same one. The indexes find the few open runs and the
dead requests among all others.

Revision: 0003, after 0002
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def upgrade() -> None:
    op.add_column(
        "sync_runs",
        sa.Column(
            "turns",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Number of its last transaction that claimed or settled: tells whether a commit happened",
        ),
    )
    op.add_column(
        "sync_runs",
        sa.Column("seen_at", INSTANT, comment="UTC; when that transaction was; null before the first"),
    )
    op.add_column(
        "sync_runs",
        sa.Column(
            "pid_scope",
            sa.String(64),
            comment="Where pid means something: the machine's boot and process namespace; null if unknown",
        ),
    )
    op.create_index(
        "ix_cdr_requests_dead",
        "cdr_requests",
        ["state", "last_error_kind"],
        sqlite_where=sa.text("state = 'dead'"),
        postgresql_where=sa.text("state = 'dead'"),
    )
    op.create_index(
        "ix_sync_runs_running",
        "sync_runs",
        ["outcome"],
        sqlite_where=sa.text("outcome = 'running'"),
        postgresql_where=sa.text("outcome = 'running'"),
    )
    op.add_column(
        "api_accounts",
        sa.Column(
            "rate_paid_until_us",
            sa.BigInteger(),
            comment="Microseconds since 1970 by the database's clock: when the calls made so far are paid "
            "off at the rate limit; null if it never had one",
        ),
    )


def downgrade() -> None:
    op.drop_column("api_accounts", "rate_paid_until_us")
    op.drop_index("ix_sync_runs_running", "sync_runs")
    op.drop_index("ix_cdr_requests_dead", "cdr_requests")
    op.drop_column("sync_runs", "pid_scope")
    op.drop_column("sync_runs", "seen_at")
    op.drop_column("sync_runs", "turns")
