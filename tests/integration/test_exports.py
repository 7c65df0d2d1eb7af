"""Exports on every database: the same rows in the same order, one snapshot, exact values, flat memory."""

from __future__ import annotations

import csv
import gc
import os
import re
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sqlalchemy import delete, text
from support.builders import leg_row
from support.operators import PATIENCE

from etl.db.engine import open_engine, reading
from etl.db.selection import Span
from etl.db.streams import Field, fields_of, stream_rows
from etl.db.tables import call_legs
from etl.db.views import calls
from etl.errors import CdrSyncError
from etl.export import ParquetWriter, write_export

DATA = Path(__file__).parents[2] / "docs" / "data.md"
NOON = datetime(2026, 2, 3, 12, tzinfo=UTC)
MANY = 100_000
LEG = leg_row(
    "one",
    "a",
    from_number="0447",
    to_number="+914471000000",
    duration_seconds=60,
    balance=Decimal("-1134.750000000001"),
    direction="=cmd",
    extra={"b": 1, "a": "ü"},
)


def store(engine, *legs):
    with engine.begin() as connection:
        for leg in legs:
            connection.execute(call_legs.insert(), {**LEG, **leg})


def rows_of(engine, subject="legs", span=None):
    with (
        reading(engine) as connection,
        closing(stream_rows(connection, subject, span or Span())) as chunks,
    ):
        return [dict(row._mapping) for rows in chunks for row in rows]


def export(engine, path, subject="legs"):
    with reading(engine) as connection, path.open("wb") as sink:
        return write_export(
            connection, sink, subject=subject, span=Span(), file_format=path.suffix.removeprefix(".")
        )


def test_rows_are_ordered_by_call_time_and_then_by_their_key(engine):
    later = NOON + timedelta(seconds=1)
    store(
        engine,
        {"request_id": "b", "call_time": later},
        {"request_id": "b", "occurrence": 2},
        {"request_id": "b"},
        {"request_id": "a", "leg": "b"},
        {"request_id": "a", "leg": "a", "to_number": "9"},
        {"request_id": "B"},
        {"request_id": "z", "account": "a"},
    )
    order = ("account", "request_id", "leg", "occurrence")
    legs = [tuple(row[name] for name in order) for row in rows_of(engine)]

    assert legs == [
        ("a", "z", "a", 1),
        ("default", "B", "a", 1),
        ("default", "a", "a", 1),
        ("default", "a", "b", 1),
        ("default", "b", "a", 1),
        ("default", "b", "a", 2),
        ("default", "b", "a", 1),
    ]
    assert [row["request_id"] for row in rows_of(engine, "calls")] == ["z", "B", "a", "b"]


@pytest.mark.parametrize("subject", ["legs", "calls"])
def test_a_period_includes_its_start_and_not_its_end(engine, subject):
    ends = (NOON, NOON + timedelta(microseconds=1), NOON + timedelta(days=1))
    store(engine, *({"request_id": f"r{n}", "call_time": end} for n, end in enumerate(ends)))

    def ids(**bounds):
        return [row["request_id"] for row in rows_of(engine, subject, Span(**bounds))]

    assert ids(since=ends[0], until=ends[1]) == ["r0"]
    assert ids(since=ends[1], until=ends[2]) == ["r1"]
    assert ids(since=ends[2]) == ["r2"]
    assert ids(until=ends[0]) == ids(account="nobody") == []


def test_an_export_sees_the_data_as_of_its_start(engine, database_url):
    store(engine, *({"request_id": f"r{n:04}"} for n in range(2_500)))
    writer = open_engine(database_url)
    with reading(engine) as connection, closing(stream_rows(connection, "legs", Span())) as chunks:
        first = next(chunks)
        with writer.begin() as other:
            other.execute(delete(call_legs))
            other.execute(call_legs.insert(), {**LEG, "request_id": "z"})
        rest = [row for rows in chunks for row in rows]
    writer.dispose()

    assert len(first) == 1_000
    assert [row.request_id for row in (*first, *rest)] == [f"r{n:04}" for n in range(2_500)]
    assert [row["request_id"] for row in rows_of(engine)] == ["z"]


