"""`cdr-sync demo`: the whole job over real HTTP on this machine, with nothing configured."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from etl.cli.options import INSTANT
from etl.cli.output import counted, print_table
from etl.cli.running import watched
from etl.db.engine import create_sqlite_file, open_engine, reading
from etl.db.figures import count_legs, dead_by_error_kind, first_rows, requests_by_state
from etl.db.queue import enqueue_requests
from etl.db.schema import upgrade
from etl.errors import UsageError
from etl.settings import DEFAULT_ACCOUNT, Account, Settings
from etl.simulator.scenarios import SAMPLE_REQUEST_ID, make_request_id, parse_faults
from etl.simulator.server import Simulator, wall_clock
from etl.sync.run import run_sync
from etl.sync.signals import Stop, stop_on_signals
from etl.sync.summary import OUTCOMES, Limits

if TYPE_CHECKING:
    from sqlalchemy import Engine

_REQUESTS = 300
_DAYS = 7  # over which the calls are spread
_EARLIEST = 978_307_200  # 2001-01-01: calls before 2000 are not valid
_LONGEST = timedelta(seconds=60)
_CALLS = "call_time, request_id, b_to, answered, billed_rate_total"
_LEGS = "call_time, request_id, leg, to_e164, duration_seconds AS seconds, rate, status"


@click.command("demo")
@click.option("--seed", type=int, default=1, show_default=True, help="Seed of the invented calls.")
@click.option(
    "--until",
    type=INSTANT,
    metavar="T",
    help="Invent calls of the seven days before this time [default: today].",
)
def command(seed: int, until: datetime | None) -> None:
    """Show the whole job against a simulated API, with nothing configured.

    Starts the simulator on a free port of this machine, creates a new SQLite database, enqueues a few hundred
    request IDs, some of which fail in every documented way, and runs sync until all are finished. With the
    same --seed and --until the calls are the same, except a few that end while it runs.
    """
    epoch = _epoch_of(until)
    path = Path(tempfile.mkdtemp(prefix="cdr-sync-demo-")) / "demo.sqlite3"
    url = f"sqlite:///{path}"
    with Simulator(seed=seed, weights=parse_faults("demo"), epoch=epoch, days=_DAYS) as simulator:
        click.echo(f"1. A simulated PIOPIY API answers at {simulator.url}")
        create_sqlite_file(url)
        engine = open_engine(url)
        upgrade(engine)
        request_ids = [SAMPLE_REQUEST_ID, *(make_request_id(n, seed) for n in range(_REQUESTS - 1))]
        _enqueue(engine, request_ids)
        click.echo(f"2. A new database has {counted(_REQUESTS, 'request ID')} in its queue\n3. sync:")
        with stop_on_signals() as stop:
            counts = _sync_until_settled(engine, url, simulator, stop)
        if stop.signal is not None:
            raise click.exceptions.Exit(128 + stop.signal)
    _print_outcomes(engine, counts)
    _print_rows(engine)
    _print_next_steps(url)


def _epoch_of(until: datetime | None) -> float:
    """The end of the period of calls in epoch seconds; by default the last midnight (UTC)."""
    now = wall_clock()
    if until is None:
        return now // 86_400 * 86_400
    if not _EARLIEST <= until.timestamp() <= now:
        raise UsageError(
            f"--until {until:%Y-%m-%d} is not in the allowed period",
            remedy="Choose a time in the past, from 2001-01-01 on",
        )
    return until.timestamp()


def _settings(url: str, simulator: Simulator) -> Settings:
    """Settings with short waits: what takes hours against the real API takes seconds here."""
    account = Account(DEFAULT_ACCOUNT, simulator.app_id, simulator.secret)
    return Settings(
        database_url=url,
        api_url=simulator.url,
        tries=2,
        max_attempts=3,
        retry_delay=timedelta(seconds=0.2),
        request_timeout=timedelta(seconds=2),
        settle=timedelta(seconds=2),
        empty_for=timedelta(seconds=3),
        empty_delay=timedelta(seconds=0.3),
        accounts={DEFAULT_ACCOUNT: account},
    )


def _enqueue(engine: Engine, request_ids: list[str]) -> None:
    with engine.begin() as connection:
        enqueue_requests(connection, request_ids, account=DEFAULT_ACCOUNT, batch="demo", delay=timedelta(0))


def _sync_until_settled(engine: Engine, url: str, simulator: Simulator, stop: Stop) -> Counter[str]:
    """Run `sync` again and again, as cron would, until no request is pending."""
    settings = _settings(url, simulator)
    counts: Counter[str] = Counter()
    with watched(engine) as on_progress:
        waiting = _REQUESTS
        while waiting and not stop.event.is_set():
            summary = run_sync(
                engine,
                settings,
                list(settings.accounts.values()),
                limits=Limits(time_limit=_LONGEST),
                stop=stop,
                on_progress=on_progress,
            )
            counts += summary.counts
            with reading(engine) as connection:
                waiting = requests_by_state(connection)["pending"]
            if waiting:
                stop.event.wait(0.2)
    return counts


def _print_outcomes(engine: Engine, counts: Counter[str]) -> None:
    with reading(engine) as connection:
        states = {state: count for state, count in requests_by_state(connection).items() if count}
        dead = dead_by_error_kind(connection)
        legs = count_legs(connection)
    total = " + ".join(f"{count:,} {state}" for state, count in states.items())
    click.echo(f"\nRequests: {sum(states.values()):,} = {total}")
    click.echo("Dead, by error kind: " + ", ".join(f"{count} {kind}" for kind, count in dead.items()))
    outcomes = " + ".join(f"{counts[name]:,} {words}" for name, words in OUTCOMES.items() if counts[name])
    click.echo(f"Claims: {counts['claimed']:,} = {outcomes}")
    click.echo(f"API calls: {counts['api_calls']:,}, legs stored: {legs:,}")


def _print_rows(engine: Engine) -> None:
    with reading(engine) as connection:
        for title, table, columns in (
            ("calls: one row per call", "calls", _CALLS),
            ("call_legs: one row per leg", "call_legs", _LEGS),
        ):
            rows = first_rows(connection, table, columns, most=5)
            click.echo(f"\n{title}")
            print_table([[_short(value) for value in row] for row in rows], rows[0]._fields)


def _short(value: object) -> object:
    """Shorten request IDs and drop zero microseconds, to fit every column into a terminal."""
    if not isinstance(value, str):
        return value
    return f"{value[:6]}…" if len(value) > 40 else value.removesuffix(".000000")  # noqa: PLR2004


def _print_next_steps(url: str) -> None:
    # The bare name works only if a shell finds it; else repeat what was typed.
    typed = f"{sys.executable} -m etl" if sys.argv[0].endswith("__main__.py") else sys.argv[0]
    command_name = "cdr-sync" if shutil.which("cdr-sync") else typed
    path = url.removeprefix("sqlite:///")
    click.echo(
        f"\nThe database is {path}. To explore it:\n"  # noqa: S608 (text, not a statement)
        f"  {command_name} --database-url {url} status\n"
        f"  {command_name} --database-url {url} requests list --state dead\n"
        f"  sqlite3 {path} 'SELECT * FROM calls LIMIT 5'\n"
        "More queries: docs/data.md, “Twenty queries”.\n"
        "To use your own account: README.md, “First real run”."
    )
