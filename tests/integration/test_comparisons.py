"""Analysts can compare any text with any other, of any table or view, on every database."""

from __future__ import annotations

from itertools import combinations

from sqlalchemy import String, inspect, text
from sqlalchemy.exc import DBAPIError

from etl.db.engine import reading
from etl.db.tables import metadata
from etl.db.views import VIEWS

JSON = ("extra", "selection")
FEW = {"cdr_requests.request_id", "call_legs.from_number", "calls.b_from", "rate_evidence.to_number"}


def texts_of(connection):
    """Every text column of every table and view, with its table."""
    seen = inspect(connection)
    return [
        f"{thing.name}.{column['name']}"
        for thing in (*metadata.sorted_tables, *VIEWS)
        for column in seen.get_columns(thing.name)
        if isinstance(column["type"], String) and column["name"] not in JSON  # which MariaDB takes for text
    ]


def test_any_text_can_be_compared_with_any_other(engine):
    """A database refuses such a comparison before it reads rows."""
    refused = []
    with reading(engine) as connection:
        columns = texts_of(connection)
        for one, other in combinations(columns, 2):
            left, right = one.partition(".")[::2], other.partition(".")[::2]
            try:
                connection.execute(
                    text(
                        f"SELECT 1 FROM {left[0]} AS l, {right[0]} AS r"  # noqa: S608
                        f" WHERE 1 = 0 AND l.{left[1]} = r.{right[1]}"
                    )
                )
            except DBAPIError as error:
                refused.append((one, other, str(error)[:100]))

    assert len(columns) > 50
    assert set(columns) >= FEW
    assert refused == [], len(refused)
