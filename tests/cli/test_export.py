"""`cdr-sync export` into a file, a pipe, or to a terminal."""

from __future__ import annotations

import csv
import signal
import sys

import pyarrow.parquet as pq
import pytest
from support.operators import CONSOLE_SCRIPT, finish

# A process that sends itself a signal, or finds the disk full, after it wrote some rows.
HURT = """
import errno, os, sys
from etl.db import streams
from etl.export import {writer}

def write(self, rows, write={writer}.write, written=[]):
    write(self, rows)
    written.append(rows)
    if len(written) == 2:
        {harm}

streams._CHUNK, {writer}.write = 2, write
from etl.cli.main import main
main()
"""
WRITERS = [("CsvWriter", "legs.csv"), ("ParquetWriter", "legs.parquet")]


@pytest.fixture
def analyst(operator):
    """A user with ten calls and no credentials."""
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    operator.type("sync", CDR_SYNC_SETTLE="0")
    for name in ("PIOPIY_APP_ID", "PIOPIY_SECRET"):
        del operator.environment[name]
    return operator


def in_shell(operator, line):
    """Run a line of shell, in which `cdr-sync` is the product."""
    return finish(
        operator.start(
            "-c", f'PATH="{CONSOLE_SCRIPT.rpartition("/")[0]}:$PATH"; {line}', program=("/bin/sh",)
        )
    )


def files(operator):
    return sorted(path.name for path in operator.home.iterdir() if path.is_file())


def test_all_legs_and_nothing_else_go_to_standard_output(analyst):
    result = analyst.run("export", "legs")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    stored = analyst.rows("SELECT request_id, leg FROM call_legs ORDER BY call_time, request_id, leg")

    assert (result.code, result.stderr) == (0, "")
    assert [(row["request_id"], row["leg"]) for row in rows] == stored


def test_calls_can_be_limited_to_a_period_and_an_account(analyst):
    ((first, last),) = analyst.rows("SELECT MIN(call_time), MAX(call_time) FROM calls")

    def count(*options):
        return len(analyst.type("export", "calls", *options).stdout.splitlines()) - 1

    assert count() == 10
    assert count("--until", first) == 0
    assert count("--since", first, "--until", last) < 10
    assert count("--account", "default") == 10
    analyst.type("enqueue", "one", "--account", "sales")
    assert count("--account", "sales") == 0


