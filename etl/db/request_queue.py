"""The queue's way in: claim what is due, and take back what its worker did not outlive.

Three rules hold it up. A claim commits before its request is asked for, so that no transaction is open
during HTTP. Whatever is written about a claim later is fenced by its token (`etl.db.settlements`). And every
instant comes from the database's clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from uuid import uuid4

from sqlalchemy import Connection, TextClause, TextualSelect, bindparam, text

from etl.cdr.records import ClaimedRequest
from etl.db.clock import later_sql, now_sql
from etl.db.states import BACKFILL, LIVE
from etl.db.types import Instant

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
