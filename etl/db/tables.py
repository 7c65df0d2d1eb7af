"""The tables, as this version needs them. The migrations build them, and a test compares the two."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from etl.db.dialects import ExactText, Instant, LongText, Money, db_now
from etl.db.states import FINISHED, PENDING, RUN_OUTCOMES, STATES

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _one_of(column: str, values: tuple[str, ...]) -> str:
    return f"{column} IN ({', '.join(repr(value) for value in values)})"


def _instant(name: str, comment: str) -> Column[datetime]:
    """A required instant; the default is now."""
    return Column(name, Instant, nullable=False, server_default=db_now(), comment=comment)


def _count(name: str, comment: str) -> Column[int]:
    """A required number that starts at 0."""
    return Column(name, Integer, nullable=False, server_default=text("0"), comment=comment)


# SQLite numbers rows by itself only if the key's type is exactly INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

cdr_requests = Table(
    "cdr_requests",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True, comment="Order of arrival"),
    Column(
        "account",
        ExactText(64),
        nullable=False,
        server_default="default",
        comment="Account whose credentials are used: a name from the configuration",
    ),
    Column(
        "request_id", ExactText(255), nullable=False, comment="Request ID as PIOPIY issued it; case matters"
    ),
    Column(
        "state",
        String(16),
        nullable=False,
        server_default=PENDING,
        comment="pending, running, done, empty, dead or cancelled",
    ),
    Column(
        "lane",
        SmallInteger,
        nullable=False,
        server_default=text("0"),
        comment="0 live, 1 backfill; live is claimed first",
    ),
    Column("batch", ExactText(255), comment="Label given at enqueueing or by a backfill; null for none"),
    _instant("run_after", "UTC; not due before this instant"),
    _count(
        "attempts", "Failed claims so far, and the current one; waits and outages of the API do not count"
    ),
    _count("fetches", "Valid answers received so far"),
    _count("reclaims", "How often a lease expired and the request was reclaimed"),
    _count("leg_count", "Legs in the last valid answer"),
    Column("lease_token", String(32), comment="Random token of the current claim; null when not running"),
    Column("lease_until", Instant, comment="UTC; when the current claim expires; null when not running"),
    Column("done_token", String(32), comment="Token of the claim that was settled last"),
    Column("worker", String(255), comment="Who claimed it last: host, process and run; for people only"),
    Column("run_id", BigInteger, comment="sync_runs.id of the run that claimed it last"),
    Column("api_count", Integer, comment="count in the last valid answer; null if it had none"),
    Column(
        "forgotten_at",
        Instant,
        comment="UTC; when its phone number was erased; it is never asked for again; else null",
    ),
    Column(
        "last_error_kind",
        String(32),
        comment="Why the last claim failed, one stable word; null if it did not",
    ),
    Column("last_error", Text, comment="The same in a sentence; never holds a secret"),
    Column("last_http_status", Integer, comment="HTTP status of the last answer; null if none came"),
    _instant("enqueued_at", "UTC; when it was enqueued"),
    _instant("updated_at", "UTC; last change of this row"),
    Column("finished_at", Instant, comment="UTC; when it became done, empty, dead or cancelled; else null"),
    UniqueConstraint("account", "request_id"),
    CheckConstraint(_one_of("state", tuple(STATES)), name="state_is_known"),
    CheckConstraint("lane IN (0, 1)", name="lane_is_known"),
    CheckConstraint(
        "(state = 'running' AND lease_token IS NOT NULL AND lease_until IS NOT NULL)"
        " OR (state <> 'running' AND lease_token IS NULL AND lease_until IS NULL)",
        name="running_means_leased",
    ),
    CheckConstraint(
        f"({_one_of('state', FINISHED)} AND finished_at IS NOT NULL)"
        f" OR (NOT {_one_of('state', FINISHED)} AND finished_at IS NULL)",
        name="finished_means_dated",
    ),
    CheckConstraint(
        "attempts >= 0 AND fetches >= 0 AND reclaims >= 0 AND leg_count >= 0", name="counts_are_natural"
    ),
    comment="The queue: one row for every request ID ever asked for",
    sqlite_autoincrement=True,
)

call_legs = Table(
    "call_legs",
    metadata,
    Column("account", ExactText(64), nullable=False, comment="Account that placed the call"),
    Column("request_id", ExactText(255), nullable=False, comment="Request ID of the call"),
    Column("leg", ExactText(16), nullable=False, comment="a or b, in lower case (API field leg)"),
    Column(
        "to_number",
        ExactText(64),
        nullable=False,
        comment="Number or agent ID called, as sent, trimmed; empty if none (API field to)",
    ),
    Column("call_time", Instant, nullable=False, comment="UTC; the leg's instant (API field time)"),
    Column(
        "occurrence",
        Integer,
        nullable=False,
        comment="1, 2 and so on among legs of a request equal in leg, to_number and call_time",
    ),
    Column(
        "from_number",
        ExactText(64),
        nullable=False,
        comment="Calling number, as sent, trimmed; empty if none (API field from)",
    ),
    Column("from_e164", ExactText(16), comment="Calling number in E.164; null if it is not a valid number"),
    Column("to_e164", ExactText(16), comment="Number called in E.164; null if it is not a valid number"),
    Column("to_country", String(2), comment="Country of to_e164, ISO 3166 alpha-2; null if unknown"),
    Column(
        "duration_seconds",
        Integer,
        comment="Seconds; the vendor does not say whether ringing counts (API field duration)",
    ),
    Column(
        "rate",
        Money,
        comment="Account currency; the vendor says billed call rate; null if not sent (API field rate)",
    ),
    Column(
        "balance",
        Money,
        comment="Account currency; balance after this leg; null if not sent (API field balance)",
    ),
    Column("direction", String(32), comment="outbound, inbound or other, as sent (API field direction)"),
    Column("status", String(32), comment="answered, missed or other, as sent (API field status)"),
    Column(
        "extra",
        JSON(none_as_null=True),
        comment="Fields that are not in the API's documentation; null if none",
    ),
    Column("revision", Integer, nullable=False, comment="1, and +1 at every change of content"),
    _instant("first_seen_at", "UTC; first stored"),
    _instant("updated_at", "UTC; last change of this row"),
    Column("missing_since", Instant, comment="UTC; a later answer no longer held this leg; else null"),
    Column("run_id", BigInteger, comment="sync_runs.id of the run that changed this row last"),
    PrimaryKeyConstraint("account", "request_id", "leg", "to_number", "call_time", "occurrence"),
    CheckConstraint("occurrence >= 1", name="occurrence_counts_from_one"),
    CheckConstraint("revision >= 1", name="revision_counts_from_one"),
    comment="One row for every leg of every call",
)

cdr_responses = Table(
    "cdr_responses",
    metadata,
    Column("account", ExactText(64), nullable=False, comment="Account that asked"),
    Column("request_id", ExactText(255), nullable=False, comment="Request ID that was asked for"),
    Column("revision", Integer, nullable=False, comment="1 for the first answer, +1 for each different one"),
    Column("run_id", BigInteger, comment="sync_runs.id of the run that received it"),
    _instant("fetched_at", "UTC; when it was stored"),
    Column("http_status", Integer, comment="HTTP status"),
    Column(
        "body",
        LongText,
        nullable=False,
        comment="The body as received, valid or malformed",
    ),
    Column("sha256", String(64), nullable=False, comment="SHA-256 of the body's bytes, in hexadecimal"),
    PrimaryKeyConstraint("account", "request_id", "revision"),
    comment="The raw archive: each answer whose content differs from the one before",
)

_COUNTS = {
    "claimed": "Claims made",
    "api_calls": "Calls of the API, tries included",
    "done": "Requests that became done",
    "without_legs": "Requests that became empty: no leg ever came",
    "put_off": "Answers that are not final yet",
    "retried": "Failed claims that will be tried again",
    "released": "Claims given back without an outcome",
    "dead": "Requests that became dead",
    "lost_leases": "Answers not stored, because the lease had expired and another run had claimed it",
    "legs_inserted": "Legs stored for the first time",
    "legs_updated": "Legs whose content changed",
    "legs_unchanged": "Legs that were stored already",
}
RUN_COUNTS = tuple(_COUNTS)

sync_runs = Table(
    "sync_runs",
    metadata,
    Column("id", _Id, primary_key=True, autoincrement=True, comment="Number of the run"),
    Column("command", String(32), nullable=False, comment="Command that ran"),
    Column("batch", ExactText(255), comment="Label that the run was limited to; null for none"),
    Column("host", String(255), nullable=False, comment="Host name"),
    Column("pid", Integer, nullable=False, comment="Process ID on that host"),
    Column(
        "pid_scope",
        String(64),
        comment="Where pid is valid: the machine's boot and process namespace; null if unknown",
    ),
    Column("version", String(32), nullable=False, comment="Version of cdr-sync"),
    _instant("started_at", "UTC"),
    Column("finished_at", Instant, comment="UTC; null while it runs"),
    Column("outcome", String(32), nullable=False, server_default="running", comment=", ".join(RUN_OUTCOMES)),
    *(_count(name, comment) for name, comment in _COUNTS.items()),
    Column("error", Text, comment="What went wrong, in a sentence; null if nothing did"),
    _count("transactions", "Number of its last transaction that claimed or settled: proves its commit"),
    Column("seen_at", Instant, comment="UTC; when that transaction was; null before the first"),
    CheckConstraint(_one_of("outcome", RUN_OUTCOMES), name="outcome_is_known"),
    comment="The ledger: one row for every run, written at its start",
    sqlite_autoincrement=True,
)

api_accounts = Table(
    "api_accounts",
    metadata,
    Column("account", ExactText(64), primary_key=True, comment="Name from the configuration"),
    Column("canary_request_id", ExactText(255), comment="Latest request known to be good; null if none yet"),
    Column(
        "breaker_opened_at", Instant, comment="UTC; when the circuit breaker opened; null while it is closed"
    ),
    Column("breaker_reason", Text, comment="What opened the breaker; null while it is closed"),
    Column("paused_until", Instant, comment="UTC; the API asked to wait until then; null if it did not"),
    Column(
        "rate_paid_until_us",
        BigInteger,
        comment="Microseconds since 1970 by the database's clock: when the calls made so far are paid off "
        "at the rate limit; null if it never had one",
    ),
    _instant("updated_at", "UTC; last change of this row"),
    comment="What all machines share about an account: breaker, pause, canary and rate limit",
)

backfills = Table(
    "backfills",
    metadata,
    Column("label", ExactText(255), primary_key=True, comment="The batch of its requests"),
    _instant("created_at", "UTC; when it was started"),
    Column("marked_at", Instant, comment="UTC; when all its requests were marked; null before that"),
    Column("selection", JSON, nullable=False, comment="By what it was selected: options and their values"),
    _count("selected", "Requests selected so far; those no longer in the batch moved to another one"),
    comment="One row for every backfill; the requests of its batch show its progress",
)
