"""Fixtures of the command tests: an operator with an own home folder, and an API."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.operators import EchoingApi, Operator

from etl.simulator.server import Simulator


@pytest.fixture
def answering() -> Iterator[Callable[[Callable[[str], tuple[int, bytes]]], str]]:
    """Start an API that answers by a function from the question's text to status and body; gives its URL."""
    with contextlib.ExitStack() as running:

        def start(answer_to: Callable[[str], tuple[int, bytes]]) -> str:
            server = running.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), EchoingApi))
            server.daemon_threads = True
            server.block_on_close = False
            server.answer_to = answer_to
            thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
            thread.start()
            running.callback(thread.join)
            running.callback(server.shutdown)
            return f"http://127.0.0.1:{server.server_port}/"

        yield start


@pytest.fixture
def new_operator(tmp_path: Path) -> Iterator[Operator]:
    """An operator without settings and without a database."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    home = tmp_path / "home"
    home.mkdir()
    someone = Operator(home)
    yield someone
    someone.end_processes()
    for number, handler in handlers.items():
        assert signal.getsignal(number) is handler


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database to copy: migrating takes a second."""
    home = tmp_path_factory.mktemp("template")
    someone = Operator(home)
    finished = someone.run("db", "upgrade")
    assert finished.code == 0, finished.all
    someone.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    return someone.database


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator() as running:
        yield running


@pytest.fixture
def operator(new_operator: Operator, simulator: Simulator, empty_database: Path) -> Operator:
    """An operator with an empty database, and credentials for the simulator."""
    new_operator.connect(simulator)
    new_operator.database.parent.mkdir(parents=True)
    shutil.copyfile(empty_database, new_operator.database)
    return new_operator
