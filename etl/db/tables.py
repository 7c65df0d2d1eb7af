"""The tables and indexes that this version needs. The migrations build them, and a test compares the two."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    Index,
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


def column(name: str, kind: Any, comment: str, **options: Any) -> Column[Any]:
    """A column with its comment, which becomes its entry in the data dictionary."""
    return Column(name, kind, comment=comment, **options)


required = partial(column, nullable=False)


def _instant(name: str, comment: str) -> Column[Any]:
    """A required instant; the default is now."""
    return required(name, Instant, comment, server_default=db_now())


def _count(name: str, comment: str) -> Column[Any]:
    """A required number that starts at 0."""
    return required(name, Integer, comment, server_default=text("0"))


def _one_of(name: str, values: Iterable[str]) -> str:
    return f"{name} IN ({', '.join(map(repr, values))})"


# SQLite numbers rows by itself only if the key's type is exactly INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")

cdr_requests = Table(
    "cdr_requests",
    metadata,
    column("id", _Id, "Order of arrival", primary_key=True, autoincrement=True),
    required(
        "account",
        ExactText(64),
        "Account whose credentials are used: a name from the configuration",
        server_default="default",
    ),
    required("request_id", ExactText(255), "Request ID as PIOPIY issued it; case matters"),
    required("state", String(16), "pending, running, done, empty, dead or cancelled", server_default=PENDING),
    required("lane", SmallInteger, "0 live, 1 backfill; live is claimed first", server_default=text("0")),
    column("batch", ExactText(255), "Label given at enqueueing or by a backfill; null for none"),
    _instant("run_after", "UTC; not due before this instant"),
    _count(
        "attempts", "Failed claims so far, and the current one; waits and outages of the API do not count"
    ),
    _count("fetches", "Valid answers received so far"),
    _count("reclaims", "How often a lease expired and the request was reclaimed"),
    _count("leg_count", "Legs in the last valid answer"),
    column("lease_token", String(32), "Random token of the current claim; null when not running"),
    column("lease_until", Instant, "UTC; when the current claim expires; null when not running"),
    column("done_token", String(32), "Token of the claim that was settled last"),
    column("worker", String(255), "Who claimed it last: host, process and run; for people only"),
    column("run_id", BigInteger, "sync_runs.id of the run that claimed it last"),
    column("api_count", Integer, "count in the last valid answer; null if it had none"),
    column(
        "forgotten_at",
        Instant,
        "UTC; when its phone number was erased; it is never asked for again; else null",
    ),
    column("last_error_kind", String(32), "Why the last claim failed, one stable word; null if it did not"),
    column("last_error", Text, "The same in a sentence; never contains a secret"),
    column("last_http_status", Integer, "HTTP status of the last answer; null if none came"),
    _instant("enqueued_at", "UTC; when it was enqueued"),
    _instant("updated_at", "UTC; last change of this row"),
    column("finished_at", Instant, "UTC; when it became done, empty, dead or cancelled; else null"),
    UniqueConstraint("account", "request_id"),
    CheckConstraint(_one_of("state", STATES), name="state_is_known"),
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
    required("account", ExactText(64), "Account that placed the call"),
    required("request_id", ExactText(255), "Request ID of the call"),
    required("leg", ExactText(16), "a or b, in lower case (API field leg)"),
    required(
        "to_number",
        ExactText(64),
        "Number or agent ID called, as sent, trimmed; empty if none (API field to)",
    ),
    required("call_time", Instant, "UTC; the leg's instant (API field time)"),
    required(
        "occurrence", Integer, "1, 2 and so on among legs of a request equal in leg, to_number and call_time"
    ),
    required(
        "from_number", ExactText(64), "Calling number, as sent, trimmed; empty if none (API field from)"
    ),
    column("from_e164", ExactText(16), "Calling number in E.164; null if it is not a valid number"),
    column("to_e164", ExactText(16), "Number called in E.164; null if it is not a valid number"),
    column("to_country", String(2), "Country of to_e164, ISO 3166 alpha-2; null if unknown"),
    column(
        "duration_seconds",
        Integer,
        "Seconds; the vendor does not say whether ringing counts (API field duration)",
    ),
    column(
        "rate", Money, "Account currency; the vendor says billed call rate; null if not sent (API field rate)"
    ),
    column(
        "balance", Money, "Account currency; balance after this leg; null if not sent (API field balance)"
    ),
    column("direction", String(32), "outbound, inbound or other, as sent (API field direction)"),
    column("status", String(32), "answered, missed or other, as sent (API field status)"),
    column("extra", JSON(none_as_null=True), "Fields that are not in the API's documentation; null if none"),
    required("revision", Integer, "1, and +1 at every change of content"),
    _instant("first_seen_at", "UTC; first stored"),
    _instant("updated_at", "UTC; last change of this row"),
    column("missing_since", Instant, "UTC; a later answer no longer contained this leg; else null"),
    column("run_id", BigInteger, "sync_runs.id of the run that changed this row last"),
    PrimaryKeyConstraint("account", "request_id", "leg", "to_number", "call_time", "occurrence"),
    CheckConstraint("occurrence >= 1", name="occurrence_counts_from_one"),
    CheckConstraint("revision >= 1", name="revision_counts_from_one"),
    comment="One row for every leg of every call",
)

cdr_responses = Table(
    "cdr_responses",
    metadata,
    required("account", ExactText(64), "Account that asked"),
    required("request_id", ExactText(255), "Request ID that was asked for"),
    required("revision", Integer, "1 for the first answer, +1 for each different one"),
    column("run_id", BigInteger, "sync_runs.id of the run that received it"),
    _instant("fetched_at", "UTC; when it was stored"),
    column("http_status", Integer, "HTTP status"),
    required("body", LongText, "The body as received, valid or malformed"),
    required("sha256", String(64), "SHA-256 of the body's bytes, in hexadecimal"),
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
    column("id", _Id, "Number of the run", primary_key=True, autoincrement=True),
    required("command", String(32), "Command that ran"),
    column("batch", ExactText(255), "Label that the run was limited to; null for none"),
    required("host", String(255), "Host name"),
    required("pid", Integer, "Process ID on that host"),
    column(
        "pid_scope",
        String(64),
        "Where pid is valid: the machine's boot and process namespace; null if unknown",
    ),
    required("version", String(32), "Version of cdr-sync"),
    _instant("started_at", "UTC"),
    column("finished_at", Instant, "UTC; null while it runs"),
    required("outcome", String(32), ", ".join(RUN_OUTCOMES), server_default="running"),
    *(_count(name, comment) for name, comment in _COUNTS.items()),
    column("error", Text, "What went wrong, in a sentence; null if nothing did"),
    _count("transactions", "Number of its last transaction that claimed or settled: proves its commit"),
    column("seen_at", Instant, "UTC; when that transaction was; null before the first"),
    CheckConstraint(_one_of("outcome", RUN_OUTCOMES), name="outcome_is_known"),
    comment="The ledger: one row for every run, written at its start",
    sqlite_autoincrement=True,
)

api_accounts = Table(
    "api_accounts",
    metadata,
    column("account", ExactText(64), "Name from the configuration", primary_key=True),
    column("canary_request_id", ExactText(255), "Latest request known to be good; null if none yet"),
    column("breaker_opened_at", Instant, "UTC; when the circuit breaker opened; null while it is closed"),
    column("breaker_reason", Text, "What opened the breaker; null while it is closed"),
    column("paused_until", Instant, "UTC; the API asked to wait until then; null if it did not"),
    column(
        "rate_paid_until_us",
        BigInteger,
        "Microseconds since 1970 by the database's clock: when the calls made so far are paid off "
        "at the rate limit; null if it never had one",
    ),
    _instant("updated_at", "UTC; last change of this row"),
    comment="What all machines share about an account: breaker, pause, canary and rate limit",
)

backfills = Table(
    "backfills",
    metadata,
    column("label", ExactText(255), "The batch of its requests", primary_key=True),
    _instant("created_at", "UTC; when it was started"),
    column("marked_at", Instant, "UTC; when all its requests were marked; null before that"),
    required("selection", JSON, "What was selected: options and their values"),
    _count("selected", "Requests selected so far; those no longer in the batch moved to another one"),
    comment="One row for every backfill; the requests of its batch show its progress",
)

# --- Indexes -----------------------------------------------------------------------------------------
# Where the database can, an index holds only the rows that are looked for, so that a million done requests
# cost nothing.


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
