"""Every command in a broken environment: database, schema, settings, files."""

from __future__ import annotations

import pytest
from support.commands import mistake

READING = [
    ("status",),
    ("runs",),
    ("runs", "show", "1"),
    ("requests", "list"),
    ("requests", "show", "x"),
    ("requests", "retry", "x"),
    ("requests", "cancel", "x"),
    ("backfill", "x", "--dry-run"),
    ("reprocess",),
    ("reprocess", "--dry-run"),
]
WORKING = [("enqueue", "one"), ("sync",), ("backfill", "one")]


@pytest.mark.parametrize("words", READING, ids=" ".join)
def test_a_command_that_only_reads_creates_no_database_and_names_one_that_does(new_operator, words):
    result = new_operator.type(*words)

    assert result.exit_code == 78
    assert "cdr-sync enqueue" in mistake(result)
    assert str(new_operator.database) in result.stderr
    assert not new_operator.database.parent.exists()


@pytest.mark.parametrize("words", [*READING, *WORKING, ("sync", "--dry-run")], ids=" ".join)
def test_a_schema_that_is_behind_is_78_and_names_the_upgrade(operator, words):
    operator.type("db", "downgrade", "0001")
    result = operator.type(*words)

    assert result.exit_code == 78
    assert "cdr-sync db upgrade" in mistake(result)


def test_a_schema_of_a_newer_version_is_78_and_asks_to_upgrade_cdr_sync(operator):
    operator.rows("UPDATE alembic_version SET version_num = '9999'")
    result = operator.type("sync")

    assert result.exit_code == 78
    assert "Upgrade cdr-sync" in mistake(result)


@pytest.mark.parametrize("path", ["/there/x.sqlite", "there/x.db"])
def test_a_path_in_place_of_a_url_is_answered_with_the_right_url(new_operator, path, monkeypatch):
    monkeypatch.chdir(new_operator.home)
    path = f"{new_operator.home}{path}" if path.startswith("/") else path
    result = new_operator.type("--database-url", path, "status")
    meant = mistake(result).partition("Did you mean ")[2].removesuffix("?")

    assert result.exit_code == 78
    assert meant == f"sqlite:///{new_operator.home / path}"
    assert new_operator.type("--database-url", meant, "db", "upgrade").exit_code == 0


def test_a_path_in_an_unknown_home_folder_is_not_a_valid_url(operator):
    result = operator.type("--database-url", "~nobody-here/x.db", "status")

    assert result.exit_code == 78
    assert "database_url is not a valid URL" in mistake(result)


@pytest.mark.parametrize(
    "url",
    ["oracle://me:hunter2@db/x", "mssql+pyodbc://me:hunter2@db/x", "me:hunter2@db/x", "sqlite:/me:hunter2"],
)
@pytest.mark.parametrize(
    "words", [("status",), ("sync",), ("enqueue", "one"), ("db", "upgrade")], ids=" ".join
)
def test_an_unsupported_database_is_78_and_its_password_is_not_quoted(operator, url, words):
    result = operator.type("--database-url", url, *words)

    assert result.exit_code == 78
    assert "database_url" in mistake(result)
    assert "hunter2" not in result.output


@pytest.mark.parametrize("scheme", ["postgresql", "mysql"])
@pytest.mark.parametrize(
    "words", [("status",), ("sync",), ("enqueue", "one"), ("db", "upgrade")], ids=" ".join
)
def test_an_unreachable_database_server_is_69(operator, scheme, words):
    url = f"{scheme}://me:hunter2@127.0.0.1:9/x"
    result = operator.type("--database-url", url, *words)

    assert result.exit_code == 69
    assert "127.0.0.1" in mistake(result)
    assert "hunter2" not in result.output


EVERYWHERE = [
    *READING,
    *WORKING,
    ("sync", "--dry-run"),
    ("requests", "retry", "x", "--dry-run"),
    ("db", "upgrade"),
    ("db", "downgrade", "0001"),
    ("db", "current"),
    ("db", "check"),
]


