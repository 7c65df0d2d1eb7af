"""Monitoring that does not work: the run has the same result and exit code as without it."""

from __future__ import annotations

import contextlib
import json
import resource

import pytest
from support.health_checks import SECRET, first_words, health_check, silent_listener

from etl.atomic_file import whole_file
from etl.db.tables import sync_runs

pytestmark = pytest.mark.fault(40)

COUNTS = ("claimed", "api_calls", "done", "dead", "retried", "released", "lost_leases", "legs_inserted")


def work_off(site, *options, **environment):
    """One run with a dead letter among its requests; returns the events of its log."""
    site.fill(12)
    site.enqueue("malformed_money-1")
    result = site.operator.type(*options, "sync", **environment)
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
        # The second ping is sent only if the first answer ends in time.
        yield check.url, lambda: check.steps[:1] == ["start"] or pytest.fail(str(check.steps))


@contextlib.contextmanager
def failing():
    with health_check(status=500) as check:
        yield check.url, lambda: check.steps == ["start", "65"] or pytest.fail(str(check.steps))


@contextlib.contextmanager
def redirecting():
    with health_check() as elsewhere, health_check(status=307, location=elsewhere.url) as check:

        def proof():
            assert check.steps == ["start", "65"]
            assert elsewhere.pings == []

        yield check.url, proof


def work_off_beside(trouble, site):
    with trouble() as (url, proof):
        events = work_off(site, "--verbose", CDR_SYNC_PING_URL=url)
        proof()
    failed = [event for event in events if event.startswith("A ping of the health check failed: ")]

    assert len([event for event in events if "1 request became dead" in event]) == 1
    assert failed
    assert SECRET not in str(events)
    site.report(f"health check {trouble.__name__}: exit code and ledger as without it")


@pytest.mark.parametrize("trouble", [refusing, failing, redirecting])
def test_a_health_check_that_fails_does_not_change_a_run(site, trouble):
    work_off_beside(trouble, site)


@pytest.mark.databases("sqlite")  # each run waits for as long as it ever does, and touches no database then
@pytest.mark.parametrize("trouble", [hanging, dripping])
def test_a_health_check_that_does_not_answer_delays_a_run_and_does_not_change_it(site, trouble):
    work_off_beside(trouble, site)


@pytest.mark.databases("sqlite")
def test_failed_pings_are_not_logged_without_verbose(site):
    with failing() as (url, _):
        (event,) = work_off(site, CDR_SYNC_PING_URL=url)

    assert "1 request became dead" in event
    site.report("health check failing: without --verbose, the log is as without it")


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("home/nowhere", "No such file or directory"), ("home/file", "Not a directory"), ("/proc/self", "")],
    ids=["missing", "a file", "not writable"],
)
def test_a_metrics_folder_that_cannot_be_written_to_is_one_line_on_stderr(site, tmp_path, folder, reason):
    (tmp_path / "home" / "file").touch()
    path = tmp_path / folder / "cdr-sync.prom"
    events = work_off(site, CDR_SYNC_METRICS_FILE=str(path))

    assert ["1 request became dead" in line for line in events] == [True, False]
    assert events[1].startswith(f"The metrics file {path} cannot be written: {reason}")
    site.report(f"metrics folder {folder}: one line, exit code and ledger as without it")


def test_a_folder_in_the_place_of_the_metrics_file_is_one_line_on_stderr(site, tmp_path):
    path = tmp_path / "cdr-sync.prom"
    path.mkdir()
    events = work_off(site, CDR_SYNC_METRICS_FILE=str(path))

    assert f"The metrics file {path} cannot be written: Is a directory" in events[1]
    assert list(tmp_path.glob(".*")) == []
    site.report("metrics file is a folder: one line, exit code and ledger as without it")


def test_a_full_disk_leaves_the_old_metrics_file(tmp_path, note):
    path = tmp_path / "cdr-sync.prom"
    path.write_bytes(b"old 1\n")
    with no_space_after(100), pytest.raises(OSError, match="too large"), whole_file(path) as file:
        file.write(b"new 2\n" * 5_000)

    assert path.read_bytes() == b"old 1\n"
    assert list(tmp_path.iterdir()) == [path]
    note(outcome="metrics on a full disk: the old file stays, nothing is left over")


@contextlib.contextmanager
def no_space_after(size):
    """Limit the size of files that this process writes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
