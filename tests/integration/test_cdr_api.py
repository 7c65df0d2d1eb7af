"""One call over HTTP to real sockets that answer correctly, wrongly, slowly, endlessly or not at all."""

from __future__ import annotations

import contextlib
import email.message
import gc
import gzip
import json
import shutil
import socket
import ssl
import struct
import subprocess
import threading
import time
import traceback
import tracemalloc
import zlib

import pytest
import requests

import etl
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    RedirectedError,
    RequestError,
    SettingsError,
    TooLargeError,
)
from etl.piopiy.client import CdrApi, Credentials, HttpAnswer, api_of, retry_after_of
from etl.settings import Settings

SECRET = "b2f1c0de-5ec2-4e7a-9f00-0123456789ab"
WHO = Credentials(2222222, SECRET)
REQUEST_ID = "8DI2mXpy2K7qPI2Wi919AKS5LlzNEJKy7kb2Vg3IN9h"
PATH = "/v1/piopiy/requestid_cdr"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BODY = b'{"count": 0, "cdr": [], "code": 200}'
DEADLINE = 0.2  # seconds
AT_ONCE = 60.0  # seconds: nothing here takes this long, even on a busy machine
a_moment = threading.Event().wait


class Server:
    """Gives each connection to `handle`, in a thread of its own."""

    def __init__(self, handle, tls=None):
        self.handle = handle
        self.tls = tls
        self.connections = []
        self.problems = []
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}{PATH}"
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                self.connections.append(connection)
                self.threads.append(threading.Thread(target=self.serve, args=(connection,), daemon=True))
                self.threads[-1].start()

    def serve(self, connection):
        with connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                if self.tls is None:
                    self.handle(connection)
                else:
                    with self.tls.wrap_socket(connection, server_side=True) as encrypted:
                        self.handle(encrypted)
            except OSError as error:
                self.problems.append(error)

    def close(self):
        for each in (self.socket, *self.connections):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        for thread in self.threads:
            thread.join(AT_ONCE)


@pytest.fixture
def serve():
    with contextlib.ExitStack() as stack:

        def start(handle, tls=None):
            server = Server(handle, tls)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def api():
    with contextlib.ExitStack() as stack:

        def make(url, *, timeout=AT_ONCE, **options):
            return stack.enter_context(contextlib.closing(CdrApi(url, timeout=timeout, **options)))

        yield make


def read_request(connection):
    """The head and the body of one request; two empty ones at the end of the connection."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            return b"", b""
        received += piece
    head, body = received.split(b"\r\n\r\n", 1)
    length = int(headers_of(head).get("Content-Length", 0))
    while len(body) < length:
        body += connection.recv(65536)
    return head, body


def headers_of(head):
    headers = email.message.Message()
    for line in head.decode().split("\r\n")[1:]:
        name, value = line.split(": ", 1)
        headers[name] = value
    return headers


def answer(body=BODY, *lines, status="200 OK", length=None):
    length = len(body) if length is None else length
    head = [f"HTTP/1.1 {status}", f"Content-Length: {length}", *lines]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def always(*pieces):
    """Answer each request of a connection with the same bytes."""

    def handle(connection):
        while read_request(connection)[0]:
            for piece in pieces:
                connection.sendall(piece)

    return handle


def once(*pieces):
    """Answer one request, and close the connection."""

    def handle(connection):
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)

    return handle


def dripping(at_once, then=b"x" * 10_000):
    """Answer with some bytes at once and the others one by one, so that no single read takes long."""

    def handle(connection):
        read_request(connection)
        connection.sendall(at_once)
        for byte in then:
            a_moment(0.02)
            connection.sendall(bytes([byte]))

    return handle


def stalling(at_once):
    def handle(connection):
        read_request(connection)
        connection.sendall(at_once)
        connection.recv(1)  # until the client is gone

    return handle


def resetting(at_once=b""):
    def handle(connection):
        read_request(connection)
        connection.sendall(at_once)
        a_moment(0.05)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    return handle


def dead_port():
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return unused.getsockname()[1]


def ask(api):
    return api.fetch_answer(REQUEST_ID, WHO)


def shown(error):
    """All that a log could show of an error and its causes."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error) + repr(vars(error))


