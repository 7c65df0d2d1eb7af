"""Create the tables: queue, legs, archive, ledger, accounts and backfills.

Why: the job and its reports need one row per request ID, leg, changed answer, run, account and backfill. Each
table's comment says what its rows are.

Revision: 0001, the first
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import mysql

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

INSTANT = sa.DateTime(timezone=True).with_variant(mysql.DATETIME(fsp=6), "mysql")
BODY = sa.Text().with_variant(mysql.MEDIUMTEXT(), "mysql")  # TEXT ends at 64 kB there
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows of an INTEGER key only
# With a scale, PostgreSQL would pad every amount with zeros.
MONEY = sa.Numeric(38, 18).with_variant(sa.Numeric(), "postgresql")


class DayOfCall(sa.types.UserDefinedType[None]):
    """A computed column of MySQL and MariaDB, hidden from `SELECT *` (by MySQL from 8.0.23 on)."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "date AS (CAST(call_time AS date)) VIRTUAL /*!80023 INVISIBLE */ /*M!100300 INVISIBLE */"


def exact_text(length: int) -> sa.types.TypeEngine[str]:
    """Text that identifies: compared by its exact bytes. On MySQL all columns are: see `create_table`."""
    return sa.String(length).with_variant(sa.String(length, collation="C"), "postgresql")


def now() -> sa.TextClause:
    """The current instant by the database's clock, in UTC, with microseconds."""
    return sa.text(
        {
            "sqlite": "(strftime('%Y-%m-%d %H:%M:%f000', 'now'))",
            "postgresql": "statement_timestamp()",
            "mysql": "(utc_timestamp(6))",
        }[op.get_bind().dialect.name]
    )


def column(name: str, kind: sa.types.TypeEngine[Any], comment: str, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, comment=comment, **options)


def required(name: str, kind: sa.types.TypeEngine[Any], comment: str, **options: Any) -> sa.Column[Any]:
    return column(name, kind, comment, nullable=False, **options)


def instant(name: str, comment: str) -> sa.Column[Any]:
    """A required instant; the default is now."""
    return required(name, INSTANT, comment, server_default=now())


def count(name: str, comment: str) -> sa.Column[Any]:
    """A required number that starts at 0."""
    return required(name, sa.Integer(), comment, server_default=sa.text("0"))


def check(name: str, condition: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(condition, name=op.f(name))


def create_table(name: str, *parts: sa.schema.SchemaItem, **options: Any) -> None:
    """Create a table that does not depend on a server's defaults: transactions, any script, exact text.

    Text is compared by its bytes. All columns share one collation, because columns of different ones cannot
    be compared.
    """
    is_mariadb = getattr(op.get_bind().dialect, "is_mariadb", False)
    op.create_table(
        name,
        *parts,
        mysql_engine="InnoDB",
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_nopad_bin" if is_mariadb else "utf8mb4_0900_bin",
        **options,
    )


def create_index(name: str, table: str, columns: list[str | sa.TextClause], rows: str | None = None) -> None:
    """Index some columns: of the rows that are looked for, where the database can leave the others out."""
    where = None if rows is None else sa.text(rows)
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)


def upgrade() -> None:
    create_cdr_requests()
    create_call_legs()
    create_cdr_responses()
    create_sync_runs()
    create_api_accounts()
    create_backfills()
    create_indexes()


def create_cdr_requests() -> None:
    create_table(
        "cdr_requests",
        *columns_of_the_request(),
        *columns_of_its_claim(),
        sa.PrimaryKeyConstraint("id", name="pk_cdr_requests"),
        check(
            "ck_cdr_requests_counts_are_natural",
            "attempts >= 0 AND fetches >= 0 AND reclaims >= 0 AND leg_count >= 0",
        ),
        check(
            "ck_cdr_requests_finished_means_dated",
            "(state IN ('done', 'empty', 'dead', 'cancelled') AND finished_at IS NOT NULL)"
            " OR (NOT state IN ('done', 'empty', 'dead', 'cancelled') AND finished_at IS NULL)",
        ),
        check("ck_cdr_requests_lane_is_known", "lane IN (0, 1)"),
        check(
            "ck_cdr_requests_running_means_leased",
            "(state = 'running' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
            " OR (state <> 'running' AND lease_token IS NULL AND lease_until IS NULL)",
        ),
        check(
            "ck_cdr_requests_state_is_known",
            "state IN ('pending', 'running', 'done', 'empty', 'dead', 'cancelled')",
        ),
        sa.UniqueConstraint("account", "request_id", name="uq_cdr_requests_account_request_id"),
        comment="The queue: one row for every request ID ever asked for",
        sqlite_autoincrement=True,
    )


