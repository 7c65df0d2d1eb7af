"""`cdr-sync enqueue`: IDs from arguments, files and pipes."""

from __future__ import annotations

import json
import re

import pytest
from support.commands import mistake


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
def test_invalid_entries_are_reported_with_their_line_and_do_not_keep_others_out(operator, content, lines):
    result = operator.type("enqueue", "--from-file", "-", stdin=content)

    assert [int(number) for number in re.findall(r"line (\d+) ", result.stderr)] == lines
    assert f"{len(lines)} invalid" in result.stdout
    assert operator.rows("SELECT request_id FROM cdr_requests ORDER BY id") == [("good",), ("good2",)]


def test_very_many_invalid_lines_do_not_flood_the_terminal(operator):
    result = operator.type("enqueue", "--from-file", "-", stdin="good\n" + "bad one\n" * 5_000)

    assert len(result.stderr.splitlines()) < 100
    assert "5,000 invalid" in result.stdout


def test_an_invalid_argument_is_reported(operator):
    result = operator.type("enqueue", "good", "with space")

    assert "with space" in result.stderr
    assert "1 invalid" in result.stdout


@pytest.mark.parametrize("command", ["enqueue", "backfill"])
def test_a_file_name_in_place_of_an_id_is_refused_with_the_option_that_reads_it(
    operator, command, monkeypatch
):
    monkeypatch.chdir(operator.home)
    (operator.home / "two ids.csv").write_text("one\n")
    (operator.home / "answered-1").touch()
    results = [operator.type(command, "one", name) for name in ("two ids.csv", "-", "./answered-1")]

    assert [result.exit_code for result in results] == [2, 2, 2]
    assert mistake(results[0]).endswith("is a file, not a request ID. Use --from-file 'two ids.csv'")
    assert mistake(results[1]).endswith("Use --from-file -")
    assert operator.states() == {}
    assert operator.type(command, "answered-1").exit_code == 0


def test_an_argument_longer_than_any_file_name_is_an_invalid_id(operator):
    result = operator.type("enqueue", "good", "x." * 130)

    assert result.exit_code == 0
    assert "argument 2 is longer than 255 characters" in result.stderr


def test_arguments_and_a_file_can_be_combined(operator):
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


def test_delay_batch_and_account_are_stored(operator):
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


def test_a_large_file_is_enqueued_completely(operator):
    file = operator.home / "many.txt"
    file.write_text("".join(f"id{number}\n" for number in range(25_000)))
    result = operator.type("enqueue", "--from-file", file)

    assert result.stdout.startswith("25,000 new")
    assert operator.states() == {"pending": 25_000}


def test_enqueue_without_ids_is_wrong_usage(new_operator):
    result = new_operator.type("enqueue")

    assert result.exit_code == 2
    assert "--from-file" in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize("name", ["missing.txt", "."])
def test_a_file_that_cannot_be_read_is_reported_and_no_database_is_made(new_operator, name):
    result = new_operator.type("enqueue", "--from-file", new_operator.home / name)

    assert result.exit_code == 2
    assert str(new_operator.home) in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize("command", ["enqueue", "backfill"])
@pytest.mark.parametrize("content", ["requestid\none\n", "when;requestid\n1;one\n", '["one", "two"]'])
def test_a_file_of_another_format_is_refused_as_a_whole(new_operator, command, content):
    new_operator.environment |= {"PIOPIY_APP_ID": "1", "PIOPIY_SECRET": "sssssss"}
    result = new_operator.type(command, "--from-file", "-", stdin=content)

    assert result.exit_code == 2
    assert mistake(result).startswith("cdr-sync: Line 1 ")
    assert "CSV with a column request_id" in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize(
    ("words", "printed"),
    [
        (["enqueue"], "0 new requests, 0 already known, 2 invalid\n"),
        (["backfill"], ""),
        (["backfill", "--dry-run"], ""),
    ],
)
def test_a_file_without_a_valid_id_is_wrong_usage(operator, words, printed):
    result = operator.type(*words, "--from-file", "-", stdin="neither this\nnor that\n")

    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].startswith("cdr-sync: None of the entries is a valid request ID")
    assert result.stdout == printed
    assert operator.states() == {}


@pytest.mark.parametrize("duration", ["5x", "ten", "-5s", "", "1e3", "nan"])
def test_a_wrong_duration_is_refused_with_the_accepted_forms(operator, duration):
    result = operator.type("enqueue", "one", f"--delay={duration}")

    assert result.exit_code == 2
    assert "15m" in mistake(result)
    assert operator.states() == {}


def test_a_duration_beyond_the_calendar_is_refused(operator):
    result = operator.type("enqueue", "one", "--delay", "999999999d")

    assert result.exit_code == 2
    assert "999999999d" in mistake(result)
