"""Every command: what it prints and where, what it changes, and its exit code."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import socket
import stat
import subprocess
import urllib.request

import click
import pytest
from support.operators import finish, true_legs, wait_until

import etl.cli
from etl import __version__
from etl.cli.main import SUMMARIES, cli
from etl.simulator import SCENARIOS

STATES = ("pending", "running", "done", "empty", "dead", "cancelled")
OUTCOMES = ("done", "empty", "put_off", "retried", "released", "dead", "lost_leases")
CRASHED = "fault of cdr-sync itself"


def registered(command=cli, path=()):
    """Yield every command with the words by which it is called."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from registered(command.get_command(context, name), (*path, name))


ALL = list(registered())
PATHS = [pytest.param(path, id=" ".join(path) or "cdr-sync") for path, _ in ALL]
COMMANDS = [pytest.param(command, id=" ".join(path) or "cdr-sync") for path, command in ALL]


def mistake(result):
    """Give the one line that a person is told about a mistake, and fail where it is not one."""
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Usage: ", "Try '"))]
    assert "Traceback" not in result.output
    assert CRASHED not in result.output
    assert result.stdout == ""
    assert len(told) == 1, result.stderr
    assert told[0].startswith(("cdr-sync: ", "Error: "))
    return told[0]


def adds_up(document):
    return document["claimed"] == sum(document[name] for name in OUTCOMES)


def everything_in(operator):
    tables = ("cdr_requests", "call_legs", "cdr_responses", "sync_runs", "api_accounts")
    return {table: operator.rows(f"SELECT * FROM {table}") for table in tables}  # noqa: S608 (our own words)


# What there is


def test_the_groups_and_commands_of_the_contract_that_are_built_are_registered():
    there = {" ".join(path) for path, _ in ALL}

    assert {"demo", "db upgrade", "db downgrade", "db current", "db check", "enqueue", "sync"} <= there
    assert {"fetch", "status", "runs", "runs show", "requests list", "requests show", "simulator"} <= there
    assert {"backfill", "requests retry", "requests cancel", "doctor"} <= there


def test_no_module_with_a_command_is_forgotten():
    modules = (
        importlib.import_module(f"etl.cli.{found.name}") for found in pkgutil.iter_modules(etl.cli.__path__)
    )
    commands = {
        module.command.name
        for module in modules
        if isinstance(getattr(module, "command", None), click.Command)
    }

    assert commands == set(cli.list_commands(click.Context(cli)))


def test_the_summaries_are_those_of_exactly_the_commands_there_are():
    assert list(SUMMARIES) == cli.list_commands(click.Context(cli))


def test_a_command_is_called_what_the_list_of_commands_calls_it():
    context = click.Context(cli)

    assert all(cli.get_command(context, name).name == name for name in cli.list_commands(context))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_has_help_text(command):
    context = click.Context(command, help_option_names=["-h", "--help"])
    options = [p for p in command.get_params(context) if isinstance(p, click.Option)]

    assert (command.help or "").strip()
    assert [option.name for option in options if not (option.help or "").strip()] == []


@pytest.mark.parametrize("path", PATHS)
def test_help_works_with_nothing_configured_and_leaves_nothing_behind(new_operator, path):
    before = sorted(new_operator.home.rglob("*"))
    long, short = new_operator.type(*path, "--help"), new_operator.type(*path, "-h")

    assert (long.exit_code, long.stderr) == (0, "")
    assert long.stdout.startswith("Usage: ")
    assert short.stdout == long.stdout
    assert sorted(new_operator.home.rglob("*")) == before


@pytest.mark.parametrize("path", PATHS)
def test_help_works_with_a_configuration_that_is_wrong(new_operator, path):
    result = new_operator.type(*path, "--help", CDR_SYNC_CONFIG="/nowhere", CDR_SYNC_WORKERS="many")

    assert (result.exit_code, result.stderr) == (0, "")


def test_the_help_lists_every_command_with_its_summary(new_operator):
    shown = " ".join(new_operator.type("--help").stdout.split())

    assert [name for name, summary in SUMMARIES.items() if f"{name} {summary}" not in shown] == []


@pytest.mark.parametrize("group", ["db", "requests", "runs"])
def test_the_list_of_commands_fits_a_terminal_of_the_usual_width(new_operator, group):
    assert "..." not in new_operator.type(group, "--help", COLUMNS="80").stdout.partition("Commands:")[2]


def test_the_version_is_told(new_operator):
    result = new_operator.type("--version")

    assert (result.exit_code, result.stdout) == (0, f"cdr-sync, version {__version__}\n")


def test_a_command_that_does_not_exist_is_wrong_usage(new_operator):
    result = new_operator.type("snyc")

    assert result.exit_code == 2
    assert mistake(result) == "Error: No such command 'snyc'. Did you mean 'sync'?"


