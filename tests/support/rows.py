"""Rows for every table, put there by hand, with requests in every state."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import sqlalchemy as sa

from etl.db.states import STATES
from etl.db.tables import metadata

AN_INSTANT = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)


def request_in(state):
    is_running, is_pending = state == "running", state == "pending"
    return {
        "request_id": f"answered-{state}",
        "state": state,
        "lease_token": "0" * 32 if is_running else None,
        "lease_until": AN_INSTANT if is_running else None,
        "finished_at": None if is_running or is_pending else AN_INSTANT,
        "last_error": "Grüße, 日本",
    }


LEG = {
    "account": "default",
    "request_id": "answered-dead",
    "leg": "b",
    "to_number": "9100000000",
    "call_time": AN_INSTANT,
    "from_number": "4471000000",
    "rate": Decimal("0.39"),
    "balance": Decimal("1135.14"),
    "revision": 1,
}
RUN = {"command": "sync", "host": "elsewhere", "pid": 1, "version": "1"}
ROWS = {
    "cdr_requests": [request_in(state) for state in STATES],
    "call_legs": [{**LEG, "occurrence": 1}, {**LEG, "occurrence": 2}],
    "cdr_responses": [
        {"account": "default", "request_id": "answered-dead", "revision": 1, "body": "{}", "sha256": "0" * 64}
    ],
    "sync_runs": [{**RUN, "outcome": "running"}, {**RUN, "outcome": "ok"}],
    "api_accounts": [{"account": "default", "canary_request_id": "answered-done"}],
    "backfills": [{"label": "october", "selection": {"states": ["dead"]}, "selected": 1}],
}


def fill(engine):
    """Put rows into every table, with the types of this version, whatever columns it does not have yet."""
    with engine.begin() as connection:
        for name, rows in ROWS.items():
            connection.execute(sa.insert(metadata.tables[name]).values(), rows)
