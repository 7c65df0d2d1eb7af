"""The queue as a worker uses it: claim, settle, reap."""

from __future__ import annotations

from datetime import timedelta

from etl.cdr.answers import read_answer
from etl.cdr.outcomes import WaitingRules
from etl.cdr.parsing import parse_legs
from etl.db.queue import Claimant, claim_poison, claim_requests, reap_expired
from etl.errors import ServerError
from etl.sync.fetching import Answered, Failed, NotAsked, Timing
from etl.sync.settle import settle
from support.builders import api_body, api_leg

LEASE = timedelta(minutes=5)
MINUTE = timedelta(minutes=1)
RULES = WaitingRules(
    max_attempts=8,
    retry_delay=timedelta(seconds=30),
    settle=timedelta(0),
    empty_for=timedelta(hours=72),
    empty_delay=timedelta(minutes=1),
)
ONE_CALL = Timing(seconds=(0.0,))


def claim_in(connection, *, most=100, account="default", batch=None, worker="a worker", run_id=1):
    return claim_requests(connection, account, Claimant(worker, run_id, LEASE, batch), most=most)


def settle_in(connection, *results):
    """Settle in this transaction; returns the counts of the ledger."""
    return settle(connection, results, run_id=1, rules=RULES, chance=lambda: 1.0).counts


class Queue:
    """What a worker does with the queue, each step in a transaction of its own."""

    def __init__(self, engine):
        self.engine = engine

    def claim(self, **wanted):
        with self.engine.begin() as connection:
            return claim_in(connection, **wanted)

    def claim_poison(self):
        with self.engine.begin() as connection:
            return claim_poison(connection, "default", Claimant("a worker", 1, LEASE))

    def reap(self, max_attempts=8):
        with self.engine.begin() as connection:
            return reap_expired(connection, max_attempts=max_attempts)

    def settle(self, *results):
        with self.engine.begin() as connection:
            return settle_in(connection, *results)


def names(claims):
    return [request.request_id for request in claims]


def expire(database, *request_ids):
    """Let leases have expired."""
    database.change(*request_ids, lease_until=database.now() - MINUTE)


# How a claim can end


def failed(request):
    return Failed(request, ONE_CALL, ServerError("it is down", http_status=500), status=500)


def answered_without_legs(request):
    return Answered(request, ONE_CALL, 200, b'{"code": 200, "cdr": []}', (), 0)


def answered(request, *legs):
    body = api_body(*(legs or (api_leg(),))).encode()
    answer = read_answer(200, body, retry_after=None)
    return Answered(request, ONE_CALL, 200, body, parse_legs(answer, region="IN"), answer.count)


def released(request):
    return NotAsked(request)


EVERY_WAY = [failed, answered_without_legs, answered, released]