@pytest.mark.parametrize("option", ["-v", "--verbose", "--config", "--database-url", "--log-format"])
def test_an_option_of_all_commands_behind_one_of_them_is_told_its_place(new_operator, option):
    result = new_operator.type("sync", option, "x")

    assert result.exit_code == 2
    assert mistake(result) == f"Error: The option '{option}' comes before the command."


def test_no_command_at_all_shows_the_help(new_operator):
    result = new_operator.type()

    assert result.exit_code == 2
    assert "cdr-sync demo" in result.stderr


# db


def test_upgrade_makes_a_database_for_its_owner_alone(new_operator):
    result = new_operator.type("db", "upgrade")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert str(new_operator.database) in result.stderr
    assert stat.S_IMODE(new_operator.database.stat().st_mode) == 0o600
    assert stat.S_IMODE(new_operator.database.parent.stat().st_mode) == 0o700


def test_upgrade_is_safe_to_repeat_and_keeps_what_is_there(operator):
    operator.type("enqueue", "answered-1")
    codes = [operator.type("db", "upgrade").exit_code for _ in range(2)]

    assert codes == [0, 0]
    assert operator.states() == {"pending": 1}


def test_current_prints_the_revision_alone(operator):
    result = operator.type("db", "current")

    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"\w+\n", result.stdout)


def test_check_is_content_with_a_fresh_database(operator):
    result = operator.type("db", "check")

    assert (result.exit_code, result.stderr) == (0, "")


def test_a_downgrade_goes_back_and_an_upgrade_forward_again(operator):
    newest = operator.type("db", "current").stdout
    operator.type("enqueue", "answered-1")
    back = operator.type("db", "downgrade", "0001")
    older = operator.type("db", "current").stdout
    forward = operator.type("db", "upgrade")

    assert (back.exit_code, forward.exit_code) == (0, 0)
    assert older == "0001\n"
    assert operator.type("db", "current").stdout == newest
    assert operator.type("db", "check").exit_code == 0
    assert operator.states() == {"pending": 1}


def test_a_downgrade_takes_steps_as_alembic_does(operator):
    newest = operator.type("db", "current").stdout
    result = operator.type("db", "downgrade", "-1")

    assert result.exit_code == 0, result.stderr
    assert operator.type("db", "current").stdout != newest


def test_a_downgrade_to_the_base_leaves_no_revision(operator):
    assert operator.type("db", "downgrade", "base").exit_code == 0
    assert operator.type("db", "current").stdout == "none\n"


def test_a_downgrade_has_no_default(operator):
    result = operator.type("db", "downgrade")

    assert result.exit_code == 2
    assert "REV" in mistake(result)


def test_check_says_no_where_the_schema_is_behind(operator):
    operator.type("db", "downgrade", "0001")
    result = operator.type("db", "check")

    assert result.exit_code == 1
    assert "cdr-sync db upgrade" in mistake(result)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE cdr_requests ADD COLUMN nobody_knows TEXT", "nobody_knows"),
        ("ALTER TABLE call_legs DROP COLUMN extra", "extra"),
        ("DROP TABLE cdr_responses", "cdr_responses"),
        ("DROP INDEX ix_cdr_requests_due", "ix_cdr_requests_due"),
        ("DROP VIEW calls", "calls"),
    ],
)
def test_check_says_no_where_the_tables_differ_from_the_models(operator, change, named):
    if change.startswith("ALTER TABLE call_legs"):
        for (view,) in operator.rows("SELECT name FROM sqlite_schema WHERE type = 'view'"):
            operator.rows(f"DROP VIEW {view}")
    operator.rows(change)
    result = operator.type("db", "check")

    assert result.exit_code == 1
    assert named in result.stderr
    assert CRASHED not in result.stderr


@pytest.mark.parametrize("words", [("current",), ("check",), ("downgrade", "base")])
def test_asking_about_a_database_that_does_not_exist_names_it_and_makes_none(new_operator, words):
    result = new_operator.type("db", *words)

    assert result.exit_code not in (0, 2)
    assert str(new_operator.database) in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_a_revision_that_does_not_exist_is_a_mistake(operator, direction):
    result = operator.type("db", direction, "nonsense")

    assert result.exit_code == 2
    assert "nonsense" in mistake(result)


# enqueue


