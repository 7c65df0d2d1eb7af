"""The queue, as workers use it: enqueue, claim, reclaim expired leases, fence, settle.

Three rules hold it up. A claim commits before its request is sent, so no transaction is open during HTTP.
Everything written about a claim later is fenced by its token: a worker that froze, or was taken for dead,
writes nothing. And every instant comes from the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from operator import attrgetter
from typing import NamedTuple
from uuid import uuid4

from sqlalchemy import Connection, TextClause, TextualSelect, bindparam, text

from etl.cdr.legs import ClaimedRequest
from etl.db.bulk import RowsStatement
from etl.db.dialects import Instant, later_sql, now_sql, read_instant, unless_known_sql
from etl.db.states import BACKFILL, LIVE

# In the order of the fields of ClaimedRequest, and then what they are sorted by.
_CLAIMED = "id, account, request_id, lease_token, attempts, fetches, enqueued_at, run_after"

# Which rows are due, in the order of the index `ix_cdr_requests_due`. The state is a literal, since the
# index holds only rows of that state, and a planner does not match a parameter with that.
_DUE = """
    SELECT id FROM cdr_requests
    WHERE state = 'pending' AND account = :account AND lane = :lane AND run_after <= {now}{also}
    ORDER BY {order} LIMIT :most OFFSET :skip"""
_OLDEST_FIRST, _NEWEST_FIRST = "run_after, id", "run_after DESC, id DESC"
# What its worker did not outlive twice may be what kills workers. It is claimed alone, so that it takes no
# others along.
_UNSUSPECTED, _SUSPECT = " AND reclaims < 2", " AND reclaims >= 2"
_HAS_DUE = f"SELECT EXISTS ({_DUE})"
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
# a request that kills every worker ends as dead. A row that somebody holds at this instant, such as a zombie
# that settles it, is passed over: whoever froze in a transaction must not hold up everybody's claims. On
# MySQL even a claim that is not committed yet would, which stands among the running ones in the index.
_EXPIRED = "state = 'running' AND lease_until < {now} AND attempts {used_up} :max_attempts"
_TAKEN_BACK = """
    state = '{state}', finished_at = {finished_at}, lease_token = NULL, lease_until = NULL,
    reclaims = reclaims + 1, updated_at = {now}, last_error_kind = 'lease_expired',
    last_error = 'The worker died or froze while it held this request'"""
_REAP = {
    "sqlite": f"UPDATE cdr_requests SET {_TAKEN_BACK} WHERE {_EXPIRED}",
    "postgresql": f"""
