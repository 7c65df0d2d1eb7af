"""Odd answers between two good ones: none of them is ever read as the answer to another request.

Each answer names the request that it belongs to, as the legs of a real one do not.
"""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import threading

import pytest

from etl.errors import RequestError
from etl.piopiy.client import CdrApi, Credentials

WHO = Credentials(2222222, "a-secret")
PATIENCE = 60.0
a_moment = threading.Event().wait


def body_of(name):
    return json.dumps({"code": 200, "count": 1, "cdr": [{"to": name}]}).encode()


def plain(name, *lines, body=None, end=b"\r\n", status=b"HTTP/1.1 200 OK", length=True):
    """A whole answer for a request; further header lines as they are to be sent."""
    body = body_of(name) if body is None else body
    lengths = [b"Content-Length: %d" % len(body)] if length else []
    return end.join([status, *lines, *lengths]) + 2 * end + body


def chunks(name, *, extension=b"", trailers=b""):
    body = body_of(name)
    sizes = (body[:10], body[10:])
    sent = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in sizes)
    return plain(name, b"Transfer-Encoding: chunked", body=sent, length=False) + b"0\r\n%b\r\n" % trailers


HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
OTHER = plain("another request")
PAUSE = object()  # a moment, so that what follows arrives by itself
CLOSE = object()

# What the server sends for a request, and whether the request is answered.
ODDITIES = {
    "103 before the answer": (lambda n: [HINT + plain(n)], True),
    "103 and a moment before the answer": (lambda n: [HINT, PAUSE, plain(n)], True),
    "several interim answers": (
        lambda n: [CONTINUE + HINT, PAUSE, b"HTTP/1.1 102 P\r\n\r\n", plain(n)],
        True,
    ),
    "a switch of protocols": (lambda n: [b"HTTP/1.1 101 Switching\r\n\r\n", plain(n)], False),
    "a second answer at once": (lambda n: [plain(n) + OTHER], True),
    "a second answer a moment later": (lambda n: [plain(n), PAUSE, OTHER], True),
    "an interim answer behind the answer": (lambda n: [plain(n), PAUSE, CONTINUE], True),
    "bytes behind the answer": (lambda n: [plain(n) + b"\r\n"], True),
    "a closed connection": (lambda n: [plain(n), CLOSE], True),
    "close said and not done": (lambda n: [plain(n, b"Connection: close"), PAUSE, OTHER], True),
    "no length, and a closed connection": (
        lambda n: [plain(n, b"Connection: close", length=False), CLOSE],
        True,
    ),
    "HTTP/1.0 that closes": (lambda n: [plain(n, status=b"HTTP/1.0 200 OK", length=False), CLOSE], True),
    "HTTP/1.0 that is kept": (
        lambda n: [plain(n, b"Connection: keep-alive", status=b"HTTP/1.0 200 OK")],
        True,
    ),
    "equal lengths": (lambda n: [plain(n, b"Content-Length: %d" % len(body_of(n)))], True),
    "a length that is repeated": (
        lambda n: [plain(n, b"Content-Length: %d, %d" % (2 * (len(body_of(n)),)), length=False)],
        True,
    ),
    "different lengths": (lambda n: [plain(n, b"Content-Length: 5")], False),
    "a negative length": (lambda n: [plain(n, b"Content-Length: -1", length=False)], False),
    "a length and chunks": (lambda n: [chunks(n).replace(b"chunked", b"chunked\r\nContent-Length: 3")], True),
    "chunks with extensions and trailers": (
        lambda n: [chunks(n, extension=b";a=b", trailers=b"X: y\r\nZ: z\r\n")],
        True,
    ),
    "another transfer encoding": (lambda n: [plain(n, b"Transfer-Encoding: gzip, chunked")], False),
    "a body that is compressed unasked": (
        lambda n: [plain(n, b"Content-Encoding: gzip", body=gzip.compress(body_of(n)))],
        True,
    ),
    "a blank before the colon": (lambda n: [plain(n, b"X-Frame-Options : SAMEORIGIN")], True),
    "bare line feeds": (lambda n: [plain(n, b"X: y", end=b"\n")], True),
    "a line without a colon": (lambda n: [plain(n, b"nonsense")], True),
    "a continued line": (lambda n: [plain(n, b"X: y", b"  and more")], True),
    "300 headers": (lambda n: [plain(n, *(b"Set-Cookie: c%d=1" % i for i in range(300)))], True),
    "no reason": (lambda n: [plain(n, status=b"HTTP/1.1 200")], True),
    "no HTTP": (lambda n: [b"220 mail.example ESMTP\r\n", plain(n)], False),
}


