"""A SQLite file that machines share, or that lies where its locks do not hold: a person is warned."""

from __future__ import annotations

from pathlib import Path

import pytest

from etl.db.engine import file_system_of, sqlite_dangers, sqlite_path
from etl.db.tables import sync_runs

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
31 22 0:27 / /srv/shared rw,relatime shared:2 - nfs4 server:/export rw,vers=4.2
32 31 8:2 / /srv/shared/local rw - xfs /dev/sdb1 rw
33 22 0:40 / /mnt/my\\040disk rw shared:3 master:1 - cifs //server/share rw
"""


@pytest.fixture
def mounts(tmp_path):
    file = tmp_path / "mountinfo"
    file.write_text(MOUNTS)
    return file


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/cdr.sqlite3", "ext4"),
        ("/srv/shared/cdr.sqlite3", "nfs4"),
        ("/srv/shared/local/cdr.sqlite3", "xfs"),
        ("/srv/shared-not/cdr.sqlite3", "ext4"),
        ("/mnt/my disk/cdr.sqlite3", "cifs"),
    ],
)
def test_the_file_system_is_that_of_the_innermost_mount(mounts, path, kind):
    assert file_system_of(Path(path), mounts) == kind


def test_a_file_system_that_the_system_does_not_report_is_none(tmp_path):
    assert file_system_of(Path("/"), tmp_path / "missing") is None


def test_this_machine_reports_its_file_systems(tmp_path):
    if not any(line.split()[4] == "/" for line in Path("/proc/self/mountinfo").read_text().splitlines()):
        pytest.skip("no mount has the root here, as in a chroot")

    assert file_system_of(tmp_path)


def add_run(engine, host):
    with engine.begin() as connection:
        connection.execute(sync_runs.insert().values(command="sync", host=host, pid=1, version="0"))


@pytest.mark.databases("sqlite")
def test_a_file_of_one_machine_on_a_local_disk_is_safe(engine, database_url):
    add_run(engine, "one")
    add_run(engine, "one")

    assert sqlite_dangers(engine, sqlite_path(database_url)) == []


@pytest.mark.databases("sqlite")
def test_a_file_that_several_machines_use_is_reported_with_their_names_and_the_remedy(engine, database_url):
    add_run(engine, "one")
    add_run(engine, "two")
    (danger,) = sqlite_dangers(engine, sqlite_path(database_url))

    assert "one, two" in danger
    assert "PostgreSQL or MariaDB" in danger


@pytest.mark.databases("sqlite")
def test_a_file_on_a_network_file_system_is_reported_with_the_remedy(engine, monkeypatch, mounts):
    monkeypatch.setattr("etl.db.engine._MOUNTS", mounts)
    (danger,) = sqlite_dangers(engine, Path("/srv/shared/cdr.sqlite3"))

    assert "(nfs4)" in danger
    assert "local disk" in danger
