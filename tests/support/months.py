"""An invented month of calls, for reports: busy on working days, billed at their ends, topped up when low."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from sqlalchemy import insert

from etl.cdr.numbers import read_number
from etl.db.tables import call_legs, cdr_requests

BEGIN = datetime(2026, 10, 1, tzinfo=UTC)
DAYS = 31
_BUSY = (1, 1, 1, 2, 6, 14, 20, 24, 26, 24, 18, 20, 24, 22, 16, 10, 6, 4, 3, 2, 2, 1, 1, 1)  # by hour of UTC
_LOST = ("missed", "missed", "missed", "busy", "busy", "no-answer", "failed", "cancel", "rejected")
_ABROAD = (
    "14155550123",
    "442079460123",
    "971501234567",
    "4915123456700",
    "6591234567",
    "61291234567",
    "819012345678",
)
_ACCOUNTS = ("default", "default", "default", "sales")
_BATCH = 5_000
_TAIL = "xK7qPI2Wi919AKS5LlzNEJKyb"  # of an ID, of 43 characters in all


def fill_month(engine, calls, *, seed=1, accounts=_ACCOUNTS):
    """Store so many calls with their requests; the same seed makes the same ones."""
    dice = random.Random(seed)
    legs = [leg for number in range(calls) for leg in _call(number, dice, accounts)]
    _bill(legs, dice)
    requests = [_request(leg) for leg in legs if leg["leg"] == "a"] + _unanswered_requests(
        calls, dice, accounts
    )
    with engine.begin() as connection:
        for table, rows in ((call_legs, legs), (cdr_requests, requests)):
            for first in range(0, len(rows), _BATCH):
                connection.execute(insert(table), rows[first : first + _BATCH])


def _call(number, dice, accounts):
    day = dice.randrange(DAYS)
    while (BEGIN + timedelta(days=day)).weekday() > 4 and dice.random() < 0.7:
        day = dice.randrange(DAYS)
    (hour,) = dice.choices(range(24), _BUSY)
    begin = BEGIN + timedelta(days=day, hours=hour, seconds=dice.randrange(3600))
    account, request_id = dice.choice(accounts), f"{number:06d}{dice.randrange(10**12):012d}{_TAIL}"
    agent = dice.choice(("9100000012", "9100000019", f"209_11111{dice.randrange(10, 99)}"))
    other = (
        dice.choice(_ABROAD)
        if dice.random() < 0.12
        else f"{dice.choice(('98400', '94440'))}{dice.randrange(10**5):05d}"
    )
    own = f"44710000{dice.randrange(20):02d}"

    def leg(letter, receiver, after, duration, status):
        reading = read_number(receiver, "IN")
        return {
            "account": account, "request_id": request_id, "leg": letter, "to_number": receiver,
            "call_time": begin + timedelta(seconds=after), "occurrence": 1, "from_number": own,
            "from_e164": f"+91{own}", "to_e164": reading.e164, "to_country": reading.country,
            "duration_seconds": duration, "rate": _rate(dice, reading.country, status), "balance": None,
            "direction": "outbound", "status": status, "revision": 1,
            "first_seen_at": begin + timedelta(hours=1), "updated_at": begin + timedelta(hours=1),
        }  # fmt: skip

    fate = dice.random()
    if fate < 0.15:
        return [leg("a", agent, 0, dice.randrange(45), "missed")]
    talk = int(dice.expovariate(1 / 110)) + 1
    if fate < 0.33:
        waited = dice.randrange(5, 40)
        return [
            leg("a", agent, 0, waited, "answered"),
            leg("b", other, 2, 0 if dice.random() < 0.9 else None, dice.choice(_LOST)),
        ]
    legs = [leg("a", agent, 0, talk + 8, "answered")]
    if fate < 0.4:
        legs.append(leg("b", f"{other[:-1]}0", 2, 0, "busy"))
    return [*legs, leg("b", other, 6, talk if dice.random() < 0.99 else None, "answered")]


def _rate(dice, country, status):
    if dice.random() < 0.02:
        return None
    if status != "answered":
        return Decimal(0)
    return Decimal(dice.choice(("0.39", "0.39", "0.45") if country == "IN" else ("1.2", "2.405", "0.995")))


def _bill(legs, dice):
    """Set each leg's balance after it, in the order of their ends."""
    balances = {}
    for leg in sorted(
        legs, key=lambda leg: leg["call_time"] + timedelta(seconds=leg["duration_seconds"] or 0)
    ):
        balance = balances.get(leg["account"], Decimal("700.5"))
        if balance < 400 and dice.random() < 0.02:
            balance += dice.choice((1000, 2000, 5000))
        balances[leg["account"]] = balance - (leg["rate"] or 0)
        leg["balance"] = None if dice.random() < 0.01 else balances[leg["account"]]


def _request(leg):
    at = leg["call_time"] + timedelta(minutes=30)
    return _row(leg["account"], leg["request_id"], "done", at, finished=at + timedelta(minutes=1))


def _unanswered_requests(calls, dice, accounts):
    rows = []
    for number in range(calls // 50 + 4):
        at = BEGIN + timedelta(days=28) * dice.random()
        state = dice.choice(("empty", "empty", "dead", "cancelled", "pending"))
        if state == "pending":
            at = BEGIN + timedelta(days=29, hours=9, minutes=number)
        finished = None if state == "pending" else at + timedelta(days=1)
        rows.append(_row(dice.choice(accounts), f"lost-{number}", state, at, finished=finished))
    return rows


def _row(account, request_id, state, at, *, finished):
    return {
        "account": account, "request_id": request_id, "state": state, "enqueued_at": at, "run_after": at,
        "updated_at": finished or at, "finished_at": finished, "fetches": int(state == "done"),
        "last_error_kind": "timeout" if state == "dead" else None,
    }  # fmt: skip