class OddServer:
    """Answers `odd` as configured, and every other request well; notes what was asked for."""

    def __init__(self, pieces_of):
        self.pieces_of = pieces_of
        self.asked = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            reader = connection.makefile("rb")
            try:
                while name := self.read_request(reader):
                    pieces = self.pieces_of(name) if name == "odd" else [plain(name)]
                    for piece in pieces:
                        if piece is CLOSE:
                            return
                        if piece is PAUSE:
                            a_moment(0.05)
                        else:
                            connection.sendall(piece)
            except OSError:
                pass  # the client closed an odd connection

    def read_request(self, reader):
        length = 0
        while (line := reader.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        if not line:
            return None
        name = json.loads(reader.read(length))["request_id"]
        self.asked.append(name)
        return name

    def close(self):
        self.socket.close()


@pytest.fixture
def serve():
    servers = []

    def start(pieces_of):
        servers.append(OddServer(pieces_of))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def ask_with(client, names=("one", "two", "odd", "three", "four")):
    """Ask for several requests over one client; the answer to each, or the error."""
    answers = {}
    for name in names:
        try:
            answers[name] = client(name)
        except (RequestError, http.client.HTTPException, OSError) as error:
            answers[name] = error
        a_moment(0.12)  # what comes unasked has arrived then
    return answers


@pytest.mark.parametrize("oddity", ODDITIES)
def test_no_answer_is_taken_for_that_of_another_request(serve, oddity):
    pieces_of, is_answered = ODDITIES[oddity]
    server = serve(pieces_of)
    api = CdrApi(f"http://127.0.0.1:{server.port}/", timeout=PATIENCE)
    answers = ask_with(lambda name: api.fetch_answer(name, WHO).body)
    api.close()

    assert isinstance(answers.pop("odd") if not is_answered else RequestError(""), RequestError)
    assert answers == {name: body_of(name) for name in answers}
    assert server.asked == ["one", "two", "odd", "three", "four"]


@pytest.mark.parametrize("oddity", ["103 and a moment before the answer", "a second answer a moment later"])
def test_negative_control_http_client_takes_another_requests_answer(serve, oddity):
    server = serve(ODDITIES[oddity][0])
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)

    def ask(name):
        connection.request("POST", "/", json.dumps({"request_id": name}))
        return connection.getresponse().read()

    answers = ask_with(ask)
    connection.close()

    assert answers["three"] != body_of("three")


def test_a_flood_of_interim_answers_ends_at_the_deadline(serve):
    def flood(_name):
        while True:
            yield CONTINUE
            yield PAUSE

    api = CdrApi(f"http://127.0.0.1:{serve(flood).port}/", timeout=0.5)
    with pytest.raises(RequestError) as caught:
        api.fetch_answer("odd", WHO)
    api.close()

    assert caught.value.reason == "timeout"


def test_a_resolver_that_does_not_answer_ends_at_the_deadline(monkeypatch):
    hanging = threading.Event()
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_args, **_options: [] if hanging.wait(PATIENCE) else None
    )
    api = CdrApi("http://silent.example/", timeout=0.2)
    with pytest.raises(RequestError) as caught:
        api.fetch_answer("one", WHO)
    hanging.set()

    assert caught.value.reason == "timeout"


@pytest.mark.parametrize("path", ["/a/../x", "/ä", "/~x|y", "/%7ex", "/x?y=ü"])
def test_a_url_that_requests_rewrites_is_called_with_the_same_care(path):
    server = OddServer(lambda name: [HINT + plain(name)])
    api = CdrApi(f"http://127.0.0.1:{server.port}{path}", timeout=PATIENCE)

    assert api.fetch_answer("odd", WHO).body == body_of("odd")