WITH expired AS MATERIALIZED (SELECT id FROM cdr_requests WHERE {_EXPIRED} FOR NO KEY UPDATE SKIP LOCKED)
UPDATE cdr_requests SET {_TAKEN_BACK} FROM expired WHERE cdr_requests.id = expired.id""",
}
_REAP_MYSQL = (
    f"SELECT id FROM cdr_requests WHERE {_EXPIRED} FOR UPDATE SKIP LOCKED",
    f"UPDATE cdr_requests SET {_TAKEN_BACK} WHERE id IN :ids",
)


@dataclass(frozen=True, slots=True)
class Claimant:
    """Who claims, for how long, and from which batch; None for any."""

    worker: str
    run_id: int
    lease: timedelta
    batch: str | None = None


def claim_requests(
    connection: Connection,
    account: str,
    claimant: Claimant,
    *,
    most: int,
    skip_newest: int | None = None,
) -> list[ClaimedRequest]:
    """Claim up to `most` due requests of an account, live ones first; commit before asking for any.

    Within a lane, what has waited longest comes first. With `skip_newest`, it is what has waited shortest,
    after so many that have waited even shorter; where there are not that many, the newest. Requests that may
    be what kills workers are left out.
    """
    claimed: list[ClaimedRequest] = []
    places = [(_OLDEST_FIRST, 0)]
    if skip_newest is not None:
        places = [(_NEWEST_FIRST, skip) for skip in dict.fromkeys((skip_newest, 0))]
    for order, skip in places:
        for lane in (LIVE, BACKFILL):
            if len(claimed) < most:
                values = {"account": account, "lane": lane, "most": most - len(claimed), "skip": skip}
                claimed += _claim(connection, claimant, values, order, _UNSUSPECTED)
    return claimed


def claim_suspect(connection: Connection, account: str, claimant: Claimant) -> list[ClaimedRequest]:
    """Claim one request that may be what kills workers: to be asked for with nothing else in hand."""
    claimed: list[ClaimedRequest] = []
    for lane in (LIVE, BACKFILL):
        if not claimed:
            values = {"account": account, "lane": lane, "most": 1, "skip": 0}
            claimed = _claim(connection, claimant, values, _OLDEST_FIRST, _SUSPECT)
    return claimed


def _claim(
    connection: Connection, claimant: Claimant, which: dict[str, object], order: str, suspicion: str
) -> list[ClaimedRequest]:
    values = {
        **which,
        "token": uuid4().hex,
        "lease": claimant.lease.total_seconds(),
        "worker": claimant.worker,
        "run_id": claimant.run_id,
    }
    batch = claimant.batch
    dialect = connection.dialect.name
    if batch is not None:
        values["batch"] = batch
    statements = _claim_statements(dialect, order, suspicion, with_batch=batch is not None)
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
    # RETURNING promises no order; what has waited longest is asked for first.
    return [ClaimedRequest(*row[:-1]) for row in sorted(rows, key=lambda row: (row.run_after, row.id))]


@cache
def _claim_statements(
    dialect: str, order: str, suspicion: str, *, with_batch: bool
) -> tuple[TextClause | TextualSelect, ...]:
    sources = (_CLAIM[dialect],) if dialect in _CLAIM else _CLAIM_MYSQL
    fill = {
        "lease_until": later_sql(dialect, ":lease"),
        **_due_fill(dialect, order, suspicion, with_batch=with_batch),
    }
    return tuple(_claim_statement(source.format(**fill)) for source in sources)


def _due_fill(dialect: str, order: str, suspicion: str, *, with_batch: bool) -> dict[str, str]:
    also = f"{suspicion} AND batch = :batch" if with_batch else suspicion
    return {"now": now_sql(dialect), "order": order, "also": also}


def has_due(connection: Connection, account: str, *, batch: str | None = None) -> bool:
    """Whether anything of an account is due, in whatever lane."""
    fill = _due_fill(connection.dialect.name, _OLDEST_FIRST, "", with_batch=batch is not None)
    statement = text(_HAS_DUE.format(**fill))
    values = {"account": account, "most": 1, "skip": 0, **({"batch": batch} if batch else {})}
    return any(connection.scalar(statement, {**values, "lane": lane}) for lane in (LIVE, BACKFILL))


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
    values: dict[str, object] = {"max_attempts": max_attempts}
    due_again, dead = _reap_statements(connection.dialect.name)
    _reap(connection, due_again, values)
    return _reap(connection, dead, values)


def _reap(connection: Connection, statements: Sequence[TextClause], values: dict[str, object]) -> int:
    *look, take_back = statements
    if look:
        ids = connection.scalars(look[0], values).all()
        if not ids:
            return 0
        values = {"ids": ids}
    return connection.execute(take_back, values).rowcount


@cache
def _reap_statements(dialect: str) -> tuple[tuple[TextClause, ...], ...]:
    """The statements that make expired claims due again, and those that end the others as dead."""
    now = now_sql(dialect)
    sources = (_REAP[dialect],) if dialect in _REAP else _REAP_MYSQL
    due_again = {"now": now, "state": "pending", "finished_at": "NULL", "used_up": "<"}
    dead = {"now": now, "state": "dead", "finished_at": now, "used_up": ">="}
    return tuple(
        tuple(_statement(source.format(**words)) for source in sources) for words in (due_again, dead)
    )


_ENQUEUE = """
INSERT INTO cdr_requests (account, request_id, batch, lane, run_after)
SELECT v.account, v.request_id, v.batch, v.lane, {due} FROM {rows}
LEFT JOIN cdr_requests AS known ON known.account = v.account AND known.request_id = v.request_id
WHERE known.id IS NULL
"""


def enqueue_requests(
    connection: Connection,
    request_ids: Sequence[str],
    *,
    account: str,
    batch: str | None,
    delay: timedelta,
    lane: int = LIVE,
) -> int:
    """Add request IDs to the queue, leaving those that are known as they are; returns how many were new."""
    seconds = delay.total_seconds()
    rows = [(account, request_id, batch, lane, seconds) for request_id in dict.fromkeys(request_ids)]
    results = _enqueue_statement(connection.dialect.name).execute(connection, rows)
    return sum(result.rowcount for result in results)


@cache
def _enqueue_statement(dialect: str) -> RowsStatement:
    insert = _ENQUEUE.format(due=later_sql(dialect, "v.delay"), rows="{rows}")
    # Somebody else may enqueue the same ID at this instant: that it is there then is all that is wanted.
    insert += unless_known_sql(dialect, "cdr_requests", "account", "request_id")
    columns = {"account": "exact", "request_id": "exact", "batch": "text", "lane": "int", "delay": "seconds"}
    return RowsStatement(dialect, insert, columns)


# The fence. The rows stay locked until the commit, so that what is ours here is ours to the end. On MySQL
# the join must begin with our own rows: what it comes by on its way it locks, and so waits for.
_HOLD = """
SELECT cdr_requests.id, lease_token, done_token, {now} AS now
FROM {rows} {join} cdr_requests ON cdr_requests.id = v.id ORDER BY cdr_requests.id{lock}"""

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


class Held(NamedTuple):
    """What the fence says of some claims, at an instant of the database's clock."""

    now: datetime | None  # None where none of the rows is there any more
    ours: set[ClaimedRequest]  # claims that are still ours, and stay so until the commit
    settled_before: set[ClaimedRequest]  # claims that we settled already: a commit whose reply was lost


