"""`cdr-sync sync`: what a run prints, changes, and exits with."""

from __future__ import annotations

import json

import pytest
from support.commands import (
    DOWN,
    GOOD,
    MALFORMED,
    OUTCOMES,
    REFUSED,
    adds_up,
    everything_in,
    mistake,
    write_accounts,
)
from support.operators import finish, true_legs, wait_until


def test_a_run_prints_all_that_it_did_as_one_document_that_adds_up(operator, simulator):
    done = ("answered-1", "several_b-1", "missed-1", "flaky_500-1")
    operator.type("enqueue", *done, "none-1", "in_progress-1", "malformed_money-1", "rejected-1")
    result = operator.type("sync", "--json")
    document = json.loads(result.stdout)

    assert result.exit_code == 65
    assert document["claimed"] == 8
    assert adds_up(document)
    assert {name: document[name] for name in ("done", "put_off", "dead", "retried")} == {
        "done": 4,
        "put_off": 2,
        "dead": 1,
        "retried": 1,
    }
    assert document["api_calls"] == simulator.total_calls
    assert document["legs_inserted"] == len(true_legs(simulator, (*done, "in_progress-1")))
    assert operator.stored_legs() == true_legs(simulator, (*done, "in_progress-1"))
    assert operator.states() == {"done": 4, "pending": 3, "dead": 1}


def test_the_ledger_says_what_the_document_says(operator):
    operator.type("enqueue", "answered-1", "none-1")
    document = json.loads(operator.type("sync", "--json").stdout)
    row = json.loads(operator.type("runs", "show", document.pop("run"), "--json").stdout)

    assert {name: row[name] for name in document} == document
    assert row["finished_at"] is not None


def test_a_run_with_nothing_to_do_is_zero_everywhere(operator):
    result = operator.type("sync", "--json")
    document = json.loads(result.stdout)

    assert result.exit_code == 0
    assert document["outcome"] == "ok"
    assert {document[name] for name in ("claimed", *OUTCOMES, "api_calls")} == {0}


def test_a_dry_run_counts_and_changes_nothing(operator, simulator):
    operator.type("enqueue", "answered-1", "answered-2")
    operator.type("enqueue", "answered-3", "--delay", "1h")
    before = everything_in(operator)
    text, document = operator.type("sync", "--dry-run"), operator.type("sync", "--dry-run", "--json")
    after = everything_in(operator)

    assert (text.exit_code, document.exit_code) == (0, 0)
    assert text.stdout.startswith("2 requests due")
    assert json.loads(document.stdout)["due"] == 2
    assert after == before
    assert simulator.total_calls == 0


@pytest.mark.parametrize("options", [(), ("--batch", "june"), ("--account", "default"), ("--limit", "1")])
def test_a_dry_run_promises_what_a_run_then_does(operator, options):
    operator.type("enqueue", "answered-1", "--batch", "june")
    operator.type("enqueue", "answered-2", "answered-3")
    operator.type("enqueue", "answered-4", "--account", "nobody")
    promised = json.loads(operator.type("sync", "--dry-run", "--json", *options).stdout)["due"]
    claimed = json.loads(operator.type("sync", "--json", *options).stdout)["claimed"]

    assert promised == claimed


def test_a_dry_run_makes_no_database(new_operator, simulator):
    new_operator.connect(simulator)
    result = new_operator.type("sync", "--dry-run")

    assert str(new_operator.database) in mistake(result)
    assert not new_operator.database.exists()


def test_a_limit_is_kept(operator, simulator):
    operator.type("enqueue", *(f"answered-{number}" for number in range(20)))
    document = json.loads(operator.type("sync", "--limit", 7, "--json").stdout)

    assert document["claimed"] == document["done"] == 7
    assert simulator.total_calls == 7
    assert operator.states() == {"pending": 13, "done": 7}