def columns_of_the_request() -> Sequence[sa.Column[Any]]:
    return (
        required("id", ROW_ID, "Order of arrival", autoincrement=True),
        required(
            "account",
            exact_text(64),
            "Account whose credentials are used: a name from the configuration",
            server_default="default",
        ),
        required("request_id", exact_text(255), "Request ID as PIOPIY issued it; case matters"),
        required(
            "state",
            sa.String(16),
            "pending, running, done, empty, dead or cancelled",
            server_default="pending",
        ),
        required(
            "lane",
            sa.SmallInteger(),
            "0 live, 1 backfill; live is claimed first",
            server_default=sa.text("0"),
        ),
        column("batch", exact_text(255), "Label given at enqueueing or by a backfill; null for none"),
        instant("run_after", "UTC; not due before this instant"),
        count(
            "attempts", "Failed claims so far, and the current one; waits and outages of the API do not count"
        ),
        count("fetches", "Valid answers received so far"),
        count("reclaims", "How often a lease expired and the request was reclaimed"),
        count("leg_count", "Legs in the last valid answer"),
    )


def columns_of_its_claim() -> Sequence[sa.Column[Any]]:
    return (
        column("lease_token", sa.String(32), "Random token of the current claim; null when not running"),
        column("lease_until", INSTANT, "UTC; when the current claim expires; null when not running"),
        column("done_token", sa.String(32), "Token of the claim that was settled last"),
        column("worker", sa.String(255), "Who claimed it last: host, process and run; for people only"),
        column("run_id", sa.BigInteger(), "sync_runs.id of the run that claimed it last"),
        column("api_count", sa.Integer(), "count in the last valid answer; null if it had none"),
        column(
            "forgotten_at",
            INSTANT,
            "UTC; when its phone number was erased; it is never asked for again; else null",
        ),
        column(
            "last_error_kind", sa.String(32), "Why the last claim failed, one stable word; null if it did not"
        ),
        column("last_error", sa.Text(), "The same in a sentence; never contains a secret"),
        column("last_http_status", sa.Integer(), "HTTP status of the last answer; null if none came"),
        instant("enqueued_at", "UTC; when it was enqueued"),
        instant("updated_at", "UTC; last change of this row"),
        column("finished_at", INSTANT, "UTC; when it became done, empty, dead or cancelled; else null"),
    )


def create_call_legs() -> None:
    create_table(
        "call_legs",
        *columns_of_call_legs(),
        *day_of_call(),
        sa.PrimaryKeyConstraint(
            "account", "request_id", "leg", "to_number", "call_time", "occurrence", name="pk_call_legs"
        ),
        check("ck_call_legs_occurrence_counts_from_one", "occurrence >= 1"),
        check("ck_call_legs_revision_counts_from_one", "revision >= 1"),
        comment="One row for every leg of every call",
    )


