"""The queue: claim, settle, give back, take back. All of its SQL stands here, to be seen together.

Three rules hold it up. A claim commits before its request is asked for, so that no transaction is open
during HTTP. Whatever is written about a claim later is fenced by its token: a worker that was frozen,
or taken for dead, writes nothing. And every instant comes from the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from functools import cache
from uuid import uuid4

from sqlalchemy import Connection, TextClause, TextualSelect, bindparam, text

from etl.cdr.records import ClaimedRequest
from etl.db.rowsets import rowset, rowset_sql
from etl.db.tables import BACKFILL, LIVE
from etl.db.types import Instant, later_sql, now_sql

# In the order of the fields of ClaimedRequest.
_CLAIMED = "id, account, request_id, lease_token, attempts, fetches, enqueued_at"

# Which rows are due, in the order of the index `ix_cdr_requests_due`. The state is a literal, since the
# index holds only rows of that state, and a planner does not match a parameter with that.
_DUE = """
    SELECT id FROM cdr_requests
    WHERE state = 'pending' AND account = :account AND lane = :lane AND run_after <= {now}{batch}
    ORDER BY run_after, id LIMIT :most"""
_BECOMES_RUNNING = """
    state = 'running', attempts = attempts + 1, lease_token = :token, lease_until = {lease_until},
    worker = :worker, run_id = :run_id, updated_at = {now}"""

_CLAIM = {
    # The transaction began with IMMEDIATE: no other writer comes between the SELECT and the UPDATE.
    "sqlite": f"UPDATE cdr_requests SET {_BECOMES_RUNNING} WHERE id IN ({_DUE}) RETURNING {_CLAIMED}",
    # SKIP LOCKED passes over what others are claiming. MATERIALIZED keeps the planner from running the
    # locking SELECT more than once, which would lock, and so claim, more rows than LIMIT says.
    "postgresql": f"""
WITH due AS MATERIALIZED ({_DUE} FOR NO KEY UPDATE SKIP LOCKED)
UPDATE cdr_requests SET {_BECOMES_RUNNING} FROM due WHERE cdr_requests.id = due.id
RETURNING {_CLAIMED.replace("id,", "cdr_requests.id,", 1)}""",
}
_CLAIM_MYSQL = (  # no RETURNING there: lock, change, and read back by the token
    f"{_DUE} FOR UPDATE SKIP LOCKED",
    f"UPDATE cdr_requests SET {_BECOMES_RUNNING} WHERE state = 'pending' AND id IN :ids",
    f"SELECT {_CLAIMED} FROM cdr_requests WHERE id IN :ids AND lease_token = :token ORDER BY run_after, id",
)

# A lease that ran out means that its worker died or froze. The attempt was counted at the claim, so that
# a request that kills every worker ends as dead. A zombie that settles at the same instant is waited for,
# and then its row no longer matches.
_REAP = """
UPDATE cdr_requests SET
    state = '{state}', finished_at = {finished_at}, lease_token = NULL, lease_until = NULL,
    reclaims = reclaims + 1, updated_at = {now}, last_error_kind = 'lease_expired',
    last_error = 'The worker died or froze while it held this request'
