"""The metrics file: correct figures in the format of Prometheus, never half written, after any run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from etl.atomic_file import whole_file
from etl.monitoring import value_in_file

PROMTOOL = shutil.which("promtool")


@pytest.fixture
def path(operator):
    path = operator.home / "cdr-sync.prom"
    operator.environment["CDR_SYNC_METRICS_FILE"] = str(path)
    return path


def metrics(path):
    """Every sample of the file: its name without `cdr_sync_`, with the values of its labels."""
    families = list(text_string_to_metric_families(path.read_text()))

    assert all(family.name.startswith("cdr_sync_") and family.documentation for family in families)
    return {
        " ".join((sample.name.removeprefix("cdr_sync_"), *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def now(operator):
    ((now,),) = operator.rows("SELECT (julianday('now') - 2440587.5) * 86400")
    return now


def test_a_run_writes_its_results_and_the_state_of_the_queue(operator, path):
    ids = [f"answered-{number}" for number in range(20)]
    operator.type("enqueue", *ids, "none-1", "rejected-1", "malformed_money-1")
    before = now(operator)
    result = operator.type("sync", "--json")
    found = metrics(path)
    ((claimed, calls),) = operator.rows("SELECT claimed, api_calls FROM sync_runs")
    outcomes = {name: value for name, value in found.items() if name.startswith("last_run_requests ")}

    assert result.exit_code == found["last_run_exit_code"] == 65
    assert sum(outcomes.values()) == claimed == 23
    assert outcomes["last_run_requests done"] == 20
    assert outcomes["last_run_requests dead"] == found["requests_dead malformed"] == 1
    assert before - 1 <= found["last_run_timestamp_seconds"] <= now(operator) + 1
    assert 0 < found["last_run_duration_seconds"] < 60
    assert found["last_run_api_call_seconds_count"] == found["last_run_api_call_seconds_bucket +Inf"] == calls
    assert 0 < found["last_run_api_call_seconds_sum"] < 60
    assert found["last_run_rate_wait_seconds"] == 0
    assert found["requests_running"] == found["breaker_open default"] == 0
    assert "last_success_timestamp_seconds" not in found


def test_slow_calls_are_counted_in_the_buckets_of_their_latency(operator, simulator, path):
    simulator.latency = 0.12
    operator.type("enqueue", *(f"answered-{number}" for number in range(3)))
    operator.type("sync")
    found = metrics(path)
    name = "last_run_api_call_seconds"

    assert found[f"{name}_bucket 0.1"] == 0
    assert found[f"{name}_bucket +Inf"] == found[f"{name}_count"] == 3
    assert found[f"{name}_sum"] >= 0.36


def test_an_idle_run_writes_the_file_that_the_option_names(operator):
    path = operator.home / "elsewhere.prom"
    result = operator.type("sync", "--metrics-file", path)
    found = metrics(path)

    assert (result.exit_code, result.output) == (0, "")
    assert found["last_run_exit_code"] == found["oldest_due_age_seconds"] == 0
    assert found["last_run_api_call_seconds_count"] == found["last_run_requests done"] == 0
    assert 0 <= found["last_run_timestamp_seconds"] - found["last_success_timestamp_seconds"] < 5


def test_the_metrics_of_the_queue_are_read_from_the_database(operator, path):
    operator.rows(
        "INSERT INTO cdr_requests (request_id, account, state, last_error_kind, lease_token, lease_until,"
        " finished_at, run_after) VALUES"
        " ('a', 'default', 'dead', 'timeout', NULL, NULL, '2021-01-01', '2021-01-01'),"
        " ('b', 'default', 'dead', 'timeout', NULL, NULL, '2021-01-01', '2021-01-01'),"
        " ('c', 'other', 'dead', NULL, NULL, NULL, '2021-01-01', '2021-01-01'),"
        " ('d', 'other', 'running', NULL, 'token', '2999-01-01', NULL, '2021-01-01'),"
        " ('e', 'other', 'pending', NULL, NULL, NULL, NULL, datetime('now', '-1 hour'))"
    )
    operator.rows("INSERT INTO api_accounts (account, breaker_opened_at) VALUES ('other', '2026-01-01')")
    operator.type("sync")
    found = metrics(path)

    assert {name: value for name, value in found.items() if name.startswith("requests_")} == {
        "requests_running": 1,
        "requests_dead timeout": 2,
        "requests_dead unknown": 1,
    }
    assert (found["breaker_open other"], found["breaker_open default"]) == (1, 0)
    assert 3_600 <= found["oldest_due_age_seconds"] < 3_700


def test_the_last_success_is_kept_by_runs_that_fail(operator, simulator, path):
    operator.type("sync")
    succeeded_at = metrics(path)["last_success_timestamp_seconds"]
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(6)))
    path.unlink()
    outage = operator.type("sync", CDR_SYNC_TRIES="1")
    after_outage = metrics(path)
    lost = operator.type("sync", CDR_SYNC_DATABASE_URL="mysql://nobody@127.0.0.1:9/cdr")
    after_loss = metrics(path)

    assert (outage.exit_code, lost.exit_code) == (69, 69)
    assert after_outage["last_success_timestamp_seconds"] == succeeded_at
    assert after_outage["breaker_open default"] == 1
    assert after_loss["last_success_timestamp_seconds"] == succeeded_at
    assert after_loss["last_run_timestamp_seconds"] >= succeeded_at
    assert set(after_loss) == {
        "last_success_timestamp_seconds",
        "last_run_timestamp_seconds",
        "last_run_duration_seconds",
        "last_run_exit_code",
    }


def test_everybody_can_read_the_file_under_any_umask(operator, path):
    before = os.umask(0o077)
    operator.type("sync")
    os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o644


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "cdr-sync.prom"
    path.write_bytes(b"old 1\n")
    with whole_file(path) as file:
        file.write(b"new 2\n" * 50)
        file.flush()
        seen = path.read_bytes(), list(tmp_path.glob("*.prom"))
        file.write(b"new 2\n" * 50)
    first = path.stat().st_ino
    with whole_file(path) as file:
        file.write(b"newer 3\n")

    assert seen == (b"old 1\n", [path])
    assert path.read_bytes() == b"newer 3\n"
    assert path.stat().st_ino != first  # the file is replaced, not written in place


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"x{ 1", b"other 5\n", b"x one\n"])
def test_a_file_without_the_value_gives_none(tmp_path, content):
    path = tmp_path / "cdr-sync.prom"
    if content is not None:
        path.write_bytes(content)

    assert value_in_file(path, "x") is None


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here: it comes with Debian's prometheus")
def test_promtool_accepts_the_file(operator, path):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
