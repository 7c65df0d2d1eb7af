"""Files of request IDs: one per line, CSV, or JSON lines, read as a stream."""

from __future__ import annotations

import itertools
import json
import tracemalloc

import pytest

from etl.errors import UsageError
from etl.id_files import RequestIds, check_request_id, read_request_ids

SAMPLE = "8DI2mXpy2K7qPI2Wi919AKS5LlzNEJKy7kb2Vg3IN9h"


def read(text: str) -> list[tuple[int, str]]:
    """The line numbers and IDs of a file in which nothing is wrong."""
    entries = list(read_request_ids(text.splitlines(keepends=True)))
    assert [entry.problem for entry in entries] == [None] * len(entries)
    return [(entry.line, entry.request_id) for entry in entries]


def ids(text: str) -> list[str]:
    return [request_id for _, request_id in read(text)]


def split(text: str) -> tuple[list[tuple[int, str]], list[int]]:
    """The valid IDs with their lines, and the lines of the invalid ones."""
    entries = list(read_request_ids(text.splitlines(keepends=True)))
    good = [(entry.line, entry.request_id) for entry in entries if entry.problem is None]
    return good, [entry.line for entry in entries if entry.problem is not None]


# --- One per line --------------------------------------------------------------------------------------


def test_a_line_holds_one_id():
    assert read(f"{SAMPLE}\nb\nC\n") == [(1, SAMPLE), (2, "b"), (3, "C")]


def test_case_is_kept():
    assert ids("Abc\naBC\n") == ["Abc", "aBC"]


@pytest.mark.parametrize("text", ["", "\n", "  \n\t\r\n", "\ufeff", "\ufeff\n\n"])
def test_an_empty_file_has_no_ids(text):
    assert read(text) == []


def test_the_last_line_needs_no_line_end():
    assert ids("a\nb") == ["a", "b"]


def test_blank_lines_are_skipped_and_the_line_numbers_stay_right():
    assert read("\n  \na\n\n\t\nb\n\n") == [(3, "a"), (6, "b")]


def test_a_tab_after_the_first_id_does_not_make_a_table():
    assert ids("a\t\nb\t\n") == ["a", "b"]
    assert ids("request_id\t\na\tx\n") == ["a"]


def test_blanks_around_an_id_are_removed():
    assert ids("  a  \n\tb\t\n") == ["a", "b"]


def test_windows_line_ends_and_a_byte_order_mark_do_not_matter():
    assert read("\ufeffa\r\nb\r\n\r\nc\r\n") == [(1, "a"), (2, "b"), (4, "c")]


def test_ids_may_have_any_printable_character_outside_the_formats():
    assert ids("आईडी\nidentité-1\n209_1111113\nid:1/2?x=é\n") == [
        "आईडी",
        "identité-1",
        "209_1111113",
        "id:1/2?x=é",
    ]


@pytest.mark.parametrize(
    "wrong", ["two words", "a\x00b", "a\x07b", "a\ufffdb", "a\u200bb", "a\u00a0b", "x" * 256]
)
def test_an_invalid_id_is_reported_with_its_line(wrong):
    assert split(f"a\n\n{wrong}\nb\n") == ([(1, "a"), (4, "b")], [3])


def test_an_id_has_1_to_255_characters():
    assert check_request_id(1, "é" * 255).problem is None
    assert check_request_id(1, "é" * 256).problem == "is longer than 255 characters"
    assert check_request_id(7, "").problem == "is empty"
    assert check_request_id(7, "").line == 7


# --- CSV ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("column", [0, 1, 2])
def test_the_column_may_stand_anywhere(delimiter, column):
    def line(value: str) -> str:
        cells = ["x", "y"]
        cells.insert(column, value)
        return delimiter.join(cells) + "\n"

    assert read(line("request_id") + line("a") + line(" b ")) == [(2, "a"), (3, "b")]


def test_a_column_may_have_an_empty_name():
    assert read("\trequest_id\nx\ta\n") == [(2, "a")]


def test_a_first_line_longer_than_any_header_is_an_invalid_id():
    assert split("x" * 1_000_000 + "\nb\n") == ([(2, "b")], [1])


def test_another_delimiter_inside_a_header_does_not_split_its_columns():
    assert read("request_id;this, that and more\na;x\n") == [(2, "a")]


def test_csv_may_have_one_column():
    assert read("request_id\na\nb\n") == [(2, "a"), (3, "b")]


