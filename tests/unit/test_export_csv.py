"""CSV that a spreadsheet neither runs nor changes, and that a program reads back as stored."""

from __future__ import annotations

import csv
import io
import re
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.db.streams import Field
from etl.export import CsvWriter, safe_text


def written(*rows, is_raw=False, **kinds):
    sink = io.BytesIO()
    writer = CsvWriter(sink, [Field(name, kind, True, "") for name, kind in kinds.items()], is_raw=is_raw)
    writer.write(rows)
    return sink.getvalue()


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+914471000000",
        "-2+3",
        "@SUM(A1)",
        "\t1",
        "\rbusy",
        "\n",
        " =1",
        "\uff1d1",
        "'=1",
        "0447",
        "914471000000",  # Excel saves 9.14E+11
        "9" * 16,
        "12E5",
        "1.5e10",
        " 123",
        "12-11",
        "5/6",
        "12.11.2021",
        "2021-11-16",
        "12:30",
        "10 am",
        "5 Nov",
        "5. März 2021",
        "Mar-21",
        "SEPT1",
        "Mon 5 Nov 2021",
        "November 5, 2021 10:30 pm",
        "50 %",
        "(123)",
        "$5",
        "\u20b9 1,234.50",
        ".5",
        "TRUE",
        "false",
        "\u0661\u0662-\u0663",
    ],
)
def test_text_that_a_spreadsheet_would_run_or_change_gets_an_apostrophe(text):
    assert safe_text(text) == f"'{text}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "answered",
        "9840012345",
        "0",
        "209_1111113",
        "a=b",
        "8DI2mXpy2K7q",
        "r1",
        "truely",
        "no answer; busy",
        "{}",
    ],
)
def test_other_text_is_unchanged(text):
    assert safe_text(text) == text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\t=1", "'\t'=1"),
        ("busy;=1+1", "busy;'=1+1"),
        ("busy\t\t@x", "busy\t'\t'@x"),
        ("a\n -1;'", "a\n' -1;''"),
        ("=1;=1", "'=1;'=1"),
    ],
)
def test_a_formula_after_another_countrys_separator_gets_an_apostrophe_too(text, safe):
    assert safe_text(text) == safe


def test_the_check_of_a_long_text_does_not_backtrack():
    assert safe_text(f"1{'a' * 10**6}_") == f"1{'a' * 10**6}_"


def cells(content):
    """The first row after the header, as a program reads it."""
    _, row = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    return row


ANY = st.text(alphabet=st.characters(exclude_categories=["Cs"]))
HOSTILE = st.text(alphabet=" 01aE\t\r\n;,\"'=+-@./:")


@given(ANY | HOSTILE)
def test_stored_text_can_be_read_back_and_no_cell_starts_like_a_formula(text):
    safe, _ = cells(written((text, "end"), a="text", b="text"))
    raw, _ = cells(written((text, "end"), a="text", b="text", is_raw=True))

    assert re.sub(r"(\A|[;\t\r\n])'", r"\1", safe) == raw == text
    assert not [
        part for part in re.split(r"[;\t\r\n]", safe) if part.lstrip().startswith(("=", "+", "-", "@"))
    ]


def test_each_kind_of_value_has_one_format():
    row = (Decimal("-1E-9"), datetime(2026, 2, 3, 12, tzinfo=UTC), True, -5, None, 'say "a,b"', "a;b", " a")
    kinds = {"m": "money", "t": "instant", "b": "boolean", "i": "integer"}
    kinds |= dict.fromkeys("nsuv", "text")

    assert written(row, **kinds) == (
        b"m,t,b,i,n,s,u,v\r\n"
        b'-0.000000001,2026-02-03T12:00:00.000000Z,true,-5,,"say ""a,b""","a;b"," a"\r\n'
    )  # fmt: skip