def test_enqueue_makes_the_database_and_counts(new_operator):
    result = new_operator.type("enqueue", "one", "two")

    assert (result.exit_code, result.stderr) == (0, "")
    assert re.findall(r"\d+", result.stdout) == ["2", "0", "0"]
    assert new_operator.rows(
        "SELECT account, request_id, state, lane, batch FROM cdr_requests ORDER BY id"
    ) == [
        ("default", "one", "pending", 0, None),
        ("default", "two", "pending", 0, None),
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("one a line", "one\n\n  two  \nthree"),
        ("Windows line ends and a byte order mark", "\ufeffone\r\ntwo\r\nthree\r\n"),
        ("CSV", 'when,request_id,note\n1,one,"a, b"\n2,two,\n3,three,"two\nlines"\n'),
        ("CSV with semicolons", "Request_ID;note\none;a\ntwo;b\nthree;c\n"),
        ("JSON lines", '{"request_id": "one"}\n\n{"data": {"request_id": "two"}}\n{"request_id": "three"}\n'),
        ("the same more than once", "one\ntwo\none\nthree\none\n"),
    ],
)
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_enqueue_reads_every_format_from_a_file_and_from_a_pipe(operator, name, content, way):
    file = operator.home / f"{name}.txt"
    file.write_bytes(content.encode())
    if way == "file":
        result = operator.type("enqueue", "--from-file", file)
    else:
        result = operator.type("enqueue", "--from-file", "-", stdin=content)

    assert (result.exit_code, result.stderr) == (0, "")
    assert operator.rows("SELECT request_id FROM cdr_requests ORDER BY id") == [
        ("one",),
        ("two",),
        ("three",),
    ]
    assert result.stdout.startswith("3 new")


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        ("good\nwith space\n" + "x" * 256 + "\ngood2\n", [2, 3]),
        ("\n\nrequest_id,n\ngood,1\n,2\nwith space,3\ngood2,4\n", [5, 6]),
        (
            '{"request_id": "good"}\n{"request_id": 5}\n\nnot json\n{}\n[]\n{"request_id": "good2"}',
            [2, 4, 5, 6],
        ),
    ],
    ids=["plain", "csv", "json"],
)
def test_what_is_invalid_is_counted_with_its_line_and_keeps_nothing_else_out(operator, content, lines):
    result = operator.type("enqueue", "--from-file", "-", stdin=content)

    assert [int(number) for number in re.findall(r"line (\d+):", result.stderr)] == lines
    assert f"{len(lines)} invalid" in result.stdout
    assert operator.rows("SELECT request_id FROM cdr_requests ORDER BY id") == [("good",), ("good2",)]


def test_very_many_invalid_lines_do_not_flood_the_terminal(operator):
    result = operator.type("enqueue", "--from-file", "-", stdin="good\n" + "bad one\n" * 5_000)

    assert len(result.stderr.splitlines()) < 100
    assert "5,000 invalid" in result.stdout


def test_an_invalid_argument_is_named_by_what_was_typed(operator):
    result = operator.type("enqueue", "good", "with space")

    assert "with space" in result.stderr
    assert "1 invalid" in result.stdout


@pytest.mark.parametrize("command", ["enqueue", "backfill"])
def test_a_file_in_the_place_of_an_id_is_told_how_to_be_read(operator, command, monkeypatch):
    monkeypatch.chdir(operator.home)
    (operator.home / "two ids.csv").write_text("one\n")
    (operator.home / "answered-1").touch()
    results = [operator.type(command, "one", name) for name in ("two ids.csv", "-", "./answered-1")]

    assert [result.exit_code for result in results] == [2, 2, 2]
    assert mistake(results[0]).endswith("is a file and no request ID: write --from-file 'two ids.csv'")
    assert mistake(results[1]).endswith("write --from-file -")
    assert operator.states() == {}
    assert operator.type(command, "answered-1").exit_code == 0


def test_an_argument_longer_than_the_name_of_a_file_can_be_is_told_as_no_id(operator):
    result = operator.type("enqueue", "good", "x." * 130)

    assert result.exit_code == 0
    assert "argument 2: is longer than 255 characters" in result.stderr


def test_arguments_and_a_file_go_together(operator):
    result = operator.type("enqueue", "one", "--from-file", "-", stdin="two\n")

    assert result.stdout.startswith("2 new")
    assert operator.states() == {"pending": 2}


def test_a_known_id_is_left_as_it_is(operator):
    operator.type("enqueue", "answered-1", "--batch", "first")
    operator.type("sync")
    before = operator.rows("SELECT * FROM cdr_requests")
    result = operator.type("enqueue", "answered-1", "--batch", "second", "--delay", "1h")

    assert re.findall(r"\d+", result.stdout) == ["0", "1", "0"]
    assert operator.rows("SELECT * FROM cdr_requests") == before
    assert operator.states() == {"done": 1}


def test_delay_batch_and_account_are_kept(operator):
    operator.type("enqueue", "one", "--delay", "90s", "--batch", "june", "--account", "sales")
    ((account, batch, seconds),) = operator.rows(
        "SELECT account, batch, (julianday(run_after) - julianday(enqueued_at)) * 86400 FROM cdr_requests"
    )

    assert (account, batch, round(seconds)) == ("sales", "june", 90)
    assert json.loads(operator.type("sync", "--dry-run", "--json").stdout)["due"] == 0


