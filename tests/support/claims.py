"""The queue as a worker uses it: claims, what comes of them, and what is taken back."""

from __future__ import annotations

import json
from datetime import timedelta

from etl.cdr.answers import read_answer
from etl.cdr.outcomes import WaitingRules
from etl.cdr.parsing import parse_legs
from etl.db.queue import Claimant, claim_poison, claim_requests, reap_expired
from etl.errors import ServerError
from etl.sync.fetching import Asked
from etl.sync.settle import Verdict, settle

LEASE = timedelta(minutes=5)
MINUTE = timedelta(minutes=1)
RULES = WaitingRules(
    max_attempts=8,
    retry_delay=timedelta(seconds=30),
    settle=timedelta(0),
    empty_for=timedelta(hours=72),
    empty_delay=timedelta(minutes=1),
)
LEG = {
    "leg": "a",
    "from": 914471000000,
    "to": 919100000000,
    "time": 1637069609000,
    "duration": 4,
    "rate": 0.39,
    "balance": 1135.14,
    "direction": "outbound",
    "status": "answered",
}


def claim_in(connection, *, most=100, account="default", batch=None, worker="somebody", run_id=1):
    return claim_requests(connection, account, Claimant(worker, run_id, LEASE, batch), most=most)


def settle_in(connection, *verdicts):
    return settle(connection, verdicts, run_id=1, rules=RULES, chance=lambda: 1.0)


class Queue:
    """A worker's ways with the queue, each in a transaction of its own."""

    def __init__(self, engine):
        self.engine = engine

    def claim(self, **wanted):
        with self.engine.begin() as connection:
            return claim_in(connection, **wanted)

    def claim_poison(self):
        with self.engine.begin() as connection:
            return claim_poison(connection, "default", Claimant("somebody", 1, LEASE))

    def reap(self, max_attempts=8):
        with self.engine.begin() as connection:
            return reap_expired(connection, max_attempts=max_attempts)

    def settle(self, *verdicts):
        with self.engine.begin() as connection:
            return settle_in(connection, *verdicts)


def names(claims):
    return [request.request_id for request in claims]


def expire(database, *request_ids):
    """Let leases have run out."""
    database.change(*request_ids, lease_until=database.now() - MINUTE)


# What can come of a claim


def failed(request):
    return Verdict(Asked(request, calls=1, status=500, error=ServerError("it is down", http_status=500)))


def answered_without_legs(request):
    return Verdict(Asked(request, calls=1, status=200, body=b'{"code": 200, "cdr": []}', count=0))


def answered(request):
    body = json.dumps({"code": 200, "cdr": [LEG], "count": 1}).encode()
    legs = parse_legs(read_answer(200, body, retry_after=None), region="IN")
    return Verdict(Asked(request, calls=1, legs=legs, count=1, status=200, body=body))


def released(request):
    return Verdict(Asked(request), is_released=True)


EVERY_WAY = [failed, answered_without_legs, answered, released]
