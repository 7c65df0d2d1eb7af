"""`cdr-sync requests`: what retry and cancel change and skip, and what show prints."""

from __future__ import annotations

import json

import pytest
from support.operators import finish, wait_until

STATES = ("pending", "running", "done", "empty", "dead", "cancelled")
HISTORY = (
    "fetches, reclaims, leg_count, api_count, last_error_kind, last_error, last_http_status, enqueued_at"
)


def error_line(result):
    """The one line that reports a mistake."""
    (line,) = result.stderr.splitlines()
    assert "Traceback" not in line
    return line


def put_into(operator, state, *request_ids):
    """Bring requests into a state, with a history worth keeping."""
    lease = "'token', updated_at" if state == "running" else "NULL, NULL"
    finished = "NULL" if state in ("pending", "running") else "updated_at"
    for request_id in request_ids:
        operator.type("enqueue", request_id)
        operator.rows(
            "UPDATE cdr_requests SET attempts = 8, fetches = 3, reclaims = 1, leg_count = 2, api_count = 2,"  # noqa: S608
            " last_error_kind = 'timeout', last_error = 'none', run_after = '2999-01-01 00:00:00.000000',"
            f" state = '{state}', finished_at = {finished}, (lease_token, lease_until) = ({lease})"
            " WHERE request_id = ?",
            request_id,
        )


def states_of(operator):
    return dict(operator.rows("SELECT request_id, state FROM cdr_requests"))


@pytest.fixture
def one_in_each_state(operator):
    for state in STATES:
        put_into(operator, state, f"{state}-1")
    return operator


# retry


@pytest.mark.parametrize("state", ["dead", "empty", "done", "cancelled"])
def test_a_retried_request_is_due_with_all_its_attempts_left_and_keeps_its_history(operator, state):
    put_into(operator, state, "one")
    before = operator.rows(f"SELECT id, {HISTORY} FROM cdr_requests")  # noqa: S608
    result = operator.type("requests", "retry", "one")

    assert result.exit_code == 0
    assert result.stdout == f"1 request will be retried (1 {state})\n"
    assert operator.rows(
        "SELECT state, attempts, finished_at, run_after <= updated_at, batch, lane FROM cdr_requests"
    ) == [("pending", 0, None, 1, None, 0)]
    assert operator.rows(f"SELECT id, {HISTORY} FROM cdr_requests") == before  # noqa: S608


def test_pending_and_running_requests_are_skipped_and_named(one_in_each_state):
    before = one_in_each_state.rows("SELECT * FROM cdr_requests WHERE state IN ('pending', 'running')")
    result = one_in_each_state.type("requests", "retry", *(f"{state}-1" for state in STATES))
    after = one_in_each_state.rows(
        "SELECT * FROM cdr_requests WHERE request_id IN ('pending-1', 'running-1')"
    )

    assert result.exit_code == 0
    assert after == before
    assert "4 requests will be retried (1 cancelled, 1 dead, 1 done, 1 empty)" in result.stdout
    assert "Skipped: pending-1 of account default is already pending" in result.stdout
    assert "Skipped: running-1 of account default is running" in result.stdout


def test_the_next_run_fetches_a_retried_request_and_clears_its_error(operator, simulator):
    put_into(operator, "dead", "answered-1")
    operator.type("requests", "retry", "answered-1")
    operator.type("sync")

    assert operator.rows("SELECT state, fetches, last_error_kind FROM cdr_requests") == [("done", 4, None)]
    assert simulator.calls == {"answered-1": 1}


