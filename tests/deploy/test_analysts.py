"""The analysts' roles, made by the files as they say, on real servers: what they may and may not do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from support.operators import PATIENCE, Operator
from support.servers import do_without

from etl.db.engine import open_engine
from etl.db.schema import downgrade, upgrade
from etl.db.tables import call_legs, metadata
from etl.db.views import VIEWS

TOP = Path(__file__).parents[2]
GUIDE = (TOP / "docs" / "operate.md").read_text()
NAME, PASSWORD = "command_who_looks", "look-only"
READABLE = {call_legs.name, "alembic_version", *(view.name for view in VIEWS)}
LOOK = "SELECT * FROM {}"
# What only the owner may do; as the owner, each of them works.
FORBIDDEN = [
    "SELECT lease_token, done_token FROM cdr_requests",
    *map(LOOK.format, sorted({*metadata.tables} - READABLE)),
    "INSERT INTO cdr_requests (request_id) VALUES ('theirs')",
    "UPDATE call_legs SET rate = 0",
    "DELETE FROM call_legs WHERE leg = 'b'",
    "CREATE TABLE theirs (n integer)",
    "CREATE TEMPORARY TABLE passing (n integer)",
    "CREATE VIEW their_view AS SELECT 1 AS n",
    "ALTER TABLE call_legs ADD COLUMN theirs integer",
    "DROP VIEW rate_evidence",
    "DROP TABLE api_accounts",
]
FORBIDDEN_ON = {
    "postgresql": [
        "CREATE SCHEMA theirs",
        "CREATE ROLE theirs",
        "TRUNCATE cdr_responses",
        "SELECT * FROM call_legs FOR UPDATE",
        "SELECT lo_creat(0)",
        "SELECT lo_create(0)",
        "SELECT lo_from_bytea(0, 'much')",
        "SELECT pg_read_file('PG_VERSION')",
        "COPY call_legs TO PROGRAM 'cat'",
        "SELECT nextval('cdr_requests_id_seq')",
        "SELECT query_to_xml('SELECT * FROM cdr_requests', true, false, '')",
        "SET temp_file_limit = -1",
    ],
    "mariadb": [
        "CREATE DATABASE theirs",
        "CREATE USER theirs",
        "TRUNCATE cdr_responses",
        "SHOW CREATE VIEW calls",
        "SELECT * FROM mysql.user",
        "FLUSH TABLES",
        "HANDLER cdr_requests OPEN",
        "EXECUTE IMMEDIATE 'SELECT * FROM cdr_requests'",
    ],
}
CLEANING = {
    "postgresql": [f"DROP OWNED BY {NAME}", f"DROP ROLE {NAME}", "DROP ROLE IF EXISTS theirs"],
    "mariadb": [f"DROP USER {NAME}@'%'", "DROP USER IF EXISTS theirs", "DROP DATABASE IF EXISTS theirs"],
}
pytestmark = pytest.mark.databases("postgresql", "mariadb")


def kind_of(engine):
    return "postgresql" if engine.dialect.name == "postgresql" else "mariadb"


def make_role(engine, folder):
    """Run the file by the line at its head, with our own server and name in place of the ones there."""
    kind, url = kind_of(engine), engine.url
    file = TOP / "deploy" / "sql" / f"analyst-{kind}.sql"
    (line,) = re.findall(r"^--   (.+)$", file.read_text(), re.MULTILINE)
    program = line.split()[0]
    if shutil.which(program) is None:
        do_without(f"no {program}: run `apt-get install {kind}-client`")
    copy = folder / file.name
    copy.write_text(
        file.read_text() if kind == "postgresql" else file.read_text().replace("cdr_analyst", NAME)
    )
    words = {
        f"deploy/sql/{file.name}": str(copy),
        "cdr_analyst": NAME,
        "postgresql://OWNER@HOST/cdr": f"postgresql://cdr@127.0.0.1:{url.port}/{url.database}",
        "--host=HOST": f"--no-defaults --protocol=tcp --host=127.0.0.1 --port={url.port}",
        "--user=OWNER": "--user=cdr",
        "--database=cdr": f"--database={url.database}",
    }
    assert line in GUIDE
    for word, ours in words.items():
        line = line.replace(word, ours)
    subprocess.run(["/bin/sh", "-c", line], check=True, capture_output=True, timeout=PATIENCE)


@pytest.fixture
def analyst(database, tmp_path):
    """Give an engine that connects as an analyst; the database has a call, and is as open as an old one."""
    engine, kind = database.engine, kind_of(database.engine)
    database.enqueue("one", "two")
    with engine.begin() as owner:
        row = {
            "account": "default",
            "request_id": "one",
            "to_number": "1",
            "call_time": database.now(),
            "revision": 1,
        }
        owner.execute(
            call_legs.insert(), {**row, "leg": "a", "occurrence": 1, "from_number": "", "status": "answered"}
        )
        if kind == "postgresql":
            owner.execute(text("GRANT CREATE ON SCHEMA public TO PUBLIC"))  # as before version 15
    make_role(engine, tmp_path)
    with engine.begin() as owner:
        if kind == "mariadb":
            owner.execute(text(f"ALTER USER {NAME}@'%' IDENTIFIED BY '{PASSWORD}' ACCOUNT UNLOCK"))
    url = engine.url.set(username=NAME, password=PASSWORD if kind == "mariadb" else None)
    theirs = open_engine(url.render_as_string(hide_password=False))
    yield theirs
    theirs.dispose()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as owner:
        for statement in CLEANING[kind]:
            owner.execute(text(statement))


def refusal(engine, statement):
    """What the database says against a statement; None where it does it."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if engine.dialect.name == "postgresql":
            # A user can turn the default off: what must hold are the grants.
            connection.execute(text("SET default_transaction_read_only = off"))
        try:
            connection.execute(text(statement))
        except DBAPIError as error:
            return str(error.orig)
    return None


