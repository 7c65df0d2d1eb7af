"""The metrics file: true figures in the words of Prometheus, whole at every instant, whatever the run."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess

import pytest
from prometheus_client.parser import text_string_to_metric_families

from etl.monitoring import textfile
from etl.monitoring.textfile import replace_file, value_in_file

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


def test_a_run_writes_what_it_did_and_how_the_queue_stands(operator, path):
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


def test_slow_calls_are_in_the_classes_of_their_latency(operator, simulator, path):
    simulator.latency = 0.12
    operator.type("enqueue", *(f"answered-{number}" for number in range(3)))
    operator.type("sync")
    found = metrics(path)
    name = "last_run_api_call_seconds"

    assert found[f"{name}_bucket 0.1"] == 0
    assert found[f"{name}_bucket +Inf"] == found[f"{name}_count"] == 3
    assert found[f"{name}_sum"] >= 0.36


def test_an_idle_run_writes_the_file_too_where_the_option_says(operator):
    path = operator.home / "elsewhere.prom"
    result = operator.type("sync", "--metrics-file", path)
    found = metrics(path)

    assert (result.exit_code, result.output) == (0, "")
    assert found["last_run_exit_code"] == found["oldest_due_age_seconds"] == 0
    assert found["last_run_api_call_seconds_count"] == found["last_run_requests done"] == 0
    assert 0 <= found["last_run_timestamp_seconds"] - found["last_success_timestamp_seconds"] < 5


def test_the_queue_is_seen_as_it_stands(operator, path):
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


def test_the_last_success_outlives_runs_that_fail(operator, simulator, path):
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


def test_everybody_may_read_the_file_whatever_the_umask(operator, path):
    before = os.umask(0o077)
    operator.type("sync")
    os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("is_in_place", [False, True], ids=["renamed", "in place"])
def test_a_reader_never_sees_half_a_file(tmp_path, monkeypatch, is_in_place):
    path = tmp_path / "cdr-sync.prom"
    replace_file(path, b"old 1\n")
    seen = []

    def look(*_):
        seen.append((path.read_bytes(), [file.name for file in tmp_path.glob("*.prom")]))

    @contextlib.contextmanager
    def in_place(path, **_):
        with path.open("wb") as file:
            yield file
            look()

    monkeypatch.setattr(os, "fsync", look)  # is called when all is written and nothing renamed
    if is_in_place:  # the guard taken out
        monkeypatch.setattr(textfile, "whole_file", in_place)
    replace_file(path, b"new 2\n" * 100)

    assert path.read_bytes() == b"new 2\n" * 100
    assert seen == [(b"" if is_in_place else b"old 1\n", ["cdr-sync.prom"])]


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"x{ 1", b"other 5\n", b"x one\n"])
def test_a_file_that_does_not_tell_a_value_is_no_trouble(tmp_path, content):
    path = tmp_path / "cdr-sync.prom"
    if content is not None:
        path.write_bytes(content)

    assert value_in_file(path, "x") is None


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not here: it comes with Debian's prometheus")
def test_promtool_has_nothing_to_say_about_the_file(operator, path):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    checked = subprocess.run(
        [PROMTOOL, "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