WHERE state = 'running' AND lease_until < {now} AND attempts {used_up} :max_attempts"""

# The fence. The rows stay locked until the commit, so that what is ours here is ours to the end.
_HOLD = "SELECT id, lease_token, done_token, leg_count FROM cdr_requests WHERE id IN :ids ORDER BY id{lock}"

_SETTLED = {
    "id": "int",
    "token": "text",
    "state": "text",
    "delay": "seconds",
    "attempts": "int",
    "fetched": "int",
    "leg_count": "int",
    "api_count": "int",
    "error_kind": "text",
    "error": "text",
    "http_status": "int",
}
# MySQL runs SET from left to right: no expression reads a column that stands before it.
_SETTLE_SET = {
    "lease_token": "NULL",
    "lease_until": "NULL",
    "done_token": "v.token",
    "run_after": "CASE WHEN v.delay IS NULL THEN cdr_requests.run_after ELSE {later} END",
    "attempts": "cdr_requests.attempts + v.attempts",
    "fetches": "cdr_requests.fetches + v.fetched",
    "leg_count": "CASE WHEN v.fetched = 1 THEN v.leg_count ELSE cdr_requests.leg_count END",
    "api_count": "CASE WHEN v.fetched = 1 THEN v.api_count ELSE cdr_requests.api_count END",
    # What was given back unjudged keeps the word of its last failure; a valid answer ends it.
    "last_error_kind": "CASE WHEN v.fetched = 0"
    " THEN COALESCE(v.error_kind, cdr_requests.last_error_kind) END",
    "last_error": "CASE WHEN v.fetched = 0 THEN COALESCE(v.error, cdr_requests.last_error) END",
    "last_http_status": "COALESCE(v.http_status, cdr_requests.last_http_status)",
    "finished_at": "CASE WHEN v.state = 'pending' THEN NULL ELSE {now} END",
    "updated_at": "{now}",
    "state": "v.state",
}
_OURS = "cdr_requests.id = v.id AND cdr_requests.state = 'running' AND cdr_requests.lease_token = v.token"


@dataclass(frozen=True, slots=True)
class Settlement:
    """What becomes of one claim, ready to be written. `delay` is seconds from now; None leaves run_after."""

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


def claim_requests(
    connection: Connection,
    account: str,
    *,
    most: int,
    lease: timedelta,
    worker: str,
    run_id: int,
    batch: str | None = None,
) -> list[ClaimedRequest]:
    """Claim up to `most` due requests of an account, live ones first; commit before asking for any."""
    claimed: list[ClaimedRequest] = []
    for lane in (LIVE, BACKFILL):
        if len(claimed) < most:
            values = {
                "account": account,
                "lane": lane,
                "most": most - len(claimed),
                "token": uuid4().hex,
                "lease": lease.total_seconds(),
                "worker": worker,
                "run_id": run_id,
            }
            claimed += _claim(connection, values, batch)
    return claimed


def _claim(connection: Connection, values: dict[str, object], batch: str | None) -> list[ClaimedRequest]:
    dialect = connection.dialect.name
    if batch is not None:
        values["batch"] = batch
    statements = _claim_statements(dialect, with_batch=batch is not None)
    if len(statements) == 1:
        # Fetched to the end, or SQLite would keep the statement, and its lock, open.
        rows = connection.execute(statements[0], values).all()
    else:
        select_due, become_running, read_back = statements
        ids = connection.scalars(select_due, values).all()
        if not ids:
            return []
        connection.execute(become_running, {**values, "ids": ids})
        rows = connection.execute(read_back, {"ids": ids, "token": values["token"]}).all()
    return [ClaimedRequest(*row) for row in rows]


@cache
def _claim_statements(dialect: str, *, with_batch: bool) -> tuple[TextClause | TextualSelect, ...]:
    sources = (_CLAIM[dialect],) if dialect in _CLAIM else _CLAIM_MYSQL
    filled = [
        source.format(
            now=now_sql(dialect),
            lease_until=later_sql(dialect, ":lease"),
            batch=" AND batch = :batch" if with_batch else "",
        )
        for source in sources
    ]
    return tuple(_claim_statement(sql) for sql in filled)


def _statement(sql: str) -> TextClause:
    statement = text(sql)
    if ":ids" in sql:
        statement = statement.bindparams(bindparam("ids", expanding=True))
    return statement


def _claim_statement(sql: str) -> TextClause | TextualSelect:
    statement = _statement(sql)
    return statement.columns(enqueued_at=Instant) if "enqueued_at" in sql else statement


def reap_expired(connection: Connection, *, max_attempts: int) -> int:
    """Take back every request whose lease ran out. Part of every claim.

    Returns:
        How many became dead, since their attempts are used up; the others are due again.
    """
    dead, pending = _reap_statements(connection.dialect.name)
    values = {"max_attempts": max_attempts}
    connection.execute(pending, values)
    return connection.execute(dead, values).rowcount


@cache
def _reap_statements(dialect: str) -> tuple[TextClause, TextClause]:
    now = now_sql(dialect)
    return (
        text(_REAP.format(now=now, state="dead", finished_at=now, used_up=">=")),
        text(_REAP.format(now=now, state="pending", finished_at="NULL", used_up="<")),
    )


def hold_claims(connection: Connection, claims: Sequence[ClaimedRequest]) -> tuple[set[int], set[int]]:
    """Find out, and make sure until the commit, which claims are still ours.

    Returns:
        The row IDs of the claims that are ours, and of those that we have settled before: a commit whose
        reply was lost is told from a lease that was taken over by the token that it left.
    """
    if not claims:
        return set(), set()
    rows = connection.execute(
        _hold_statement(connection.dialect.name), {"ids": [claim.id for claim in claims]}
    )
    tokens = {claim.id: claim.token for claim in claims}
    ours, settled = set(), set()
    for row in rows:
        if row.lease_token == tokens[row.id]:
            ours.add(row.id)
        elif row.done_token == tokens[row.id]:
            settled.add(row.id)
    return ours, settled


@cache
def _hold_statement(dialect: str) -> TextClause:
    # On SQLite the transaction is the only writing one anyway.
    return _statement(_HOLD.format(lock="" if dialect == "sqlite" else " FOR UPDATE"))


def settle_claims(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write what became of claims that `hold_claims` found to be ours, in the same transaction."""
    if settlements:
        dialect = connection.dialect.name
        rows = [{name: getattr(one, name) for name in _SETTLEMENT_FIELDS} for one in settlements]
        connection.execute(_settle_statement(dialect), {"rows": rowset(dialect, rows)})


