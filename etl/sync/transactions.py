"""One transaction, and what becomes of it where others are in its way or its connection breaks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine

from etl.db.failures import is_worth_repeating

T = TypeVar("T")


def in_transaction(
    engine: Engine,
    work: Callable[[Connection], T],
    *,
    was_done: Callable[[Connection, T], bool] = lambda _connection, _result: False,
) -> T:
    """Do something in one transaction; all of it again where that can help.

    A connection can break when the database has committed and has not said so yet.

    Args:
        engine: the database.
        work: what to do in the transaction; done once more for each try.
        was_done: tells, in a transaction that follows a failed one, whether that one was committed after
            all; it is given what `work` returned then. What is done twice without harm needs none.
    """
    results: list[T] = []

    def once() -> T:
        with engine.begin() as connection:
            if not (results and was_done(connection, results[-1])):
                results.append(work(connection))
            return results[-1]

    try:
        return once()
    except Exception as error:
        if not is_worth_repeating(error):
            raise
    # That is seldom: only now is it loaded what an idle run does not need.
    from etl.retrying import retry_transaction  # noqa: PLC0415

    return retry_transaction(once, is_transient=is_worth_repeating)
