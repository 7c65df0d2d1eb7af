"""Real processes: quiet, quick, interrupted, and several at once, against a simulator that counts calls."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from support.operators import CONSOLE_SCRIPT, PATIENCE, finish, wait_until

from etl import __version__
from etl.simulator.scenarios import make_request_id

SLOW_TO_IMPORT = {"alembic", "prometheus_client", "pydantic", "structlog", "requests"}


def enqueue(operator, count):
    request_ids = [make_request_id(number) for number in range(count)]
    result = operator.type("enqueue", "--from-file", "-", stdin="\n".join(request_ids))
    assert result.exit_code == 0, result.output
    return request_ids


def asked_twice(simulator):
    return {request_id for request_id, count in simulator.calls.items() if count > 1}


def imported_by(process):
    """Return the packages that a process imported. It must have run with `-X importtime`."""
    lines = (line for line in process.stderr.decode().splitlines() if line.startswith("import time:"))
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


# Quiet and quick


def test_a_run_with_nothing_due_prints_nothing_when_not_on_a_terminal(operator):
    operator.type("enqueue", "one", "--delay", "1h")
    finished = operator.run("sync")

    assert (finished.code, finished.stdout, finished.stderr) == (0, "", "")


def test_the_package_can_be_run_as_a_module(operator):
    process = subprocess.run(
        [sys.executable, "-m", "etl", "--version"],
        env=operator.whole_environment(),
        cwd=operator.home,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )

    assert process.stdout.decode().strip().endswith(__version__)
    assert process.stderr == b""


def test_the_module_gives_the_same_exit_codes(operator):
    command = [sys.executable, "-m", "etl", "sync", "--account", "nobody"]
    process = subprocess.run(  # noqa: PLW1510 (the code is what is asked for)
        command, env=operator.whole_environment(), cwd=operator.home, capture_output=True, timeout=PATIENCE
    )

    assert process.returncode == 78
    assert b"Traceback" not in process.stderr


@pytest.mark.parametrize("words", [("--help",), ("sync", "--help"), ("sync",)], ids=" ".join)
def test_help_and_an_idle_run_import_nothing_that_is_slow_to_import(operator, words):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "etl", *words],
        env=operator.whole_environment(),
        cwd=operator.home,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )
    imported = imported_by(process)

    assert "etl" in imported
    assert imported & SLOW_TO_IMPORT == set()


def test_help_imports_no_database_library_either(operator):
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "etl", "--help"],
        env=operator.whole_environment(),
        cwd=operator.home,
        capture_output=True,
        timeout=PATIENCE,
        check=True,
    )

    assert imported_by(process) & {"sqlalchemy", "rich", "msgspec", "asyncio"} == set()


def test_a_reader_that_stops_early_causes_no_traceback(operator):
    enqueue(operator, 500)
    process = operator.start("requests", "list", "--limit", 500, "--json")
    process.stdout.close()
    process.stdout = None
    _, stderr = process.communicate(timeout=PATIENCE)

    assert stderr == b""


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
@pytest.mark.parametrize("words", [("requests", "list"), ("requests", "show", "id€")], ids=["list", "show"])
def test_an_encoding_that_lacks_a_character_still_shows_the_others(operator, encoding, words):
    operator.type("enqueue", "id€", "plain")
    finished = operator.run(*words, PYTHONIOENCODING=encoding)

    assert (finished.code, finished.stderr) == (0, "")
    assert "pending" in finished.stdout


def by_shell(operator, line):
    """Run a shell command in which `cdr-sync` is the program under test."""
    return finish(operator.start("-c", line.replace("cdr-sync", CONSOLE_SCRIPT), program=("sh",)))


@pytest.mark.parametrize("words", ["--help", "status", "requests list --json", "runs", "report"])
def test_a_full_disk_is_reported_in_one_line(operator, words):
    finished = by_shell(operator, f"cdr-sync {words} > /dev/full")

    assert (finished.code, finished.stderr) == (
        1,
        "cdr-sync: The output cannot be written: No space left on device\n",
    )


def test_closed_standard_streams_are_ignored_and_not_replaced_by_another_file(operator):
    enqueued = by_shell(operator, "cdr-sync enqueue answered-1 >&- 2>&- <&-")
    read = by_shell(operator, "cdr-sync enqueue --from-file - <&-")
    worked = by_shell(operator, "cdr-sync --verbose sync --json >&- 2>&-")
    listed = by_shell(operator, "cdr-sync runs >&-")

    assert [one.code for one in (enqueued, read, worked, listed)] == [0, 0, 0, 0]
    assert read.stdout.startswith("0 new requests")
    assert listed.all == ""
    assert len(operator.stored_legs()) > 0
    assert operator.rows("PRAGMA integrity_check") == [("ok",)]


def test_the_demo_without_a_terminal_prints_plain_text_that_adds_up(new_operator):
    finished = new_operator.run("demo")
    requests, states = finished.stdout.split("\nRequests: ")[1].splitlines()[0].split(" = ")
    claims, outcomes = finished.stdout.split("\nClaims: ")[1].splitlines()[0].split(" = ")

    assert (finished.code, finished.stderr) == (0, "")
    assert "\x1b" not in finished.stdout
    assert int(requests) == sum(int(part.split()[0]) for part in states.split(" + ")) == 300
    assert int(claims) == sum(int(part.split()[0]) for part in outcomes.split(" + "))


def test_the_demo_started_as_a_module_prints_commands_that_work(new_operator):
    module = {"program": (sys.executable, "-m", "etl"), "PATH": "/usr/bin:/bin"}
    finished = finish(new_operator.start("demo", **module))
    (line,) = (line for line in finished.stdout.splitlines() if line.endswith("sqlite3 status"))
    status = finish(new_operator.start("-c", line, program=("sh",)))

    assert (status.code, status.stderr) == (0, "")
    assert status.stdout.startswith("Requests: 0 pending")


def test_an_interrupted_demo_exits_with_130_and_no_traceback(new_operator):
    process = new_operator.start("demo")
    while b"3. sync" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    finished = finish(process)

    assert finished.code == 130
    assert "Traceback" not in finished.stderr


# At once


def test_the_first_commands_may_run_at_the_same_time(new_operator):
    processes = [new_operator.start("enqueue", f"id{number}", "same") for number in range(3)]
    finished = [finish(process) for process in processes]

    assert [(one.code, one.stderr) for one in finished] == [(0, "")] * 3
    assert new_operator.states() == {"pending": 4}


def test_a_command_waits_for_migrations_that_another_one_is_running(new_operator, empty_database):
    with contextlib.closing(sqlite3.connect(empty_database)) as connection:
        schema = [
            sql
            for (sql,) in connection.execute(
                "SELECT sql FROM sqlite_schema WHERE sql <> '' AND name <> 'sqlite_sequence'"
            )
        ]
        ((revision,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall()
    new_operator.database.parent.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(new_operator.database, isolation_level=None)) as migrator:
        migrator.execute("PRAGMA journal_mode = WAL")
        migrator.execute("BEGIN IMMEDIATE")
        for statement in schema:
            migrator.execute(statement)
        migrator.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        process = new_operator.start("enqueue", "one")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1.5)
        migrator.execute("COMMIT")
    finished = finish(process)

    assert (finished.code, finished.stderr) == (0, "")
    assert new_operator.states() == {"pending": 1}


def test_ids_enqueued_during_a_run_are_fetched_by_it_or_the_next(operator, simulator):
    simulator.latency = 0.02
    enqueue(operator, 150)
    process = operator.start("sync")
    wait_until(lambda: simulator.total_calls >= 20)
    added = operator.type("enqueue", "answered-1", "answered-2")
    finished = finish(process)
    operator.type("sync")

    assert (added.exit_code, finished.code) == (0, 0)
    assert operator.states() == {"done": 152}
    assert asked_twice(simulator) == set()


def test_reading_the_queue_never_waits_for_a_run(operator, simulator):
    simulator.outage = "stall_headers"
    operator.type("enqueue", "answered-1")
    operator.start("sync")
    wait_until(lambda: simulator.total_calls)
    looks = [operator.type(*words) for words in (("status",), ("runs",), ("requests", "list"))]

    assert [look.exit_code for look in looks] == [0, 0, 0]
    assert "1 running" in looks[0].stdout


def test_a_read_only_home_folder_is_reported_in_one_line(new_operator):
    folder = new_operator.home / "data"
    folder.mkdir()
    folder.chmod(0o500)
    if os.access(folder, os.W_OK):
        pytest.skip("this user may write anywhere")
    finished = new_operator.run("enqueue", "one")
    folder.chmod(0o700)

    assert finished.code in (69, 78)
    assert len(finished.stderr.splitlines()) == 1
    assert str(folder) in finished.stderr


def test_the_console_script_is_executable():
    assert os.access(CONSOLE_SCRIPT, os.X_OK)
