"""Fixtures of the deploy tests: a machine set up as the files in deploy/ expect."""

from __future__ import annotations

import shutil

import pytest
from support.operators import Operator


class Site(Operator):
    """A machine with the secrets in files, and with two requests, one of which no answer will do for."""

    def __post_init__(self):
        super().__post_init__()
        self.database = self.home / "cdr-sync.sqlite3"
        self.secrets = self.home / "secrets"
        self.secrets.mkdir()
        (self.secrets / "database-url").write_text(f"sqlite:///{self.database}\n")

    def connect(self, simulator):
        (self.secrets / "secret").write_text(f"{simulator.secret}\n")
        self.given = {
            "HOME": str(self.home),
            "CDR_SYNC_API_URL": simulator.url,
            "PYTHONDONTWRITEBYTECODE": "1",  # an installed one finds it all compiled
        }


@pytest.fixture(scope="session")
def filled_database(tmp_path_factory):
    """A filled database to copy: migrating takes a second."""
    someone = Operator(tmp_path_factory.mktemp("filled"))
    finished = someone.run("enqueue", "answered-1", "malformed_money-1")
    assert finished.code == 0, finished.all
    someone.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return someone.database


@pytest.fixture
def site(tmp_path, simulator, filled_database):
    home = tmp_path / "home"
    home.mkdir()
    site = Site(home)
    site.connect(simulator)
    shutil.copyfile(filled_database, site.database)
    return site
