"""`cdr-sync runs`, and the listing of single requests."""

from __future__ import annotations

import json
import re

import pytest
from support.commands import adds_up, mistake


def test_runs_lists_the_latest_first_and_shows_one(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    operator.type("sync")
    listed = json.loads(operator.type("runs", "--json").stdout)
    latest = json.loads(operator.type("runs", "--json", "--limit", 1).stdout)
    shown = json.loads(operator.type("runs", "show", 1, "--json").stdout)

    assert [(run["id"], run["outcome"], run["claimed"]) for run in listed] == [
        (2, "ok", 0),
        (1, "dead_letters", 2),
    ]
    assert latest == listed[:1]
    assert shown == listed[1]
    assert adds_up(shown)
    assert (shown["unsettled"], shown["held"]) == (0, 0)
    assert shown["command"] == "sync"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", shown["started_at"])


def test_runs_for_people_show_the_outcome_and_a_sum_of_the_claims(operator):
    operator.type("sync")
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    operator.type("reprocess")
    idle, worked, reprocessed = operator.type("runs").stdout.splitlines()[:1:-1]

    assert (" ok " in idle, idle.endswith("  0")) == (True, True)
    assert (" dead_letters " in worked, worked.endswith("  2 = 1 done, 1 dead")) == (True, True)
    assert reprocessed.endswith("  none: it makes no API calls")
    assert "legs_unchanged" in operator.type("runs", "show", 1).stdout
    assert operator.type("runs", "show", 2).stdout.endswith("\nClaims: 2 = 1 done, 1 dead\n")


def test_no_runs_and_no_requests_are_empty_lists(operator):
    assert json.loads(operator.type("runs", "--json").stdout) == []
    assert json.loads(operator.type("requests", "list", "--json").stdout) == []
    assert operator.type("runs").exit_code == operator.type("requests", "list").exit_code == 0


def test_an_unknown_run_is_wrong_usage(operator):
    result = operator.type("runs", "show", 99)

    assert result.exit_code == 2
    assert "99" in mistake(result)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ((), {"answered-1", "answered-2", "malformed_money-1", "rejected-1", "none-1"}),
        (("--state", "dead"), {"malformed_money-1"}),
        (("--state", "pending"), {"rejected-1", "none-1", "answered-2"}),
        (("--state", "cancelled"), set()),
        (("--error-kind", "rejected"), {"rejected-1"}),
        (("--account", "sales"), {"answered-2"}),
        (("--batch", "june"), {"answered-1"}),
        (("--state", "pending", "--error-kind", "malformed"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_requests_are_listed_by_any_combination_of_filters(operator, options, found):
    operator.type("enqueue", "answered-1", "--batch", "june")
    operator.type("enqueue", "malformed_money-1", "rejected-1", "none-1")
    operator.type("enqueue", "answered-2", "--account", "sales")
    operator.type("sync")
    listed = json.loads(operator.type("requests", "list", "--json", *options).stdout)
    shown = operator.type("requests", "list", *options).stdout

    assert {row["request_id"] for row in listed} == found
    assert all(request_id in shown for request_id in found)


def test_an_unknown_state_is_wrong_usage_and_names_the_states(operator):
    result = operator.type("requests", "list", "--state", "ded")

    assert result.exit_code == 2
    assert "dead" in mistake(result)


def test_a_request_is_shown_with_its_legs_and_answers_but_no_token(operator, simulator):
    operator.type("enqueue", "answered-1")
    operator.type("sync")
    result = operator.type("requests", "show", "answered-1", "--json")
    document = json.loads(result.stdout)

    assert (document["request_id"], document["state"], document["leg_count"]) == ("answered-1", "done", 2)
    assert len(document["legs"]) == len(simulator.legs_of("answered-1"))
    assert [answer["revision"] for answer in document["responses"]] == [1]
    assert "token" not in result.stdout


def test_a_request_is_shown_to_people_with_its_error(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    shown = operator.type("requests", "show", "malformed_money-1").stdout

    assert "dead" in shown
    assert "malformed" in shown
    assert "rate" in shown


def test_an_unknown_request_is_wrong_usage(operator):
    result = operator.type("requests", "show", "unheard-of")

    assert result.exit_code == 2
    assert "unheard-of" in mistake(result)
