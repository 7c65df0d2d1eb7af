"""Requests, legs and answers for tests: one builder per form, each with values that a test may change.

|         | value of the rules | row of a table      | as the API sends it       |
|---------|--------------------|---------------------|---------------------------|
| leg     | `leg()`            | `leg_row()`         | `api_leg()`, `api_body()` |
| request | `claimed()`        | `request_row()`     |                           |

`store()` writes rows into a database, `fill_tables()` writes some into every table.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from sqlalchemy import insert

from etl.cdr.legs import ClaimedRequest, Leg
from etl.db.states import PENDING, RUNNING, STATES
from etl.db.tables import call_legs, cdr_requests, metadata

NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)
AN_INSTANT = datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=UTC)


def leg(letter="b", **changes):
    """A leg as parsing returns it: answered, outbound, four seconds long."""
    content = Leg(
        leg=letter,
        from_number="4471000000",
        to_number="9100000000",
        from_e164="+914471000000",
        to_e164=None,
        to_country=None,
        call_time=NOON,
        duration_seconds=4,
        rate=Decimal("0.39"),
        balance=Decimal("1135.14"),
        direction="outbound",
        status="answered",
        extra=None,
    )
    return replace(content, **changes)


def leg_row(request_id, letter="b", **changes):
    """A row of `call_legs`."""
    return {
        "account": "default",
        "request_id": request_id,
        "leg": letter,
        "to_number": "9100000000",
        "call_time": NOON,
        "occurrence": 1,
        "from_number": "4471000000",
        "to_country": "IN",
        "duration_seconds": 10,
        "rate": Decimal("0.39"),
        "balance": Decimal(100),
        "direction": "outbound",
        "status": "answered",
        "revision": 1,
        **changes,
    }


def api_leg(letter="a", **changes):
    """A leg in the names and types of the API."""
    return {
        "leg": letter,
        "from": 914471000000,
        "to": 919100000000,
        "time": 1637069609000,
        "duration": 4,
        "rate": 0.39,
        "balance": 1135.14,
        "direction": "outbound",
        "status": "answered",
        **changes,
    }


def api_body(*legs, count=None):
    """The text of a good answer; its count is right unless another one is given."""
    return json.dumps({"code": 200, "cdr": legs, "count": len(legs) if count is None else count})


def claimed(number=1, **changes):
    """A request that a worker has claimed for the first time."""
    request = ClaimedRequest(number, "default", f"id-{number}", f"token-{number}", 1, 0, NOON)
    return replace(request, **changes)


def request_row(request_id, state="done", *, at=NOON, **changes):
    """A row of `cdr_requests` that its constraints accept; finished, or leased until, at the instant."""
    is_running = state == RUNNING
    return {
        "request_id": request_id,
        "state": state,
        "lease_token": "0" * 32 if is_running else None,
        "lease_until": at if is_running else None,
        "finished_at": None if state in (PENDING, RUNNING) else at,
        **changes,
    }


def store(engine, legs=(), requests=()):
    """Store rows of legs and requests as they are."""
    with engine.begin() as connection:
        for table, rows in ((call_legs, legs), (cdr_requests, requests)):
            for row in rows:
                connection.execute(table.insert().values(row))


_RUN = {"command": "sync", "host": "elsewhere", "pid": 1, "version": "1"}
_ROWS = {
    "cdr_requests": [
        request_row(f"answered-{state}", state, at=AN_INSTANT, last_error="Grüße, 日本") for state in STATES
    ],
    "call_legs": [
        leg_row("answered-dead", call_time=AN_INSTANT, balance=Decimal("1135.14"), occurrence=occurrence)
        for occurrence in (1, 2)
    ],
    "cdr_responses": [
        {"account": "default", "request_id": "answered-dead", "revision": 1, "body": "{}", "sha256": "0" * 64}
    ],
    "sync_runs": [{**_RUN, "outcome": "running"}, {**_RUN, "outcome": "ok"}],
    "api_accounts": [{"account": "default", "canary_request_id": "answered-done"}],
    "backfills": [{"label": "october", "selection": {"states": ["dead"]}, "selected": 1}],
}


def fill_tables(engine):
    """Store rows in every table, with requests in every state; needs no column of a later migration."""
    with engine.begin() as connection:
        for name, rows in _ROWS.items():
            connection.execute(insert(metadata.tables[name]).values(), rows)
