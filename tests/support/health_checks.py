"""A health check like those of healthchecks.io, over real HTTP: records pings, answers as configured."""

from __future__ import annotations

import contextlib
import http.server
import socket
import threading
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

SECRET = "2f1c7a53-5d20-4b6e-8f1e-9b0c3c1f7d11"  # the part of its URL that identifies a check


class Ping(NamedTuple):
    step: str
    run: str
    method: str
    body: str
    headers: dict[str, str]


class HealthCheck(http.server.ThreadingHTTPServer):
    """Notes the pings that come to it.

    Attributes:
        status, location: what each ping is answered with.
        drips_at: the step whose ping gets an answer that never comes to its end, one byte after the other.
        targets: what stood in the request lines, as it was sent.
    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, status=200, location=None, drips_at=None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status, self.location, self.drips_at = status, location, drips_at
        self.is_over = threading.Event()
        self.pings: list[Ping] = []
        self.targets: list[str] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/{SECRET}"

    @property
    def steps(self):
        """The last part of each URL, in the order in which they came."""
        return [ping.step for ping in self.pings]


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.rfile.read(int(self.headers["Content-Length"] or 0)).decode()
        parts = urlsplit(self.path)
        (run,) = parse_qs(parts.query).get("rid", [""])
        step = parts.path.removeprefix(f"/{SECRET}/")
        self.server.targets.append(self.path)
        self.server.pings.append(Ping(step, run, self.command, body, dict(self.headers)))
        if step == self.server.drips_at:
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Drip: ")
            with contextlib.suppress(OSError):
                while not self.server.is_over.wait(0.05):
                    self.wfile.write(b"x")
            return
        self.send_response(self.server.status)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.do_GET()

    def log_message(self, *_):
        """Keep quiet."""


@contextlib.contextmanager
def health_check(**answers):
    with HealthCheck(**answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.is_over.set()
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def silent_listener():
    """A port that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=16) as listener:
        yield listener


def first_words(listener):
    """What the first one who came to a silent listener had to say."""
    listener.settimeout(5)
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(5)
        return connection.recv(1_000).decode(errors="replace")