@pytest.mark.parametrize(
    "header", ['"request_id","name"', "Request_ID,name", " request_id , name", "REQUEST_ID,name"]
)
def test_the_header_may_be_quoted_spaced_or_in_capitals(header):
    assert ids(f"{header}\na,Ann\n") == ["a"]


def test_values_may_be_quoted_and_hold_delimiters_and_quotes():
    assert ids('name,request_id\n"Lee, Ann","a"\n"say ""hi""",b\n') == ["a", "b"]


def test_line_numbers_stay_right_after_a_quoted_value_of_two_lines():
    good, wrong = split('request_id,note\na,"one\ntwo"\nb c,x\nd,y\n')

    assert [request_id for _, request_id in good] == ["a", "d"]
    assert (good[-1], wrong) == ((5, "d"), [4])


def test_csv_is_read_as_a_windows_spreadsheet_writes_it():
    assert read("\ufeffrequest_id;name\r\na;Ann\r\n\r\nb;Bob\r\n") == [(2, "a"), (4, "b")]


def test_blank_lines_in_csv_are_skipped():
    assert read("\nrequest_id,name\n\na,Ann\n   \nb,Bob\n\n") == [(4, "a"), (6, "b")]


def test_a_row_without_an_id_is_reported_with_its_line():
    assert split("name,request_id\nAnn,a\nBob\nCid,\nDee,d e\nEve,e\n") == ([(2, "a"), (6, "e")], [3, 4, 5])


def test_a_broken_row_does_not_cost_the_other_rows():
    good, wrong = split(f"request_id,note\na,x\nb,{'y' * 200_000}\nc,z\nd,z\n")

    assert [request_id for _, request_id in good if request_id != "b"] == ["a", "c", "d"]
    assert wrong in ([], [3])


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ("a,b", "'a', 'b'"),
        ("\ufeffwhen;requestId\r", "'when', 'requestId'"),
        ("requestid", "'requestid'"),
        ('"Request ID"', "'Request ID'"),
        ("REQUEST-IDS", "'REQUEST-IDS'"),
        ("id", "'id'"),
        ("call_uuid", "'call_uuid'"),
        (f"{SAMPLE}\t2026-10-01", f"'{SAMPLE[:40]}', '2026-10-01'"),
    ],
)
def test_a_table_without_the_column_is_refused(head, named):
    with pytest.raises(UsageError) as refused:
        list(read_request_ids(["\n", f"{head}\n", "c\n"]))

    assert str(refused.value).startswith(f"Line 2 has the columns {named}, and none is 'request_id'. ")
    assert "JSON lines" in str(refused.value)


@pytest.mark.parametrize(
    "first", ["idea", "id-1", "grid", "request-1", "answeredid1", SAMPLE, SAMPLE[:41] + "id"]
)
def test_an_id_on_the_first_line_is_not_taken_for_a_header(first):
    assert read(f"{first}\nb\n") == [(1, first), (2, "b")]


@pytest.mark.parametrize(
    "text", ['["a", "b"]', '[{"request_id": "a"}]', "  [\n", '{\n  "request_id": "a"\n}']
)
def test_a_json_document_of_several_lines_is_refused_with_the_accepted_formats(text):
    with pytest.raises(UsageError, match=r"Line 1 starts a JSON document .*\(one object per line\)"):
        list(read_request_ids(text.splitlines(keepends=True)))


@pytest.mark.parametrize(
    "content", ["request_id\r\na\r\n".encode("utf-16"), b"PK\x03\x04\x14\x08\n", b"\x00\n"]
)
def test_a_binary_file_is_refused_with_the_remedy(content):
    with pytest.raises(UsageError, match=r"Line 1 is not UTF-8 text\. Save a spreadsheet as CSV in UTF-8"):
        list(read_request_ids(content.decode(errors="replace").splitlines(keepends=True)))


# --- JSON lines --------------------------------------------------------------------------------------


def test_the_id_is_at_the_top_level_or_in_data():
    lines = [
        {"request_id": "a", "code": 200},
        {"data": {"request_id": "b"}},
        {"request_id": None, "data": {"request_id": "c"}},
    ]

    assert read("\n".join(map(json.dumps, lines))) == [(1, "a"), (2, "b"), (3, "c")]


def test_the_top_level_comes_first():
    assert ids('{"data":{"request_id":"b"},"request_id":"a"}\n') == ["a"]