def test_a_file_replaces_the_one_before_and_its_name_selects_the_format(analyst):
    logged = analyst.run("-v", "export", "calls", "--output", "calls.parquet")
    (analyst.home / "calls.csv").touch(mode=0o600)
    plain = analyst.run("export", "calls", "--output", "calls.csv", "--raw")

    assert logged.events == ["10 calls written to calls.parquet"]
    assert (logged.code, plain.code, plain.all) == (0, 0, "")
    assert pq.read_metadata(analyst.home / "calls.parquet").num_rows == 10
    assert (analyst.home / "calls.csv").read_bytes().count(b"\r\n") == 11
    assert (analyst.home / "calls.csv").stat().st_mode & 0o777 == 0o600
    assert files(analyst) == ["calls.csv", "calls.parquet"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (
            ("--output", "calls.xlsx"),
            "Unknown file type .xlsx. Use .csv or .parquet, or add --format",
        ),
        (("--output", "calls.csv.gz"), "Unknown file type .gz. Use .csv"),
        (("--output", "calls.parquet", "--format", "csv"), "calls.parquet does not match --format csv"),
        (("--output", "calls.CSV", "--format", "parquet"), "calls.CSV does not match --format parquet"),
        (("--output", "calls.parquet", "--raw"), "--raw is only for CSV"),
        (("--format", "parquet", "--raw"), "--raw is only for CSV"),
    ],
)
def test_a_name_that_does_not_match_the_format_is_wrong_usage(analyst, options, named):
    result = analyst.type("export", "calls", *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert named in " ".join(result.stderr.split())
    assert files(analyst) == []


@pytest.mark.parametrize(
    ("options", "begins"),
    [
        (("--output", "calls"), b"account,"),
        (("--output", "calls-2026.10"), b"account,"),
        (("--output", "calls.CSV"), b"account,"),
        (("--output", "calls.txt", "--format", "csv"), b"account,"),
        (("--output", "calls.Parquet"), b"PAR1"),
        (("--output", "calls", "--format", "parquet"), b"PAR1"),
    ],
)
def test_any_other_name_gets_its_own_or_the_requested_format(analyst, options, begins):
    result = analyst.run("export", "calls", *options)

    assert (result.code, result.all) == (0, "")
    assert (analyst.home / options[1]).read_bytes().startswith(begins)


def test_text_is_safe_for_spreadsheets_unless_raw_is_given(analyst):
    analyst.rows("UPDATE call_legs SET to_number = '=1+1', from_number = '+914471000000', rate = -0.39")
    safe, raw = (
        analyst.type("export", "legs", *option).stdout.splitlines()[1] for option in ((), ("--raw",))
    )

    assert ",'=1+1," in safe
    assert ",'+914471000000," in safe
    assert ",=1+1," in raw
    assert ",+914471000000," in raw
    assert ",-0.39," in safe
    assert ",-0.39," in raw


def test_a_sum_that_parquet_cannot_hold_is_one_line_of_error_and_csv_holds_it(analyst):
    analyst.rows("UPDATE call_legs SET rate = 6e19")
    refused = analyst.run("export", "calls", "--output", "calls.parquet")

    assert (refused.code, refused.stdout, files(analyst)) == (1, "", [])
    assert refused.stderr.startswith("cdr-sync: Parquet cannot hold the billed_rate_total 12000000000")
    assert len(refused.stderr.splitlines()) == 1
    assert ",120000000000000000000," in analyst.type("export", "calls").stdout


@pytest.mark.parametrize(("writer", "name"), WRITERS, ids=["csv", "parquet"])
@pytest.mark.parametrize("harm", ["SIGINT", "SIGTERM", "ENOSPC"])
def test_an_interrupted_export_leaves_the_file_before_and_nothing_else(analyst, writer, name, harm):
    (analyst.home / name).write_text("before")
    line = (
        'raise OSError(errno.ENOSPC, "No space left on device")'
        if harm == "ENOSPC"
        else f"os.kill(os.getpid(), {int(signal.Signals[harm])})"
    )
    program = (sys.executable, "-c", HURT.format(writer=writer, harm=line))
    ended = finish(analyst.start("export", "legs", "--output", name, program=program))

    assert ended.code == {"SIGINT": 130, "SIGTERM": 143, "ENOSPC": 1}[harm]
    assert ended.stdout == ""
    assert ended.stderr.strip() == (
        f"cdr-sync: {name} cannot be written: No space left on device" if harm == "ENOSPC" else ""
    )
    assert (analyst.home / name).read_text() == "before"
    assert files(analyst) == [name]


def test_the_reader_of_a_pipe_may_leave_early(analyst):
    ended = in_shell(analyst, "cdr-sync export legs | head -n 1")

    assert ended.stdout.startswith("account,request_id,leg,")
    assert ended.stderr == ""


def test_parquet_goes_through_a_pipe(analyst):
    ended = in_shell(analyst, "cdr-sync export calls --format parquet | cat > piped")

    assert ended.all == ""
    assert pq.read_table(analyst.home / "piped").num_rows == 10


def test_a_full_disk_under_standard_output_is_one_line_of_error(analyst):
    ended = in_shell(analyst, "cdr-sync export legs > /dev/full")

    assert ended.code == 1
    assert ended.stderr == "cdr-sync: Standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", [".", "nowhere/legs.csv"], ids=["a folder", "no folder"])
def test_a_path_that_cannot_be_a_file_is_wrong_usage(analyst, name):
    ended = analyst.run("export", "legs", "--output", name)

    assert ended.code == 2
    assert ended.stdout == ""
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith(f"cdr-sync: {name} ")


def test_without_its_library_parquet_says_how_to_install_it(analyst, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = analyst.type("export", "legs", "--format", "parquet")

    assert (result.exit_code, result.stdout) == (2, "")
    assert "pip install 'piopiy-cdr-sync[parquet]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_without_a_database_no_file_is_written(new_operator):
    ended = new_operator.run("export", "legs", "--output", "legs.csv")

    assert (ended.code, ended.stdout, files(new_operator)) == (78, "", [])
    assert not new_operator.database.exists()
