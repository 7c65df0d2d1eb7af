"""Log lines: JSON for machines, no secrets, and no import of structlog before the first line."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta

import pytest

from etl.log import Log
from etl.redaction import Redaction

SECRET = "s3cr3t-0f-the-account"


@pytest.fixture
def lines(capsys):
    """The lines written since the last look, read as JSON."""

    def lines() -> list[dict]:
        written = capsys.readouterr()
        assert written.out == ""
        return [json.loads(line) for line in written.err.splitlines()]

    return lines


def test_a_line_is_one_json_object_with_level_time_and_fields(lines):
    Log(style="json").warning("the API is down", account="default", calls=5)
    (line,) = lines()
    written_at = datetime.fromisoformat(line.pop("timestamp"))

    assert line == {"event": "the API is down", "level": "warning", "account": "default", "calls": 5}
    assert written_at.utcoffset() == timedelta(0)


def test_auto_means_json_when_not_on_a_terminal(lines):
    Log().error("two\nlines")

    assert [line["event"] for line in lines()] == ["two\nlines"]


def test_the_console_style_is_for_people(capsys):
    Log(style="console").warning("the API is down", account="default")
    written = capsys.readouterr().err

    assert "the API is down" in written
    assert "default" in written
    assert not written.startswith("{")
    assert "\x1b" not in written


def test_info_lines_are_written_only_if_verbose(lines):
    for is_verbose, expected in ((False, ["warning", "error"]), (True, ["info", "warning", "error"])):
        log = Log(style="json", is_verbose=is_verbose)
        log.info("i")
        log.warning("w")
        log.error("e")
        assert [line["level"] for line in lines()] == expected


def test_every_later_line_carries_the_bound_fields(lines):
    log = Log(style="json")
    log.warning("before")
    log.bind(run=7)
    log.bind(account="default")
    log.warning("after", calls=1)
    before, after = lines()

    assert "run" not in before
    assert (after["run"], after["account"], after["calls"]) == (7, "default", 1)


def test_a_field_of_a_line_overrides_a_bound_one(lines):
    log = Log(style="json")
    log.bind(account="default")
    log.warning("another", account="sales")

    assert lines()[0]["account"] == "sales"


def test_two_logs_share_nothing(lines):
    quiet, bound = Log(style="json", redaction=Redaction("default")), Log(style="json", is_verbose=True)
    bound.bind(run=7)
    quiet.warning("default")
    bound.info("default")
    first, second = lines()

    assert ("run" in first, first["event"]) == (False, "[secret]")
    assert (second["run"], second["event"]) == (7, "default")


def test_non_ascii_text_stays_readable(capsys):
    Log(style="json").warning("कॉल → done")

    assert "कॉल → done" in capsys.readouterr().err


@pytest.mark.parametrize("style", ["json", "console"])
@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f"POST body {{'secret': '{SECRET}'}}",
        ValueError(f"bad answer: {SECRET}"),
        [f"{SECRET}!"],
        ("x", {"secret": SECRET}),
        {"request": {"body": [SECRET]}},
        {SECRET: 1},
        SECRET.encode(),
    ],
    ids=["text", "within text", "exception", "list", "tuple", "nested", "key", "bytes"],
)
def test_a_secret_in_any_field_is_hidden(capsys, style, value):
    Log(style=style, redaction=Redaction("another", SECRET)).error("refused", field=value, status=404)
    written = capsys.readouterr().err

    assert SECRET not in written
    assert "[secret]" in written
    assert "refused" in written
    assert "404" in written


def test_a_secret_in_the_message_or_bound_is_hidden(capsys):
    log = Log(style="json", redaction=Redaction(SECRET))
    log.bind(url=f"https://api/?secret={SECRET}")
    log.error(f"refused: {SECRET} and again {SECRET}")
    written = capsys.readouterr().err

    assert SECRET not in written
    assert written.count("[secret]") == 3


def test_a_secret_that_begins_with_another_is_hidden_completely(capsys):
    Log(style="json", redaction=Redaction("abc-1", "abc-123456")).error("sent abc-123456 and abc-1")
    written = capsys.readouterr().err

    assert "23456" not in written
    assert "abc" not in written


def test_a_secret_with_quotes_is_hidden_too(capsys):
    Log(style="json", redaction=Redaction('a"b\\c')).error('sent a"b\\c')

    assert json.loads(capsys.readouterr().err)["event"] == "sent [secret]"


def test_an_empty_secret_hides_nothing(lines):
    Log(style="json", redaction=Redaction("", "")).error("all of it")

    assert lines()[0]["event"] == "all of it"


def test_structlog_is_imported_with_the_first_line_that_is_written():
    code = (
        "import sys; from etl.redaction import Redaction; from etl.log import Log;"
        "log = Log(redaction=Redaction('x')); log.bind(run=1);"
        "log.info('quiet'); print('structlog' in sys.modules);"
        "log.warning('heard'); print('structlog' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == ["False", "True"]
    assert json.loads(done.stderr)["event"] == "heard"
