"""Disks that are full, files that are read-only or broken: one line reports it, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import pwd
import subprocess

import pytest
from support.operators import finish, wait_until
from support.servers import MariadbServer
from support.sites import Site, told_once

from etl.db.engine import create_sqlite_file, open_engine, sqlite_path
from etl.db.schema import upgrade
from etl.db.tables import cdr_requests

IN_HAND = 16  # twice the threads of a run


def system(*words):
    subprocess.run(words, check=True, capture_output=True, text=True)


def system_or_skip(*words, remedy):
    """Have the system do what not everybody may; where it does not, the test is skipped."""
    try:
        system(*words)
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        pytest.skip(f"{words[0]}: {getattr(error, 'stderr', error)}; {remedy}")


class SmallDisk:
    """A disk of 32 MB, held in memory, and the server that has its data there."""

    def __init__(self, folder, server=None):
        self.folder, self.server = folder, server
        owner = getattr(server, "account", None) or pwd.getpwuid(os.geteuid())
        options = f"size=32m,mode=700,uid={owner.pw_uid},gid={owner.pw_gid}"
        remedy = "run the tests as root, in a container with --cap-add SYS_ADMIN"
        system_or_skip("mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder), remedy=remedy)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        system("umount", "--lazy", str(self.folder))

    def fill(self):
        with contextlib.suppress(OSError), (self.folder / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    def make_room(self):
        """Make room, and do what an operator's systemd would: MariaDB may have died of the full disk."""
        (self.folder / "ballast").unlink()
        if self.server is not None and self.server.process.poll() is not None:
            self.server.start()


@contextlib.contextmanager
def sqlite_on_small_disk(_database, tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    with SmallDisk(folder) as disk:
        yield disk, f"sqlite:///{folder / 'cdr.sqlite3'}"


@contextlib.contextmanager
def postgresql_on_small_disk(database, _tmp_path):
    server = database.server
    folder = server.folder / "small"
    folder.mkdir()
    with SmallDisk(folder, server) as disk:
        server.execute(
            f"CREATE TABLESPACE small LOCATION '{folder}'", "CREATE DATABASE small TABLESPACE small"
        )
        yield disk, server.url_of("small")
        server.drop("small")
        server.execute("DROP TABLESPACE small")
    folder.rmdir()


@contextlib.contextmanager
def mariadb_on_small_disk(_database, _tmp_path):
    """On a server of its own, since InnoDB takes it ill where it cannot purge or roll back."""
    server = MariadbServer()
    try:
        server.start()
        server.create("small")
        with SmallDisk(server.data / "small", server) as disk:
            yield disk, server.url_of("small")
            server.kill()
    finally:
        server.remove()


ON_SMALL_DISK = {
    "sqlite": sqlite_on_small_disk,
    "postgresql": postgresql_on_small_disk,
    "mariadb": mariadb_on_small_disk,
}


@pytest.fixture
def small_disk_site(fresh_database, simulator, tmp_path, note):
    """A site whose database is on a small disk of its own."""
    kind = getattr(getattr(fresh_database, "server", None), "scheme", "sqlite")
    with ON_SMALL_DISK[kind](fresh_database, tmp_path) as (disk, url):
        create_sqlite_file(url)
        engine = open_engine(url)
        upgrade(engine)
        home = tmp_path / "home"
        home.mkdir()
        site = Site(url, engine, simulator, home, note)
        yield site, disk
        site.operator.end_processes()
        engine.dispose()


@pytest.mark.fault(16)
def test_a_full_disk_ends_the_run_in_one_line_and_all_is_done_once_there_is_room(small_disk_site):
    site, disk = small_disk_site
    site.fill(600)
    site.simulator.latency = 0.005
    process = site.start("sync")
    wait_until(lambda: site.states().get("done", 0) >= 50)
    disk.fill()
    ended = finish(process)
    ended_again = site.run("sync")
    disk.make_room()
    used = max(row["attempts"] for row in site.rows(cdr_requests))
    at_last = site.run("sync")

    assert told_once(ended)
    assert told_once(ended_again)
    assert used == 1
    assert (at_last.code, at_last.all) == (0, "")
    assert site.states() == {"done": 600}
    assert site.simulator.total_calls <= 600 + 2 * IN_HAND
    site.report("exit 69, and all is done once there is room")


# --- Files that cannot be written, or are none --------------------------------------------------------


@contextlib.contextmanager
def immutable(file):
    """No user may write the file, not even root, whom mode bits do not stop."""
    if os.geteuid() != 0:
        file.chmod(0o400)
        yield
        file.chmod(0o600)
        return
    remedy = "use a file system that has this attribute, or test as another user than root"
    system_or_skip("chattr", "+i", str(file), remedy=remedy)
    try:
        yield
    finally:
        system("chattr", "-i", str(file))


@contextlib.contextmanager
def on_read_only_disk(file):
    folder = str(file.parent)
    remedy = "run the tests as root, in a container with --cap-add SYS_ADMIN"
    system_or_skip("mount", "--bind", "-o", "ro", folder, folder, remedy=remedy)
    try:
        yield
    finally:
        system("umount", "--lazy", folder)


@pytest.mark.fault(17)
@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("read_only", [immutable, on_read_only_disk])
def test_a_file_that_cannot_be_written_ends_the_run_in_one_line(site, read_only):
    site.fill(20)
    site.engine.dispose()
    with read_only(sqlite_path(site.url)):
        ended = site.run("sync")
    again = site.run("sync")

    assert told_once(ended)
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 20}
    assert site.simulator.total_calls == 20
    site.report("read-only: exit 69, and nothing was asked")


BROKEN = {
    "no database": lambda _sound: b"Dear diary, this is no database at all.\n" * 1_000,
    "a header and nothing sound behind it": lambda sound: sound[:4096] + bytes([7]) * (len(sound) - 4096),
    "cut off": lambda sound: sound[: len(sound) // 2],
}


@pytest.mark.fault(17)
@pytest.mark.databases("sqlite")
@pytest.mark.untrue_ledger("it is broken")
@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_file_ends_the_run_in_one_line_and_is_left_as_it_is(site, note, broken):
    site.fill(20)
    site.engine.dispose()
    file = sqlite_path(site.url)
    content = broken(file.read_bytes())
    file.write_bytes(content)
    ended = site.run("sync")

    assert told_once(ended)
    assert site.simulator.total_calls == 0
    assert file.read_bytes() == content
    note(database="sqlite", outcome="broken: exit 69, and the file is left as it is", api_calls=0)