# --- The question and the answer


def test_the_request_on_the_wire_is_exactly_this(serve, api):
    seen = []

    def handle(connection):
        seen.extend(read_request(connection))
        connection.sendall(answer())

    server = serve(handle)
    ask(api(server.url))

    head, body = seen
    assert body == json.dumps({"appid": 2222222, "secret": SECRET, "request_id": REQUEST_ID}).encode()
    assert head.split(b"\r\n")[0] == f"POST {PATH} HTTP/1.1".encode()
    assert sorted(headers_of(head).items()) == [
        ("Accept", "application/json"),
        ("Accept-Encoding", "identity"),
        ("Content-Length", str(len(body))),
        ("Content-Type", "application/json"),
        ("Host", f"127.0.0.1:{server.port}"),
        ("User-Agent", f"piopiy-cdr-sync/{etl.__version__} (+python-requests/{requests.__version__})"),
    ]


def test_each_call_asks_about_its_own_request(serve, api):
    seen = []

    def handle(connection):
        while body := read_request(connection)[1]:
            seen.append(json.loads(body))
            connection.sendall(answer())

    asked = api(serve(handle).url)
    for request_id in ("a", "Ä-longer-\N{SNOWMAN}", "b"):
        asked.fetch_answer(request_id, Credentials(len(seen), SECRET))

    assert [(each["appid"], each["request_id"]) for each in seen] == [
        (0, "a"),
        (1, "Ä-longer-\N{SNOWMAN}"),
        (2, "b"),
    ]


@pytest.mark.parametrize(
    "status", ["200 OK", "202 Accepted", "404 Not Found", "429 Too Many", "503 Unavailable"]
)
def test_an_answer_is_returned_whatever_its_status(serve, api, status):
    asked = api(serve(always(answer(b"what it said", status=status))).url)

    assert ask(asked) == HttpAnswer(int(status[:3]), b"what it said", None)


@pytest.mark.parametrize("status", ["200 OK", "204 No Content"])
def test_an_empty_body_is_returned_as_an_empty_body(serve, api, status):
    asked = api(serve(always(answer(b"", status=status))).url)

    assert [ask(asked).body, ask(asked).body] == [b"", b""]