def test_only_the_batch_and_the_account_asked_for_are_worked_on(operator):
    operator.type("enqueue", "answered-1", "--batch", "june")
    operator.type("enqueue", "answered-2", "--batch", "july")
    operator.type("sync", "--batch", "june", "--account", "default")

    assert operator.rows("SELECT request_id FROM cdr_requests WHERE state = 'done'") == [("answered-1",)]


def test_a_time_limit_ends_a_run_with_nothing_held_and_nothing_logged(operator, simulator):
    simulator.latency = 0.05
    operator.type("enqueue", *(f"answered-{number}" for number in range(200)))
    result = operator.type("sync", "--time-limit", "0.6s", "--workers", 2, "--json")
    document = json.loads(result.stdout)

    assert (result.exit_code, result.stderr) == (0, "")
    assert document["outcome"] == "ok"
    assert adds_up(document)
    assert 0 < document["done"] < 100
    assert set(operator.states()) == {"done", "pending"}
    assert max(simulator.calls.values()) == 1
    assert operator.rows("SELECT DISTINCT attempts FROM cdr_requests WHERE state = 'pending'") == [(0,)]


def test_requests_of_an_unconfigured_account_are_reported_and_left_alone(operator):
    operator.type("enqueue", "answered-1", "--account", "sales")
    result = operator.type("sync")

    assert result.exit_code == 0
    assert "sales" in result.stderr
    assert operator.states() == {"pending": 1}


def test_off_a_terminal_a_good_run_says_nothing(operator):
    operator.type("enqueue", "answered-1", "none-1")
    result = operator.type("sync")

    assert (result.exit_code, result.output) == (0, "")


def test_failures_that_will_be_retried_are_no_reason_to_wake_anybody(operator):
    operator.type("enqueue", "answered-1", "rejected-1")
    result = operator.type("sync")

    assert (result.exit_code, result.output) == (0, "")
    assert operator.rows("SELECT attempts, last_error_kind FROM cdr_requests WHERE state = 'pending'") == [
        (1, "rejected")
    ]


def test_a_dead_request_is_reported_with_the_command_to_type(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    result = operator.type("sync")
    line = json.loads(result.stderr)

    assert result.exit_code == 65
    assert result.stdout == ""
    assert line["level"] == "error"
    assert "cdr-sync requests list --state dead" in line["event"]


def test_an_outage_is_69_and_uses_no_attempt(operator, simulator):
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(30)))
    results = [operator.type("sync", CDR_SYNC_TRIES="1") for _ in range(3)]

    assert [result.exit_code for result in results] == [69, 69, 69]
    assert all(len(result.stderr.splitlines()) == 1 for result in results)
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]
    assert simulator.total_calls < 20


def test_after_an_outage_the_next_run_does_everything(operator, simulator):
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(30)))
    operator.type("sync", CDR_SYNC_TRIES="1")
    simulator.outage = None
    result = operator.type("sync")

    assert (result.exit_code, result.output) == (0, "")
    assert operator.states() == {"done": 30}


@pytest.mark.parametrize("form", ["body", "http"])
def test_refused_credentials_are_77_and_use_no_attempt(operator, simulator, form):
    simulator.auth_error_form = form
    simulator.secret = "a new one that nobody configured"
    operator.type("enqueue", *(f"answered-{number}" for number in range(30)))
    result = operator.type("sync")

    assert result.exit_code == 77
    assert "secret" in json.loads(result.stderr)["event"]
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]
    assert simulator.unauthorized_calls < 10


def test_an_api_that_refuses_connections_is_69(operator):
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    result = operator.type("sync", CDR_SYNC_API_URL="http://127.0.0.1:9/", CDR_SYNC_TRIES="1")

    assert result.exit_code == 69
    assert "127.0.0.1" in json.loads(result.stderr)["event"]
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]


def test_a_run_on_a_file_that_another_machine_uses_too_warns_and_works(operator):
    operator.type("enqueue", "answered-1")
    operator.rows(
        "INSERT INTO sync_runs (command, host, pid, version) VALUES ('sync', 'another-host', 1, '0')"
    )
    result = operator.type("sync")

    assert result.exit_code == 0
    assert len(result.stderr.splitlines()) == 1
    assert "another-host" in result.stderr
    assert operator.states() == {"done": 1}


