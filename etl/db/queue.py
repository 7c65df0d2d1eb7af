"""The queue, as workers use it: enqueue, claim, reap, fence, settle.

Three rules make it safe:

- A claim commits before its request is sent, so that no transaction is open during HTTP.
- Every later write about a claim is fenced by its token. A worker that froze, or that was taken for dead,
  writes nothing.
- Every instant is the database's, so that the clocks of the machines do not matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta
from functools import cache
from itertools import product
from operator import attrgetter
from typing import Any, NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, Row, TextClause, TextualSelect, bindparam, text

from etl.cdr.legs import ClaimedRequest
from etl.db.bulk import ID_CHUNK, REQUEST_KEY, Kind, RowsStatement, on_conflict_sql
from etl.db.dialects import Instant, later_sql, now_sql, read_instant
from etl.db.states import BACKFILL, DEAD, LIVE

# --- Enqueue -----------------------------------------------------------------------------------------


def enqueue_requests(
    connection: Connection,
    request_ids: Sequence[str],
    *,
    account: str,
    batch: str | None,
    delay: timedelta,
    lane: int = LIVE,
) -> int:
    """Add request IDs to the queue; known ones stay as they are. Returns how many were new."""
    seconds = delay.total_seconds()
    rows = [(account, request_id, batch, lane, seconds) for request_id in dict.fromkeys(request_ids)]
    return sum(result.rowcount for result in _ENQUEUE.execute(connection, rows))


def _enqueue_sql(dialect: str, rows: str) -> str:
    # The join leaves out known IDs, so that they use no number. ON CONFLICT leaves out those that another
    # transaction is enqueueing right now: the statement waits for it, and does not fail.
    return f"""
INSERT INTO cdr_requests (account, request_id, batch, lane, run_after)
SELECT v.account, v.request_id, v.batch, v.lane, {later_sql(dialect, "v.delay")} FROM {rows}
LEFT JOIN cdr_requests AS known ON known.account = v.account AND known.request_id = v.request_id
WHERE known.id IS NULL
{on_conflict_sql(dialect, tuple(REQUEST_KEY))}"""


_ENQUEUE = RowsStatement(
    _enqueue_sql, {**REQUEST_KEY, "batch": "text", "lane": "integer", "delay": "seconds"}
)

# --- Claim -------------------------------------------------------------------------------------------

# In the order of the index `ix_cdr_requests_due`. The state is a literal because the index holds only rows
# of that state, and a planner does not match a parameter with that.
_DUE = """
    SELECT id FROM cdr_requests
    WHERE state = 'pending' AND account = :account AND lane = :lane AND run_after <= {now}{filters}
    ORDER BY {order} LIMIT :most OFFSET :skip"""
_OLDEST_FIRST, _NEWEST_FIRST = "run_after, id", "run_after DESC, id DESC"
# Two workers died while they held it: a possible poison message. It is claimed alone, so no other
# request is lost with it.
_HARMLESS, _POISON = " AND reclaims < 2", " AND reclaims >= 2"
_BECOMES_RUNNING = """
    state = 'running', attempts = attempts + 1, lease_token = :token, lease_until = {lease_until},
    worker = :worker, run_id = :run_id, updated_at = {now}"""
# In the order of the fields of ClaimedRequest, and then what claims are sorted by.
_CLAIMED = "id, account, request_id, lease_token, attempts, fetches, enqueued_at, run_after"
_CLAIM = {
    # Safe because the transaction began with IMMEDIATE: no other writer comes between SELECT and UPDATE.
    "sqlite": (f"UPDATE cdr_requests SET {_BECOMES_RUNNING} WHERE id IN ({_DUE}) RETURNING {_CLAIMED}",),
    # Safe because the rows are locked. SKIP LOCKED passes over what others are claiming. MATERIALIZED keeps
    # the planner from running the SELECT more than once, which would claim more rows than LIMIT says.
    "postgresql": (
        f"""