def test_an_analyst_can_read_only_views_and_legs(analyst, database):
    refused = {name: refusal(analyst, LOOK.format(name)) for name in sorted(READABLE)}
    with analyst.connect() as connection:
        asked = connection.scalar(text("SELECT SUM(asked) FROM sync_coverage"))
        called = connection.scalar(text("SELECT COUNT(*) FROM calls"))
    forbidden = [*FORBIDDEN_ON[kind_of(analyst)], *FORBIDDEN]
    done = [statement for statement in forbidden if refusal(analyst, statement) is None]
    said = {statement: refusal(database.engine, statement) for statement in forbidden}

    assert {name: words for name, words in refused.items() if words} == {}
    assert (asked, called) == (2, 1)
    assert done == []
    assert {statement: words for statement, words in said.items() if words} == {}


def test_an_analyst_can_export_and_gets_one_line_about_what_only_the_owner_can_do(analyst, tmp_path):
    command = Operator(tmp_path)
    url = {"CDR_SYNC_DATABASE_URL": analyst.url.render_as_string(hide_password=False)}
    exported = command.type("export", "calls", **url)
    refused = [command.type(*words, **url) for words in (["report"], ["status"], ["enqueue", "three"])]

    assert (exported.exit_code, len(exported.stdout.splitlines())) == (0, 2)
    assert [(result.exit_code, result.output.count("\n")) for result in refused] == [(69, 1)] * 3
    assert all(result.output.startswith("cdr-sync: The database ") for result in refused)


def test_mistakes_are_bounded_by_defaults(analyst):
    if kind_of(analyst) == "mariadb":
        with analyst.connect() as connection:
            assert connection.scalar(text("SELECT @@max_statement_time")) == 300
        return
    # Our own connections have limits of their own.
    with psycopg.connect(analyst.url.set(drivername="postgresql").render_as_string()) as connection:
        names = ("default_transaction_read_only", "statement_timeout", "lock_timeout", "temp_file_limit")
        shown = [connection.execute(f"SHOW {name}").fetchone() for name in names]

    assert shown == [("on",), ("5min",), ("5s",), ("10GB",)]


@pytest.mark.databases("postgresql")
def test_a_database_in_a_schema_of_its_own_is_found_by_its_analyst(unmigrated_engine, tmp_path):
    engine, schema = unmigrated_engine, '"Call data"'
    with engine.begin() as owner:
        owner.execute(text(f"CREATE SCHEMA {schema}"))
        owner.execute(text(f'ALTER ROLE cdr IN DATABASE "{engine.url.database}" SET search_path = {schema}'))
    engine.dispose()
    upgrade(engine)
    make_role(engine, tmp_path)
    theirs = open_engine(engine.url.set(username=NAME).render_as_string())
    refused = {name: refusal(theirs, LOOK.format(name)) for name in sorted(READABLE)}
    hidden = refusal(theirs, "SELECT * FROM cdr_requests")
    made = refusal(theirs, "CREATE TABLE theirs (n integer)")
    theirs.dispose()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as owner:
        place = owner.scalar(
            text("SELECT relnamespace::regnamespace::text FROM pg_class WHERE relname = 'calls'")
        )
        for statement in CLEANING["postgresql"]:
            owner.execute(text(statement))

    assert place == schema
    assert {name: words for name, words in refused.items() if words} == {}
    assert hidden is not None
    assert made is not None


def test_after_a_migration_the_same_file_grants_only_the_new_views(analyst, database, tmp_path):
    analyst.dispose()
    downgrade(database.engine, "0001")
    upgrade(database.engine)
    make_role(database.engine, tmp_path)
    make_role(database.engine, tmp_path)

    assert refusal(analyst, "SELECT * FROM data_quality") is None
    assert refusal(analyst, "SELECT * FROM cdr_requests") is not None


def test_the_files_grant_all_views():
    for kind in FORBIDDEN_ON:
        file = (TOP / "deploy" / "sql" / f"analyst-{kind}.sql").read_text()
        opened = {
            name.strip()
            for names in re.findall(r"^GRANT SELECT ON (.+) TO", file, re.MULTILINE)
            for name in names.split(",")
        }

        assert opened == READABLE
        assert "IDENTIFIED BY '…'" in file or "\\password" in file
