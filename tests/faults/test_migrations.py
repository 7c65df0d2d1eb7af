"""Migrations under rows: up from every released revision, and by several at once."""

from __future__ import annotations

import subprocess
import sys

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory
from support.builders import fill_tables as fill
from support.operators import CONSOLE_SCRIPT, finish, wait_until

from etl.db.engine import reading
from etl.db.schema import check, downgrade, migrations_folder
from etl.db.tables import STATES, metadata

REVISIONS = sorted(script.revision for script in ScriptDirectory(str(migrations_folder())).walk_revisions())
TABLES = [table.name for table in metadata.sorted_tables]


def everything(engine):
    """All rows as they are, whatever columns there are."""
    with reading(engine) as connection:
        select = "SELECT * FROM {} ORDER BY 1, 2, 3"
        return {
            name: [dict(row) for row in connection.execute(sa.text(select.format(name))).mappings()]
            for name in TABLES
        }


@pytest.mark.fault(39)
@pytest.mark.untrue_ledger("a claim is put there by hand")
@pytest.mark.parametrize("revision", REVISIONS[:-1])
def test_rows_in_every_state_survive_the_migrations_from_every_revision(site, note, revision):
    fill(site.engine)
    before = everything(site.engine)
    downgrade(site.engine, revision)
    old = everything(site.engine)
    refused, upgraded = site.run("sync"), site.run("db", "upgrade")
    new = everything(site.engine)
    check(site.engine)
    ended = site.run("sync")

    assert [row["state"] for row in before["cdr_requests"]] == list(STATES)
    assert old == in_columns_of(old, before)
    assert old == in_columns_of(old, new)
    assert (refused.code, upgraded.code, ended.code) == (78, 0, 0)
    assert site.states() == {"done": 3, "empty": 1, "dead": 1, "cancelled": 1}
    note(database=site.database_kind, outcome=f"up from {revision}, and worked on", requests=len(STATES))


def in_columns_of(old, tables):
    """Rows without the columns that an older revision does not have."""
    return {
        name: [{column: row[column] for column in older} for older, row in zip(old[name], rows, strict=True)]
        for name, rows in tables.items()
    }


def migrators(site, count, *program):
    """Start `db upgrade` in some processes at once."""
    words = {"env": site.operator.whole_environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    started = [subprocess.Popen([*program, "db", "upgrade"], **words) for _ in range(count)]
    site.operator.processes += started
    return started


@pytest.mark.fault(39)
@pytest.mark.untrue_ledger("a claim is put there by hand")
def test_concurrent_migrators_wait_for_each_other_and_all_succeed(site, note):
    downgrade(site.engine, "base")
    codes = [finish(process).code for process in migrators(site, 3, CONSOLE_SCRIPT)]
    fill(site.engine)

    assert codes == [0, 0, 0]
    check(site.engine)
    note(database=site.database_kind, outcome="three at once: one migrates, all succeed")


UNGUARDED = """
import contextlib
from etl.db import schema
schema._alone = lambda *_: contextlib.nullcontext()
from etl.__main__ import main
main()
"""


@pytest.mark.databases("postgresql")  # where a table can be in the making
def test_negative_control_one_of_two_migrators_fails_if_they_do_not_wait(site):
    downgrade(site.engine, "base")
    with site.engine.connect() as connection:
        connection.execute(sa.text("CREATE TABLE cdr_requests (id INTEGER)"))  # until it is rolled back
        both = migrators(site, 2, sys.executable, "-c", UNGUARDED)
        wait_until(lambda: len(site.blocked()) == 2)
    codes = sorted(finish(process).code for process in both)

    assert codes[0] == 0
    assert codes[1] != 0