@pytest.mark.parametrize(
    ("options", "replayed"),
    [
        (("--all-dead",), {"slow", "broken", "sold"}),
        (("--error-kind", "timeout"), {"slow", "sold"}),
        (("--error-kind", "malformed"), {"broken"}),
        (("--all-dead", "--account", "sales"), {"sold"}),
        (("--all-dead", "--batch", "june"), {"broken"}),
        (("slow", "done-1", "--error-kind", "timeout"), {"slow"}),
        (("--error-kind", "too_large"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_dead_requests_are_retried_by_any_mix_of_filters_and_a_dry_run_counts_the_same(
    operator, options, replayed
):
    operator.type("enqueue", "sold", "--account", "sales")
    put_into(operator, "dead", "slow", "broken")
    put_into(operator, "done", "done-1")
    operator.rows("UPDATE cdr_requests SET last_error_kind = 'malformed', batch = 'june' WHERE id = 3")
    operator.rows(
        "UPDATE cdr_requests SET state = 'dead', finished_at = updated_at, last_error_kind = 'timeout'"
        " WHERE request_id = 'sold'"
    )
    before = operator.rows("SELECT * FROM cdr_requests")
    dry = json.loads(operator.type("requests", "retry", *options, "--dry-run", "--json").stdout)
    untouched = operator.rows("SELECT * FROM cdr_requests")
    done = json.loads(operator.type("requests", "retry", *options, "--json").stdout)

    assert untouched == before
    assert dry == {**done, "dry_run": True}
    assert done["changed"] == len(replayed)
    assert {name for name, state in states_of(operator).items() if state == "pending"} == replayed


def test_an_empty_selection_is_reported(operator):
    result = operator.type("requests", "retry", "--all-dead")

    assert result.exit_code == 0
    assert result.stdout == "Nothing to do: no request is selected\n"


def test_retry_without_a_selection_is_wrong_usage(one_in_each_state):
    result = one_in_each_state.type("requests", "retry", "--account", "default")

    assert result.exit_code == 2
    assert "--all-dead" in error_line(result)
    assert states_of(one_in_each_state) == {f"{state}-1": state for state in STATES}


@pytest.mark.parametrize("what", ["retry", "cancel"])
def test_an_unknown_id_is_named_and_does_not_keep_others_out(one_in_each_state, what):
    result = one_in_each_state.type("requests", what, "unheard-of", "dead-1")

    assert result.exit_code == 2
    assert "'unheard-of'" in error_line(result)
    assert "1 request" in result.stdout
    assert states_of(one_in_each_state)["dead-1"] == {"retry": "pending", "cancel": "cancelled"}[what]


def test_an_id_is_retried_in_every_account_or_in_the_one_named(operator):
    for account in ("default", "sales", "support"):
        operator.type("enqueue", "one", "--account", account)
    operator.rows("UPDATE cdr_requests SET state = 'dead', finished_at = updated_at")
    operator.type("requests", "retry", "one", "--account", "sales")
    named = operator.rows("SELECT account FROM cdr_requests WHERE state = 'pending'")
    operator.type("requests", "retry", "one")

    assert named == [("sales",)]
    assert operator.states() == {"pending": 3}


def test_thousands_of_dead_requests_are_retried(operator):
    operator.type("enqueue", "--from-file", "-", stdin="\n".join(f"id{n}" for n in range(2_500)))
    operator.rows("UPDATE cdr_requests SET state = 'dead', finished_at = updated_at WHERE id % 5")
    result = operator.type("requests", "retry", "--all-dead")

    assert result.stdout == "2,000 requests will be retried (2,000 dead)\n"
    assert operator.states() == {"pending": 2_500}


# show


def test_show_prints_all_about_a_request_as_one_document(operator):
    operator.type("enqueue", "count_mismatch-1", "--batch", "june")
    operator.type("sync")
    pending = json.loads(operator.type("requests", "show", "count_mismatch-1", "--json").stdout)
    operator.rows("UPDATE cdr_requests SET run_after = '2020-01-01 00:00:00.000000'")
    operator.type("sync")
    done = json.loads(operator.type("requests", "show", "count_mismatch-1", "--json").stdout)

    assert (pending["state"], pending["next_try_at"]) == ("pending", pending["run_after"])
    assert (done["state"], done["next_try_at"], done["batch"], done["lane"]) == ("done", None, "june", 0)
    assert (done["fetches"], done["attempts"], done["reclaims"]) == (2, 1, 0)
    assert [finding["check_name"] for finding in done["findings"]] == ["count_mismatch"]
    assert [answer["fetched_at"][:2] for answer in done["responses"]] == ["20"]
    assert len(done["legs"]) == 2


def test_show_prints_the_command_that_retries_a_dead_request(operator):
    put_into(operator, "dead", "one")
    shown = operator.type("requests", "show", "one").stdout
    operator.rows("UPDATE cdr_requests SET account = 'north sales'")
    elsewhere = operator.type("requests", "show", "one").stdout

    assert ". To retry: `cdr-sync requests retry one`\n" in shown
    assert ". To retry: `cdr-sync requests retry one --account 'north sales'`\n" in elsewhere


def test_a_leg_that_a_later_answer_lacks_is_a_finding(operator):
    operator.type("enqueue", "shrinking-1")
    operator.type("sync")
    operator.rows("UPDATE cdr_requests SET run_after = '2020-01-01 00:00:00.000000'")
    operator.type("sync")
    details = json.loads(operator.type("requests", "show", "shrinking-1", "--json").stdout)

    assert [finding["check_name"] for finding in details["findings"]] == ["missing_leg"]
    assert [answer["revision"] for answer in details["responses"]] == [1, 2]


@pytest.mark.parametrize(
    ("state", "comes"),
    [("pending", "first run after 2999"), ("running", "holds it until"), ("dead", "requests retry")],
)
def test_show_says_what_comes_next(one_in_each_state, state, comes):
    shown = one_in_each_state.type("requests", "show", f"{state}-1").stdout
    lines = dict(line.split(": ", 1) for line in shown.splitlines() if ": " in line)

    assert lines["State"].startswith(state)
    assert comes in lines["Next"]
    assert lines["So far"].startswith("3 valid answers, 8 attempts used")
    assert lines["Last error"] == "timeout: none"
    assert lines["Lane"] == "live; batch: none"


# cancel


def test_pending_and_dead_requests_are_cancelled_and_others_skipped(one_in_each_state):
    result = one_in_each_state.type("requests", "cancel", *(f"{state}-1" for state in STATES))
    states = states_of(one_in_each_state)

    assert states == {f"{s}-1": "cancelled" if s in ("pending", "dead") else s for s in STATES}
    assert result.exit_code == 1
    assert "2 requests cancelled (1 dead, 1 pending)" in result.stdout
    assert "done-1 of account default is done" in result.stdout
    assert "while a run is fetching it" in error_line(result)


def test_all_pending_requests_of_an_account_or_batch_are_cancelled_and_no_others(operator):
    operator.type("enqueue", "sold", "sold-too", "--account", "sales")
    operator.type("enqueue", "june-1", "--account", "sales", "--batch", "june")
    put_into(operator, "dead", "dead-1")
    operator.rows("UPDATE cdr_requests SET account = 'sales', batch = 'june' WHERE request_id = 'dead-1'")
    operator.type("enqueue", "other", "--batch", "june")
    first = operator.type("requests", "cancel", "--all-pending", "--account", "sales", "--batch", "june")
    by_then = states_of(operator)
    rest = operator.type("requests", "cancel", "--all-pending", "--account", "sales")

    assert first.stdout == "1 request cancelled (1 pending)\n"
    assert {name for name, state in by_then.items() if state == "cancelled"} == {"june-1"}
    assert rest.stdout == "2 requests cancelled (2 pending)\n"
    assert (states_of(operator)["other"], states_of(operator)["dead-1"]) == ("pending", "dead")


@pytest.mark.parametrize(
    "words", [("--account", "default"), ("--all-pending",), ("--batch", "b")], ids=" ".join
)
def test_cancel_without_a_selection_is_wrong_usage(one_in_each_state, words):
    result = one_in_each_state.type("requests", "cancel", *words)

    assert result.exit_code == 2
    assert "--all-pending" in error_line(result)
    assert states_of(one_in_each_state) == {f"{state}-1": state for state in STATES}


def test_cancelling_twice_is_not_an_error(operator):
    operator.type("enqueue", "one")
    first, second = operator.type("requests", "cancel", "one"), operator.type("requests", "cancel", "one")

    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "is cancelled" in second.stdout
    assert operator.rows("SELECT state, finished_at IS NULL FROM cdr_requests") == [("cancelled", 0)]


def test_a_cancelled_request_is_not_fetched_until_it_is_retried(operator, simulator):
    operator.type("enqueue", "answered-1")
    operator.type("requests", "cancel", "answered-1")
    operator.type("sync")
    asked = simulator.total_calls
    operator.type("requests", "retry", "answered-1")
    operator.type("sync")

    assert asked == 0
    assert operator.states() == {"done": 1}


def test_a_dry_run_of_cancel_changes_nothing(one_in_each_state):
    result = one_in_each_state.type("requests", "cancel", "pending-1", "dead-1", "--dry-run")

    assert "2 requests would be cancelled" in result.stdout
    assert states_of(one_in_each_state) == {f"{state}-1": state for state in STATES}


def test_a_request_that_a_run_is_fetching_cannot_be_cancelled(operator, simulator):
    simulator.latency = 4.0
    operator.type("enqueue", "answered-1")
    process = operator.start("sync")
    wait_until(lambda: operator.states() == {"running": 1})
    refused = operator.type("requests", "cancel", "answered-1")
    replayed = operator.type("requests", "retry", "answered-1")
    run = finish(process)

    assert (refused.exit_code, replayed.exit_code, run.code) == (1, 0, 0)
    assert operator.states() == {"done": 1}
    assert operator.rows("SELECT lost_leases FROM sync_runs") == [(0,)]
