"""A batch: the requests that carry one label, how far they are, and whether their counts agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, exists, func, select

from etl.db.clock import database_now
from etl.db.selection import Selection, count_states
from etl.db.states import PENDING
from etl.db.tables import cdr_requests, sync_runs

_EXAMPLES = 5
_column = cdr_requests.c


@dataclass(frozen=True, slots=True)
class BatchFigures:
    """How a batch stands."""

    states: Counter[str]
    next_due_at: datetime | None  # of what is pending
    counted: int  # requests whose last valid answer had a `count`
    mismatches: int  # those of them where it says another number of legs
    examples: Sequence[str]  # some request IDs of these


def new_label(connection: Connection) -> str:
    """A label that no request carries yet, and no run was limited to, by the database's clock."""
    first = label = f"backfill-{database_now(connection):%Y-%m-%dT%H-%M-%SZ}"
    number = 1
    has_run = exists().where(sync_runs.c.batch == bindparam("label"))
    while is_label_used(connection, label) or connection.scalar(select(has_run), {"label": label}):
        number += 1
        label = f"{first}-{number}"
    return label


def is_label_used(connection: Connection, label: str) -> bool:
    """Whether any request carries a label."""
    return bool(connection.scalar(select(exists().where(_column.batch == label))))


def batch_states(connection: Connection, label: str, accounts: Sequence[str] = ()) -> Counter[str]:
    """How many requests of a batch are in each state."""
    states: Counter[str] = Counter()
    for (_, state), count in count_states(connection, Selection(accounts=accounts, batch=label)).items():
        states[state] += count
    return states


def batch_figures(connection: Connection, label: str) -> BatchFigures:
    """Read how a batch stands, and hold the API's own counts against the legs of its answers."""
    is_in_it = _column.batch == label
    differs = (_column.api_count != _column.leg_count) & is_in_it
    return BatchFigures(
        states=batch_states(connection, label),
        next_due_at=connection.scalar(
            select(func.min(_column.run_after)).where(is_in_it, _column.state == PENDING)
        ),
        counted=connection.scalar(select(func.count(_column.api_count)).where(is_in_it)) or 0,
        mismatches=connection.scalar(select(func.count()).where(differs)) or 0,
        examples=connection.scalars(
            select(_column.request_id).where(differs).order_by(_column.id).limit(_EXAMPLES)
        ).all(),
    )
