"""The raw archive: each answer whose content differs from the one before, with no secret in it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection

from etl.db.clock import now_sql
from etl.db.rowsets import RowsStatement

_COLUMNS = {
    "account": "exact",
    "request_id": "exact",
    "http_status": "int",
    "body": "text",
    "sha256": "text",
    "run_id": "int",
}
# What is in hand is fenced, so that nobody else numbers this request's answers meanwhile.
_ARCHIVE = """
INSERT INTO cdr_responses (account, request_id, revision, run_id, fetched_at, http_status, body, sha256)
SELECT v.account, v.request_id, COALESCE(latest.revision, 0) + 1, v.run_id, {now},
    v.http_status, v.body, v.sha256
FROM {rows} LEFT JOIN cdr_responses AS latest
    ON latest.account = v.account AND latest.request_id = v.request_id AND latest.revision = (
        SELECT MAX(revision) FROM cdr_responses
        WHERE cdr_responses.account = v.account AND cdr_responses.request_id = v.request_id)
WHERE latest.sha256 IS NULL OR latest.sha256 <> v.sha256"""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer to be archived: the body's text, as received."""

    account: str
    request_id: str
    http_status: int | None
    body: str
    sha256: str


def make_response(account: str, request_id: str, http_status: int | None, body: bytes) -> Response:
    """Make an answer fit for the archive: without what a text column refuses."""
    content = body.decode(errors="replace").replace("\x00", "\ufffd")
    return Response(account, request_id, http_status, content, hashlib.sha256(body).hexdigest())


def archive_responses(connection: Connection, responses: Sequence[Response], *, run_id: int | None) -> None:
    """Archive answers, leaving out each whose bytes are those of the one before."""
    if responses:
        rows = [(r.account, r.request_id, r.http_status, r.body, r.sha256, run_id) for r in responses]
        _archive_statement(connection.dialect.name).execute(connection, rows)


@cache
def _archive_statement(dialect: str) -> RowsStatement:
    return RowsStatement(dialect, _ARCHIVE.replace("{now}", now_sql(dialect)), _COLUMNS)