def columns_of_call_legs() -> Sequence[sa.Column[Any]]:
    return (
        required("account", exact_text(64), "Account that placed the call"),
        required("request_id", exact_text(255), "Request ID of the call"),
        required("leg", exact_text(16), "a or b, in lower case (API field leg)"),
        required(
            "to_number",
            exact_text(64),
            "Number or agent ID called, as sent, trimmed; empty if none (API field to)",
        ),
        required("call_time", INSTANT, "UTC; the leg's instant (API field time)"),
        required(
            "occurrence",
            sa.Integer(),
            "1, 2 and so on among legs of a request equal in leg, to_number and call_time",
        ),
        required(
            "from_number", exact_text(64), "Calling number, as sent, trimmed; empty if none (API field from)"
        ),
        column("from_e164", exact_text(16), "Calling number in E.164; null if it is not a valid number"),
        column("to_e164", exact_text(16), "Number called in E.164; null if it is not a valid number"),
        column("to_country", sa.String(2), "Country of to_e164, ISO 3166 alpha-2; null if unknown"),
        column(
            "duration_seconds",
            sa.Integer(),
            "Seconds; the vendor does not say whether ringing counts (API field duration)",
        ),
        column(
            "rate",
            MONEY,
            "Account currency; the vendor says billed call rate; null if not sent (API field rate)",
        ),
        column(
            "balance", MONEY, "Account currency; balance after this leg; null if not sent (API field balance)"
        ),
        column("direction", sa.String(32), "outbound, inbound or other, as sent (API field direction)"),
        column("status", sa.String(32), "answered, missed or other, as sent (API field status)"),
        column("extra", sa.JSON(), "Fields that are not in the API's documentation; null if none"),
        required("revision", sa.Integer(), "1, and +1 at every change of content"),
        instant("first_seen_at", "UTC; first stored"),
        instant("updated_at", "UTC; last change of this row"),
        column("missing_since", INSTANT, "UTC; a later answer no longer contained this leg; else null"),
        column("run_id", sa.BigInteger(), "sync_runs.id of the run that changed this row last"),
    )


def day_of_call() -> list[sa.Column[None]]:
    """The column that stands for the index on an expression, which MariaDB does not have."""
    if op.get_bind().dialect.name != "mysql":
        return []
    return [column("call_day", DayOfCall(), "UTC day of call_time, for the index")]


def create_cdr_responses() -> None:
    create_table(
        "cdr_responses",
        required("account", exact_text(64), "Account that asked"),
        required("request_id", exact_text(255), "Request ID that was asked for"),
        required("revision", sa.Integer(), "1 for the first answer, +1 for each different one"),
        column("run_id", sa.BigInteger(), "sync_runs.id of the run that received it"),
        instant("fetched_at", "UTC; when it was stored"),
        column("http_status", sa.Integer(), "HTTP status"),
        required("body", BODY, "The body as received, valid or malformed"),
        required("sha256", sa.String(64), "SHA-256 of the body's bytes, in hexadecimal"),
        sa.PrimaryKeyConstraint("account", "request_id", "revision", name="pk_cdr_responses"),
        comment="The raw archive: each answer whose content differs from the one before",
    )


def create_sync_runs() -> None:
    create_table(
        "sync_runs",
        required("id", ROW_ID, "Number of the run", autoincrement=True),
        required("command", sa.String(32), "Command that ran"),
        column("batch", exact_text(255), "Label that the run was limited to; null for none"),
        required("host", sa.String(255), "Host name"),
        required("pid", sa.Integer(), "Process ID on that host"),
        column(
            "pid_scope",
            sa.String(64),
            "Where pid is valid: the machine's boot and process namespace; null if unknown",
        ),
        required("version", sa.String(32), "Version of cdr-sync"),
        instant("started_at", "UTC"),
        column("finished_at", INSTANT, "UTC; null while it runs"),
        required(
            "outcome",
            sa.String(32),
            "running, ok, dead_letters, api_down, credentials_refused, interrupted, failed, abandoned",
            server_default="running",
        ),
        *counts_of_runs(),
        column("error", sa.Text(), "What went wrong, in a sentence; null if nothing did"),
        count("transactions", "Number of its last transaction that claimed or settled: proves its commit"),
        column("seen_at", INSTANT, "UTC; when that transaction was; null before the first"),
        sa.PrimaryKeyConstraint("id", name="pk_sync_runs"),
        check(
            "ck_sync_runs_outcome_is_known",
            "outcome IN ('running', 'ok', 'dead_letters', 'api_down', 'credentials_refused',"
            " 'interrupted', 'failed', 'abandoned')",
        ),
        comment="The ledger: one row for every run, written at its start",
        sqlite_autoincrement=True,
    )


