"""`cdr-sync status`."""

from __future__ import annotations

import json
import re

import pytest
from support.commands import STATES

from etl.cli.output import format_duration


def test_status_shows_states_lag_dead_requests_runs_and_accounts(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    operator.type("enqueue", "answered-2")
    result = operator.type("status", "--json", CDR_SYNC_RATE_LIMIT="5")
    document = json.loads(result.stdout)

    assert (result.exit_code, result.stderr) == (0, "")
    assert document["requests"] == {**dict.fromkeys(STATES, 0), "done": 1, "dead": 1, "pending": 1}
    assert 0 <= document["oldest_due_seconds"] < 60
    assert document["dead_by_error_kind"] == {"malformed": 1}
    assert [run["outcome"] for run in document["last_runs"]] == ["dead_letters"]
    assert [(row["account"], row["rate_limit"], row["breaker"]) for row in document["accounts"]] == [
        ("default", 5, "closed")
    ]


def test_status_for_people_shows_the_same(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    shown = operator.type("status").stdout

    assert "1 done" in shown
    assert "1 dead" in shown
    assert "1 malformed" in shown
    assert "dead_letters  2 = 1 done, 1 dead\n" in shown
    assert "default" in shown


def test_the_lag_is_shown_with_its_units(operator):
    operator.type("enqueue", "answered-1")
    operator.rows("UPDATE cdr_requests SET run_after = datetime('now', '-90 minutes') || '.000000'")

    assert re.search(r"^Oldest due request: 1 h 30 min late$", operator.type("status").stdout, re.MULTILINE)


def test_the_last_runs_of_an_outage_fit_80_columns(operator, simulator):
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    simulator.secret = "another"
    operator.type("sync")
    runs = operator.type("status").stdout.partition("Last runs:\n")[2]

    assert re.search(r"credentials_refused  \d+ = \d+ given back\n", runs)
    assert max(len(line) for line in runs.splitlines()) < 80


def test_status_needs_no_credentials(operator):
    result = operator.type("status", PIOPIY_APP_ID="", PIOPIY_SECRET="")

    assert result.exit_code == 0


def test_status_shows_an_open_breaker_until_the_api_works_again(operator, simulator):
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    operator.type("sync", CDR_SYNC_TRIES="1")
    during = json.loads(operator.type("status", "--json").stdout)["accounts"][0]
    shown = operator.type("status").stdout
    probe = operator.type("status", "--max-lag", "0")
    simulator.outage = None
    operator.type("sync")
    after = json.loads(operator.type("status", "--json").stdout)["accounts"][0]

    assert during["breaker"] == "open"
    assert "breaker open since" in shown
    assert "500" in shown
    assert after["breaker"] == "closed"
    assert probe.exit_code == 1
    assert "longer than 0 s: the API does not work for account 'default' (" in probe.stderr


@pytest.mark.parametrize(("max_lag", "code"), [("30m", 1), ("3540", 1), ("2h", 0)])
def test_status_exits_with_1_if_a_request_is_due_for_longer_than_max_lag(operator, max_lag, code):
    operator.type("enqueue", "one", "two")
    operator.rows(
        "UPDATE cdr_requests SET run_after = strftime('%Y-%m-%d %H:%M:%f000', 'now', '-1 hour') WHERE id = 1"
    )
    result = operator.type("status", "--json", "--max-lag", max_lag)

    assert result.exit_code == code
    assert 3_600 <= json.loads(result.stdout)["oldest_due_seconds"] < 3_700
    assert ("due for 1 h" in result.stderr) == (code == 1)
    assert ("Check that `cdr-sync sync` runs" in result.stderr) == (code == 1)


def test_without_due_requests_there_is_no_lag(operator):
    operator.type("enqueue", "one", "--delay", "1h")
    result = operator.type("status", "--json", "--max-lag", "0")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["oldest_due_seconds"] is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (0.6, "1 s"),
        (59.4, "59 s"),
        (66, "1 min 6 s"),
        (3_600, "1 h"),
        (5_402, "1 h 30 min"),
        (86_460, "1 d 1 min"),
        (864_000_000, "10,000 d"),
    ],
)
def test_a_duration_is_shown_in_its_two_largest_units(seconds, text):
    assert format_duration(seconds) == text
