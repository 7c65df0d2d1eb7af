"""Create the tables: queue, legs, archive, ledger and accounts.

Why: the first release. One row for every request ID, one for every leg, one for every different answer,
one for every run, and one for every account.

Revision: 0001, the first
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")
BODY = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql", "mariadb")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def server() -> dict[str, str]:
    """Whatever a MySQL server's own defaults are: transactions, and text of any script in one collation.

    Text is compared by its exact bytes. The collation that does so has one name on MariaDB, one on MySQL. All
    columns have it, or some could not be compared with others.
    """
    is_mariadb = getattr(op.get_bind().dialect, "is_mariadb", False)
    collation = "utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin"
    return {
        f"{name}_{option}": value
        for name in ("mysql", "mariadb")
        for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", collation))
    }


def exact_text(length: int) -> sa.types.TypeEngine[str]:
    """Text that identifies: compared by its exact bytes on PostgreSQL too."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def now() -> sa.TextClause:
    """The present instant by the database's clock, in UTC, with microseconds."""
    return sa.text(
        {
            "sqlite": "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))",
            "postgresql": "statement_timestamp()",
            "mysql": "(utc_timestamp(6))",
            "mariadb": "(utc_timestamp(6))",
        }[op.get_bind().dialect.name]
    )


def upgrade() -> None:
    op.create_table(
        "cdr_requests",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False, comment="Order of arrival"),
        sa.Column(
            "account",
            exact_text(64),
            nullable=False,
            server_default="default",
            comment="Account whose credentials ask for it: a name from the configuration",
        ),
        sa.Column(
            "request_id",
            exact_text(255),
            nullable=False,
            comment="Request ID as PIOPIY issued it; case matters",
        ),
        sa.Column(
            "state",
            sa.String(16),
            nullable=False,
            server_default="pending",
            comment="pending, running, done, empty, dead or cancelled",
        ),
        sa.Column(
            "lane",
            sa.SmallInteger(),
            nullable=False,
            server_default=sa.text("0"),
            comment="0 live, 1 backfill; live is claimed first",
        ),
        sa.Column(
            "batch", sa.String(255), comment="Label given at enqueueing or by a backfill; null for none"
        ),
        sa.Column(
            "run_after",
            INSTANT,
            nullable=False,
            server_default=now(),
            comment="UTC; not asked for before this instant",
        ),
        sa.Column(
            "attempts",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Failed claims so far, and the present one; waits and outages of the API do not count",
        ),
        sa.Column(
            "fetches",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Valid answers received so far",
        ),
        sa.Column(
            "reclaims",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="How often a lease ran out and the request was taken back",
        ),
        sa.Column(
            "leg_count",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Legs in the last valid answer",
        ),
        sa.Column(
            "lease_token", sa.String(32), comment="Random token of the present claim; null when not running"
        ),
        sa.Column(
            "lease_until", INSTANT, comment="UTC; when the present claim runs out; null when not running"
        ),
        sa.Column("done_token", sa.String(32), comment="Token of the claim that was settled last"),
        sa.Column(
            "worker", sa.String(255), comment="Who claimed it last: host, process and run; for people only"
        ),
        sa.Column("run_id", sa.BigInteger(), comment="sync_runs.id of the run that claimed it last"),
        sa.Column(
            "api_count", sa.Integer(), comment="count as the last valid answer said it; null if it did not"
        ),
        sa.Column(
            "last_error_kind",
            sa.String(32),
            comment="Why the last claim failed, one stable word; null if it did not",
        ),
        sa.Column("last_error", sa.Text(), comment="The same in a sentence; never holds a secret"),
        sa.Column(
            "last_http_status", sa.Integer(), comment="HTTP status of the last answer; null if none came"
        ),
        sa.Column(
            "enqueued_at", INSTANT, nullable=False, server_default=now(), comment="UTC; when it arrived here"
        ),
        sa.Column(
            "updated_at",
            INSTANT,
            nullable=False,
            server_default=now(),
            comment="UTC; last change of this row",
        ),
        sa.Column(
            "finished_at", INSTANT, comment="UTC; when it became done, empty, dead or cancelled; else null"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_cdr_requests"),
        sa.CheckConstraint(
            "attempts >= 0 AND fetches >= 0 AND reclaims >= 0 AND leg_count >= 0",
            name=op.f("ck_cdr_requests_counts_are_natural"),
        ),
        sa.CheckConstraint(
            "(state IN ('done', 'empty', 'dead', 'cancelled') AND finished_at IS NOT NULL)"
            " OR (NOT state IN ('done', 'empty', 'dead', 'cancelled') AND finished_at IS NULL)",
            name=op.f("ck_cdr_requests_finished_means_dated"),
        ),
        sa.CheckConstraint("lane IN (0, 1)", name=op.f("ck_cdr_requests_lane_is_known")),
        sa.CheckConstraint(
            "(state = 'running' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state <> 'running' AND lease_token IS NULL AND lease_until IS NULL)",
            name=op.f("ck_cdr_requests_running_means_leased"),
        ),
        sa.CheckConstraint(
            "state IN ('pending', 'running', 'done', 'empty', 'dead', 'cancelled')",
            name=op.f("ck_cdr_requests_state_is_known"),
        ),
        sa.UniqueConstraint("account", "request_id", name="uq_cdr_requests_account_request_id"),
        comment="The queue: one row for every request ID ever asked for",
        sqlite_autoincrement=True,
        **server(),
    )
    op.create_index(
        "ix_cdr_requests_due",
        "cdr_requests",
        ["state", "account", "lane", "run_after", "id"],
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_index(
        "ix_cdr_requests_leased",
        "cdr_requests",
        ["state", "lease_until"],
        sqlite_where=sa.text("state = 'running'"),
        postgresql_where=sa.text("state = 'running'"),
    )
    op.create_table(
        "call_legs",
        sa.Column("account", exact_text(64), nullable=False, comment="Account that placed the call"),
        sa.Column("request_id", exact_text(255), nullable=False, comment="Request ID of the call"),
        sa.Column("leg", exact_text(16), nullable=False, comment="a or b, in lower case (API field leg)"),
        sa.Column(
            "to_number",
            exact_text(64),
            nullable=False,
            comment="Number or agent ID called, as sent, trimmed; empty if none (API field to)",
        ),
        sa.Column("call_time", INSTANT, nullable=False, comment="UTC; the leg's instant (API field time)"),
        sa.Column(
            "occurrence",
            sa.Integer(),
            nullable=False,
            comment="1, 2 and so on among legs of a request equal in leg, to_number and call_time",
        ),
        sa.Column(
            "from_number",
            exact_text(64),
            nullable=False,
            comment="Calling number, as sent, trimmed; empty if none (API field from)",
        ),
        sa.Column(
            "from_e164", exact_text(16), comment="Calling number in E.164; null if it is no valid number"
        ),
        sa.Column("to_e164", exact_text(16), comment="Number called in E.164; null if it is no valid number"),
        sa.Column(
            "to_country", sa.String(2), comment="Country of to_e164, ISO 3166 alpha-2; null if unknown"
        ),
        sa.Column(
            "duration_seconds",
            sa.Integer(),
            comment="Seconds; the vendor does not say whether ringing counts (API field duration)",
        ),
        sa.Column(
            "rate",
            sa.Numeric(38, 18),
            comment="Account currency; the vendor says billed call rate; null if not sent (API field rate)",
        ),
        sa.Column(
            "balance",
            sa.Numeric(38, 18),
            comment="Account currency; balance after this leg; null if not sent (API field balance)",
        ),
        sa.Column(
            "direction", sa.String(32), comment="outbound, inbound or other, as sent (API field direction)"
        ),
        sa.Column("status", sa.String(32), comment="answered, missed or other, as sent (API field status)"),
        sa.Column(
            "extra", sa.JSON(), comment="Fields that the API's documentation does not know; null if none"
        ),
        sa.Column(
            "revision", sa.Integer(), nullable=False, comment="1, and 1 more at every change of content"
        ),
        sa.Column(
            "first_seen_at", INSTANT, nullable=False, server_default=now(), comment="UTC; first stored"
        ),
        sa.Column(
            "updated_at",
            INSTANT,
            nullable=False,
            server_default=now(),
            comment="UTC; last change of this row",
        ),
        sa.Column("missing_since", INSTANT, comment="UTC; a later answer no longer held this leg; else null"),
        sa.Column("run_id", sa.BigInteger(), comment="sync_runs.id of the run that changed this row last"),
        sa.PrimaryKeyConstraint(
            "account", "request_id", "leg", "to_number", "call_time", "occurrence", name="pk_call_legs"
        ),
        sa.CheckConstraint("occurrence >= 1", name=op.f("ck_call_legs_occurrence_counts_from_one")),
        sa.CheckConstraint("revision >= 1", name=op.f("ck_call_legs_revision_counts_from_one")),
        comment="One row for every leg of every call",
        **server(),
    )
    op.create_table(
        "cdr_responses",
        sa.Column("account", exact_text(64), nullable=False, comment="Account that asked"),
        sa.Column("request_id", exact_text(255), nullable=False, comment="Request ID that was asked for"),
        sa.Column(
            "revision",
            sa.Integer(),
            nullable=False,
            comment="1 for the first answer, 1 more for each different one",
        ),
        sa.Column("run_id", sa.BigInteger(), comment="sync_runs.id of the run that received it"),
        sa.Column(
            "fetched_at", INSTANT, nullable=False, server_default=now(), comment="UTC; when it was stored"
        ),
        sa.Column("http_status", sa.Integer(), comment="HTTP status"),
        sa.Column("body", BODY, nullable=False, comment="The body as received, valid or malformed"),
        sa.Column(
            "sha256", sa.String(64), nullable=False, comment="SHA-256 of the body's bytes, in hexadecimal"
        ),
        sa.PrimaryKeyConstraint("account", "request_id", "revision", name="pk_cdr_responses"),
        comment="The raw archive: each answer whose content differs from the one before",
        **server(),
    )
    op.create_table(
        "sync_runs",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False, comment="Number of the run"),
        sa.Column("command", sa.String(32), nullable=False, comment="Command that ran"),
        sa.Column("batch", sa.String(255), comment="Label that the run was limited to; null for none"),
        sa.Column("host", sa.String(255), nullable=False, comment="Host name"),
        sa.Column("pid", sa.Integer(), nullable=False, comment="Process ID on that host"),
        sa.Column("version", sa.String(32), nullable=False, comment="Version of cdr-sync"),
        sa.Column("started_at", INSTANT, nullable=False, server_default=now(), comment="UTC"),
        sa.Column("finished_at", INSTANT, comment="UTC; null while it runs"),
        sa.Column(
            "outcome",
            sa.String(32),
            nullable=False,
            server_default="running",
            comment="running, ok, dead_letters, api_down, credentials_refused, interrupted, failed, "
            "abandoned",
        ),
        sa.Column(
            "claimed", sa.Integer(), nullable=False, server_default=sa.text("0"), comment="Claims made"
        ),
        sa.Column(
            "api_calls",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Calls of the API, tries included",
        ),
        sa.Column(
            "done",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Requests that became done",
        ),
        sa.Column(
            "without_legs",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Requests that became empty",
        ),
        sa.Column(
            "put_off",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Answers that are not final yet",
        ),
        sa.Column(
            "retried",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Failed claims that will be tried again",
        ),
        sa.Column(
            "released",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Claims given back unjudged",
        ),
        sa.Column(
            "dead",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Requests that became dead",
        ),
        sa.Column(
            "lost_leases",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Answers not stored, since the claim had run out and been taken over",
        ),
        sa.Column(
            "legs_inserted",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Legs stored for the first time",
        ),
        sa.Column(
            "legs_updated",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Legs whose content changed",
        ),
        sa.Column(
            "legs_unchanged",
            sa.Integer(),
            nullable=False,
            server_default=sa.text("0"),
            comment="Legs that were stored already",
        ),
        sa.Column("error", sa.Text(), comment="What went wrong, in a sentence; null if nothing did"),
        sa.PrimaryKeyConstraint("id", name="pk_sync_runs"),
        sa.CheckConstraint(
            "outcome IN ('running', 'ok', 'dead_letters', 'api_down', 'credentials_refused',"
            " 'interrupted', 'failed', 'abandoned')",
            name=op.f("ck_sync_runs_outcome_is_known"),
        ),
        comment="The ledger: one row for every run, written at its start",
        sqlite_autoincrement=True,
        **server(),
    )
    op.create_table(
        "api_accounts",
        sa.Column("account", exact_text(64), nullable=False, comment="Name from the configuration"),
        sa.Column(
            "canary_request_id", exact_text(255), comment="Latest request known to be good; null if none yet"
        ),
        sa.Column(
            "breaker_opened_at", INSTANT, comment="UTC; since when the API counts as down; null if it works"
        ),
        sa.Column("breaker_reason", sa.Text(), comment="What opened the breaker; null if the API works"),
        sa.Column(
            "paused_until", INSTANT, comment="UTC; the API asked for patience until then; null if it did not"
        ),
        sa.Column(
            "updated_at",
            INSTANT,
            nullable=False,
            server_default=now(),
            comment="UTC; last change of this row",
        ),
        sa.PrimaryKeyConstraint("account", name="pk_api_accounts"),
        comment="What all machines share about an account: breaker, pause and canary",
        **server(),
    )


def downgrade() -> None:
    for table in ("api_accounts", "sync_runs", "cdr_responses", "call_legs", "cdr_requests"):
        op.drop_table(table)
