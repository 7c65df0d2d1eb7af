"""`cdr-sync db`: the schema."""

from __future__ import annotations

import re
import stat

import pytest
from support.commands import CRASHED, mistake


def test_upgrade_creates_a_database_that_only_its_owner_can_read(new_operator):
    result = new_operator.type("db", "upgrade")

    assert result.exit_code == 0
    assert result.stdout == ""
    assert str(new_operator.database) in result.stderr
    assert stat.S_IMODE(new_operator.database.stat().st_mode) == 0o600
    assert stat.S_IMODE(new_operator.database.parent.stat().st_mode) == 0o700


def test_upgrade_is_safe_to_repeat_and_keeps_the_data(operator):
    operator.type("enqueue", "answered-1")
    codes = [operator.type("db", "upgrade").exit_code for _ in range(2)]

    assert codes == [0, 0]
    assert operator.states() == {"pending": 1}


def test_current_prints_only_the_revision(operator):
    result = operator.type("db", "current")

    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"\w+\n", result.stdout)


def test_check_accepts_a_new_database(operator):
    result = operator.type("db", "check")

    assert (result.exit_code, result.stderr) == (0, "")


def test_a_downgrade_can_be_followed_by_an_upgrade(operator):
    newest = operator.type("db", "current").stdout
    operator.type("enqueue", "answered-1")
    back = operator.type("db", "downgrade", "0001")
    older = operator.type("db", "current").stdout
    forward = operator.type("db", "upgrade")

    assert (back.exit_code, forward.exit_code) == (0, 0)
    assert older == "0001\n"
    assert operator.type("db", "current").stdout == newest
    assert operator.type("db", "check").exit_code == 0
    assert operator.states() == {"pending": 1}


def test_a_downgrade_accepts_a_number_of_steps(operator):
    newest = operator.type("db", "current").stdout
    result = operator.type("db", "downgrade", "-1")

    assert result.exit_code == 0, result.stderr
    assert operator.type("db", "current").stdout != newest


def test_a_downgrade_to_the_base_leaves_no_revision(operator):
    assert operator.type("db", "downgrade", "base").exit_code == 0
    assert operator.type("db", "current").stdout == "none\n"


def test_a_downgrade_needs_a_revision(operator):
    result = operator.type("db", "downgrade")

    assert result.exit_code == 2
    assert "REV" in mistake(result)


def test_check_fails_if_the_schema_is_behind(operator):
    operator.type("db", "downgrade", "0001")
    result = operator.type("db", "check")

    assert result.exit_code == 1
    assert "cdr-sync db upgrade" in mistake(result)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("ALTER TABLE cdr_requests ADD COLUMN nobody_knows TEXT", "nobody_knows"),
        ("ALTER TABLE call_legs DROP COLUMN extra", "extra"),
        ("DROP TABLE cdr_responses", "cdr_responses"),
        ("DROP INDEX ix_cdr_requests_due", "ix_cdr_requests_due"),
        ("DROP VIEW calls", "calls"),
    ],
)
def test_check_fails_if_the_tables_differ_from_the_models(operator, change, named):
    if change.startswith("ALTER TABLE call_legs"):
        for (view,) in operator.rows("SELECT name FROM sqlite_schema WHERE type = 'view'"):
            operator.rows(f"DROP VIEW {view}")
    operator.rows(change)
    result = operator.type("db", "check")

    assert result.exit_code == 1
    assert named in result.stderr
    assert CRASHED not in result.stderr


@pytest.mark.parametrize("words", [("current",), ("check",), ("downgrade", "base")])
def test_a_missing_database_is_named_and_not_created(new_operator, words):
    result = new_operator.type("db", *words)

    assert result.exit_code not in (0, 2)
    assert str(new_operator.database) in mistake(result)
    assert not new_operator.database.exists()


@pytest.mark.parametrize("direction", ["upgrade", "downgrade"])
def test_an_unknown_revision_is_wrong_usage(operator, direction):
    result = operator.type("db", direction, "nonsense")

    assert result.exit_code == 2
    assert "nonsense" in mistake(result)