def hold_claims(connection: Connection, claims: Sequence[ClaimedRequest]) -> Held:
    """Find out, and make sure until the commit, which claims are still ours."""
    rows = [(row_id,) for row_id in sorted({claim.id for claim in claims})]
    found: dict[int, tuple[str | None, str | None]] = {}
    now = None
    for result in _hold_statement(connection.dialect.name).execute(connection, rows):
        for row_id, lease_token, done_token, instant in result:
            found[row_id], now = (lease_token, done_token), instant
    tokens = {claim: found.get(claim.id, (None, None)) for claim in claims}
    return Held(
        None if now is None else read_instant(now),
        {claim for claim, (leased, _) in tokens.items() if leased == claim.token},
        {claim for claim, (leased, done) in tokens.items() if done == claim.token != leased},
    )


@cache
def _hold_statement(dialect: str) -> RowsStatement:
    # On SQLite the transaction is the only writing one anyway.
    lock = {"sqlite": "", "postgresql": " FOR UPDATE OF cdr_requests"}.get(dialect, " FOR UPDATE")
    join = "STRAIGHT_JOIN" if dialect in ("mysql", "mariadb") else "JOIN"
    hold = _HOLD.format(now=now_sql(dialect), join=join, lock=lock, rows="{rows}")
    return RowsStatement(dialect, hold, {"id": "int"})


def settle_claims(connection: Connection, settlements: Sequence[Settlement]) -> None:
    """Write what became of claims that `hold_claims` found to be ours, in the same transaction."""
    if settlements:
        _settle_statement(connection.dialect.name).execute(
            connection, [_settled_row(one) for one in settlements]
        )


# The order of the row is that of the class.
_settled_row = attrgetter(*_SETTLED)


@cache
def _settle_statement(dialect: str) -> RowsStatement:
    is_mysql = dialect in ("mysql", "mariadb")
    table = "cdr_requests." if is_mysql else ""  # there it must be said whose column it is
    fill = {"now": now_sql(dialect), "later": later_sql(dialect, "v.delay")}
    changes = ", ".join(f"{table}{name} = {value.format(**fill)}" for name, value in _SETTLE_SET.items())
    update = f"UPDATE {{rows}} STRAIGHT_JOIN cdr_requests ON {_OURS} SET {changes}"
    if not is_mysql:
        update = f"UPDATE cdr_requests SET {changes} FROM {{rows}} WHERE {_OURS}"
    return RowsStatement(dialect, update, _SETTLED)
