"""Clocks and time zones, of workers and sessions and servers: the database's clock rules, in UTC."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path

import pytest
from sqlalchemy import text
from support.operators import finish

from etl.db.dialects import Instant
from etl.db.engine import read_url
from etl.db.tables import call_legs, cdr_requests, metadata

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)

# --- A worker's clock that is wrong, or jumps --------------------------------------------------------

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")  # of Debian's package `faketime`
PATCH = """
import pathlib, time
right, offset = time.time, pathlib.Path({offset!r})
time.time = lambda: right() + int(offset.read_text())
"""


class WrongClock:
    """A clock that is off by as many seconds as stand in a file, for whatever process has this environment.

    libfaketime deceives all of a process; not on SQLite, whose clock that of its process is, nor where it is
    not installed: there Python alone is deceived.
    """

    def __init__(self, folder, *, deceives_all):
        self.file = folder / "offset"
        self.set(0)
        if deceives_all and FAKETIME.exists():
            faked = {"FAKETIME_TIMESTAMP_FILE": str(self.file), "FAKETIME_NO_CACHE": "1"}
            self.environment = {"LD_PRELOAD": str(FAKETIME), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **faked}
        else:
            (folder / "sitecustomize.py").write_text(PATCH.format(offset=str(self.file)))
            self.environment = {"PYTHONPATH": f"{folder}:{os.environ.get('PYTHONPATH', '')}"}

    def set(self, seconds):
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}")
        new.replace(self.file)

    def look(self):
        """What a process with this clock takes the time to be."""
        words = [sys.executable, "-c", "import time; print(time.time())"]
        seen = subprocess.run(words, env={**os.environ, **self.environment}, check=True, capture_output=True)
        return datetime.fromtimestamp(float(seen.stdout), UTC)


@pytest.fixture
def clock(site, tmp_path):
    folder = tmp_path / "clock"
    folder.mkdir()
    return WrongClock(folder, deceives_all=site.database_kind != "sqlite")


def past_instants(site):
    """Every instant in the database but those at which something is to happen."""
    return [
        row[column.name]
        for table in metadata.sorted_tables
        for row in site.rows(table)
        for column in table.columns
        if isinstance(column.type, Instant)
        and column.name not in ("run_after", "lease_until", "call_time")
        and row[column.name] is not None
    ]


@pytest.mark.fault(30)
@pytest.mark.untrue_ledger("two claims are put there by hand")
@pytest.mark.parametrize("offsets", [(3600,), (-3600,), (3600, -3600)], ids=["ahead", "behind", "jumping"])
def test_a_worker_whose_clock_is_wrong_keeps_to_that_of_the_database(site, clock, offsets):
    before = site.now()
    due = [f"answered-{number}" for number in range(40)]
    site.enqueue(*due, "error_500-1", "answered-held", "answered-left")
    site.enqueue("answered-later", delay=HOUR / 2)
    running = {"state": "running", "lease_token": "0" * 32, "attempts": 1}
    site.change("answered-held", **running, lease_until=before + HOUR / 2)
    site.change("answered-left", **running, lease_until=before - MINUTE / 2)
    site.simulator.latency = 0.02
    jumps = cycle(offsets)
    clock.set(next(jumps))
    seen = clock.look()
    process = site.start("sync", CDR_SYNC_RETRY_DELAY="60s", CDR_SYNC_TRIES="1", **clock.environment)
    while process.poll() is None:
        clock.set(next(jumps))
    ended, after = finish(process), site.now()
    state = {row["request_id"]: row["state"] for row in site.rows(cdr_requests)}

    assert abs(seen - before - timedelta(seconds=offsets[0])) < 10 * MINUTE
    assert (ended.code, ended.all) == (0, "")
    assert {state[request_id] for request_id in (*due, "answered-left")} == {"done"}
    assert (state["answered-held"], state["answered-later"], state["error_500-1"]) == (
        "running",
        "pending",
        "pending",
    )
    assert before < site.request("error_500-1")["run_after"] < after + MINUTE
    assert before - MINUTE / 60 < min(past_instants(site)) <= max(past_instants(site)) <= after
    site.report("leases, waits and instants by the database's clock")


# --- Time zones --------------------------------------------------------------------------------------

STORED = "SELECT request_id, leg, {} FROM call_legs"
MILLISECONDS = {
    "sqlite": "CAST(strftime('%s', call_time) AS INTEGER) * 1000 + CAST(substr(call_time, 21, 3) AS INTEGER)",
    "postgresql": "CAST(EXTRACT(EPOCH FROM call_time) * 1000 AS bigint)",
    "mariadb": "TIMESTAMPDIFF(MICROSECOND, '1970-01-01', call_time) DIV 1000",
}
ZONES = {
    "an hour is left out": ("America/New_York", "-05:00", "2026-03-09T00Z"),
    "an hour comes twice": ("America/New_York", "-04:00", "2026-11-02T00Z"),
    "it is tomorrow already": ("Pacific/Kiritimati", "+13:00", "2026-03-09T00Z"),
}


@contextmanager
def server_in(site, zone, offset):
    """The zone of every session that does not say its own; the test's own sessions included."""
    name = read_url(site.url).database
    database = f"ALTER DATABASE {name}"
    said = {
        "postgresql": (f"{database} SET timezone = '{zone}'", f"{database} RESET timezone"),
        "mariadb": (f"SET GLOBAL time_zone = '{offset}'", "SET GLOBAL time_zone = 'SYSTEM'"),
    }
    set_zone, reset_zone = said.get(site.database_kind, ("SELECT 1", "SELECT 1"))
    with site.engine.begin() as connection:
        connection.execute(text(set_zone))
    site.engine.dispose()
    try:
        yield
    finally:
        with site.engine.begin() as connection:
            connection.execute(text(reset_zone))


@pytest.mark.fault(31)
@pytest.mark.parametrize(("zone", "offset", "day_after"), ZONES.values(), ids=ZONES)
def test_no_time_zone_of_a_process_session_or_server_moves_an_instant(site, zone, offset, day_after):
    before = site.now()
    site.simulator.epoch = datetime.fromisoformat(day_after).timestamp()  # its calls are of the day before
    with server_in(site, zone, offset):
        request_ids = site.fill(60)
        with site.engine.begin() as connection:  # as any client does it
            connection.execute(text("INSERT INTO cdr_requests (request_id) VALUES ('answered-1')"))
        ended = site.run("sync", TZ=zone, PGTZ=zone)
        stored = site.sql(STORED.format(MILLISECONDS[site.database_kind]))
    sent = [
        (request_id, leg["leg"], int(leg["time"]))
        for request_id in (*request_ids, "answered-1")
        for leg in site.simulator.legs_of(request_id)
    ]

    assert (ended.code, ended.all) == (0, "")
    assert sorted(stored) == sorted(sent)
    assert (
        len({row["call_time"].hour for row in site.rows(call_legs)}) > 12
    )  # the changing hour is among them
    assert before - MINUTE / 60 < min(past_instants(site)) <= max(past_instants(site)) <= site.now()
    site.report("every instant as it was sent, in UTC")
