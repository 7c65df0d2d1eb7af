"""What analysts' questions cost, and what their indexes cost whoever stores legs: on a server of its own.

    python benchmarks/views.py [--database postgresql] [--legs 10000000] [--repeat 3]

Each question's time is the median of its repeats, beside that of reading `call_legs` once from end to end,
which is what a question without an index costs at least. `grouped` is the same month from a query that groups
all legs first. Storing legs is measured with all indexes, and again without
those that only analysts need. Only the ratios mean anything on a machine that is shared.
"""

from __future__ import annotations

import argparse
import contextlib
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from sqlalchemy import Connection, Engine, text

_TOP = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TOP), str(_TOP / "tests")]

SCAN = "SELECT COUNT(*), SUM(duration_seconds) FROM call_legs"
MONTH = "day >= '2026-03-01' AND day < '2026-04-01'"
TIME = "call_time >= '2026-03-{0}' AND call_time < '2026-{1}'"
QUESTIONS = {
    "a month of calls_daily": f"SELECT * FROM calls_daily WHERE {MONTH}",
    "a month of destinations": f"SELECT * FROM destinations WHERE {MONTH}",
    "a day of calls_daily": "SELECT * FROM calls_daily WHERE day = '2026-03-15'",
    "a month of sync_coverage": f"SELECT * FROM sync_coverage WHERE {MONTH}",
    "a day of calls": f"SELECT * FROM calls WHERE {TIME.format('15', '03-16')}",
    "the latest five calls": "SELECT * FROM calls ORDER BY call_time DESC LIMIT 5",
    "one request of calls": "SELECT * FROM calls WHERE account = 'default' AND request_id = '{request_id}'",
    "the legs of a number": "SELECT * FROM call_legs WHERE to_e164 = '+919100000077'",
}
DAY = {
    "sqlite": "substr(call_time, 1, 10)",
    "postgresql": "CAST(call_time AT TIME ZONE 'UTC' AS date)",
    "mariadb": "CAST(call_time AS date)",
}
GROUPED = """
SELECT account, request_id, MIN(call_time) AS call_time,
    MAX(CASE WHEN leg = 'a' THEN direction END) AS direction,
    SUM(CASE WHEN leg = 'b' AND lower(status) = 'answered' THEN duration_seconds END) AS talk_seconds,
    SUM(rate) AS billed_rate_total
FROM call_legs
WHERE missing_since IS NULL
GROUP BY account, request_id
"""


