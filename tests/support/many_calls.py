"""Years of calls in seconds: made by the database itself, spread evenly over the year 2026.

Each call has an a leg; nine in ten have a b leg, and one in fifty has one more: 1.92 legs on average.
"""

from __future__ import annotations

from contextlib import contextmanager

from sqlalchemy import text

YEAR_BEGINS, YEAR_SECONDS = "2026-01-01 00:00:00", 31_536_000
LEGS_A_CALL = 1.92
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE counted (n) AS (SELECT {0} UNION ALL SELECT n + 1 FROM counted WHERE n < {1})"
    " SELECT n FROM counted) AS numbers",
    "postgresql": "generate_series(CAST({0} AS bigint), {1}) AS numbers (n)",
    "mariadb": "(SELECT seq AS n FROM seq_{0}_to_{1}) AS numbers",
}
_SECOND = f"n * {YEAR_SECONDS} / {{0}}"
_TIME = {
    "sqlite": f"strftime('%Y-%m-%d %H:%M:%S.000000', '{YEAR_BEGINS}', ({_SECOND}) || ' seconds')",
    "postgresql": f"timestamptz '{YEAR_BEGINS}+00' + make_interval(secs => {_SECOND})",
    "mariadb": f"TIMESTAMP('{YEAR_BEGINS}') + INTERVAL ({_SECOND}) SECOND",
}
# As random as real ones, and each a different one, since the number is a prime.
_SCRAMBLED = {
    "sqlite": "printf('%010d', n * 48271 % 2147483647) || '{tail}'",
    "postgresql": "lpad(CAST(n * 48271 % 2147483647 AS text), 10, '0') || '{tail}'",
    "mariadb": "CONCAT(LPAD(n * 48271 % 2147483647, 10, '0'), '{tail}')",
}
_AT_ONCE = 500_000  # so that no statement takes longer than a client waits
_TAIL = "xK7qPI2Wi919AKS5LlzNEJKy7kb2Vg3IN"  # of 43 characters in all
_NUMBER = {
    "sqlite": "'+91' || {0}",
    "postgresql": "'+91' || {0}",
    "mariadb": "CONCAT('+91', {0})",
}
_CALLED = "9100000000 + (n + turn) % 100000"
_TEXT = {"sqlite": "CAST({0} AS text)", "postgresql": "CAST({0} AS text)", "mariadb": "CAST({0} AS char)"}
_LEGS = """
INSERT INTO call_legs (account, request_id, leg, to_number, call_time, occurrence, from_number, from_e164,
    to_e164, to_country, duration_seconds, rate, balance, direction, status, revision)
SELECT CASE WHEN n % 10 = 0 THEN 'sales' ELSE 'default' END, {request_id}, leg, {to_number}, {time}, 1,
    '4471000000', '+914471000000', {to_e164},
    CASE n % 4 WHEN 0 THEN 'IN' WHEN 1 THEN 'US' WHEN 2 THEN 'GB' END,
    n % 600, 0.39, 1000000 - n * 0.01, CASE WHEN n % 7 = 0 THEN 'inbound' ELSE 'outbound' END,
    CASE WHEN n % 5 = 0 THEN 'missed' ELSE 'answered' END, 1
FROM {numbers}
CROSS JOIN (SELECT 'b' AS leg, 1 AS turn UNION ALL SELECT 'b', 2 UNION ALL SELECT 'a', 0) AS legs
WHERE turn = 0 OR (turn = 1 AND n % 10 <> 3) OR (turn = 2 AND n % 50 = 0)
{order}
"""
_REQUESTS = """
INSERT INTO cdr_requests (account, request_id, state, run_after, finished_at, enqueued_at, updated_at,
    leg_count, batch)
SELECT CASE WHEN n % 10 = 0 THEN 'sales' ELSE 'default' END, {request_id}, 'done', {time}, {time}, {time},
    {time}, 2, CASE WHEN n % 100 = 0 THEN 'march' END
FROM {numbers} WHERE n % {some} = 0
{order}
"""
_INDEXED = ("call_time", "call_day", "from_e164", "to_e164")
_DEFINITION = {
    "sqlite": "SELECT sql FROM sqlite_master WHERE name = '{}'",
    "postgresql": "SELECT indexdef FROM pg_indexes WHERE indexname = '{}'",
}


def request_id_of(number):
    """The request ID of a call, by its number from 1 on."""
    return f"{number * 48271 % 2147483647:010}{_TAIL}"


@contextmanager
def without_indexes(engine, kind):
    """Take the legs' indexes away for a while, but for the primary key."""
    names = [f"ix_call_legs_{column}" for column in _INDEXED]
    definitions = [f"CREATE INDEX ix_call_legs_{column} ON call_legs ({column})" for column in _INDEXED]
    with engine.begin() as connection:
        if kind in _DEFINITION:
            definitions = [connection.scalar(text(_DEFINITION[kind].format(name))) for name in names]
        for name in names:
            connection.execute(text(f"DROP INDEX {name}" + (" ON call_legs" if kind == "mariadb" else "")))
    yield
    for definition in definitions:
        with engine.begin() as connection:
            connection.execute(text(definition))


def fill(engine, kind, calls, *, requests_of_one_in=1):
    """Store calls, and the requests of all or some of them, and tell the planner."""
    called = _TEXT[kind].format(_CALLED)
    words = {
        "request_id": _SCRAMBLED[kind].format(tail=_TAIL),
        "time": _TIME[kind].format(calls),
        "to_number": called,
        "to_e164": _NUMBER[kind].format(called),
        # InnoDB keeps rows in the order of their key whatever the order in which they come.
        "some": requests_of_one_in,
        "order": "ORDER BY 1, 2" if kind == "mariadb" else "",
    }
    with without_indexes(engine, kind), engine.begin() as connection:
        if kind == "mariadb":
            connection.execute(text("SET unique_checks = 0, check_constraint_checks = 0"))
        for first in range(1, calls + 1, _AT_ONCE):
            numbers = _NUMBERS[kind].format(first, min(calls, first + _AT_ONCE - 1))
            for statement in (_LEGS, _REQUESTS):
                connection.execute(text(statement.format(numbers=numbers, **words)))
    with engine.begin() as connection:
        connection.execute(text("ANALYZE TABLE call_legs, cdr_requests" if kind == "mariadb" else "ANALYZE"))