_SETTLEMENT_FIELDS = tuple(field.name for field in fields(Settlement))


@cache
def _settle_statement(dialect: str) -> TextClause:
    rows = rowset_sql(dialect, _SETTLED)
    is_mysql = dialect in ("mysql", "mariadb")
    table = (
        "cdr_requests." if is_mysql else ""
    )  # there both sides have such columns, and it must be said which
    fill = {"now": now_sql(dialect), "later": later_sql(dialect, "v.delay")}
    changes = ", ".join(f"{table}{name} = {value.format(**fill)}" for name, value in _SETTLE_SET.items())
    if is_mysql:
        return text(f"UPDATE cdr_requests JOIN {rows} ON {_OURS} SET {changes}")
    return text(f"UPDATE cdr_requests SET {changes} FROM {rows} WHERE {_OURS}")


def database_now(connection: Connection) -> datetime:
    """The present instant by the database's clock."""
    statement = text(f"SELECT {now_sql(connection.dialect.name)} AS now").columns(now=Instant)
    now: datetime | None = connection.scalar(statement)
    if now is None:  # pragma: no cover (no database answers so)
        raise RuntimeError("the database has no clock")
    return now


_ENQUEUE = """
INSERT INTO cdr_requests (account, request_id, batch, run_after)
SELECT :account, v.request_id, :batch, {due} FROM {rows} WHERE 1 = 1
"""


def enqueue_requests(
    connection: Connection, request_ids: Sequence[str], *, account: str, batch: str | None, delay: timedelta
) -> int:
    """Add request IDs to the queue, leaving those that are known as they are; returns how many were new."""
    dialect = connection.dialect.name
    result = connection.execute(
        _enqueue_statement(dialect),
        {
            "account": account,
            "batch": batch,
            "delay": delay.total_seconds(),
            "rows": rowset(dialect, ({"request_id": request_id} for request_id in request_ids)),
        },
    )
    # Rows that came back are counted where there are any: what rowcount means after a conflict differs.
    return len(result.all()) if result.returns_rows else result.rowcount


@cache
def _enqueue_statement(dialect: str) -> TextClause:
    insert = _ENQUEUE.format(
        due=later_sql(dialect, ":delay"), rows=rowset_sql(dialect, {"request_id": "exact"})
    )
    if dialect in ("mysql", "mariadb"):
        return text(f"{insert} ON DUPLICATE KEY UPDATE id = id")
    return text(f"{insert} ON CONFLICT (account, request_id) DO NOTHING RETURNING id")