def test_one_id_in_two_accounts_is_two_requests(operator):
    first, second = (operator.type("enqueue", "one", "--account", name) for name in ("a", "b"))

    assert first.stdout.startswith("1 new")
    assert second.stdout.startswith("1 new")


def test_a_large_file_is_taken_in_whole(operator):
    file = operator.home / "many.txt"
    file.write_text("".join(f"id{number}\n" for number in range(25_000)))
    result = operator.type("enqueue", "--from-file", file)

    assert result.stdout.startswith("25,000 new")
    assert operator.states() == {"pending": 25_000}


def test_enqueue_with_nothing_is_a_mistake(new_operator):
    result = new_operator.type("enqueue")

    assert result.exit_code == 2
    assert "--from-file" in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_named_and_leaves_no_database(new_operator, name):
    result = new_operator.type("enqueue", "--from-file", new_operator.home / name)

    assert result.exit_code == 2
    assert str(new_operator.home) in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize("command", ["enqueue", "backfill"])
@pytest.mark.parametrize("content", ["requestid\none\n", "when;requestid\n1;one\n", '["one", "two"]'])
def test_a_list_that_is_none_by_its_first_line_is_refused_whole(new_operator, command, content):
    new_operator.environment |= {"PIOPIY_APP_ID": "1", "PIOPIY_SECRET": "sssssss"}
    result = new_operator.type(command, "--from-file", "-", stdin=content)

    assert result.exit_code == 2
    assert mistake(result).startswith("cdr-sync: line 1 ")
    assert "a column request_id" in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["enqueue"], "0 new requests, 0 already known, 2 invalid\n"),
        (["backfill"], ""),
        (["backfill", "--dry-run"], ""),
    ],
)
def test_a_list_without_any_id_is_wrong_usage(operator, words, told):
    result = operator.type(*words, "--from-file", "-", stdin="neither this\nnor that\n")

    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("cdr-sync: Nothing of what is listed is")
    assert result.stdout == told
    assert operator.states() == {}


@pytest.mark.parametrize("duration", ["5x", "ten", "-5s", "", "1e3", "nan"])
def test_a_wrong_duration_is_a_mistake_that_shows_how_to_write_one(operator, duration):
    result = operator.type("enqueue", "one", f"--delay={duration}")

    assert result.exit_code == 2
    assert "15m" in mistake(result)
    assert operator.states() == {}


def test_a_duration_that_no_calendar_holds_is_a_mistake_too(operator):
    result = operator.type("enqueue", "one", "--delay", "999999999d")

    assert result.exit_code == 2
    assert "999999999d" in mistake(result)


# sync


def test_a_run_tells_all_that_it_did_in_one_document_that_adds_up(operator, simulator):
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


def test_a_time_limit_ends_a_run_with_nothing_held_and_nobody_alarmed(operator, simulator):
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


def test_what_a_stranger_enqueued_is_told_of_and_left_alone(operator):
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


def test_a_dead_request_is_told_of_with_what_to_type(operator):
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


def test_an_api_that_nobody_listens_at_is_69(operator):
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    result = operator.type("sync", CDR_SYNC_API_URL="http://127.0.0.1:9/", CDR_SYNC_TRIES="1")

    assert result.exit_code == 69
    assert "127.0.0.1" in json.loads(result.stderr)["event"]
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]


def write_accounts(operator, *names):
    """Configure accounts whose app IDs are 1, 2, …, in a TOML file."""
    tables = [
        f'[accounts.{name}]\napp_id = {number}\nsecret_env = "SECRET_OF_{name.upper()}"\n'
        for number, name in enumerate(names, start=1)
    ]
    folder = operator.home / "config" / "cdr-sync"
    folder.mkdir(parents=True)
    (folder / "cdr-sync.toml").write_text("tries = 1\n" + "\n".join(tables))
    operator.environment |= {f"SECRET_OF_{name.upper()}": f"secret of {name}" for name in names}
    del operator.environment["PIOPIY_APP_ID"], operator.environment["PIOPIY_SECRET"]


GOOD = b'{"code": 200, "count": 0, "cdr": []}'
MALFORMED = b'{"code": 200, "count": 1, "cdr": [5]}'
DOWN = b'{"code": 500, "msg": "Internal server error"}'
REFUSED = b'{"code": 404, "msg": "Invalid app id or secret"}'


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


# fetch


