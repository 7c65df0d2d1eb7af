"""What a report on a large month takes: time, memory and bytes; and each of its numbers, found again by SQL.

    python benchmarks/report.py [--calls 100000] [--zone Asia/Kolkata] [--database-url URL]

Invents a month of calls in a fresh SQLite file, or in an empty database of a server, and runs `cdr-sync
report` as a process of its own, in both forms. Of the file it puts the page's numbers beside those of
independent SQL statements.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.months import BEGIN, DAYS, fill_month
from support.pages import Page, Questions, check

from etl.db.engine import create_sqlite_file, open_engine, sqlite_path
from etl.db.schema import upgrade


def main() -> None:
    """Fill a database, report on it, and print what that took."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--zone", default="Asia/Kolkata", help="one without a change of clocks in that month")
    parser.add_argument("--database-url", metavar="URL", help="an empty database of a server")
    parser.add_argument("--fill", metavar="URL", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill, options.calls)
        return
    with tempfile.TemporaryDirectory() as folder:
        database, page = Path(folder) / "month.sqlite3", Path(folder) / "month.html"
        # In a process of its own, whose memory would count as that of the processes started after it.
        url = options.database_url or f"sqlite:///{database}"
        subprocess.run([sys.executable, __file__, "--calls", str(options.calls), "--fill", url], check=True)
        since = datetime(BEGIN.year, BEGIN.month, 1, tzinfo=ZoneInfo(options.zone))
        until = (since + timedelta(days=DAYS)).isoformat()
        words = [sys.executable, "-m", "etl", "--database-url", url, "report"]
        words += ["--since", since.isoformat(), "--until", until, "--tz", options.zone]
        print(f"terminal  {measure(words)}")
        print(f"page      {measure([*words, '--output', str(page)])}")
        minutes = round(since.utcoffset().total_seconds() / 60)
        told = Page(page.read_text())
        cells = sum(len(row) for rows in told.tables.values() for row in rows)
        calls, legs = int(told.figures["calls"]), int(told.figures["legs"])
        print(f"{calls:,} calls of {legs:,} legs, {page.stat().st_size / 1e6:.2f} MB")
        if not options.database_url:
            check(
                told, Questions(database, _utc(since), _utc(datetime.fromisoformat(until)), minutes=minutes)
            )
            print(f"SQL agrees on the page's {cells:,} cells and {len(told.figures)} figures")


def fill(url: str, calls: int) -> None:
    """Store a month of calls."""
    if sqlite_path(url):
        create_sqlite_file(url)
    engine = open_engine(url)
    upgrade(engine)
    fill_month(engine, calls)
    engine.dispose()


def measure(words: list[str]) -> str:
    """Run a process, and tell its wall time, CPU time and memory."""
    begin = time.monotonic()
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0
    return (
        f"{time.monotonic() - begin:5.1f} s wall, {used.ru_utime + used.ru_stime:5.1f} s CPU, "
        f"{used.ru_maxrss / 1024:4.0f} MB at most"
    )


def _utc(instant: datetime) -> str:
    return instant.astimezone(ZoneInfo("UTC")).replace(tzinfo=None).isoformat()


if __name__ == "__main__":
    main()