WITH due AS MATERIALIZED ({_DUE} FOR NO KEY UPDATE SKIP LOCKED)
UPDATE cdr_requests SET {_BECOMES_RUNNING} FROM due WHERE cdr_requests.id = due.id
RETURNING {_CLAIMED.replace("id,", "cdr_requests.id,", 1)}""",
    ),
    # Safe because the rows are locked from the first statement to the commit. There is no RETURNING: the
    # claims are read back by their token.
    "mysql": (
        f"{_DUE} FOR UPDATE SKIP LOCKED",
        f"UPDATE cdr_requests SET {_BECOMES_RUNNING} WHERE state = 'pending' AND id IN :ids",
        f"SELECT {_CLAIMED} FROM cdr_requests WHERE id IN :ids AND lease_token = :token ORDER BY id",
    ),
}


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, for how long, and from which batch; None for any."""

    worker: str
    run_id: int
    lease: timedelta
    batch: str | None = None


def claim_requests(
    connection: Connection, account: str, claimant: Claimant, *, most: int, skip_newest: int | None = None
) -> list[ClaimedRequest]:
    """Claim up to `most` due requests of an account, live ones first; commit before fetching any.

    Within a lane the oldest due request comes first. With `skip_newest` it is the newest, once so many newer
    ones are skipped; where there are not that many, none is skipped. Poison messages are left out.
    """
    searches = [(_OLDEST_FIRST, 0)]
    if skip_newest is not None:
        searches = [(_NEWEST_FIRST, skip) for skip in dict.fromkeys((skip_newest, 0))]
    return _claim(connection, account, claimant, searches, most=most, filters=_HARMLESS)


def claim_poison(connection: Connection, account: str, claimant: Claimant) -> list[ClaimedRequest]:
    """Claim one possible poison message, or none; it must be fetched with no other claim in hand."""
    return _claim(connection, account, claimant, [(_OLDEST_FIRST, 0)], most=1, filters=_POISON)


def has_due(connection: Connection, account: str, *, batch: str | None = None) -> bool:
    """Whether any request of an account is due, in either lane."""
    exists = (f"SELECT EXISTS ({_DUE})",)
    (statement,) = _statements(connection.dialect.name, exists, order=_OLDEST_FIRST, filters=_only(batch))
    wanted = {"account": account, "batch": batch, "most": 1, "skip": 0}
    return any(connection.scalar(statement, {**wanted, "lane": lane}) for lane in (LIVE, BACKFILL))


def _claim(
    connection: Connection,
    account: str,
    claimant: Claimant,
    searches: Sequence[tuple[str, int]],
    *,
    most: int,
    filters: str,
) -> list[ClaimedRequest]:
    """Claim by one search after the other, each an order and how many requests it skips, until `most`."""
    values = {**asdict(claimant), "account": account, "lease": claimant.lease.total_seconds()}
    filters += _only(claimant.batch)
    claimed: list[ClaimedRequest] = []
    for (order, skip), lane in product(searches, (LIVE, BACKFILL)):
        if len(claimed) < most:
            values |= {"lane": lane, "most": most - len(claimed), "skip": skip, "token": uuid4().hex}
            found = _change_found(connection, _CLAIM, values, order=order, filters=filters)
            # RETURNING promises no order.
            found = sorted(found, key=lambda row: (row.run_after, row.id))
            claimed += [ClaimedRequest(*row[:-1]) for row in found]
    return claimed


def _only(batch: str | None) -> str:
    return "" if batch is None else " AND batch = :batch"


def _change_found(
    connection: Connection,
    sql: Mapping[str, tuple[str, ...]],
    values: Mapping[str, object],
    *,
    order: str = "",
    filters: str = "",
) -> Sequence[Row[Any]]:
    """Find rows and change them, in one statement, or in three where there is no RETURNING."""
    dialect = connection.dialect.name
    statements = _statements(dialect, sql[dialect], order=order, filters=filters)
    if len(statements) == 1:
        # Fetched to the end, or SQLite would keep the statement, and its lock, open.
        return connection.execute(statements[0], values).all()
    lock, change, read_back = statements
    found = connection.scalars(lock, values).all()
    changed: list[Row[Any]] = []
    for first in range(0, len(found), ID_CHUNK):
        chunk = {**values, "ids": found[first : first + ID_CHUNK]}
        connection.execute(change, chunk)
        changed += connection.execute(read_back, chunk)
    return changed


