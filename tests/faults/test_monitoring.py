"""Monitoring that is out of order: the run's result, its exit code and its time are as without it."""

from __future__ import annotations

import contextlib
import json
import resource

import pytest
from support.health_checks import SECRET, first_words, health_check, silent_listener

from etl.db.tables import sync_runs
from etl.monitoring import health_check as product
from etl.monitoring.textfile import replace_file

pytestmark = pytest.mark.fault(40)

COUNTS = ("claimed", "api_calls", "done", "dead", "retried", "released", "lost_leases", "legs_inserted")


def work_off(site, **environment):
    """One run with a dead letter among its requests, in words that two runs without trouble share."""
    site.fill(12)
    site.enqueue("malformed_money-1")
    result = site.operator.type("sync", **environment)
    (ledger,) = site.rows(sync_runs)

    assert SECRET not in result.output
    assert (result.exit_code, result.stdout, ledger["outcome"]) == (65, "", "dead_letters")
    assert [ledger[name] for name in COUNTS] == [13, 13, 12, 1, 0, 0, 0, len(site.true_legs())]
    assert site.states() == {"done": 12, "dead": 1}
    return [json.loads(line)["event"] for line in result.stderr.splitlines()]


@contextlib.contextmanager
def refusing():
    yield f"http://127.0.0.1:9/{SECRET}", lambda: None


@contextlib.contextmanager
def hanging():
    with silent_listener() as listener:

        def proof():
            assert first_words(listener).startswith(f"GET /{SECRET}/start?rid=")

        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{SECRET}", proof


@contextlib.contextmanager
def dripping():
    with health_check(drips_at="start") as check:
        # What comes after it is told only where the answer came to its end before the patience did.
        yield check.url, lambda: check.steps[:1] == ["start"] or pytest.fail(str(check.steps))


@contextlib.contextmanager
def failing():
    with health_check(status=500) as check:
        yield check.url, lambda: check.steps == ["start", "65", "start", "0"] or pytest.fail(str(check.steps))


@contextlib.contextmanager
def redirecting():
    with health_check() as elsewhere, health_check(status=307, location=elsewhere.url) as check:

        def proof():
            assert check.steps == ["start", "65", "start", "0"]
            assert elsewhere.pings == []

        yield check.url, proof


@pytest.mark.parametrize("trouble", [refusing, hanging, dripping, failing, redirecting])
def test_a_health_check_that_is_out_of_order_changes_nothing_about_a_run(site, monkeypatch, trouble):
    monkeypatch.setattr(product, "CALL_SECONDS", 0.2)
    monkeypatch.setattr(product, "LAST_SECONDS", 0.5)
    with trouble() as (url, proof):
        told = work_off(site, CDR_SYNC_PING_URL=url)
        idle = site.operator.type("--verbose", "sync", CDR_SYNC_PING_URL=url)
        proof()

    assert len(told) == 1
    assert "1 request became dead" in told[0]
    assert (idle.exit_code, idle.stdout) == (0, "")
    assert "A ping of the health check failed: " in idle.stderr
    assert SECRET not in idle.stderr
    site.report(f"health check {trouble.__name__}: exit code and ledger as without it")


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("home/nowhere", "No such file or directory"), ("home/file", "Not a directory"), ("/proc/self", "")],
    ids=["missing", "a file", "not writable for anybody"],
)
def test_a_metrics_folder_that_cannot_be_written_to_is_a_line_on_stderr_and_no_more(
    site, tmp_path, folder, reason
):
    (tmp_path / "home" / "file").touch()
    path = tmp_path / folder / "cdr-sync.prom"
    told = work_off(site, CDR_SYNC_METRICS_FILE=str(path))

    assert ["1 request became dead" in line for line in told] == [True, False]
    assert told[1].startswith(f"The metrics file {path} cannot be written: {reason}")
    site.report(f"metrics folder {folder}: one line, exit code and ledger as without it")


def test_a_folder_that_stands_where_the_metrics_file_should_is_a_line_on_stderr_and_no_more(site, tmp_path):
    path = tmp_path / "cdr-sync.prom"
    path.mkdir()
    told = work_off(site, CDR_SYNC_METRICS_FILE=str(path))

    assert f"The metrics file {path} cannot be written: Is a directory" in told[1]
    assert list(tmp_path.glob(".*")) == []
    site.report("metrics file is a folder: one line, exit code and ledger as without it")


def test_a_metrics_file_stays_as_it_was_where_the_disk_is_full(tmp_path, note):
    path = tmp_path / "cdr-sync.prom"
    replace_file(path, b"old 1\n")
    with no_space_after(100), pytest.raises(OSError, match="too large"):
        replace_file(path, b"new 2\n" * 5_000)

    assert path.read_bytes() == b"old 1\n"
    assert list(tmp_path.iterdir()) == [path]
    note(outcome="metrics on a full disk: the old file stays, nothing is left over")


@contextlib.contextmanager
def no_space_after(size):
    """Have the kernel refuse files of this process that are larger, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