def test_fetch_prints_the_digits_as_they_were_sent_and_stores_nothing(new_operator, simulator, answering):
    body = '{"code":200,"count":1,"cdr":[{"rate":0.3900,"balance":17507.49999999892,"e":1E+2,"from":0.10,'
    body += '"big":123456789012345678901234567890,"name":"Zoë \\u20ac","empty":{},"none":null}]}'
    new_operator.connect(simulator)
    result = new_operator.type("fetch", "x", CDR_SYNC_API_URL=answering(lambda _: (200, body.encode())))

    assert re.sub(r"\s", "", result.stdout) == re.sub(r"\s", "", body.replace("\\u20ac", "€"))
    assert json.loads(result.stdout)["cdr"][0]["balance"] == 17507.49999999892
    assert not new_operator.database.exists()


def test_fetch_asks_once_and_leaves_the_queue_alone(operator, simulator):
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
def test_fetch_says_by_its_exit_code_what_came_and_asks_only_once(operator, simulator, scenario, code):
    result = operator.type("fetch", scenario)

    assert result.exit_code == code
    assert (result.stderr == "") == (code == 0)
    assert len(result.stderr.splitlines()) <= 1
    assert simulator.total_calls == 1


@pytest.mark.parametrize("wrong", ["", "two words", "x" * 256])
def test_fetch_asks_for_nothing_that_can_be_no_request(operator, simulator, wrong):
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
def test_fetch_of_a_page_that_is_not_the_api_names_its_setting_and_blames_no_credentials(
    operator, answering, status, page, code
):
    url = answering(lambda _: (status, page.encode()))
    result = operator.type("fetch", "answered-1", CDR_SYNC_API_URL=url)

    assert result.exit_code == code
    assert result.stderr.endswith("is CDR_SYNC_API_URL right?\n")
    assert "credentials" not in result.stderr


def test_a_run_against_a_page_that_is_not_the_api_names_its_setting(operator, answering):
    operator.type("enqueue", "one", "two", "three", "four", "five")
    url = answering(lambda _: (404, b"<html>Not Found</html>"))
    result = operator.type("sync", CDR_SYNC_API_URL=url)

    assert result.exit_code == 77
    assert "PIOPIY's API does not answer account 'default' (HTTP status 404: " in result.stderr
    assert "is CDR_SYNC_API_URL right?). If it is, check app ID and secret; " in result.stderr
    assert operator.rows("SELECT DISTINCT state, attempts FROM cdr_requests") == [("pending", 0)]


def test_fetch_of_an_api_that_nobody_listens_at_is_69(operator):
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


def test_fetch_takes_the_account_that_is_named_and_asks_where_none_is(operator, answering):
    write_accounts(operator, "north", "south")
    operator.environment["CDR_SYNC_API_URL"] = answering(lambda asked: (200, asked.encode()))
    named, unnamed = operator.type("fetch", "x", "--account", "south"), operator.type("fetch", "x")

    assert json.loads(named.stdout)["appid"] == 2
    assert unnamed.exit_code == 2
    assert "north, south" in mistake(unnamed)


# status


def test_status_tells_the_queue_by_state_the_lag_the_dead_the_runs_and_the_accounts(operator):
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