@pytest.mark.parametrize("words", EVERYWHERE, ids=" ".join)
def test_an_unknown_driver_option_in_the_url_is_78_on_every_command(operator, words):
    result = operator.type("--database-url", "postgresql://me@127.0.0.1:9/x?nonsense=1", *words)

    assert result.exit_code == 78
    assert "database_url" in mistake(result)
    assert "nonsense" in mistake(result)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:hunter2@127.0.0.1:9/x?nonsense=hunter2",
        "postgresql://me:hunter2@127.0.0.1:9/x?read_timeout=soon",
        "mysql://me:hunter2@127.0.0.1:9/x?nonsense=hunter2",
        "mysql://me:hunter2@127.0.0.1:9/x?connect_timeout=soon",
        "sqlite:///{file}?timeout=soon",
    ],
)
def test_an_invalid_driver_option_is_78_on_every_database_and_shows_no_password(operator, url):
    result = operator.type("--database-url", url.format(file=operator.database), "sync")

    assert result.exit_code == 78
    assert "database_url" in mistake(result)
    assert "nonsense" in mistake(result) or "soon" in mistake(result)
    assert "hunter2" not in result.output


@pytest.mark.parametrize("words", EVERYWHERE, ids=" ".join)
def test_a_corrupt_database_file_is_69_and_is_not_changed(operator, words):
    operator.database.write_bytes(b"no database at all" * 1_000)
    result = operator.type(*words)

    assert result.exit_code == 69
    mistake(result)
    assert operator.database.read_bytes() == b"no database at all" * 1_000


@pytest.mark.parametrize("words", [*WORKING, ("db", "upgrade")], ids=" ".join)
@pytest.mark.parametrize("place", ["/proc/nowhere/cdr.sqlite3", "/dev/null/cdr.sqlite3"])
def test_a_folder_that_cannot_be_created_is_named_and_not_a_crash(operator, words, place):
    result = operator.type("--database-url", f"sqlite:///{place}", *words)

    assert result.exit_code in (69, 78)
    assert place.rpartition("/")[0] in mistake(result)


@pytest.mark.parametrize("words", [("status",), *WORKING, ("db", "upgrade")], ids=" ".join)
def test_a_folder_in_place_of_a_database_is_named_and_not_a_crash(operator, words):
    result = operator.type("--database-url", f"sqlite:///{operator.home}", *words)

    assert result.exit_code in (69, 78)
    assert str(operator.home) in mistake(result)


@pytest.mark.parametrize("words", [("status",), *WORKING, ("db", "upgrade")], ids=" ".join)
def test_all_wrong_settings_are_reported_at_once(operator, words):
    file = operator.home / "wrong.toml"
    file.write_text('workers = 0\nno_such_setting = 1\ndefault_region = "india"\n')
    result = operator.type("--config", file, *words, CDR_SYNC_RETRY_DELAY="ten")

    assert result.exit_code == 78
    assert all(
        word in result.stderr for word in ("workers", "no_such_setting", "default_region", "RETRY_DELAY")
    )
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("content", [None, "workers = ", "\udcff"])
def test_a_settings_file_that_cannot_be_read_is_78_and_named(operator, content):
    file = operator.home / "settings.toml"
    if content is not None:
        file.write_bytes(content.encode(errors="surrogateescape"))
    result = operator.type("--config", file, "status")

    assert result.exit_code == 78
    assert str(file) in result.stderr
    assert "Traceback" not in result.stderr


def test_an_option_beats_the_environment_which_beats_the_file(operator):
    file = operator.home / "settings.toml"
    urls = {name: f"sqlite:///{operator.home / name}.sqlite3" for name in ("option", "environment", "file")}
    file.write_text(f'database_url = "{urls["file"]}"\n')
    by_file = operator.type("--config", file, "db", "upgrade")
    by_environment = operator.type(
        "--config", file, "db", "upgrade", CDR_SYNC_DATABASE_URL=urls["environment"]
    )
    by_option = operator.type(
        *("--config", file, "--database-url", urls["option"], "db", "upgrade"),
        CDR_SYNC_DATABASE_URL=urls["environment"],
    )

    assert urls["file"] in by_file.stderr
    assert urls["environment"] in by_environment.stderr
    assert urls["option"] in by_option.stderr


def test_the_database_url_can_come_from_a_file(operator):
    file = operator.home / "url"
    file.write_text(f"sqlite:///{operator.home}/elsewhere.sqlite3\n")
    result = operator.type("db", "upgrade", CDR_SYNC_DATABASE_URL_FILE=str(file))

    assert "elsewhere.sqlite3" in result.stderr


def test_the_default_database_does_not_depend_on_the_working_directory(new_operator, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_operator.type("enqueue", "one")

    assert new_operator.database.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["home"]
