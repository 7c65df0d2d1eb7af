"""The queue's way out: hold what is still ours, and write what became of it.

Whatever is written about a claim is fenced by its token: a worker that was frozen, or taken for dead,
writes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import Connection

from etl.cdr.records import ClaimedRequest
from etl.db.clock import later_sql, now_sql
from etl.db.rowsets import RowsStatement
from etl.db.types import read_instant

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
