"""`cdr-sync export` as somebody types it: into a file, a pipe, or to a terminal."""

from __future__ import annotations

import csv
import signal
import sys

import pyarrow.parquet as pq
import pytest
from support.operators import CONSOLE_SCRIPT, finish

# A process that sends itself a signal, or finds the disk full, when it has written some rows.
HURT = """
import errno, os, sys
from etl.db import streams as exports
from etl.export.{module} import {writer}

def write(self, rows, write={writer}.write, lots=[]):
    write(self, rows)
    lots.append(rows)
    if len(lots) == 2:
        {harm}

exports._LOT, {writer}.write = 2, write
from etl.cli.main import main
main()
"""
WRITERS = [("csv_text", "CsvWriter", "legs.csv"), ("parquet", "ParquetWriter", "legs.parquet")]


@pytest.fixture
def analyst(operator):
    """Somebody with ten calls, whose credentials are gone."""
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    operator.type("sync", CDR_SYNC_SETTLE="0")
    for name in ("PIOPIY_APP_ID", "PIOPIY_SECRET"):
        del operator.environment[name]
    return operator


def in_shell(someone, line):
    """What comes of a line of shell, in which `cdr-sync` is the product."""
    return finish(
        someone.start("-c", f'PATH="{CONSOLE_SCRIPT.rpartition("/")[0]}:$PATH"; {line}', program=("/bin/sh",))
    )


def files(someone):
    return sorted(path.name for path in someone.home.iterdir() if path.is_file())


def test_all_legs_go_to_standard_output_with_no_other_word(analyst):
    result = analyst.run("export", "legs")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    stored = analyst.rows("SELECT request_id, leg FROM call_legs ORDER BY call_time, request_id, leg")

    assert (result.code, result.stderr) == (0, "")
    assert [(row["request_id"], row["leg"]) for row in rows] == stored


def test_calls_can_be_narrowed_to_a_period_and_an_account(analyst):
    ((first, last),) = analyst.rows("SELECT MIN(call_time), MAX(call_time) FROM calls")

    def count(*options):
        return len(analyst.type("export", "calls", *options).stdout.splitlines()) - 1

    assert count() == 10
    assert count("--until", first) == 0
    assert count("--since", first, "--until", last) < 10
    assert count("--account", "default") == 10
    analyst.type("enqueue", "one", "--account", "sales")
    assert count("--account", "sales") == 0


def test_a_file_is_written_whole_and_its_form_is_told_by_its_name(analyst):
    told = analyst.run("-v", "export", "calls", "--output", "calls.parquet")
    (analyst.home / "calls.csv").touch(mode=0o600)
    plain = analyst.run("export", "calls", "--output", "calls.csv", "--raw")

    assert told.events == ["10 calls written to calls.parquet"]
    assert (told.code, plain.code, plain.all) == (0, 0, "")
    assert pq.read_metadata(analyst.home / "calls.parquet").num_rows == 10
    assert (analyst.home / "calls.csv").read_bytes().count(b"\r\n") == 11
    assert (analyst.home / "calls.csv").stat().st_mode & 0o777 == 0o600
    assert files(analyst) == ["calls.csv", "calls.parquet"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--output", "calls.xlsx"), "calls.xlsx would hold CSV"),
        (("--output", "calls.csv.gz"), "calls.csv.gz would hold CSV"),
        (("--output", "calls.parquet", "--format", "csv"), "calls.parquet would hold csv"),
        (("--output", "calls.CSV", "--format", "parquet"), "calls.CSV would hold parquet"),
        (("--output", "calls.parquet", "--raw"), "--raw is for CSV"),
        (("--format", "parquet", "--raw"), "--raw is for CSV"),
    ],
)
def test_a_name_that_does_not_fit_what_is_written_is_wrong_usage(analyst, options, named):
    result = analyst.type("export", "calls", *options)

    assert (result.exit_code, result.stdout) == (2, "")
    assert named in result.stderr
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
def test_any_other_name_holds_what_it_says_or_what_is_asked_for(analyst, options, begins):
    result = analyst.run("export", "calls", *options)

    assert (result.code, result.all) == (0, "")
    assert (analyst.home / options[1]).read_bytes().startswith(begins)


def test_text_is_made_safe_for_spreadsheets_unless_a_program_wants_it_raw(analyst):
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


def test_a_sum_that_parquet_cannot_hold_is_told_in_a_line_and_csv_holds_it(analyst):
    analyst.rows("UPDATE call_legs SET rate = 6e19")
    refused = analyst.run("export", "calls", "--output", "calls.parquet")

    assert (refused.code, refused.stdout, files(analyst)) == (1, "", [])
    assert refused.stderr.startswith("cdr-sync: Parquet cannot hold the billed_rate_total 12000000000")
    assert len(refused.stderr.splitlines()) == 1
    assert ",120000000000000000000," in analyst.type("export", "calls").stdout


@pytest.mark.parametrize(("module", "writer", "name"), WRITERS, ids=["csv", "parquet"])
@pytest.mark.parametrize("harm", ["SIGINT", "SIGTERM", "ENOSPC"])
def test_a_file_that_does_not_get_whole_leaves_the_one_before_and_nothing_else(
    analyst, module, writer, name, harm
):
    (analyst.home / name).write_text("before")
    line = (
        'raise OSError(errno.ENOSPC, "No space left on device")'
        if harm == "ENOSPC"
        else f"os.kill(os.getpid(), {int(signal.Signals[harm])})"
    )
    program = (sys.executable, "-c", HURT.format(module=module, writer=writer, harm=line))
    ended = finish(analyst.start("export", "legs", "--output", name, program=program))

    assert ended.code == {"SIGINT": 130, "SIGTERM": 143, "ENOSPC": 1}[harm]
    assert ended.stdout == ""
    assert ended.stderr.strip() == (
        f"cdr-sync: {name} cannot be written: No space left on device" if harm == "ENOSPC" else ""
    )
    assert (analyst.home / name).read_text() == "before"
    assert files(analyst) == [name]


def test_whoever_reads_from_a_pipe_may_leave_early(analyst):
    ended = in_shell(analyst, "cdr-sync export legs | head -n 1")

    assert ended.stdout.startswith("account,request_id,leg,")
    assert ended.stderr == ""


def test_parquet_goes_through_a_pipe(analyst):
    ended = in_shell(analyst, "cdr-sync export calls --format parquet | cat > piped")

    assert ended.all == ""
    assert pq.read_table(analyst.home / "piped").num_rows == 10


def test_a_full_disk_behind_standard_output_is_told_in_a_line(analyst):
    ended = in_shell(analyst, "cdr-sync export legs > /dev/full")

    assert ended.code == 1
    assert ended.stderr == "cdr-sync: Standard output cannot be written: No space left on device\n"


@pytest.mark.parametrize("name", [".", "nowhere/legs.csv"], ids=["a folder", "no folder"])
def test_what_can_be_no_file_is_wrong_usage(analyst, name):
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


def test_without_a_database_there_is_no_file_either(new_operator):
    ended = new_operator.run("export", "legs", "--output", "legs.csv")

    assert (ended.code, ended.stdout, files(new_operator)) == (78, "", [])
    assert not new_operator.database.exists()
