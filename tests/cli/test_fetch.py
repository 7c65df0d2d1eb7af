"""`cdr-sync fetch`: one API call; nothing is stored."""

from __future__ import annotations

import json
import re

import pytest
from support.commands import mistake, write_accounts


def test_fetch_prints_the_body_as_it_was_sent_and_stores_nothing(new_operator, simulator, answering):
    body = '{"code":200,"count":1,"cdr":[{"rate":0.3900,"balance":17507.49999999892,"e":1E+2,"from":0.10,'
    body += '"big":123456789012345678901234567890,"name":"Zoë \\u20ac","empty":{},"none":null}]}'
    new_operator.connect(simulator)
    result = new_operator.type("fetch", "x", CDR_SYNC_API_URL=answering(lambda _: (200, body.encode())))

    assert re.sub(r"\s", "", result.stdout) == re.sub(r"\s", "", body)
    assert json.loads(result.stdout)["cdr"][0]["balance"] == 17507.49999999892
    assert not new_operator.database.exists()


def test_fetch_calls_the_api_once_and_does_not_touch_the_queue(operator, simulator):
    result = operator.type("fetch", "answered-1")

    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout)["cdr"] == simulator.legs_of("answered-1")
    assert simulator.calls == {"answered-1": 1}
    assert operator.states() == {}
    assert operator.rows("SELECT * FROM sync_runs") == []


@pytest.mark.parametrize(
    ("scenario", "code"),
    [
        ("none", 0),
        ("error_500", 69),
        ("error_503", 69),
        ("body_500", 69),
        ("rate_limited", 69),
        ("reset", 69),
        ("garbage", 69),
        ("unauthorized_body", 77),
        ("rejected", 1),
        ("not_ready", 1),
        ("malformed_money", 1),
        ("redirect", 1),
    ],
)
def test_the_exit_code_of_fetch_says_what_came_after_one_call(operator, simulator, scenario, code):
    result = operator.type("fetch", scenario)

    assert result.exit_code == code
    assert (result.stderr == "") == (code == 0)
    assert len(result.stderr.splitlines()) <= 1
    assert simulator.total_calls == 1


@pytest.mark.parametrize("wrong", ["", "two words", "x" * 256])
def test_fetch_rejects_an_invalid_request_id(operator, simulator, wrong):
    result = operator.type("fetch", wrong)

    assert result.exit_code == 2
    assert mistake(result).startswith("cdr-sync: ID ")
    assert simulator.total_calls == 0


def test_fetch_with_wrong_credentials_is_77(operator):
    result = operator.type("fetch", "answered-1", PIOPIY_SECRET="wrong")

    assert result.exit_code == 77
    assert "credentials" in result.stderr


@pytest.mark.parametrize(
    ("status", "page", "code"),
    [(404, "<html>Not Found</html>", 77), (200, "<!DOCTYPE html>", 69), (301, "", 1)],
)
def test_fetch_of_a_web_page_names_the_url_setting_and_not_the_credentials(
    operator, answering, status, page, code
):
    url = answering(lambda _: (status, page.encode()))
    result = operator.type("fetch", "answered-1", CDR_SYNC_API_URL=url)

    assert result.exit_code == code
    assert result.stderr.endswith("is CDR_SYNC_API_URL right?\n")
    assert "credentials" not in result.stderr


def test_a_run_against_a_web_page_names_the_url_setting(operator, answering):
    operator.type("enqueue", "one", "two", "three", "four", "five")
    url = answering(lambda _: (404, b"<html>Not Found</html>"))
    result = operator.type("sync", CDR_SYNC_API_URL=url)

    assert result.exit_code == 77
    assert "Account 'default' gets no answer from PIOPIY's API (HTTP status 404: " in result.stderr
    assert "is CDR_SYNC_API_URL right?). If CDR_SYNC_API_URL is right, check app ID" in result.stderr
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]


def test_fetch_from_a_closed_port_is_69(operator):
    result = operator.type("fetch", "answered-1", CDR_SYNC_API_URL="http://127.0.0.1:9/")

    assert result.exit_code == 69
    assert "127.0.0.1" in mistake(result)


def test_fetch_gives_up_at_the_deadline(operator, simulator):
    simulator.outage = "stall_headers"
    result = operator.type("fetch", "answered-1", CDR_SYNC_REQUEST_TIMEOUT="0.3s")

    assert result.exit_code == 69
    assert "0.3 s" in mistake(result)


def test_fetch_without_credentials_is_78(new_operator):
    result = new_operator.type("fetch", "answered-1")

    assert result.exit_code == 78
    assert "PIOPIY_APP_ID" in mistake(result)


def test_fetch_uses_the_named_account_and_needs_a_name_if_there_are_several(operator, answering):
    write_accounts(operator, "north", "south")
    operator.environment["CDR_SYNC_API_URL"] = answering(lambda asked: (200, asked.encode()))
    named, unnamed = operator.type("fetch", "x", "--account", "south"), operator.type("fetch", "x")

    assert json.loads(named.stdout)["appid"] == 2
    assert unnamed.exit_code == 2
    assert "north, south" in mistake(unnamed)
