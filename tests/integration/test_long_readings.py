"""What reads much is not cut off by the time-outs that end other statements, there or on this side."""

from __future__ import annotations

from contextlib import contextmanager
from threading import Timer

import pytest
from sqlalchemy import exc, text
from support.operators import Operator

from etl.db.engine import LONG_READ_SECONDS, long_reading, open_engine, reading

pytestmark = pytest.mark.databases("postgresql", "mariadb")
SLOW = {"postgresql": "SELECT pg_sleep(1.3)", "mysql": "SELECT SLEEP(1.3)"}
IMPATIENT = {  # a server that ends what takes longer than half a second, whatever else our own settings say
    "postgresql": "options=-c%20statement_timeout%3D500%20-c%20idle_in_transaction_session_timeout%3D500",
    "mariadb": "init_command=SET%20SESSION%20max_statement_time%3D0.5,%20idle_transaction_timeout%3D1",
}
LOCK = {
    "postgresql": "LOCK TABLE call_legs IN ACCESS EXCLUSIVE MODE",
    "mariadb": "LOCK TABLES call_legs WRITE",
}


@pytest.fixture
def impatient(database_url):
    """The URL of a server that is."""
    return f"{database_url}?{IMPATIENT[database_url.partition(':')[0]]}"


def take_long(way, url, **options):
    engine = open_engine(url, **options)
    try:
        with way(engine) as connection:
            connection.execute(text(SLOW[engine.dialect.name]))
            return connection.scalar(text("SELECT 1"))
    finally:
        engine.dispose()


def test_a_server_that_ends_long_statements_lets_a_long_reading_be(impatient):
    assert take_long(long_reading, impatient) == 1
    with pytest.raises(exc.OperationalError):  # negative control
        take_long(reading, impatient)


def test_an_answer_may_take_as_long_as_the_engine_says(database_url):
    assert take_long(long_reading, database_url, read_seconds=LONG_READ_SECONDS) == 1
    with pytest.raises(exc.OperationalError):  # negative control
        take_long(long_reading, database_url, read_seconds=1)


def test_all_of_a_long_reading_sees_one_instant(engine):
    count = text("SELECT COUNT(*) FROM cdr_requests")
    seen = []
    for way in (long_reading, reading):
        with way(engine) as connection:
            before = connection.scalar(count)
            with engine.begin() as other:
                other.execute(
                    text("INSERT INTO cdr_requests (request_id) VALUES (:id)"), {"id": way.__name__}
                )
            seen.append(connection.scalar(count) - before)

    assert seen == [0, 1]  # the second is the negative control


@contextmanager
def locked(url, seconds):
    """Legs cannot be read for a while."""
    engine = open_engine(url)
    with engine.connect() as holder:
        holder.execute(text(LOCK[url.partition(":")[0]]))
        release = Timer(seconds, holder.invalidate)
        release.start()
        yield
        release.join()
    engine.dispose()


@pytest.mark.parametrize(
    "words",
    [("report",), ("export", "calls"), ("db", "downgrade", "base")],
    ids=["report", "export", "migration"],
)
@pytest.mark.usefixtures("engine")
def test_a_command_that_reads_much_does_so(impatient, database_url, tmp_path, words):
    someone = Operator(tmp_path, {"CDR_SYNC_DATABASE_URL": impatient})
    with locked(database_url, 2):
        result = someone.type(*words)

    assert result.exit_code == 0, result.output


@pytest.mark.usefixtures("engine")
def test_negative_control_other_readings_do_not_outlast_such_a_lock(impatient, database_url):
    engine = open_engine(impatient)
    with locked(database_url, 2), pytest.raises(exc.OperationalError), reading(engine) as connection:
        connection.execute(text("SELECT COUNT(*) FROM call_legs"))
    engine.dispose()