def test_a_stream_closed_early_leaves_the_connection_usable(engine):
    store(engine, *({"request_id": f"r{n:04}"} for n in range(2_500)))
    with reading(engine) as connection, closing(stream_rows(connection, "legs", Span())) as chunks:
        next(chunks)

    assert len(rows_of(engine)) == 2_500


def test_csv_and_parquet_have_the_same_exact_values_on_every_database(engine, tmp_path):
    store(engine, {}, {"request_id": "two", "rate": None, "balance": None, "extra": None, "to_country": None})
    plain, columnar = tmp_path / "legs.csv", tmp_path / "legs.parquet"

    assert export(engine, plain) == export(engine, columnar) == 2
    with plain.open(newline="", encoding="utf-8") as file:
        first, second = csv.DictReader(file, strict=True)
    rows = pq.read_table(columnar).to_pylist()

    assert plain.read_bytes().count(b"\r\n") == 3
    assert first["to_number"] == "'+914471000000"
    assert first["from_number"] == "'0447"
    assert first["direction"] == "'=cmd"
    # SQLite's double has 15 digits of these 16.
    exact = Decimal("-1134.75") if engine.dialect.name == "sqlite" else LEG["balance"]
    assert (first["rate"], Decimal(first["balance"])) == ("0.39", exact)
    assert first["call_time"] == "2026-02-03T12:00:00.000000Z"
    assert (second["rate"], second["balance"], second["extra"]) == ("", "", "")
    assert rows[0]["to_number"] == "+914471000000"
    assert rows[0]["call_time"] == NOON
    assert rows[0]["rate"] == Decimal("0.39")
    assert rows[0]["balance"] == exact
    assert (rows[1]["rate"], rows[1]["to_country"], rows[1]["extra"]) == (None, None, None)
    assert rows[0]["extra"] == first["extra"]