def test_json_lines_may_have_blank_lines_spaces_and_a_byte_order_mark():
    assert read('\ufeff\n  {"request_id": " a "}  \r\n \r\n{"request_id":"b"}\r\n') == [(2, "a"), (4, "b")]


def test_characters_may_be_escaped():
    assert ids('{"request_id":"\\u0906a"}\n') == ["आa"]


@pytest.mark.parametrize(
    "wrong",
    [
        "{",
        "b",
        "[]",
        '["b"]',
        "null",
        "5",
        "{}",
        '{"request_id":5}',
        '{"request_id":null}',
        '{"request_id":["b"]}',
        '{"request_id":""}',
        '{"request_id":"two words"}',
        '{"request_id":"a\\u0000"}',
        '{"request_id":"\\ud83d"}',
        '{"data":"b"}',
        '{"data":[{"request_id":"b"}]}',
        '{"data":{"request_id":7}}',
        '{"requestId":"b"}',
        '{"request_id":' + "9" * 5000 + "}",
        '{"request_id":' + "[" * 100_000,
    ],
    ids=lambda wrong: wrong[:30],
)
def test_an_invalid_line_is_reported_and_does_not_cost_the_others(wrong):
    good, lines = split(f'{{"request_id":"a"}}\n\n{wrong}\n{{"request_id":"c"}}\n')

    assert (good, lines) == ([(1, "a"), (4, "c")], [3])


# --- Of any size -------------------------------------------------------------------------------------

FORMS = {
    "lines": ([], "id-{}\n"),
    "csv": (["name,request_id\n"], "Ann,id-{}\n"),
    "json": ([], '{{"data":{{"request_id":"id-{}"}}}}\n'),
}


@pytest.mark.parametrize(("head", "line"), FORMS.values(), ids=FORMS)
def test_no_more_lines_are_read_than_ids_are_taken(head, line):
    endless = itertools.chain(head, (line.format(number) for number in itertools.count()))
    consumed = itertools.count()
    entries = read_request_ids(text for text, _ in zip(endless, consumed, strict=False))
    first = [entry.request_id for entry in itertools.islice(entries, 1000)]

    assert first == [f"id-{number}" for number in range(1000)]
    assert next(consumed) <= 1000 + 10


@pytest.mark.parametrize(("head", "line"), FORMS.values(), ids=FORMS)
def test_memory_stays_flat_over_a_long_file(head, line):
    lines = itertools.chain(head, (line.format(number) for number in range(10_000)))
    tracemalloc.start()
    try:
        how_many = sum(1 for _ in read_request_ids(lines))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert how_many == 10_000
    assert peak < 300_000


def test_a_million_lines_are_read():
    entries = read_request_ids(f"id-{number}\n" for number in range(1_000_000))

    assert sum(entry.problem is None for entry in entries) == 1_000_000


# --- The IDs given to a command ----------------------------------------------------------------------


def test_arguments_come_before_the_file_and_invalid_ones_are_reported_and_counted(tmp_path):
    (tmp_path / "ids.txt").write_text("c\nd e\n")
    reports = []
    given = RequestIds(["a", "b b", " c "], str(tmp_path / "ids.txt"), report=reports.append)

    assert list(given) == ["a", "c", "c"]
    assert (given.valid, given.invalid) == (3, 2)
    assert reports == [
        "argument 2 has characters that no request ID has: 'b b'",
        "line 2 has characters that no request ID has: 'd e'",
    ]
    given.require_any()


def test_only_the_first_invalid_entries_are_reported_one_by_one():
    reports = []
    given = RequestIds(["b b"] * 1_025, None, report=reports.append)

    assert list(given) == []
    assert len(reports) == 21
    assert reports[-1] == "… and 1,005 more"
    with pytest.raises(UsageError, match="None of the entries is a valid request ID"):
        given.require_any()


def test_a_wrong_file_is_refused_before_any_id_is_taken(tmp_path):
    (tmp_path / "ids.csv").write_text("call_id,name\n1,Ann\n")
    with pytest.raises(UsageError, match="Line 1 has the columns"):
        RequestIds(["a"] * 2_000, str(tmp_path / "ids.csv"), report=print)
    with pytest.raises(UsageError, match=r"Cannot read .*nowhere"):
        RequestIds(["a"], str(tmp_path / "nowhere"), report=print)
