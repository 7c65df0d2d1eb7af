"""The raw archive: store each answer that differs from the one before, and read answers again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, bindparam, exists, select, update

from etl.db.bulk import REQUEST_KEY, RowsStatement
from etl.db.dialects import db_now, now_sql
from etl.db.selection import REPLAY, Span, is_within, known_accounts, lock_requests
from etl.db.states import DEAD, PENDING
from etl.db.tables import cdr_requests, cdr_responses

MALFORMED = "malformed"  # the error kind whose answers are archived and can become readable
_column = cdr_responses.c


@dataclass(frozen=True, slots=True)
class Response:
    """One answer to archive. `body` is its text, `sha256` the hash of the bytes received."""

    account: str
    request_id: str
    http_status: int | None
    body: str
    sha256: str


def make_response(account: str, request_id: str, http_status: int | None, body: bytes) -> Response:
    """Decode an answer for the archive: what a text column refuses is replaced by U+FFFD."""
    content = body.decode(errors="replace").replace("\x00", "\ufffd")
    return Response(account, request_id, http_status, content, hashlib.sha256(body).hexdigest())


def archive_responses(connection: Connection, responses: Sequence[Response], *, run_id: int | None) -> None:
    """Archive answers, without those whose bytes are the same as the answer before."""
    if responses:
        rows = [(r.account, r.request_id, r.http_status, r.body, r.sha256, run_id) for r in responses]
        _ARCHIVE.execute(connection, rows)


def _archive_sql(dialect: str, rows: str) -> str:
    # Safe because the claim is fenced: no other transaction numbers the answers of this request.
    return f"""
INSERT INTO cdr_responses (account, request_id, revision, run_id, fetched_at, http_status, body, sha256)
SELECT v.account, v.request_id, COALESCE(latest.revision, 0) + 1, v.run_id, {now_sql(dialect)},
    v.http_status, v.body, v.sha256
FROM {rows} LEFT JOIN cdr_responses AS latest
    ON latest.account = v.account AND latest.request_id = v.request_id AND latest.revision = (
        SELECT MAX(revision) FROM cdr_responses
        WHERE cdr_responses.account = v.account AND cdr_responses.request_id = v.request_id)
WHERE latest.sha256 IS NULL OR latest.sha256 <> v.sha256"""


_ARCHIVE = RowsStatement(
    _archive_sql,
    {**REQUEST_KEY, "http_status": "integer", "body": "text", "sha256": "text", "run_id": "integer"},
)


@dataclass(frozen=True, slots=True)
class ArchivedAnswer:
    """The latest answer of a request, as the archive holds it."""

    request_id: str
    fetched_at: datetime
    http_status: int | None
    body: str
    sha256: str

    @property
    def is_as_received(self) -> bool:
        """Whether the text is the bytes received: nothing in it had to be replaced."""
        return "\ufffd" not in self.body or hashlib.sha256(self.body.encode()).hexdigest() == self.sha256


@dataclass(frozen=True, slots=True)
class Rereading:
    """What an answer that was read again changes in its request; `state` only if it is no longer dead."""

    id: int
    leg_count: int
    api_count: int | None
    state: str | None = None


def archived_accounts(connection: Connection, span: Span) -> list[str]:
    """The accounts to look for answers in a span; the account of the span, if it has one."""
    return known_accounts(connection, _column.account) if span.account is None else [span.account]


def archived_page(connection: Connection, account: str, *, after: str | None, most: int) -> list[str]:
    """The next request IDs of an account that have answers, by the archive's primary key."""
    page = select(_column.request_id).distinct().where(_column.account == account)
    if after is not None:
        page = page.where(_column.request_id > after)
    return list(connection.scalars(page.order_by(_column.request_id).limit(most)))


def ids_in_span(connection: Connection, account: str, request_ids: Sequence[str], span: Span) -> list[str]:
    """Those of some request IDs whose latest answer is in a span."""
    latest = select(_column.request_id).where(_latest(account, request_ids, span))
    return list(connection.scalars(latest.order_by(_column.request_id)))


def latest_answers(
    connection: Connection, account: str, request_ids: Sequence[str], span: Span
) -> list[ArchivedAnswer]:
    """The latest answers of some requests, with their bodies, if they are in a span."""
    columns = (_column.request_id, _column.fetched_at, _column.http_status, _column.body, _column.sha256)
    latest = select(*columns).where(_latest(account, request_ids, span))
    return [ArchivedAnswer(*row) for row in connection.execute(latest.order_by(_column.request_id))]


def _latest(account: str, request_ids: Sequence[str], span: Span) -> ColumnElement[bool]:
    later = cdr_responses.alias("later")
    is_later = and_(
        later.c.account == _column.account,
        later.c.request_id == _column.request_id,
        later.c.revision > _column.revision,
    )
    return and_(
        _column.account == account,
        _column.request_id.in_(request_ids),
        ~exists().where(is_later),
        is_within(_column.fetched_at, span.since, span.until),
    )


def requests_by_id(
    connection: Connection, account: str, request_ids: Sequence[str], *, locks: bool = True
) -> dict[str, Row[Any]]:
    """The rows of some requests, by request ID; with `locks`, they are locked until the commit."""
    column = cdr_requests.c
    known = select(column.id).where(column.account == account, column.request_id.in_(request_ids))
    ids = list(connection.scalars(known))
    plain = select(cdr_requests).where(column.id.in_(ids))
    rows = lock_requests(connection, ids) if locks else connection.execute(plain)
    return {row.request_id: row for row in rows}


def write_rereadings(connection: Connection, rereadings: Sequence[Rereading]) -> None:
    """Write what answers say of requests that `requests_by_id` locked, in the same transaction.

    A request that is no longer dead gets the state that a valid answer gives it. One that becomes pending is
    due now, with all its attempts left.
    """
    column = cdr_requests.c
    by_state: dict[str | None, list[Rereading]] = {}
    for one in rereadings:
        by_state.setdefault(one.state, []).append(one)
    for state, ones in by_state.items():
        statement = update(cdr_requests).where(column.id == bindparam("row_id"))
        values: dict[str, Any] = {
            "leg_count": bindparam("legs"),
            "api_count": bindparam("said"),
            "updated_at": db_now(),
        }
        if state is not None:
            statement = statement.where(column.state == DEAD, column.last_error_kind == MALFORMED)
            values |= {"fetches": column.fetches + 1, "last_error_kind": None, "last_error": None}
            values |= REPLAY if state == PENDING else {"state": state, "finished_at": db_now()}
        rows = [{"row_id": one.id, "legs": one.leg_count, "said": one.api_count} for one in ones]
        connection.execute(statement.values(values), rows)