@pytest.mark.databases("sqlite")
def test_the_documented_way_back_gives_the_exact_text(engine, tmp_path, monkeypatch):
    texts = ["NA", "'=1", "0447", "a;=1", "12-11", "TRUE", " x", 'say "hi"']
    store(engine, *({"request_id": f"r{n}", "status": word} for n, word in enumerate(texts)))
    export(engine, tmp_path / "october.csv")
    (recipe,) = re.findall(r"```python\n(frame = .+?)```", DATA.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    named = {"pd": pd}
    exec(recipe, named)  # noqa: S102

    assert named["frame"].status.to_list() == texts
    assert set(named["frame"].to_number) == {LEG["to_number"]}


def test_parquet_has_types_nulls_and_comments_and_other_readers_take_it(engine, tmp_path):
    store(engine, {}, {"leg": "b", "rate": Decimal("-0.01"), "duration_seconds": 7})
    path = tmp_path / "calls.parquet"
    export(engine, path, "calls")
    schema = pq.read_schema(path)
    frame = pd.read_parquet(path)
    (found,) = duckdb.sql(
        f"SELECT billed_rate_total, talk_seconds, answered, epoch_us(call_time) FROM '{path}'"  # noqa: S608
    ).fetchall()

    assert {str(schema.field(name).type) for name in ("billed_rate_total",)} == {"decimal128(38, 18)"}
    assert str(schema.field("call_time").type) == "timestamp[us, tz=UTC]"
    assert {field.name: field.metadata[b"comment"].decode() for field in schema} == {
        column.name: column.comment for column in calls.columns
    }
    assert found == (Decimal("0.38"), 7, True, NOON.timestamp() * 1_000_000)
    assert frame.billed_rate_total[0] == Decimal("0.38")
    assert frame.call_time[0] == NOON


def test_a_sum_too_large_for_a_decimal_is_an_error_with_its_row_and_no_readable_file(engine, tmp_path):
    most = Decimal(6 * 10**19)
    store(
        engine,
        {"rate": most},
        {"request_id": "two", "rate": most},
        {"request_id": "two", "leg": "b", "rate": most},
    )
    with pytest.raises(CdrSyncError) as caught:
        export(engine, tmp_path / "calls.parquet", "calls")
    gc.collect()  # pyarrow's writer would write its index now

    assert str(caught.value) == (
        "Parquet cannot hold the billed_rate_total 120000000000000000000 (account default, request_id two): "
        "it has more than 20 digits before the decimal point or 18 after it. Export CSV instead"
    )
    with pytest.raises(pa.ArrowInvalid):
        pq.read_metadata(tmp_path / "calls.parquet")


def test_a_wider_decimal_would_lose_digits_in_a_reader(tmp_path):
    path, exact = tmp_path / "wide.parquet", Decimal("0.123456789012345678")
    for width in (38, 39):
        kind = pa.decimal128(width, 18) if width == 38 else pa.decimal256(width, 18)
        pq.write_table(pa.table({"amount": pa.array([exact], type=kind)}), path)
        ((found,),) = duckdb.sql(f"SELECT amount FROM '{path}'").fetchall()  # noqa: S608

        assert (found == exact) == (width == 38)


def test_columns_that_cannot_be_null_are_marked_so():
    needed = {field.name for field in fields_of("legs") if not field.is_nullable}

    assert needed >= {"account", "request_id", "call_time", "from_number", "revision"}
    assert needed.isdisjoint({"rate", "balance", "to_country", "missing_since"})


# --- Memory: heavy ---------------------------------------------------------------------------------------

NUMBERS = {
    "sqlite": "WITH RECURSIVE s (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s LIMIT {many}) SELECT n FROM s",
    "postgresql": "SELECT n FROM generate_series(1, {many}) AS s (n)",
    "mysql": "SELECT seq AS n FROM seq_1_to_{many}",
}
FILL = """
INSERT INTO call_legs
    (account, request_id, leg, to_number, call_time, occurrence, from_number, rate, revision)
SELECT 'default', {id}, 'a', '+914471000000', '2026-02-03 12:00:00.000000{zone}', 1, '0447', 0.39, 1
FROM ({numbers}) AS numbers"""
# What a whole export adds to the most memory that the process had after an export of nothing.
CHILD = """
import sys
from etl.cli.main import main

def most():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))

def export(*words):
    sys.argv = ["cdr-sync", "export", "legs", "--output", {path!r}, *words]
    try:
        main()
    except SystemExit as end:
        assert not end.code, end.code

export("--until", "2000-01-01")
before = most()
export()
print(most() - before)
"""


@pytest.fixture
def filled(engine, database_url):
    dialect = engine.dialect.name
    numbers = NUMBERS[dialect].format(many=MANY)
    words = {
        "id": "CONCAT('r', n)" if dialect != "sqlite" else "'r' || n",
        "zone": "+00" if dialect == "postgresql" else "",
    }
    with engine.begin() as connection:
        connection.execute(text(FILL.format(numbers=numbers, **words)))
    return SimpleNamespace(url=database_url, dialect=dialect)


@pytest.mark.heavy
def test_memory_does_not_grow_with_the_rows(filled, tmp_path):
    path = tmp_path / "legs.csv"
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(path=str(path))],
        env={**os.environ, "CDR_SYNC_DATABASE_URL": filled.url, "HOME": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )

    assert int(done.stdout) < 15_000  # kB; all rows at once are ten times as many
    assert path.read_bytes().count(b"\r\n") - 1 == MANY


def test_parquet_is_written_in_groups_of_rows(tmp_path):
    path = tmp_path / "numbers.parquet"
    with path.open("wb") as sink:
        writer = ParquetWriter(sink, [Field("n", "integer", is_nullable=False, comment="")])
        for first in range(0, 120_000, 1_000):
            writer.write([(n,) for n in range(first, first + 1_000)])
        held = sum(map(len, writer._batches))
        writer.finish()
    found = pq.ParquetFile(path)

    assert held == 20_000
    assert (found.num_row_groups, found.metadata.num_rows) == (3, 120_000)
    assert found.read().column("n").to_pylist() == list(range(120_000))