def test_status_for_people_says_the_same(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    shown = operator.type("status").stdout

    assert "1 done" in shown
    assert "1 dead" in shown
    assert "1 malformed" in shown
    assert "dead_letters  2 = 1 done, 1 dead\n" in shown
    assert "default" in shown


def test_how_late_the_queue_is_reads_as_no_time_of_day(operator):
    operator.type("enqueue", "answered-1")
    operator.rows("UPDATE cdr_requests SET run_after = datetime('now', '-90 minutes') || '.000000'")

    assert re.search(r"^Due: for 1:30:0\d at the longest$", operator.type("status").stdout, re.MULTILINE)


def test_the_latest_runs_of_an_outage_fit_a_terminal_of_80_columns(operator, simulator):
    operator.type("enqueue", *(f"answered-{number}" for number in range(10)))
    simulator.secret = "another"
    operator.type("sync")
    runs = operator.type("status").stdout.partition("Last runs:\n")[2]

    assert re.search(r"credentials_refused  \d+ = \d+ given back\n", runs)
    assert max(len(line) for line in runs.splitlines()) < 80


def test_status_needs_no_credentials(operator):
    result = operator.type("status", PIOPIY_APP_ID="", PIOPIY_SECRET="")

    assert result.exit_code == 0


def test_status_tells_of_an_open_breaker_until_the_api_is_back(operator, simulator):
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
    assert "longer than 0:00:00: the API does not work for account 'default' (" in probe.stderr


@pytest.mark.parametrize(("max_lag", "code"), [("30m", 1), ("3540", 1), ("2h", 0)])
def test_status_says_no_where_something_is_due_for_longer_than_max_lag(operator, max_lag, code):
    operator.type("enqueue", "one", "two")
    operator.rows(
        "UPDATE cdr_requests SET run_after = strftime('%Y-%m-%d %H:%M:%f000', 'now', '-1 hour') WHERE id = 1"
    )
    result = operator.type("status", "--json", "--max-lag", max_lag)

    assert result.exit_code == code
    assert 3_600 <= json.loads(result.stdout)["oldest_due_seconds"] < 3_700
    assert ("1:00:0" in result.stderr) == (code == 1)


def test_nothing_due_is_no_lag(operator):
    operator.type("enqueue", "one", "--delay", "1h")
    result = operator.type("status", "--json", "--max-lag", "0")

    assert result.exit_code == 0
    assert json.loads(result.stdout)["oldest_due_seconds"] is None


# runs and requests


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


def test_runs_for_people_name_the_outcome_and_what_became_of_the_claims(operator):
    operator.type("sync")
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    operator.type("reprocess")
    idle, worked, reprocessed = operator.type("runs").stdout.splitlines()[:1:-1]

    assert (" ok " in idle, idle.endswith("  0")) == (True, True)
    assert (" dead_letters " in worked, worked.endswith("  2 = 1 done, 1 dead")) == (True, True)
    assert reprocessed.endswith("  none, since it asks nothing")
    assert "legs_unchanged" in operator.type("runs", "show", 1).stdout
    assert operator.type("runs", "show", 2).stdout.endswith("\nClaims: 2 = 1 done, 1 dead\n")


def test_no_runs_and_no_requests_are_lists_all_the_same(operator):
    assert json.loads(operator.type("runs", "--json").stdout) == []
    assert json.loads(operator.type("requests", "list", "--json").stdout) == []
    assert operator.type("runs").exit_code == operator.type("requests", "list").exit_code == 0


def test_a_run_that_does_not_exist_is_a_mistake(operator):
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
def test_requests_are_listed_by_any_mix_of_filters(operator, options, found):
    operator.type("enqueue", "answered-1", "--batch", "june")
    operator.type("enqueue", "malformed_money-1", "rejected-1", "none-1")
    operator.type("enqueue", "answered-2", "--account", "sales")
    operator.type("sync")
    listed = json.loads(operator.type("requests", "list", "--json", *options).stdout)
    shown = operator.type("requests", "list", *options).stdout

    assert {row["request_id"] for row in listed} == found
    assert all(request_id in shown for request_id in found)


def test_a_state_that_does_not_exist_is_a_mistake_that_names_those_that_do(operator):
    result = operator.type("requests", "list", "--state", "ded")

    assert result.exit_code == 2
    assert "dead" in mistake(result)


def test_a_request_is_shown_with_its_legs_and_answers_and_no_token(operator, simulator):
    operator.type("enqueue", "answered-1")
    operator.type("sync")
    result = operator.type("requests", "show", "answered-1", "--json")
    document = json.loads(result.stdout)

    assert (document["request_id"], document["state"], document["leg_count"]) == ("answered-1", "done", 2)
    assert len(document["legs"]) == len(simulator.legs_of("answered-1"))
    assert [answer["revision"] for answer in document["responses"]] == [1]
    assert "token" not in result.stdout


def test_a_request_is_shown_to_people_with_what_is_wrong_with_it(operator):
    operator.type("enqueue", "answered-1", "malformed_money-1")
    operator.type("sync")
    shown = operator.type("requests", "show", "malformed_money-1").stdout

    assert "dead" in shown
    assert "malformed" in shown
    assert "rate" in shown


def test_a_request_that_nobody_enqueued_is_a_mistake(operator):
    result = operator.type("requests", "show", "unheard-of")

    assert result.exit_code == 2
    assert "unheard-of" in mistake(result)


# demo


@pytest.mark.parametrize("until", ["2099-01-01", "2000-12-31T23:59:59Z", "0001-01-01"])
def test_a_demo_of_days_to_come_or_long_past_is_refused(new_operator, until):
    result = new_operator.type("demo", "--until", until)

    assert result.exit_code == 2
    assert "choose an instant of the past, from 2001-01-01 on" in mistake(result)


# simulator


def test_the_simulator_lists_its_scenarios_with_nothing_configured(new_operator):
    result = new_operator.type("simulator", "--list")

    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(SCENARIOS)


@pytest.mark.parametrize(
    ("spec", "named"),
    [("no_such=0.1", "no_such"), ("none=2", "none"), ("none", "none"), ("none=0.9,late=0.9", "1.8")],
)
def test_wrong_shares_of_scenarios_are_a_mistake(new_operator, spec, named):
    result = new_operator.type("simulator", "--faults", spec)

    assert result.exit_code == 2
    assert named in mistake(result)


def test_the_simulator_runs_until_it_is_stopped_and_says_how_to_use_it(new_operator):
    process = new_operator.start("simulator", "--port", 0, "--faults", "none=1")
    lines = [process.stdout.readline().decode() for _ in range(2)]
    told = subprocess.run(
        ["/bin/sh"], input=f"{''.join(lines)}env", capture_output=True, text=True, check=True
    )
    names = ("CDR_SYNC_API_URL", "PIOPIY_APP_ID", "PIOPIY_SECRET")
    settings = dict(line.split("=", 1) for line in told.stdout.splitlines() if line.startswith(names))
    ours = new_operator.type("fetch", "x", **settings)
    stats = settings["CDR_SYNC_API_URL"].replace("/v1/piopiy/requestid_cdr", "/stats")
    with urllib.request.urlopen(stats, timeout=10) as answer:  # noqa: S310 (an address of our own)
        counted = json.load(answer)
    process.terminate()
    finished = finish(process)

    assert json.loads(ours.stdout)["cdr"] == []
    assert counted["total"] == 1
    assert finished.code in (0, 143)
    assert "Traceback" not in finished.stderr


def test_a_port_that_is_taken_is_a_mistake(new_operator):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = new_operator.type("simulator", "--port", port)

    assert result.exit_code == 2
    assert str(port) in mistake(result)


# What goes wrong around it


READING = [
    ("status",),
    ("runs",),
    ("runs", "show", "1"),
    ("requests", "list"),
    ("requests", "show", "x"),
    ("requests", "retry", "x"),
    ("requests", "cancel", "x"),
    ("backfill", "x", "--dry-run"),
    ("reprocess",),
    ("reprocess", "--dry-run"),
]
WORKING = [("enqueue", "one"), ("sync",), ("backfill", "one")]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_command_that_only_looks_makes_no_database_and_says_what_does(new_operator, words):
    result = new_operator.type(*words)

    assert result.exit_code == 78
    assert "cdr-sync enqueue" in mistake(result)
    assert str(new_operator.database) in result.stderr
    assert not new_operator.database.parent.exists()


@pytest.mark.parametrize("words", [*READING, *WORKING, ("sync", "--dry-run")], ids=" ".join)
def test_a_schema_that_is_behind_is_78_and_says_what_helps(operator, words):
    operator.type("db", "downgrade", "0001")
    result = operator.type(*words)

    assert result.exit_code == 78
    assert "cdr-sync db upgrade" in mistake(result)


def test_a_schema_from_the_future_is_78_and_is_not_called_behind(operator):
    operator.rows("UPDATE alembic_version SET version_num = '9999'")
    result = operator.type("sync")

    assert result.exit_code == 78
    assert "upgrade cdr-sync" in mistake(result)


@pytest.mark.parametrize("path", ["/there/x.sqlite", "there/x.db"])
def test_a_path_in_place_of_a_url_is_told_as_the_url_that_was_meant(new_operator, path, monkeypatch):
    monkeypatch.chdir(new_operator.home)
    path = f"{new_operator.home}{path}" if path.startswith("/") else path
    result = new_operator.type("--database-url", path, "status")
    meant = mistake(result).partition("did you mean ")[2].removesuffix("?")

    assert result.exit_code == 78
    assert meant == f"sqlite:///{new_operator.home / path}"
    assert new_operator.type("--database-url", meant, "db", "upgrade").exit_code == 0


def test_a_path_in_the_home_of_nobody_is_told_as_no_url_too(operator):
    result = operator.type("--database-url", "~nobody-here/x.db", "status")

    assert result.exit_code == 78
    assert "database_url is no URL" in mistake(result)


@pytest.mark.parametrize(
    "url",
    ["oracle://me:hunter2@db/x", "mssql+pyodbc://me:hunter2@db/x", "me:hunter2@db/x", "sqlite:/me:hunter2"],
)
@pytest.mark.parametrize(
    "words", [("status",), ("sync",), ("enqueue", "one"), ("db", "upgrade")], ids=" ".join
)
def test_a_database_that_is_not_supported_is_78_and_its_password_is_not_repeated(operator, url, words):
    result = operator.type("--database-url", url, *words)

    assert result.exit_code == 78
    assert "database_url" in mistake(result)
    assert "hunter2" not in result.output


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize(
    "words", [("status",), ("sync",), ("enqueue", "one"), ("db", "upgrade")], ids=" ".join
)
def test_a_database_server_that_nobody_listens_at_is_69(operator, scheme, words):
    url = f"{scheme}://me:hunter2@127.0.0.1:9/x"
    result = operator.type("--database-url", url, *words)

    assert result.exit_code == 69
    assert "127.0.0.1" in mistake(result)
    assert "hunter2" not in result.output


EVERYWHERE = [
    *READING,
    *WORKING,
    ("sync", "--dry-run"),
    ("requests", "retry", "x", "--dry-run"),
    ("db", "upgrade"),
    ("db", "downgrade", "0001"),
    ("db", "current"),
    ("db", "check"),
]


@pytest.mark.parametrize("words", EVERYWHERE, ids=" ".join)
def test_an_option_in_the_url_that_the_driver_does_not_know_is_78_on_every_command(operator, words):
    result = operator.type("--database-url", "postgresql://me@127.0.0.1:9/x?nonsense=1", *words)

    assert result.exit_code == 78
    assert "database_url" in mistake(result)
    assert "nonsense" in mistake(result)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:9/x?nonsense=hunter2",
        "postgresql://me:hunter2@127.0.0.1:9/x?read_timeout=soon",
        "mysql://me:hunter2@127.0.0.1:9/x?nonsense=hunter2",
        "mysql://me:hunter2@127.0.0.1:9/x?connect_timeout=soon",
        "sqlite:///{file}?timeout=soon",
    ],
)
def test_what_a_driver_does_not_take_is_78_on_every_database_and_tells_no_password(operator, url):
    result = operator.type("--database-url", url.format(file=operator.database), "sync")

    assert result.exit_code == 78
    assert "database_url" in mistake(result)
    assert "nonsense" in mistake(result) or "soon" in mistake(result)
    assert "hunter2" not in result.output