def counts_of_runs() -> Sequence[sa.Column[Any]]:
    return (
        count("claimed", "Claims made"),
        count("api_calls", "Calls of the API, tries included"),
        count("done", "Requests that became done"),
        count("without_legs", "Requests that became empty: no leg ever came"),
        count("put_off", "Answers that are not final yet"),
        count("retried", "Failed claims that will be tried again"),
        count("released", "Claims given back without an outcome"),
        count("dead", "Requests that became dead"),
        count(
            "lost_leases", "Answers not stored, because the lease had expired and another run had claimed it"
        ),
        count("legs_inserted", "Legs stored for the first time"),
        count("legs_updated", "Legs whose content changed"),
        count("legs_unchanged", "Legs that were stored already"),
    )


def create_api_accounts() -> None:
    create_table(
        "api_accounts",
        required("account", exact_text(64), "Name from the configuration"),
        column("canary_request_id", exact_text(255), "Latest request known to be good; null if none yet"),
        column("breaker_opened_at", INSTANT, "UTC; when the circuit breaker opened; null while it is closed"),
        column("breaker_reason", sa.Text(), "What opened the breaker; null while it is closed"),
        column("paused_until", INSTANT, "UTC; the API asked to wait until then; null if it did not"),
        column(
            "rate_paid_until_us",
            sa.BigInteger(),
            "Microseconds since 1970 by the database's clock: when the calls made so far are paid "
            "off at the rate limit; null if it never had one",
        ),
        instant("updated_at", "UTC; last change of this row"),
        sa.PrimaryKeyConstraint("account", name="pk_api_accounts"),
        comment="What all machines share about an account: breaker, pause, canary and rate limit",
    )


def create_backfills() -> None:
    create_table(
        "backfills",
        required("label", exact_text(255), "The batch of its requests"),
        instant("created_at", "UTC; when it was started"),
        column("marked_at", INSTANT, "UTC; when all its requests were marked; null before that"),
        required("selection", sa.JSON(), "What was selected: options and their values"),
        count("selected", "Requests selected so far; those no longer in the batch moved to another one"),
        sa.PrimaryKeyConstraint("label", name="pk_backfills"),
        comment="One row for every backfill; the requests of its batch show its progress",
    )


def create_indexes() -> None:
    in_order_of_claims = ["state", "account", "lane", "run_after", "id"]
    create_index("ix_cdr_requests_due", "cdr_requests", in_order_of_claims, "state = 'pending'")
    create_index("ix_cdr_requests_batch", "cdr_requests", ["batch", *in_order_of_claims], "batch IS NOT NULL")
    create_index("ix_cdr_requests_leased", "cdr_requests", ["state", "lease_until"], "state = 'running'")
    create_index("ix_cdr_requests_dead", "cdr_requests", ["state", "last_error_kind"], "state = 'dead'")
    create_index("ix_sync_runs_running", "sync_runs", ["outcome"], "outcome = 'running'")
    create_index("ix_call_legs_call_time", "call_legs", ["call_time"])
    create_index("ix_call_legs_from_e164", "call_legs", ["from_e164"], "from_e164 IS NOT NULL")
    create_index("ix_call_legs_to_e164", "call_legs", ["to_e164"], "to_e164 IS NOT NULL")
    # The UTC day, by which the views per day find their calls. The views in 0002 use the same expression.
    day = {
        "sqlite": "(substr(call_time, 1, 10))",
        "postgresql": "(CAST(call_time AT TIME ZONE 'UTC' AS date))",
        "mysql": "call_day",
    }
    create_index("ix_call_legs_call_day", "call_legs", [sa.text(day[op.get_bind().dialect.name])])


def downgrade() -> None:
    for table in ("backfills", "api_accounts", "sync_runs", "cdr_responses", "call_legs", "cdr_requests"):
        op.drop_table(table)