def test_a_chunked_body_is_joined(serve, api):
    server = serve(always(CHUNKED + b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"))
    asked = api(server.url)

    assert [ask(asked).body, ask(asked).body] == [b"abcde", b"abcde"]
    assert len(server.connections) == 1


def test_a_compressed_body_is_decompressed_although_identity_was_requested(serve, api):
    asked = api(serve(always(answer(gzip.compress(BODY), "Content-Encoding: gzip"))).url)

    assert ask(asked).body == BODY


def test_a_body_without_a_length_ends_with_the_connection_and_is_returned(serve, api):
    asked = api(serve(once(b"HTTP/1.1 200 OK\r\n\r\n" + BODY[:20])).url)

    assert ask(asked).body == BODY[:20]


def test_a_continue_before_the_answer_is_skipped(serve, api):
    asked = api(serve(always(b"HTTP/1.1 100 Continue\r\n\r\n" + answer())).url)

    assert ask(asked).body == BODY


def test_cookies_are_neither_kept_nor_sent(serve, api):
    heads = []

    def handle(connection):
        while head := read_request(connection)[0]:
            heads.append(head)
            connection.sendall(answer(BODY, "Set-Cookie: session=1; Path=/"))

    asked = api(serve(handle).url)
    ask(asked)
    ask(asked)

    assert not any(b"ookie" in head for head in heads)


# --- The connection


def test_one_connection_serves_many_calls(serve, api):
    server = serve(always(answer()))
    asked = api(server.url)
    for _ in range(5):
        ask(asked)

    assert len(server.connections) == 1


def test_a_connection_that_was_closed_in_between_is_replaced(serve, api):
    server = serve(once(answer()))
    asked = api(server.url)
    for _ in range(3):
        ask(asked)
        server.threads[-1].join(AT_ONCE)  # it has closed the connection

    assert len(server.connections) == 3


def test_a_kept_connection_that_ends_without_an_answer_is_an_error_and_the_next_call_works(serve, api):
    def handle(connection):
        read_request(connection)
        connection.sendall(answer())
        read_request(connection)

    server = serve(handle)
    asked = api(server.url)
    ask(asked)
    with pytest.raises(CallConnectionError):
        ask(asked)

    assert ask(asked).body == BODY
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    "trouble", [stalling(b""), stalling(answer(b"x", length=9)), once(answer(bytes(200_000)))]
)
def test_after_any_failure_the_next_call_has_a_fresh_connection(serve, api, trouble):
    handlers = [trouble, always(answer())]

    def handle(connection):
        handlers.pop(0)(connection)

    server = serve(handle)
    asked = api(server.url, timeout=DEADLINE, max_bytes=50)
    with pytest.raises(RequestError):
        ask(asked)
    asked._timeout = AT_ONCE

    assert ask(asked).body == BODY
    assert len(server.connections) == 2


@pytest.mark.parametrize(
    "handle",
    [
        once(),
        resetting(),
        resetting(b"HTTP/1.1 200"),
        resetting(answer(b"{", length=100)),
        once(answer(b'{"count"', length=100)),
        once(CHUNKED + b"10\r\nabc"),
        once(CHUNKED + b"3\r\nabc\r\n"),
        once(CHUNKED + b"no number\r\nabc\r\n"),
        once(b"SSH-2.0-OpenSSH_9.2p1\r\n"),
        once(b"HTTP/1.1 abc OK\r\n\r\n"),
        once(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        once(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000 + b"\r\n"),
        once(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n"),
        once(answer(b"this is not gzip", "Content-Encoding: gzip")),
    ],
    ids=[
        "empty reply",
        "reset at once",
        "reset in the status line",
        "reset in the body",
        "body shorter than its length",
        "chunk cut short",
        "last chunk missing",
        "chunk without a length",
        "no HTTP",
        "no status",
        "two lengths",
        "too many bytes of headers",
        "header too long",
        "broken compression",
    ],
)
def test_a_broken_answer_is_a_connection_error(serve, api, handle):
    with pytest.raises(CallConnectionError) as caught:
        ask(api(serve(handle).url))

    assert caught.value.reason == "connection"
    assert caught.value.__cause__ is not None
    assert SECRET not in shown(caught.value)


def test_headers_that_end_early_are_no_answer(serve, api):
    with pytest.raises(CallConnectionError, match="cut short"):
        ask(api(serve(once(b"HTTP/1.1 200 OK\r\nContent-Le")).url))


def test_a_refused_connection_says_so(api):
    with pytest.raises(CallConnectionError, match=r"127\.0\.0\.1 failed: .*refused"):
        ask(api(f"http://127.0.0.1:{dead_port()}{PATH}"))


@pytest.mark.parametrize("host", ["nowhere.invalid", f"{'x' * 64}.invalid"])
def test_an_unknown_host_says_so(api, host):
    with pytest.raises(CallConnectionError, match=host):
        ask(api(f"http://{host}{PATH}"))


def test_a_closed_client_leaves_no_socket_open(serve):
    server = serve(always(answer()))
    asked = CdrApi(server.url, timeout=AT_ONCE)
    ask(asked)
    asked.close()
    del asked
    gc.collect()

    assert server.connections[0].fileno() == -1 or server.connections[0].recv(1) == b""


# --- The deadline


@pytest.mark.parametrize(
    "handle",
    [
        stalling(b""),
        stalling(b"HTTP/1.1 200 OK\r\nContent-"),
        stalling(answer(b"{", length=100)),
        dripping(b"", b"HTTP/1.1 200 OK" * 100),
        dripping(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 1000),
        dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        dripping(answer(b"", length=10_000)),
        dripping(b"HTTP/1.1 200 OK\r\n\r\n"),
        dripping(CHUNKED, b"1\r\nx\r\n" * 1000),
        dripping(answer(gzip.compress(b""), "Content-Encoding: gzip", length=10_000)),
    ],
    ids=[
        "nothing",
        "stall in the headers",
        "stall in the body",
        "dripping status line",
        "dripping headers",
        "dripping 100 Continue",
        "dripping body",
        "dripping body without a length",
        "dripping chunks",
        "dripping after the compressed end",
    ],
)
@pytest.mark.parametrize("reused", [False, True], ids=["new connection", "kept connection"])
def test_the_deadline_covers_the_whole_call(serve, api, handle, reused):
    def first_well(connection):
        if reused:
            read_request(connection)
            connection.sendall(answer())
        handle(connection)

    asked = api(serve(first_well).url)
    if reused:
        ask(asked)
    asked._timeout = DEADLINE
    began = time.monotonic()
    with pytest.raises(CallTimeoutError, match=r"within 0\.2 s") as caught:
        ask(asked)

    assert DEADLINE * 0.9 < time.monotonic() - began < AT_ONCE
    assert SECRET not in shown(caught.value)


def test_a_slow_answer_within_the_deadline_is_accepted(serve, api):
    asked = api(serve(dripping(answer()[:-5], answer()[-5:])).url)

    assert ask(asked).body == BODY


def test_each_call_has_its_own_deadline(serve, api):
    timeout = 3.0
    asked = api(serve(always(answer())).url, timeout=timeout)
    first = ask(asked)
    a_moment(timeout)

    assert [first.body, ask(asked).body] == [BODY] * 2


def fill_up(black_hole):
    """Open connections to a socket that accepts none, until the next one hangs."""
    opened = []
    for _ in range(3):
        waiting = socket.socket(black_hole.family)
        waiting.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            waiting.connect(black_hole.getsockname())
        opened.append(waiting)
    a_moment(0.05)
    return opened


def test_the_deadline_covers_connecting(api):
    with contextlib.ExitStack() as stack:
        black_hole = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for opened in fill_up(black_hole):
            stack.enter_context(opened)
        asked = api(f"http://127.0.0.1:{black_hole.getsockname()[1]}{PATH}", timeout=DEADLINE)
        began = time.monotonic()
        with pytest.raises(CallTimeoutError):
            ask(asked)

    assert time.monotonic() - began < AT_ONCE


def test_a_dead_address_leaves_time_for_the_next_one(serve, api, monkeypatch):
    server = serve(always(answer()))
    look_up = socket.getaddrinfo

    def two_addresses(host, *args, **kwargs):
        hosts = ["127.0.0.2", "127.0.0.1"] if host == "two.example" else [host]
        return [found for each in hosts for found in look_up(each, *args, **kwargs)]

    monkeypatch.setattr(socket, "getaddrinfo", two_addresses)  # the one thing here that no socket can play
    with contextlib.ExitStack() as stack:
        black_hole = stack.enter_context(socket.create_server(("127.0.0.2", server.port), backlog=0))
        for opened in fill_up(black_hole):
            stack.enter_context(opened)

        assert ask(api(f"http://two.example:{server.port}{PATH}", timeout=8.0)).body == BODY


# --- The size


def endless(connection):
    read_request(connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        connection.sendall(b" " * 65536)


def bomb(times):
    packer = zlib.compressobj(1, wbits=31)
    packed = b"".join(packer.compress(bytes(2**20)) for _ in range(64)) + packer.flush()
    for _ in range(times - 1):
        packed = gzip.compress(packed)
    return answer(packed, f"Content-Encoding: {', '.join(['gzip'] * times)}")


@pytest.mark.parametrize(
    "handle",
    [endless, once(bomb(1)), once(bomb(2)), once(answer(bytes(2**20 + 1)))],
    ids=["endless", "gzip bomb", "gzip bomb in gzip", "one byte too many"],
)
def test_a_body_that_is_too_large_is_abandoned_using_little_memory(serve, api, handle):
    asked = api(serve(handle).url, max_bytes=2**20)
    tracemalloc.start()
    try:
        with pytest.raises(TooLargeError, match="1048576 bytes") as caught:
            ask(asked)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 8 * 2**20
    assert caught.value.http_status == 200


def test_a_body_of_the_largest_size_is_accepted(serve, api):
    asked = api(serve(always(answer(bytes(2**20)))).url, max_bytes=2**20)

    assert len(ask(asked).body) == 2**20


# --- Redirects


@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"]
)
def test_a_redirect_is_not_followed(serve, api, status):
    elsewhere = serve(always(answer()))
    location = f"Location: http://user:hunter2@127.0.0.1:{elsewhere.port}/{SECRET}?token=hunter2"
    server = serve(always(answer(b"", location, status=status)))
    with pytest.raises(
        RedirectedError, match=rf"{status[:3]} redirects to the host '127\.0\.0\.1'"
    ) as caught:
        ask(api(server.url))

    assert elsewhere.connections == []
    assert caught.value.http_status == int(status[:3])
    assert "hunter2" not in shown(caught.value)
    assert SECRET not in shown(caught.value)


@pytest.mark.parametrize("lines", [[], ["Location: /other"], ["Location: http://[::1/"], ["Location: ://"]])
def test_a_redirect_without_a_host_says_so(serve, api, lines):
    server = serve(always(answer(b"", *lines, status="307 Temporary")))
    with pytest.raises(RedirectedError, match="redirects to an address without a host"):
        ask(api(server.url))


def test_the_body_of_a_redirect_is_not_waited_for(serve, api):
    server = serve(
        stalling(answer(b"", "Location: http://elsewhere.example/", status="307 No", length=10**9))
    )
    with pytest.raises(RedirectedError, match=r"elsewhere\.example"):  # not CallTimeoutError
        ask(api(server.url))


# --- Retry-After

NOON = "Tue, 16 Nov 2021 12:00:00 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"Retry-After": ""}, None),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": " 120 "}, 120.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "86400"}, 86400.0),
        ({"Retry-After": "9" * 400}, 1e9),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "1e3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "\N{ARABIC-INDIC DIGIT FOUR}"}, None),
        ({"Retry-After": "1, 2"}, None),
        ({"Retry-After": "Tue, 16 Nov 2021 12:00:30 GMT", "Date": NOON}, 30.0),
        ({"Retry-After": "Tue, 16 Nov 2021 13:00:30 +0100", "Date": NOON}, 30.0),
        ({"Retry-After": "Wed, 17 Nov 2021 12:00:00 GMT", "Date": NOON}, 86400.0),
        ({"Retry-After": "Tue, 16 Nov 9999 12:00:00 GMT", "Date": NOON}, 1e9),
        ({"Retry-After": "Tue, 16 Nov 2021 11:59:59 GMT", "Date": NOON}, 0.0),
        ({"Retry-After": "Tue, 16 Nov 2021 12:00:30 GMT"}, None),
        ({"Retry-After": "Tue, 16 Nov 2021 12:00:30 GMT", "Date": "today"}, None),
        ({"Retry-After": "Tue, 99 Nov 2021 99:99:99 GMT", "Date": "today"}, None),
        ({"Retry-After": "Tue, 16 Nov", "Date": NOON}, None),
        ({"Retry-After": "Tue, 16 Nov 99999999999 12:00:30 GMT", "Date": NOON}, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_relative_to_the_date_header(headers, seconds):
    assert retry_after_of(headers) == seconds


def test_retry_after_comes_with_the_answer(serve, api):
    lines = ["retry-after: Tue, 16 Nov 2021 12:01:00 GMT", f"date: {NOON}"]
    asked = api(serve(always(answer(b"slow down", *lines, status="429 Too Many"))).url)

    assert ask(asked) == HttpAnswer(429, b"slow down", 60.0)


# --- Secrets


def test_credentials_do_not_show_their_secret():
    assert SECRET not in repr(WHO)
    assert SECRET not in f"{WHO}"


@pytest.mark.parametrize(
    "before",
    [b"", b"HTTP/1.1 ", CHUNKED, b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Encoding: gzip, "],
)
def test_a_server_that_echoes_the_request_puts_the_secret_into_no_message(serve, api, before):
    def echo(connection):
        body = read_request(connection)[1]
        connection.sendall(before + body + b"\r\n\r\n")

    with pytest.raises(CallConnectionError) as caught:
        ask(api(serve(echo).url))

    assert SECRET not in shown(caught.value)


def test_no_object_that_an_error_refers_to_contains_the_secret(serve, api):
    with pytest.raises(CallConnectionError) as caught:
        ask(api(serve(once()).url))

    frames = traceback.walk_tb(caught.value.__traceback__)
    requests_at_hand = [frame.f_locals["request"] for frame, _ in frames if "request" in frame.f_locals]
    assert requests_at_hand
    assert {request.body for request in requests_at_hand} == {None}


def test_an_error_that_is_already_being_handled_does_not_change_the_translation(serve, api):
    asked = api(serve(once()).url)
    try:
        socket.create_connection(("127.0.0.1", dead_port()))
    except ConnectionRefusedError as earlier:
        earlier.__context__ = TimeoutError("something else took too long")
        with pytest.raises(CallConnectionError, match="without an answer"):
            ask(asked)


# --- Proxies and the environment


def test_the_environment_has_no_effect(serve, api, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login user password hunter2\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{dead_port()}")
    heads = []

    def handle(connection):
        heads.append(read_request(connection)[0])
        connection.sendall(answer())

    ask(api(serve(handle).url))

    assert b"Authorization" not in heads[0]


def test_calls_go_through_the_configured_proxy(serve, api):
    heads = []

    def handle(connection):
        heads.append(read_request(connection)[0])
        connection.sendall(answer())

    proxy = serve(handle)
    asked = api(f"http://api.example{PATH}", proxy=f"http://user:hunter2@127.0.0.1:{proxy.port}")

    assert ask(asked).body == BODY
    assert heads[0].startswith(f"POST http://api.example{PATH} HTTP/1.1".encode())
    assert headers_of(heads[0])["Proxy-Authorization"] == "Basic dXNlcjpodW50ZXIy"


@pytest.mark.parametrize(
    ("handle", "kind", "words"),
    [
        (stalling(b""), CallTimeoutError, "within"),
        (dripping(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 1000), CallTimeoutError, "within"),
        (once(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), CallConnectionError, "proxy .* 407"),
        (once(), CallConnectionError, "without an answer"),
    ],
    ids=["stall", "dripping", "refused", "empty reply"],
)
def test_a_tunnel_that_cannot_be_opened_is_an_error_within_the_deadline(serve, api, handle, kind, words):
    proxy = f"http://user:hunter2@127.0.0.1:{serve(handle).port}"
    asked = api(
        f"https://api.example{PATH}", proxy=proxy, timeout=DEADLINE if kind is CallTimeoutError else AT_ONCE
    )
    began = time.monotonic()
    with pytest.raises(kind, match=words) as caught:
        ask(asked)

    assert time.monotonic() - began < AT_ONCE
    assert "hunter2" not in shown(caught.value)


def test_a_dead_proxy_is_named_in_the_error(api):
    with pytest.raises(CallConnectionError, match=r"proxy for api\.example failed: .*refused"):
        ask(api(f"https://api.example{PATH}", proxy=f"http://user:hunter2@127.0.0.1:{dead_port()}"))


@pytest.mark.parametrize(
    "options",
    [
        {"url": "http://user:hunter2@127.0.0.1:port/"},
        {"url": "no-scheme.example/hunter2"},
        {"url": "ftp://hunter2.example/"},
        {"url": "https://api.example/", "proxy": "http://user:hunter2@127.0.0.1:port"},
        {"url": "https://api.example/", "proxy": "https://user:hunter2@127.0.0.1:3128"},
        {"url": "https://api.example/", "ca_file": "/no/such/hunter2.pem"},
    ],
)
def test_an_unusable_url_proxy_or_ca_file_is_reported_at_once_without_quoting_it(options):
    with pytest.raises(SettingsError) as caught:
        CdrApi(timeout=1.0, **options)

    assert "hunter2" not in shown(caught.value).replace("CdrApi", "")


# --- TLS


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate that signs itself, for 127.0.0.1 and no name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("there is no openssl here to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run(
        [openssl, "req", "-x509", *curve, *subject, "-days", "2", "-keyout", key, "-out", made],
        check=True,
        capture_output=True,
    )
    return made, key


@pytest.fixture
def tls(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    return context


def test_a_certificate_of_an_unknown_authority_is_rejected(serve, api, tls):
    heads = []

    def handle(connection):
        heads.append(read_request(connection))

    with pytest.raises(CallConnectionError, match="certificate verify failed"):
        ask(api(serve(handle, tls).url))

    assert heads == []


def test_a_certificate_of_a_known_authority_is_accepted_and_the_connection_kept(serve, api, tls, certificate):
    server = serve(always(answer()), tls)
    asked = api(server.url, ca_file=str(certificate[0]))

    assert [ask(asked).body, ask(asked).body] == [BODY, BODY]
    assert len(server.connections) == 1


def test_the_authorities_of_the_settings_are_the_ones_trusted(serve, tls, certificate):
    server = serve(always(answer()), tls)
    trusted = api_of(Settings(api_url=server.url, ca_file=str(certificate[0])))
    others = api_of(Settings(api_url=server.url))

    assert ask(trusted).body == BODY
    with pytest.raises(CallConnectionError, match="CDR_SYNC_CA_FILE"):
        ask(others)
    trusted.close()
    others.close()


def test_a_certificate_for_another_name_is_rejected(serve, api, tls, certificate):
    server = serve(always(answer()), tls)
    asked = api(server.url.replace("127.0.0.1", "localhost"), ca_file=str(certificate[0]))

    with pytest.raises(CallConnectionError, match=r"[Hh]ostname mismatch"):
        ask(asked)


def test_all_clients_share_one_tls_context(api):
    clients = [api("https://api.example/"), api("https://api.example/"), api("https://other.example/")]

    assert len({id(client._adapter.tls) for client in clients}) == 1


def test_without_tls_no_ca_bundle_is_loaded(api):
    assert api("http://api.example/")._adapter.tls is None


def test_a_server_without_tls_behind_an_https_url_is_a_connection_error(serve, api):
    def handle(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    server = serve(handle)
    with pytest.raises(CallConnectionError):
        ask(api(server.url.replace("http:", "https:")))


def dripping_handshake(connection):
    connection.recv(65536)
    connection.sendall(b"\x16\x03\x03\x40\x00")
    for _ in range(10_000):
        a_moment(0.02)
        connection.sendall(b"\x02")


def stalling_handshake(connection):
    while connection.recv(65536):  # until the client is gone
        pass


@pytest.mark.parametrize("handle", [stalling_handshake, dripping_handshake])
def test_the_deadline_covers_the_handshake(serve, api, handle):
    asked = api(serve(handle).url.replace("http:", "https:"), timeout=DEADLINE)
    began = time.monotonic()
    with pytest.raises(CallTimeoutError):
        ask(asked)

    assert time.monotonic() - began < AT_ONCE


@pytest.mark.parametrize(
    "handle",
    [dripping(b"HTTP/1.1 200 OK\r\n", b"X-Header: y\r\n" * 1000), dripping(answer(b"", length=10_000))],
)
def test_the_deadline_covers_a_call_over_tls(serve, api, tls, certificate, handle):
    asked = api(serve(handle, tls).url, timeout=DEADLINE * 2, ca_file=str(certificate[0]))
    began = time.monotonic()
    with pytest.raises(CallTimeoutError):
        ask(asked)

    assert time.monotonic() - began < AT_ONCE


def test_a_tunnel_reaches_the_api_and_its_certificate_is_verified(serve, api, tls, certificate):
    heads = []

    def tunnel(connection):
        heads.append(read_request(connection)[0])
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with tls.wrap_socket(connection, server_side=True) as encrypted:
            always(answer())(encrypted)

    proxy = serve(tunnel)
    url = f"https://127.0.0.1:4443{PATH}"
    asked = api(url, proxy=f"http://user:hunter2@127.0.0.1:{proxy.port}", ca_file=str(certificate[0]))

    assert [ask(asked).body, ask(asked).body] == [BODY, BODY]
    assert heads[0].startswith(b"CONNECT 127.0.0.1:4443 HTTP/1.")
    assert headers_of(heads[0])["Proxy-Authorization"] == "Basic dXNlcjpodW50ZXIy"
    with pytest.raises(CallConnectionError, match="certificate verify failed"):
        ask(api(url, proxy=f"http://127.0.0.1:{proxy.port}"))