@pytest.mark.parametrize("words", EVERYWHERE, ids=" ".join)
def test_a_corrupt_database_file_is_69_and_is_left_as_it_is(operator, words):
    operator.database.write_bytes(b"no database at all" * 1_000)
    result = operator.type(*words)

    assert result.exit_code == 69
    mistake(result)
    assert operator.database.read_bytes() == b"no database at all" * 1_000


@pytest.mark.parametrize("words", [*WORKING, ("db", "upgrade")], ids=" ".join)
@pytest.mark.parametrize("place", ["/proc/nowhere/cdr.sqlite3", "/dev/null/cdr.sqlite3"])
def test_a_folder_that_cannot_be_made_is_named_and_no_fault_of_ours(operator, words, place):
    result = operator.type("--database-url", f"sqlite:///{place}", *words)

    assert result.exit_code in (69, 78)
    assert place.rpartition("/")[0] in mistake(result)


@pytest.mark.parametrize("words", [("status",), *WORKING, ("db", "upgrade")], ids=" ".join)
def test_a_folder_in_place_of_a_database_is_named_and_no_fault_of_ours(operator, words):
    result = operator.type("--database-url", f"sqlite:///{operator.home}", *words)

    assert result.exit_code in (69, 78)
    assert str(operator.home) in mistake(result)


