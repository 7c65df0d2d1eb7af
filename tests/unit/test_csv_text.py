"""CSV that neither runs nor changes in a spreadsheet, and that a program reads back as it was."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.db.exports import Field
from etl.export.csv_text import CsvWriter, safe_text, stored_text


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
        "\t=1",
        "\r=1",
        "\n=1",
        " =1",
        "\uff1d1",
        "'=1",
        "0447",
        "9" * 16,
        "12E5",
    ],
)
def test_text_that_a_spreadsheet_would_run_or_change_gets_an_apostrophe(text):
    assert safe_text(text) == f"'{text}"


@pytest.mark.parametrize(
    "text", ["", "answered", "914471000000", "0", "209_1111113", "a=b", "8DI2mXpy", "9" * 15]
)
def test_other_text_stays_as_it_is(text):
    assert safe_text(text) == text


def cells(content):
    """The first row after the header, as a program reads it."""
    _, row = csv.reader(io.StringIO(content.decode(), newline=""), strict=True)
    return row


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_what_is_stored_can_be_read_back(text):
    safe, _ = cells(written((text, "end"), a="text", b="text"))
    raw, _ = cells(written((text, "end"), a="text", b="text", is_raw=True))

    assert stored_text(safe) == raw == text
    assert not safe.lstrip().startswith(("=", "+", "-", "@"))


def test_values_have_one_form_each():
    row = (Decimal("-1E-9"), datetime(2026, 2, 3, 12, tzinfo=UTC), True, -5, None, 'say "a,b"')
    kinds = {"m": "money", "t": "instant", "b": "boolean", "i": "integer", "n": "text", "s": "text"}

    assert written(row, **kinds) == (
        b"m,t,b,i,n,s\r\n"
        b'-0.000000001,2026-02-03T12:00:00.000000Z,true,-5,,"say ""a,b"""\r\n'
    )  # fmt: skip