@cache
def _statements(
    dialect: str, sql: tuple[str, ...], *, order: str, filters: str
) -> tuple[TextClause | TextualSelect, ...]:
    now, lease_until = now_sql(dialect), later_sql(dialect, ":lease")
    filled = [one.format(now=now, lease_until=lease_until, order=order, filters=filters) for one in sql]
    return tuple(_typed(one) for one in filled)


def _typed(sql: str) -> TextClause | TextualSelect:
    statement = text(sql)
    if ":ids" in sql:
        statement = statement.bindparams(bindparam("ids", expanding=True))
    return statement.columns(enqueued_at=Instant) if "enqueued_at" in sql else statement


# --- Reap --------------------------------------------------------------------------------------------

# A lease that ran out means that its worker died or froze. The attempt was counted at the claim, so that a
# request that kills every worker ends as dead. MySQL runs SET from left to right; `attempts` is not set here.
_EXPIRED = "state = 'running' AND lease_until < {now}"
_TAKEN_BACK = """
    state = CASE WHEN attempts < :max_attempts THEN 'pending' ELSE 'dead' END,
    finished_at = CASE WHEN attempts < :max_attempts THEN NULL ELSE {now} END,
    lease_token = NULL, lease_until = NULL, reclaims = reclaims + 1, updated_at = {now},
    last_error_kind = 'lease_expired', last_error = 'The worker died or froze while it held this request'"""
_REAP = {
    # Safe because the transaction is the only one that writes.
    "sqlite": (f"UPDATE cdr_requests SET {_TAKEN_BACK} WHERE {_EXPIRED} RETURNING state",),
    # Safe because the rows are locked before their leases are compared. SKIP LOCKED passes over a row that
    # a late worker is settling: a worker that froze in a transaction must not hold up the claims of others.
    "postgresql": (
        f"""
WITH expired AS MATERIALIZED (SELECT id FROM cdr_requests WHERE {_EXPIRED} FOR NO KEY UPDATE SKIP LOCKED)
UPDATE cdr_requests SET {_TAKEN_BACK} FROM expired WHERE cdr_requests.id = expired.id
RETURNING cdr_requests.state""",
    ),
    # Safe for the same reasons. Here even a claim that is not committed yet is in the index of running rows,
    # and would be waited for.
    "mysql": (
        f"SELECT id FROM cdr_requests WHERE {_EXPIRED} FOR UPDATE SKIP LOCKED",
        f"UPDATE cdr_requests SET {_TAKEN_BACK} WHERE id IN :ids",
        "SELECT state FROM cdr_requests WHERE id IN :ids",
    ),
}


def reap_expired(connection: Connection, *, max_attempts: int) -> int:
    """Take back every request whose lease ran out: it is due again, or dead where its attempts are used up.

    Returns:
        How many became dead.
    """
    taken_back = _change_found(connection, _REAP, {"max_attempts": max_attempts})
    return [state for (state,) in taken_back].count(DEAD)


# --- Fence -------------------------------------------------------------------------------------------


class Fenced(NamedTuple):
    """Which claims may still be written, at an instant of the database's clock."""

    now: datetime | None  # None where none of the rows exists any more
    ours: set[ClaimedRequest]  # still ours, and locked until the commit
    settled_before: set[ClaimedRequest]  # settled by us already: a commit whose reply was lost


def fence(connection: Connection, claims: Sequence[ClaimedRequest]) -> Fenced:
    """Find out which claims are still ours, and lock them until the commit."""
    rows = [(row_id,) for row_id in sorted({claim.id for claim in claims})]
    found: dict[int, tuple[str | None, str | None]] = {}
    now = None
    for result in _FENCE.execute(connection, rows):
        for row_id, lease_token, done_token, instant in result:
            found[row_id], now = (lease_token, done_token), instant
    tokens = {claim: found.get(claim.id, (None, None)) for claim in claims}
    return Fenced(
        None if now is None else read_instant(now),
        {claim for claim, (leased, _) in tokens.items() if leased == claim.token},
        {claim for claim, (leased, done) in tokens.items() if done == claim.token != leased},
    )


