"""The servers that the tests start: from any place that has programs, and killed for good."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from support import servers
from support.servers import NoServerError, PostgresqlServer, do_without

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root has another user run its servers")


@contextlib.contextmanager
def started(server):
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def without_system(monkeypatch, tmp_path):
    monkeypatch.setattr(servers, "_POSTGRESQL", tmp_path / "nothing")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.mark.usefixtures("without_system")
@pytest.mark.parametrize("is_hidden", [False, pytest.param(True, marks=AS_ROOT)])
def test_where_the_system_has_no_postgresql_the_wheel_has(monkeypatch, is_hidden):
    (wheel,) = servers.importlib.util.find_spec(servers._WHEEL).submodule_search_locations
    if is_hidden:  # as in root's own folder, where the server's account may not look
        monkeypatch.setattr(servers.stat, "S_IXOTH", 0)
    with started(PostgresqlServer()) as server:
        programs = {Path(path).parents[2] for path in server.programs.values()}
        server.execute("CREATE TABLE t (id INTEGER)")
        folder = server.folder

    assert programs == ({folder / servers._WHEEL} if is_hidden else {Path(wheel)})
    assert not folder.exists()


@pytest.mark.usefixtures("without_system")
def test_where_there_is_no_server_at_all_it_is_told_what_helps(monkeypatch):
    monkeypatch.setattr(servers, "_WHEEL", "no_such_wheel")

    with pytest.raises(NoServerError, match="run `apt-get install postgresql` or `pip install pix"):
        PostgresqlServer()


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
