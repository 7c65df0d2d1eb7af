"""`cdr-sync backfill`: what it selects, forecasts and prints, and what an interruption leaves."""

from __future__ import annotations

import json
import re
import signal

import pytest
from support.operators import finish, true_legs, wait_until

from etl.cli import running
from etl.simulator.scenarios import make_request_id

OUTCOMES = ("done", "without_legs", "put_off", "retried", "released", "dead", "lost_leases")
DAYS = {"october": "2026-10-31 23:59:59.999999", "november": "2026-11-01 00:00:00.000000"}


def error_line(result):
    """The one line that reports a mistake."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    (line,) = (line for line in lines if not line.startswith(("Usage: ", "Try '")))
    assert "Traceback" not in line
    return line


def document(result, code=0):
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def enqueue(operator, count):
    request_ids = [make_request_id(number) for number in range(count)]
    assert operator.type("enqueue", "--from-file", "-", stdin="\n".join(request_ids)).exit_code == 0
    return request_ids


def finished(operator, state, *request_ids, error_kind=None, enqueued_at="2026-11-10 12:00:00.000000"):
    """Enqueue requests in the past, in a final state."""
    for request_id in request_ids:
        operator.type("enqueue", request_id)
        operator.rows(
            "UPDATE cdr_requests SET state = ?, finished_at = updated_at, attempts = 3, last_error_kind = ?,"
            " enqueued_at = ? WHERE request_id = ?",
            state,
            error_kind,
            enqueued_at,
            request_id,
        )


@pytest.fixture
def past(operator):
    """An operator with requests of every state, of two months."""
    finished(operator, "done", "answered-1", "answered-2", enqueued_at=DAYS["october"])
    finished(operator, "done", "answered-3", enqueued_at=DAYS["november"])
    finished(operator, "empty", "answered-4", enqueued_at=DAYS["november"])
    finished(operator, "dead", "answered-5", error_kind="timeout")
    finished(operator, "dead", "answered-6", error_kind="malformed")
    finished(operator, "cancelled", "answered-7")
    operator.type("enqueue", "answered-8", "--delay", "1d")
    return operator


def marked(operator):
    rows = operator.rows("SELECT request_id FROM cdr_requests WHERE lane = 1 AND batch IS NOT NULL")
    return {request_id.removeprefix("answered-") for (request_id,) in rows}


# What is selected


@pytest.mark.parametrize(
    ("words", "selected"),
    [
        (("--only", "all"), "1234568"),
        (("--only", "done"), "123"),
        (("--only", "empty,dead"), "456"),
        (("--only", "pending"), "8"),
        (("--error-kind", "timeout"), "5"),
        (("--until", "2026-11-01"), "12"),
        (("--since", "2026-11-01", "--until", "2026-11-02"), "34"),
        (("--since", "2026-11-01T05:30:00+05:30", "--until", "2026-11-02", "--only", "done"), "3"),
        (("--since", "2026-11-01T00:00:00.000001Z", "--only", "done,empty"), ""),
        (("answered-1", "answered-7", "answered-8"), "18"),
        (("answered-1", "answered-5", "--only", "dead"), "5"),
        (("answered-9", "answered-1"), "19"),
        (("--only", "all", "--account", "sales"), ""),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else value or "nothing",
)
def test_a_dry_run_changes_nothing_and_counts_what_is_then_done(past, words, selected):
    words = (*words, "--json")
    if "sales" in words:
        past.environment["SALES"] = "secret"
        (past.home / "c.toml").write_text('[accounts.sales]\napp_id = 1\nsecret_env = "SALES"\n')
        past.environment["CDR_SYNC_CONFIG"] = str(past.home / "c.toml")
    before = past.rows("SELECT * FROM cdr_requests")
    dry = document(past.type("backfill", *words, "--dry-run"))
    untouched = past.rows("SELECT * FROM cdr_requests")
    wet = document(past.type("backfill", *words))

    assert untouched == before
    assert {name: wet[name] for name in ("selected", "by_state", "left_alone", "already_marked")} == {
        name: dry[name] for name in ("selected", "by_state", "left_alone", "already_marked")
    }
    assert dry["api_calls"] == dry["selected"] == len(selected) == wet["claimed"] == wet["api_calls"]
    assert marked(past) == set(selected)
    assert wet["claimed"] == sum(wet[name] for name in OUTCOMES)
    assert wet["batch_by_state"] == ({"done": len(selected)} if selected else {})


def test_a_marked_request_is_due_in_the_backfill_lane_with_all_its_attempts_left(past):
    past.type("backfill", "--only", "dead", "--batch", "again", "--no-run")

    assert past.rows(
        "SELECT DISTINCT state, lane, batch, attempts, finished_at, run_after <= updated_at, last_error_kind"
        " FROM cdr_requests WHERE lane = 1 ORDER BY last_error_kind"
    ) == [("pending", 1, "again", 0, None, 1, kind) for kind in ("malformed", "timeout")]


def test_an_unknown_listed_id_is_enqueued_and_a_cancelled_one_is_skipped(past):
    words = ("backfill", "--from-file", "-", "--json", "--no-run")
    result = document(past.type(*words, stdin="request_id\nanswered-7\nanswered-9\nanswered-9\nanswered-1\n"))

    assert result["by_state"] == {"done": 1, "new": 1}
    assert result["left_alone"] == {"cancelled": 1}
    assert past.rows("SELECT lane, batch FROM cdr_requests WHERE request_id = 'answered-9'") == [
        (1, result["batch"])
    ]


def test_an_id_that_another_account_has_is_not_enqueued_for_the_default_account(past):
    past.type("enqueue", "elsewhere", "--account", "sales")
    result = document(past.type("backfill", "elsewhere", "--json", "--no-run"))

    assert result["by_state"] == {"pending": 1}
    assert past.rows("SELECT account, lane FROM cdr_requests WHERE request_id = 'elsewhere'") == [
        ("sales", 1)
    ]


def test_an_invalid_line_is_reported_and_does_not_keep_others_out(past):
    result = past.type("backfill", "--from-file", "-", "--no-run", stdin="answered-1\nno id\n")

    assert result.exit_code == 0
    assert "line 2 has characters that no request ID has: 'no id'" in result.stderr
    assert marked(past) == {"1"}


def test_a_request_that_a_run_is_fetching_is_skipped_and_reported(operator, simulator):
    simulator.latency = 4.0
    operator.type("enqueue", "answered-1")
    process = operator.start("sync")
    wait_until(lambda: operator.states() == {"running": 1})
    result = document(operator.type("backfill", "answered-1", "--json"))
    run = finish(process)

    assert result["left_alone"] == {"running": 1}
    assert result["selected"] == 0
    assert (run.code, operator.states()) == (0, {"done": 1})
    assert operator.rows("SELECT command, lost_leases FROM sync_runs") == [("sync", 0)]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ((), "--only all"),
        (("--account", "default"), "--only all"),
        (("--only", "running"), "running"),
        (("--since", "yesterday"), "yesterday"),
        (("--until", "0001-01-01T00:00+05:00"), "0001"),
        (("--only", "all", "--max-failures", "0"), "5%"),
        (("--only", "all", "--max-failures", "101%"), "101%"),
        (("--resume", "july", "--only", "dead"), "--resume"),
        (("--resume", "july", "--no-run"), "--resume"),
        (("--resume", "july"), "july"),
        (("--from-file", "/nowhere"), "/nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_wrong_usage_exits_2_and_changes_nothing(past, words, named):
    before = past.rows("SELECT * FROM cdr_requests")
    result = past.type("backfill", *words)

    assert result.exit_code == 2
    assert named in error_line(result)
    assert past.rows("SELECT * FROM cdr_requests") == before
    assert past.rows("SELECT * FROM sync_runs") == []


def test_without_credentials_requests_are_marked_only_with_no_run(past):
    del past.environment["PIOPIY_SECRET"]
    del past.environment["PIOPIY_APP_ID"]
    refused = past.type("backfill", "--only", "all")
    before = marked(past)
    only_marked = past.type("backfill", "--only", "all", "--no-run")

    assert (refused.exit_code, only_marked.exit_code) == (78, 0)
    assert before == set()
    assert marked(past) == set("1234568")


def test_requests_of_accounts_without_credentials_are_not_marked(past):
    past.type("enqueue", "answered-9", "--account", "sales")
    document(past.type("backfill", "--only", "all", "--json"))

    assert marked(past) == set("1234568")


# Labels


def test_two_backfills_in_one_second_have_two_labels(past):
    labels = [document(past.type("backfill", "answered-1", "--json"))["batch"] for _ in range(3)]

    assert all(re.fullmatch(r"backfill-\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ(-\d)?", label) for label in labels)
    assert len(set(labels)) == 3


def test_the_label_is_printed_first_with_the_command_that_resumes(past):
    result = past.type("backfill", "answered-1", "--no-run")
    label = json.loads(result.stderr.splitlines()[0])["batch"]

    assert f"cdr-sync backfill --resume {label}" in result.stdout
    assert f"--resume {label}" in json.loads(result.stderr.splitlines()[0])["event"]


def test_the_same_label_again_changes_nothing(past):
    words = ("backfill", "--only", "done", "--batch", "again", "--json")
    first = document(past.type(*words))
    before = past.rows("SELECT * FROM cdr_requests")
    dry = document(past.type(*words, "--dry-run"))
    second = document(past.type(*words))

    assert (first["selected"], first["claimed"], second["selected"], second["already_marked"]) == (3, 3, 0, 3)
    assert (second["run"], second["claimed"], dry["api_calls"]) == (None, 0, 0)
    assert past.rows("SELECT * FROM cdr_requests") == before


def test_a_label_alone_selects_what_was_enqueued_with_it(past):
    past.type("enqueue", "answered-9", "--batch", "june")
    past.type("sync")
    result = document(past.type("backfill", "--batch", "june", "--json"))

    assert result["by_state"] == {"done": 1}
    assert marked(past) == {"9"}


# What is printed


def test_the_duration_is_unknown_before_the_first_run_and_then_follows_the_latest_runs(operator):
    enqueue(operator, 40)
    words = ("backfill", "--only", "all", "--dry-run", "--json")
    unknown = document(operator.type(*words))
    operator.type("sync")
    operator.rows("UPDATE sync_runs SET started_at = '2026-11-01 00:00:00.000000'")
    operator.rows("UPDATE sync_runs SET finished_at = '2026-11-01 00:00:10.000000'")
    known = document(operator.type(*words))
    limited = document(operator.type(*words, CDR_SYNC_RATE_LIMIT="0.5"))

    assert (unknown["expected_seconds"], unknown["speed_from"]) == (None, None)
    assert (known["expected_seconds"], known["speed_from"]) == (10.0, "latest_runs")
    assert (limited["expected_seconds"], limited["speed_from"]) == (80.0, "rate_limit")


def test_the_forecast_is_printed_as_text_too(operator):
    enqueue(operator, 40)
    result = operator.type("backfill", "--only", "all", "--dry-run", CDR_SYNC_RATE_LIMIT="0.5")

    assert "40 requests would be fetched again (40 pending)" in result.stdout
    assert "API calls: 40" in result.stdout
    assert "0:01:20 at 0.5/s (rate limit)" in result.stdout


def test_a_forecast_of_nothing_or_of_less_than_a_second_is_printed_in_words(operator):
    nothing = operator.type("backfill", "--only", "all", "--dry-run", CDR_SYNC_RATE_LIMIT="5")
    enqueue(operator, 2)
    moment = operator.type("backfill", "--only", "all", "--dry-run", CDR_SYNC_RATE_LIMIT="5")

    assert nothing.stdout == "Nothing to fetch: no request is selected\n"
    assert moment.stdout.endswith("\nExpected duration: under a second at 5.0/s (rate limit)\n")


def test_the_forecast_of_a_resumed_batch_is_only_about_what_is_left(operator):
    enqueue(operator, 2)
    operator.type("backfill", "--only", "all", "--batch", "july", "--no-run")
    left = operator.type("backfill", "--resume", "july", "--dry-run")
    again = operator.type("backfill", "--only", "all", "--batch", "july", "--dry-run")
    operator.type("sync")
    nothing = operator.type("backfill", "--resume", "july", "--dry-run")

    assert left.stdout.startswith("API calls: 2, plus one for each retry")
    assert again.stdout.startswith("2 are already in this batch and will be skipped. To fetch them again")
    assert "\nAPI calls: 2, " in again.stdout
    assert nothing.stdout == "Nothing to fetch: no request is selected\n"


def test_a_backfill_prints_that_its_claims_add_up_and_whether_the_counts_agree(operator):
    operator.type("enqueue", "answered-1", "count_mismatch-1")
    operator.type("sync")
    result = operator.type("backfill", "--only", "all")

    assert "2 claims = 2 done" in result.stdout
    assert "= 2 done\nThe API's count agrees with the legs of 1 of 2 stored answers" in result.stdout
    assert "count_mismatch-1" in result.stdout
    assert operator.rows("SELECT command, batch IS NULL, outcome FROM sync_runs ORDER BY id") == [
        ("sync", 1, "ok"),
        ("backfill", 0, "ok"),
    ]


def test_an_empty_selection_is_reported_and_writes_no_run(operator):
    result = operator.type("backfill", "--only", "dead")

    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "Nothing to fetch: no request is selected\n"
    assert operator.rows("SELECT * FROM sync_runs") == []


def test_off_a_terminal_json_lines_report_the_progress(operator, monkeypatch):
    monkeypatch.setattr(running, "_LINE_SECONDS", 0.0)
    enqueue(operator, 60)
    result = operator.type("backfill", "--only", "all")
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    settled = [line["settled"] for line in lines if "settled" in line]

    assert settled == sorted(settled)
    assert settled[-1] == 60
    assert all(line["total"] == 60 and line["eta_seconds"] is not None for line in lines[-2:])


def test_a_sync_logs_no_progress(operator, monkeypatch):
    monkeypatch.setattr(running, "_LINE_SECONDS", 0.0)
    enqueue(operator, 60)

    assert operator.type("sync").stderr == ""


# Failures


@pytest.mark.parametrize("most", ["3", "10%"])
def test_it_stops_claiming_after_max_failures_and_says_so(operator, most):
    operator.type("enqueue", "answered-1")
    operator.type("sync")  # from now on it is known that the API works
    operator.type("enqueue", *(f"rejected-{number}" for number in range(30)))
    failing = {"CDR_SYNC_MAX_ATTEMPTS": "1", "CDR_SYNC_WORKERS": "1"}
    result = operator.type("backfill", "--only", "all", "--batch", "july", "--max-failures", most, **failing)
    line = json.loads(result.stderr.splitlines()[-1])

    assert result.exit_code == 65
    assert "--max-failures" in line["event"]
    assert "--resume july" in line["event"]
    assert 3 <= operator.states()["dead"] < 12
    assert operator.states()["pending"] > 15
    assert "running" not in operator.states()


def test_fewer_failures_do_not_stop_it(operator):
    operator.type("enqueue", "answered-1", "rejected-1", "malformed_money-1", "answered-2")
    result = operator.type("backfill", "--only", "all", "--max-failures", "3", "--json")
    summary = document(result, 65)

    assert (summary["done"], summary["retried"], summary["dead"]) == (2, 1, 1)
    assert "--max-failures" not in result.stderr


def test_an_outage_exits_69_and_does_not_count_as_failures(past, simulator):
    past.type("sync")
    simulator.outage = "error_500"
    result = past.type("backfill", "--only", "all", "--max-failures", "1", "--json")

    assert result.exit_code == 69
    assert "--max-failures" not in result.stderr
    assert past.rows("SELECT DISTINCT state, attempts FROM cdr_requests WHERE lane = 1") == [("pending", 0)]


# Interrupted


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_backfill_is_resumed_by_another_process(operator, simulator, number, code):
    simulator.latency = 0.03
    request_ids = enqueue(operator, 200)
    process = operator.start("backfill", "--only", "all", "--batch", "july", "--json")
    wait_until(lambda: simulator.total_calls >= 50)
    process.send_signal(number)
    stopped = finish(process)
    left = operator.states()
    simulator.latency = 0.0
    again = operator.run("backfill", "--resume", "july", "--json")
    counts = [json.loads(one.stdout) for one in (stopped, again)]

    assert (stopped.code, again.code) == (code, 0)
    assert set(left) == {"done", "pending"}
    assert [one["claimed"] - sum(one[name] for name in OUTCOMES) for one in counts] == [0, 0]
    assert sum(one["done"] for one in counts) == 200
    assert counts[1]["batch_by_state"] == {"done": 200}
    assert max(simulator.calls.values()) == 1
    assert operator.stored_legs() == true_legs(simulator, request_ids)
    assert operator.rows("SELECT command, batch, outcome FROM sync_runs ORDER BY id") == [
        ("backfill", "july", "interrupted"),
        ("backfill", "july", "ok"),
    ]


def test_a_killed_backfill_is_resumed_by_another_process(operator, simulator):
    simulator.latency = 0.01
    request_ids = enqueue(operator, 400)
    process = operator.start("backfill", "--only", "all", "--batch", "july")
    wait_until(lambda: simulator.total_calls >= 100)
    process.kill()
    finish(process)
    in_hand = operator.states().get("running", 0)
    again = operator.run("backfill", "--resume", "july", "--json")

    assert 0 < in_hand < 100
    assert again.code == 0
    assert json.loads(again.stdout)["batch_by_state"] == {"done": 400}
    assert operator.stored_legs() == true_legs(simulator, request_ids)
    assert simulator.total_calls <= 400 + in_hand


def test_resuming_a_finished_backfill_prints_how_its_batch_stands(past):
    past.type("backfill", "--only", "done", "--batch", "july")
    result = past.type("backfill", "--resume", "july")

    assert result.exit_code == 0
    assert "Batch july: 3 requests = 3 done" in result.stdout
    assert past.rows("SELECT COUNT(*) FROM sync_runs") == [(1,)]


def test_two_processes_share_a_backfill(operator, simulator):
    simulator.latency = 0.02
    enqueue(operator, 300)
    operator.type("backfill", "--only", "all", "--batch", "july", "--no-run")
    processes = [operator.start("backfill", "--resume", "july", "--json") for _ in range(2)]
    counts = [json.loads(finish(process).stdout) for process in processes]

    assert sum(one["done"] for one in counts) == 300
    assert max(simulator.calls.values()) == 1
    assert operator.states() == {"done": 300}


# Beside live requests


def test_a_run_beside_a_backfill_fetches_a_new_request_first(operator, simulator):
    simulator.latency = 0.05
    enqueue(operator, 300)
    process = operator.start("backfill", "--only", "all", "--batch", "july")
    wait_until(lambda: simulator.total_calls >= 20)
    operator.type("enqueue", "answered-1")
    operator.type("sync", "--limit", 1)
    is_at_work = process.poll() is None
    states = dict(operator.rows("SELECT request_id, state FROM cdr_requests WHERE lane = 0"))
    process.terminate()
    finish(process)

    assert is_at_work
    assert states == {"answered-1": "done"}


def test_a_backfill_fetches_only_its_batch(past, simulator):
    past.type("enqueue", "answered-9")
    past.type("backfill", "answered-1")

    assert set(simulator.calls) == {"answered-1"}