@pytest.mark.parametrize("words", [("status",), *WORKING, ("db", "upgrade")], ids=" ".join)
def test_a_configuration_that_is_wrong_is_told_all_at_once(operator, words):
    file = operator.home / "wrong.toml"
    file.write_text('workers = 0\nno_such_setting = 1\ndefault_region = "india"\n')
    result = operator.type("--config", file, *words, CDR_SYNC_RETRY_DELAY="ten")

    assert result.exit_code == 78
    assert all(
        word in result.stderr for word in ("workers", "no_such_setting", "default_region", "RETRY_DELAY")
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("content", [None, "workers = ", "\udcff"])
def test_a_settings_file_that_cannot_be_read_is_78_and_named(operator, content):
    file = operator.home / "settings.toml"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    result = operator.type("--config", file, "status")

    assert result.exit_code == 78
    assert str(file) in result.stderr
    assert "Traceback" not in result.stderr


def test_an_option_beats_the_environment_which_beats_the_file(operator):
    file = operator.home / "settings.toml"
    urls = {name: f"sqlite:///{operator.home / name}.sqlite3" for name in ("option", "environment", "file")}
    file.write_text(f'database_url = "{urls["file"]}"\n')
    by_file = operator.type("--config", file, "db", "upgrade")
    by_environment = operator.type(
        "--config", file, "db", "upgrade", CDR_SYNC_DATABASE_URL=urls["environment"]
    )
    by_option = operator.type(
        *("--config", file, "--database-url", urls["option"], "db", "upgrade"),
        CDR_SYNC_DATABASE_URL=urls["environment"],
    )

    assert urls["file"] in by_file.stderr
    assert urls["environment"] in by_environment.stderr
    assert urls["option"] in by_option.stderr


def test_the_database_url_can_come_from_a_file(operator):
    file = operator.home / "url"
    file.write_text(f"sqlite:///{operator.home}/elsewhere.sqlite3\n")
    result = operator.type("db", "upgrade", CDR_SYNC_DATABASE_URL_FILE=str(file))

    assert "elsewhere.sqlite3" in result.stderr


def test_the_default_database_does_not_depend_on_the_working_directory(new_operator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_operator.type("enqueue", "one")

    assert new_operator.database.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]
