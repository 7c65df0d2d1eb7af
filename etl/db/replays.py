"""What a person changes about requests by hand: replay, cancel, mark for a backfill.

It is a change of state, never a copy or a delete. Each statement is one bounded lot of rows and holds the
condition by which they were chosen, so that a row whose state changed meanwhile is left alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select, update

from etl.db.clock import db_now
from etl.db.selection import Selection
from etl.db.states import BACKFILL, CANCELLED, PENDING
from etl.db.tables import cdr_requests

Change = Mapping[str, Any]  # column to value

# On MySQL a statement locks what it comes by on its way: by the index of a state, the rows of others too.
BY_NUMBER = "FORCE INDEX (PRIMARY)"

# Its history stays: fetches, legs, answers, reclaims, and the last error until a valid answer ends it.
REPLAY: Change = {
    "state": PENDING,
    "run_after": db_now(),
    "attempts": 0,
    "finished_at": None,
    "updated_at": db_now(),
}
CANCEL: Change = {"state": CANCELLED, "finished_at": db_now(), "updated_at": db_now()}


def marking(label: str) -> Change:
    """The change that puts a request into a backfill: replayed, behind all live ones, under a label."""
    return {**REPLAY, "lane": BACKFILL, "batch": label}


def change_requests(
    connection: Connection, ids: Sequence[int], selection: Selection, change: Change
) -> list[Row[Any]]:
    """Change those of some rows that are still selected; returns them as they were before."""
    column = cdr_requests.c
    # In the order of their numbers, as the fence of the claims takes them, so that nobody waits crosswise.
    look = (
        select(column.id, column.account, column.request_id, column.state)
        .where(column.id.in_(ids), selection.condition())
        .order_by(column.id)
        .with_for_update()
    )
    for dialect in ("mysql", "mariadb"):
        look = look.with_hint(cdr_requests, BY_NUMBER, dialect)
    before = connection.execute(look).all()
    if before:
        still = [row.id for row in before]
        statement = update(cdr_requests).where(column.id.in_(still), selection.condition()).values(change)
        for dialect in ("mysql", "mariadb"):
            statement = statement.with_hint(BY_NUMBER, dialect_name=dialect)
        connection.execute(statement)
    return list(before)