def main() -> None:
    """Fill a database, ask, store, and print a table."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--database", choices=list(DAY), default="postgresql")
    parser.add_argument("--legs", type=int, default=10_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with database(options.database) as (engine, patient):
        many_calls = import_module("support.many_calls")
        began = time.monotonic()
        many_calls.fill(patient, options.database, int(options.legs / many_calls.LEGS_A_CALL))
        print(f"{platform.platform()}, Python {platform.python_version()}, {time.strftime('%F')}")
        print(
            f"{options.database}, {options.legs} legs of one year, made in {time.monotonic() - began:.0f} s\n"
        )
        ask(patient, options, many_calls.request_id_of(77))
        store(engine, patient, options.database)


@contextlib.contextmanager
def database(kind: str) -> Iterator[tuple[Engine, Engine]]:
    """A migrated database of a kind, on a server that is started and removed again.

    Reached as the job does, and as somebody does who waits for as long as it takes.
    """
    from sqlalchemy import create_engine

    from etl.db.engine import create_sqlite_file, open_engine, read_url
    from etl.db.schema import upgrade

    with contextlib.ExitStack() as stack:
        if kind == "sqlite":
            url = f"sqlite:///{stack.enter_context(tempfile.TemporaryDirectory())}/cdr.sqlite3"
            create_sqlite_file(url)
        else:
            servers = import_module("support.servers")
            server = {"postgresql": servers.PostgresqlServer, "mariadb": servers.MariadbServer}[kind]()
            stack.callback(server.remove)
            server.start()
            server.create("views")
            url = server.url_of("views")
        engine = open_engine(url)
        patient = create_engine(read_url(url))
        stack.callback(engine.dispose)
        stack.callback(patient.dispose)
        upgrade(engine)
        yield engine, patient


def ask(engine: Engine, options: argparse.Namespace, request_id: str) -> None:
    """Ask each question, and print what it took beside one scan of the legs.

    PostgreSQL compiles what it takes for a long query, which can itself take a second: so without that, too.
    """
    with engine.connect() as connection:
        scan = seconds(connection, SCAN, options.repeat)
        print(f"{'question':32} {'s':>9} {'of a scan':>10}")
        print(f"{'all legs, once':32} {scan:9.3f} {1:10.3f}", flush=True)
        for jit in ("on", "off") if options.database == "postgresql" else ("",):
            if jit:
                connection.execute(text(f"SET jit = {jit}"))
                print(f"with jit {jit}:")
            for name, query in QUESTIONS.items():
                took = seconds(connection, query.format(request_id=request_id), options.repeat)
                print(f"{name:32} {took:9.3f} {took / scan:10.3f}", flush=True)
        took = seconds(connection, grouped(options.database), 1)
        print(f"{'the month, grouped':32} {took:9.3f} {took / scan:10.3f}")


def grouped(kind: str) -> str:
    """The month's calls by a query that groups all legs of the table before it looks at their day."""
    day = DAY[kind]
    return (
        f"SELECT {day}, account, direction, COUNT(*), SUM(talk_seconds), SUM(billed_rate_total)"
        f" FROM ({GROUPED}) AS grouped_calls"
        f" WHERE {day} >= '2026-03-01' AND {day} < '2026-04-01' GROUP BY {day}, account, direction"
    )


def seconds(connection: Connection, query: str, repeat: int) -> float:
    """The median time of a query, its rows fetched."""
    times = []
    for _ in range(repeat):
        began = time.monotonic()
        connection.execute(text(query)).all()
        times.append(time.monotonic() - began)
    return statistics.median(times)


def store(engine: Engine, patient: Engine, kind: str) -> None:
    """Store legs with and without the analysts' indexes in turn, and print the ratio."""
    without_indexes = import_module("support.many_calls").without_indexes
    with_them, without = [], []
    for turn in range(3):
        with_them.append(upserts(engine, f"with {turn}"))
        with without_indexes(patient, kind):
            without.append(upserts(engine, f"without {turn}"))
    ratio = statistics.median(with_them) / statistics.median(without)
    print(f"\nstoring legs: {ratio:.2f} times what it costs without the indexes for analysts")


def upserts(engine: Engine, label: str, transactions: int = 40, requests: int = 50) -> float:
    """The time of storing two legs of each of many requests, as settling does."""
    from datetime import UTC, datetime, timedelta
    from decimal import Decimal
    from hashlib import sha256

    from etl.cdr.legs import Leg, compare_legs
    from etl.db.legs import upsert_legs

    then = datetime(2026, 12, 31, tzinfo=UTC)
    took = 0.0
    for number in range(transactions):
        changes = {}
        for one in range(requests):
            at, to = then + timedelta(seconds=number), str(9_100_000_000 + number * requests + one)
            words = {"from_number": "4471000000", "from_e164": "+914471000000", "to_e164": f"+91{to}"}
            money = {"rate": Decimal("0.39"), "balance": Decimal("1134.75")}
            said = {"direction": "outbound", "status": "answered", "extra": None, "to_country": "IN"}
            legs = [
                Leg(leg=letter, to_number=to, call_time=at, duration_seconds=10, **words, **money, **said)  # type: ignore[arg-type]
                for letter in "ba"
            ]
            request_id = sha256(f"{label} {number} {one}".encode()).hexdigest()[:43]
            changes["default", request_id] = compare_legs([], legs)
        began = time.monotonic()
        with engine.begin() as connection:
            upsert_legs(connection, changes, run_id=None)
        took += time.monotonic() - began
    return took


if __name__ == "__main__":
    main()
