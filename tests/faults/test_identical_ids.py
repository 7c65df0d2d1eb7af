"""IDs that are nearly the same, and the very same ID from two sides at once."""

from __future__ import annotations

import re
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import exc
from support.operators import finish, wait_until
from support.systems import guard
from support.unguarded import NO_LAST_WORDS, take_out

from etl.db.engine import sqlite_path
from etl.db.queue import enqueue_requests

ALIKE = (
    "8DI2mXpy2K7q",
    "8di2mxpy2k7q",
    "8DI2MXPY2K7Q",
    "8DI2mXpy2K7q ",
    " 8DI2mXpy2K7q",
    "8DI2mXpy2K7q\t",
    "caf\u00e9",
    "cafe\u0301",
    "cafe",
    "CAF\u00c9",
    "stra\u00dfe",
    "strasse",
    "\u0130d",
    "id",
    "\uff41",  # a wide a
    "a",
    "\U0001f4de",
    "\U0001f4df",
    "007",
    "7",
    "7.0",
    "1e3",
    "'; DROP TABLE cdr_requests; --",
    "%",
    "_",
)


@pytest.mark.fault(38)
def test_ids_that_differ_in_case_blanks_or_characters_are_different_requests(site):
    site.simulator.weights = {"answered": 1.0}
    new, again = site.enqueue(*ALIKE), site.enqueue(*ALIKE)
    ended = site.run("sync")

    assert (new, again) == (len(ALIKE), 0)
    assert (ended.code, ended.all) == (0, "")
    assert site.states() == {"done": len(ALIKE)}
    assert site.simulator.calls == dict.fromkeys(ALIKE, 1)
    site.report("each a request of its own, with its own legs")


def is_waiting(site, process):
    """Whether a process has come to its database; SQLite shows no more."""
    path, files = sqlite_path(site.url), Path(f"/proc/{process.pid}/fd").iterdir()
    try:
        return any(file.is_symlink() and file.readlink() == path for file in files)
    except FileNotFoundError:  # it closed one of them meanwhile
        return False


@pytest.mark.fault(38)
def test_the_same_ids_enqueued_by_two_processes_at_once_are_there_once(site, tmp_path):
    """Both come upon an ID that is about to be enqueued by a third, which then thinks better of it."""
    listed = tmp_path / "ids"
    listed.write_text("\n".join(f"answered-{number}" for number in range(200)))
    with site.engine.connect() as connection:
        enqueue_requests(connection, ["answered-100"], account="default", batch=None, delay=timedelta(0))
        both = [site.start("enqueue", "--from-file", listed) for _ in range(2)]
        if site.database_kind == "sqlite":
            wait_until(lambda: all(is_waiting(site, process) for process in both))
        else:
            wait_until(lambda: len(site.blocked()) == 2)
    ended = [finish(process) for process in both]
    new = [int(re.match(r"(\d+) new", one.stdout)[1]) for one in ended]
    synced = site.run("sync")

    assert [one.code for one in (*ended, synced)] == [0, 0, 0]
    assert sum(new) == 200
    assert site.states() == {"done": 200}
    assert site.asked_twice() == set()
    site.report("enqueued by two at once: there once, and counted once")


@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_without_its_last_words_the_slower_of_two_fails(site):
    take_out(site.engine, NO_LAST_WORDS)
    errors = []

    def enqueue():
        try:
            site.enqueue("one")
        except exc.IntegrityError as error:
            errors.append(error)

    slower = threading.Thread(target=enqueue)
    with site.engine.begin() as connection:
        enqueue_requests(connection, ["one"], account="default", batch=None, delay=timedelta(0))
        slower.start()
        wait_until(site.blocked)
    guard(slower.join)

    assert len(errors) == 1