@pytest.mark.parametrize(
    ("bodies", "code"),
    [((REFUSED, DOWN), 77), ((REFUSED, MALFORMED), 77), ((DOWN, MALFORMED), 69), ((MALFORMED, GOOD), 65)],
    ids=["refused and down", "refused and dead", "down and dead", "dead and good"],
)
@pytest.mark.parametrize("turned", [False, True])
def test_of_several_troubles_the_gravest_is_the_exit_code(operator, answering, bodies, code, turned):
    by_app_id = dict(enumerate(reversed(bodies) if turned else bodies, start=1))
    write_accounts(operator, "north", "south")
    operator.environment["CDR_SYNC_API_URL"] = answering(
        lambda asked: (200, by_app_id[json.loads(asked)["appid"]])
    )
    ids = [f"id{number}" for number in range(8)]
    for name in ("north", "south"):
        operator.type("enqueue", *ids, "--account", name)
    result = operator.type("sync")

    assert result.exit_code == code


def test_one_accounts_trouble_never_stops_the_others(operator, answering):
    write_accounts(operator, "north", "south")
    operator.environment["CDR_SYNC_API_URL"] = answering(
        lambda asked: (200, GOOD if json.loads(asked)["appid"] == 2 else DOWN)
    )
    ids = [f"id{number}" for number in range(8)]
    for name in ("north", "south"):
        operator.type("enqueue", *ids, "--account", name)
    operator.type("sync")

    assert operator.rows(
        "SELECT account, SUM(fetches), SUM(attempts) FROM cdr_requests GROUP BY account"
    ) == [
        ("north", 0, 0),
        ("south", 8, 0),
    ]


def test_without_credentials_a_run_is_78_and_says_what_to_set(new_operator):
    result = new_operator.type("sync")

    assert result.exit_code == 78
    assert "PIOPIY_APP_ID" in mistake(result)


def test_an_account_without_credentials_is_78_and_named(operator):
    result = operator.type("sync", "--account", "sales")

    assert result.exit_code == 78
    assert "[accounts.sales]" in mistake(result)


@pytest.mark.parametrize(
    "options",
    [
        ("--limit", "0"),
        ("--limit", "few"),
        ("--workers", "0"),
        ("--time-limit", "soon"),
        ("--no-such",),
        ("more",),
    ],
    ids=" ".join,
)
def test_wrong_usage_of_sync_is_2_and_changes_nothing(operator, options):
    operator.type("enqueue", "answered-1")
    result = operator.type("sync", *options)

    assert result.exit_code == 2
    mistake(result)
    assert operator.states() == {"pending": 1}
    assert operator.rows("SELECT * FROM sync_runs") == []


def test_one_single_instance_at_a_time(operator, simulator):
    simulator.outage = "stall_headers"
    operator.type("enqueue", "answered-1")
    first = operator.start("sync", "--single-instance")
    wait_until(lambda: simulator.total_calls)
    second, third = operator.run("sync", "--single-instance"), operator.run("sync", "--limit", 1)
    first.kill()
    finish(first)
    simulator.outage = None
    fourth = operator.run("sync", "--single-instance")

    assert second.code == 75
    assert len(second.stderr.splitlines()) == 1
    assert second.stdout == ""
    assert third.code == 0
    assert fourth.code == 0, fourth.all
    assert operator.states() == {"done": 1}


def test_single_instances_of_different_databases_do_not_know_each_other(operator, simulator):
    simulator.outage = "stall_headers"
    operator.type("enqueue", "answered-1")
    operator.start("sync", "--single-instance")
    wait_until(lambda: simulator.total_calls)
    url = f"sqlite:///{operator.home / 'other.sqlite3'}"

    assert operator.run("--database-url", url, "sync", "--single-instance").code == 0
