"""An operator at a command line: runs commands, in this process or in a new one, and keeps the results."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from click.testing import CliRunner, Result

from etl.cli.main import main
from etl.simulator.server import Simulator

CONSOLE_SCRIPT = str(Path(sys.executable).with_name("cdr-sync"))
OURS = ("CDR_SYNC_", "PIOPIY_", "XDG_", "OTEL_", "PYTHONUNBUFFERED")
PATIENCE = 90.0  # seconds that any process may take on a busy machine


class EntryPoint:
    """What `CliRunner` calls in place of a click command: the function behind the console script."""

    name = "cdr-sync"

    def main(self, args: Sequence[str], prog_name: str, **_: object) -> None:
        before = sys.argv
        sys.argv = [prog_name, *args]
        try:
            main()
        finally:
            sys.argv = before


@dataclass
class Operator:
    """A user who types `cdr-sync …`, with an own home folder and nothing else configured."""

    home: Path
    environment: dict[str, str] = field(default_factory=dict)
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.database = self.home / "data" / "cdr-sync" / "cdr-sync.sqlite3"
        self.environment |= {
            "HOME": str(self.home),
            "XDG_DATA_HOME": str(self.home / "data"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "TMPDIR": str(self.home / "tmp"),
            "COLUMNS": "200",
            "TERM": "xterm",
        }
        (self.home / "tmp").mkdir()

    def connect(self, simulator: Simulator) -> None:
        """Configure this account for a simulator."""
        self.environment |= {
            "CDR_SYNC_API_URL": simulator.url,
            "PIOPIY_APP_ID": str(simulator.app_id),
            "PIOPIY_SECRET": simulator.secret,
        }

    def whole_environment(self, **more: str) -> dict[str, str]:
        """The environment of a process, without the developer's own settings."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
        return {**inherited, **self.environment, **more}

    def type(self, *arguments: object, stdin: str | None = None, **environment: str) -> Result:
        """Run a command in this process, through the same function as the console script."""
        stale = dict.fromkeys(name for name in os.environ if name.startswith(OURS))
        runner = CliRunner(env={**stale, **self.environment, **environment})
        return runner.invoke(EntryPoint(), [str(argument) for argument in arguments], input=stdin)

    def start(
        self, *arguments: object, program: Sequence[str] = (CONSOLE_SCRIPT,), **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a process; its output is a pipe, not a terminal."""
        process = subprocess.Popen(
            [*program, *(str(argument) for argument in arguments)],
            env=self.whole_environment(**environment),
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.processes.append(process)
        return process

    def run(self, *arguments: object, **environment: str) -> Finished:
        """Run a process to its end."""
        return finish(self.start(*arguments, **environment))

    def end_processes(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def rows(self, statement: str, *values: object) -> list[tuple]:
        """Query the database, as an analyst would."""
        with contextlib.closing(sqlite3.connect(self.database, timeout=30)) as connection:
            rows = connection.execute(statement, values).fetchall()
            connection.commit()
        return rows

    def states(self) -> dict[str, int]:
        return dict(self.rows("SELECT state, COUNT(*) FROM cdr_requests GROUP BY state"))

    def stored_legs(self) -> list[tuple]:
        return sorted(
            self.rows("SELECT request_id, leg, from_number, to_number, duration_seconds FROM call_legs")
        )


@dataclass(frozen=True)
class Finished:
    """The result of a process."""

    code: int
    stdout: str
    stderr: str

    @property
    def all(self) -> str:
        return self.stdout + self.stderr

    @property
    def events(self) -> list[str]:
        """The log's events; without a terminal, each line is a JSON object."""
        return [json.loads(line)["event"] for line in self.stderr.splitlines()]


def finish(process: subprocess.Popen[bytes], patience: float = PATIENCE) -> Finished:
    """Wait for the end of a process; kill it and fail if it hangs."""
    try:
        stdout, stderr = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    return Finished(process.returncode, stdout.decode(), stderr.decode())


def is_frozen(process: subprocess.Popen[bytes]) -> bool:
    """Whether a process was stopped by SIGSTOP, and waits for SIGCONT."""
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def true_legs(simulator: Simulator, request_ids: Sequence[str]) -> list[tuple]:
    """The legs that a job must end with, in the form of `Operator.stored_legs`."""
    return sorted(
        (request_id, leg["leg"], str(leg["from"]).strip(), str(leg["to"]).strip(), int(leg["duration"]))
        for request_id in request_ids
        for leg in simulator.legs_of(request_id)
    )


def wait_until(condition: Callable[[], object], patience: float = PATIENCE, *, every: float = 0.01) -> None:
    """Check a condition until it holds; fail after the patience."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(every)  # noqa: TID251 (there is nothing to wait for)


class EchoingApi(http.server.BaseHTTPRequestHandler):
    """A careless API: its answers repeat what it was sent."""

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        status, body = self.server.answer_to(question)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