def _fence_sql(dialect: str, rows: str) -> str:
    # Safe because the rows stay locked until the commit: a claim that is ours here is ours to the end. On
    # SQLite no other transaction writes anyway. On MySQL the join must begin with our own rows: it locks
    # every row that it reads, and so would wait for those of others.
    join = "STRAIGHT_JOIN" if dialect == "mysql" else "JOIN"
    lock = {"sqlite": "", "postgresql": " FOR UPDATE OF cdr_requests", "mysql": " FOR UPDATE"}[dialect]
    return f"""
SELECT cdr_requests.id, lease_token, done_token, {now_sql(dialect)} AS now
FROM {rows} {join} cdr_requests ON cdr_requests.id = v.id ORDER BY cdr_requests.id{lock}"""


_FENCE = RowsStatement(_fence_sql, {"id": "integer"})

# --- Settle ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of one claim. `delay` is in seconds from now; None leaves run_after as it is."""

    id: int
    token: str
    state: str
    delay: float | None = None
    attempts: int = 0  # -1 gives the attempt of this claim back
    fetched: int = 0  # 1 for a valid answer
    leg_count: int = 0
    api_count: int | None = None
    error_kind: str | None = None
    error: str | None = None
    http_status: int | None = None


# MySQL runs SET from left to right: no expression reads a column that is set before it.
_SETTLED = {
    "lease_token": "NULL",
    "lease_until": "NULL",
    "done_token": "v.token",
    "run_after": "CASE WHEN v.delay IS NULL THEN cdr_requests.run_after ELSE {later} END",
    "attempts": "cdr_requests.attempts + v.attempts",
    "fetches": "cdr_requests.fetches + v.fetched",
    "leg_count": "CASE WHEN v.fetched = 1 THEN v.leg_count ELSE cdr_requests.leg_count END",
    "api_count": "CASE WHEN v.fetched = 1 THEN v.api_count ELSE cdr_requests.api_count END",
    # A claim that is given back keeps its last error; a valid answer ends it.
    "last_error_kind": "CASE WHEN v.fetched = 0"
    " THEN COALESCE(v.error_kind, cdr_requests.last_error_kind) END",
    "last_error": "CASE WHEN v.fetched = 0 THEN COALESCE(v.error, cdr_requests.last_error) END",
    "last_http_status": "COALESCE(v.http_status, cdr_requests.last_http_status)",
    "finished_at": "CASE WHEN v.state = 'pending' THEN NULL ELSE {now} END",
    "updated_at": "{now}",
    "state": "v.state",
}


def settle_claims(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write what became of claims that `fence` found to be ours, in the same transaction."""
    if settlements:
        _SETTLE.execute(connection, [_values_of(settlement) for settlement in settlements])


def _settle_sql(dialect: str, rows: str) -> str:
    # Safe even without `fence`: a row that no longer carries the claim's token is not touched.
    ours = "cdr_requests.id = v.id AND cdr_requests.state = 'running' AND cdr_requests.lease_token = v.token"
    words = {"now": now_sql(dialect), "later": later_sql(dialect, "v.delay")}
    changes = {name: value.format(**words) for name, value in _SETTLED.items()}
    if dialect == "mysql":  # it requires the table's name here, which the others reject
        changed = ", ".join(f"cdr_requests.{name} = {value}" for name, value in changes.items())
        return f"UPDATE {rows} STRAIGHT_JOIN cdr_requests ON {ours} SET {changed}"
    changed = ", ".join(f"{name} = {value}" for name, value in changes.items())
    return f"UPDATE cdr_requests SET {changed} FROM {rows} WHERE {ours}"


_KINDS: Mapping[str, Kind] = {"int": "integer", "str": "text", "float": "seconds"}  # by type of a field
_SETTLEMENT = {field.name: _KINDS[str(field.type).removesuffix(" | None")] for field in fields(Settlement)}
_values_of = attrgetter(*_SETTLEMENT)
_SETTLE = RowsStatement(_settle_sql, _SETTLEMENT)
