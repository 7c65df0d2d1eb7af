"""One HTTP/1.1 exchange at a time over a kept connection: exact framing, one deadline, a bound on the size.

It is a transport adapter for requests, in place of the one that ends in urllib3 and http.client. Those take a
`103 Early Hints` for the answer, so that the answer itself is read for the *next* request. Nothing in an
answer names its request, so here a connection is used again only if exactly one answer was read from it and
not a byte follows. Anything unexpected closes it.

Their time-outs hold for each step, so a server that sends a byte now and then keeps a call for hours. Here
all steps share one deadline: name, connect, TLS, tunnel, request, every interim answer, headers, body.

Framing follows RFC 9112, and header lines are read as curl reads them: bare line feeds, a blank before the
colon, any number of headers within a bound on their bytes.
"""

from __future__ import annotations

import base64
import functools
import io
import ipaddress
import os
import re
import select
import socket
import ssl
import threading
import weakref
import zlib
from collections.abc import Iterator, Mapping
from time import monotonic
from typing import Any, Never
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from etl.errors import CallConnectionError, CallTimeoutError, RedirectedError, TooLargeError

_PIECE = 64 * 1024
_LONGEST_LINE = 64 * 1024  # bytes of one line of a head, or of a chunk's size
_LONGEST_HEAD = 256 * 1024  # bytes of one head, of any number of lines
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) +([1-9][0-9]{2})(?: .*)?")
_LENGTH = re.compile(r"[0-9]{1,18}")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;.*)?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_GZIP = b"\x1f\x8b"
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
_COMPRESSIONS = {"gzip", "x-gzip", "deflate"}


class BrokenAnswerError(Exception):
    """What came is not a complete HTTP answer. The message repeats nothing of it."""


class DeadlineAdapter(BaseAdapter):
    """Sends requests to one URL over one connection. Not thread-safe: each thread has its own.

    Args:
        url: the URL of every request, `http://` or `https://`.
        max_bytes: the largest decoded body that is accepted.
        proxy: URL of an HTTP proxy, `http://`, with user and password if it needs them.
        ca_file: the only authorities to trust; by default those that requests ships.
    """

    def __init__(
        self, url: str, *, max_bytes: int, proxy: str | None = None, ca_file: str | None = None
    ) -> None:
        super().__init__()
        self._target = _Target(url)
        self.tls = tls_context(ca_file) if self._target.scheme == "https" else None
        self._max_bytes = max_bytes
        self._proxy = _Proxy(proxy) if proxy else None
        self._connection: _Connection | None = None

    def send(  # noqa: PLR0917 (the signature is that of requests)
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: ARG002, FBT001, FBT002
        timeout: Any = None,
        verify: bool | str = True,  # noqa: ARG002, FBT001, FBT002 (the context decides)
        cert: Any = None,  # noqa: ARG002
        proxies: Mapping[str, str] | None = None,  # noqa: ARG002 (given to the constructor)
    ) -> requests.Response:
        """Send a request and read its answer; the body of a redirect is not read.

        Args:
            request: the request, with its whole body.
            stream: not used: the answer is always read.
            timeout: seconds for the whole exchange, from looking up the name to the last byte.
            verify: not used.
            cert: not used.
            proxies: not used.

        Raises:
            CallTimeoutError: the answer was not complete in time.
            CallConnectionError: there was no connection, it broke, or what came is not an HTTP answer.
            RedirectedError: the answer is a redirect: following it would send the secret along.
            TooLargeError: the decoded body has more than `max_bytes`.
        """
        seconds, host = float(timeout), self._target.host
        try:
            connection = self._connected(monotonic() + seconds)
            connection.send(_request_bytes(request, self._target, self._proxy))
            answer = connection.read_answer(self._max_bytes)
        except TooLargeError:
            self.close()
            raise
        except TimeoutError as error:
            self.close()
            raise CallTimeoutError(f"no complete answer from {host} within {seconds:g} s") from error
        except (OSError, UnicodeError, BrokenAnswerError) as error:
            is_at_proxy = self._proxy is not None and self._connection is None
            self.close()
            where = f"the proxy for {host}" if is_at_proxy else host
            raise CallConnectionError(f"the call to {where} failed: {_reason(error)}") from error
        if not connection.is_reusable:
            self.close()
        status, headers, body = answer
        if 300 <= status < 400:  # noqa: PLR2004 (3xx)
            where = _host_of(headers.get("location"))
            raise RedirectedError(
                f"HTTP status {status} redirects to {where}, which is not followed", http_status=status
            )
        return _response(request, status, headers, body)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connected(self, ends_at: float) -> _Connection:
        """The kept connection, unless the server closed it or sent something unasked; else a new one."""
        if self._connection is not None and not self._connection.is_quiet():
            self.close()
        if self._connection is None:
            self._connection = self._connect(ends_at)
        self._connection.ends_at = ends_at
        return self._connection

    def _connect(self, ends_at: float) -> _Connection:
        target, first = self._target, self._proxy or self._target
        sock = _open_socket(first.host, first.port, ends_at)
        try:
            if self.tls is not None:
                if self._proxy is not None:
                    _open_tunnel(sock, target, self._proxy, ends_at)
                sock.settimeout(_left(ends_at))
                sock = self.tls.wrap_socket(sock, server_hostname=target.host)  # in the time that is left
        except BaseException:
            sock.close()
            raise
        connection = _Connection(sock)
        weakref.finalize(connection, sock.close)  # a thread of a run ends without closing its client
        return connection


class _Target:
    """The parts of a URL that a request needs."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.scheme = parts.scheme.lower()
        self.host = parts.hostname or ""
        self.port = parts.port or _DEFAULT_PORTS.get(self.scheme, 0)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        name = f"[{self.host}]" if ":" in self.host else self.host
        self.authority = f"{name}:{self.port}"
        self.host_header = name if self.port == _DEFAULT_PORTS.get(self.scheme) else self.authority
        if not self.host or self.scheme not in _DEFAULT_PORTS:
            raise ValueError("the URL has no host, or another scheme than http and https")


class _Proxy(_Target):
    """An HTTP proxy, and the header that identifies us to it."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        parts = urlsplit(url)
        if self.scheme != "http":
            raise ValueError("the proxy's URL must begin with http://")
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        code = base64.b64encode(user.encode()).decode()
        self.header = f"Proxy-Authorization: Basic {code}\r\n" if user != ":" else ""


def _request_bytes(request: requests.PreparedRequest, target: _Target, proxy: _Proxy | None) -> bytes:
    through_proxy = proxy is not None and target.scheme == "http"
    where = f"http://{target.host_header}{target.path}" if through_proxy else target.path
    head = [f"{request.method} {where} HTTP/1.1\r\nHost: {target.host_header}\r\n"]
    if proxy is not None and through_proxy:
        head.append(proxy.header)
    head += [f"{name}: {value}\r\n" for name, value in request.headers.items()]
    body = request.body or b""
    return "".join([*head, "\r\n"]).encode("latin-1") + (body if isinstance(body, bytes) else body.encode())


def _host_of(location: str | None) -> str:
    try:
        host = urlsplit(location or "").hostname
    except ValueError:
        host = None
    return f"the host {host[:100]!r}" if host else "an address without a host"


def _response(
    request: requests.PreparedRequest, status: int, headers: dict[str, str], body: bytes
) -> requests.Response:
    response = requests.Response()
    response.request = request
    response.url = str(request.url)
    response.status_code = status
    response.headers = CaseInsensitiveDict(headers)
    response.raw = io.BytesIO(body)
    return response


# --- Connecting --------------------------------------------------------------------------------------


def _left(ends_at: float) -> float:
    left = ends_at - monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    return left


def _open_socket(host: str, port: int, ends_at: float) -> socket.socket:
    """Connect to the first address that answers; the addresses share the time that is left.

    With all of it for each, one dead IPv6 address would use up the time of the others.
    """
    addresses = _look_up(host, port, ends_at)
    problem: OSError = OSError("the name has no address")
    for position, (family, address) in enumerate(addresses):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:  # this machine has no IPv6
            problem = error
            continue
        try:
            sock.settimeout(_left(ends_at) / (len(addresses) - position))
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            sock.close()
            problem = error
        else:
            return sock
    raise problem


def _look_up(host: str, port: int, ends_at: float) -> list[tuple[int, Any]]:
    """The addresses of a host, each once. A resolver that does not answer is abandoned with its thread."""
    found: list[Any] = []
    problems: list[Exception] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            problems.append(error)

    if _is_address(host):
        look_up()  # asks no resolver
    else:
        thread = threading.Thread(target=look_up, name="look-up", daemon=True)
        thread.start()
        thread.join(_left(ends_at))
        if thread.is_alive():
            raise TimeoutError("the name was not resolved in time")
    if problems:
        raise problems[0]
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _open_tunnel(sock: socket.socket, target: _Target, proxy: _Proxy, ends_at: float) -> None:
    connection = _Connection(sock, ends_at)
    asked = f"CONNECT {target.authority} HTTP/1.1\r\nHost: {target.authority}\r\n{proxy.header}\r\n"
    connection.send(asked.encode("latin-1"))
    status, _, _ = connection.read_head()
    if not 200 <= status < 300 or not connection.is_empty:  # noqa: PLR2004 (2xx)
        raise BrokenAnswerError(f"it answers CONNECT with HTTP status {status}")


_tls_lock = threading.Lock()


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The context that all threads share; loading the authorities takes tens of milliseconds.

    Args:
        ca_file: a PEM file, or a folder, of the only authorities to trust; by default those that requests
            ships.
    """
    with _tls_lock:  # without it, threads that start together would each load one
        return _load_tls_context(ca_file)


@functools.cache
def _load_tls_context(ca_file: str | None) -> ssl.SSLContext:
    authorities = ca_file or DEFAULT_CA_BUNDLE_PATH
    if os.path.isdir(authorities):  # noqa: PTH112 (of hashed names, as OpenSSL and requests take it)
        context = ssl.create_default_context(capath=authorities)
    else:
        context = ssl.create_default_context(cafile=authorities)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


# --- Reading -----------------------------------------------------------------------------------------


class _Connection:
    """A socket, and what was received from it and not read yet."""

    def __init__(self, sock: socket.socket, ends_at: float = 0.0) -> None:
        self.ends_at = ends_at
        self.is_reusable = True
        self._socket = sock
        self._received = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether all that was received is read."""
        return not self._received

    def is_quiet(self) -> bool:
        """Whether nothing has arrived since the last answer: no byte, and no end of the connection."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0)

    def send(self, data: bytes) -> None:
        """Send everything within the deadline."""
        self._socket.settimeout(_left(self.ends_at))
        self._socket.sendall(data)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read_answer(self, most: int) -> tuple[int, dict[str, str], bytes]:
        """Read one final answer: status, headers and decoded body. The body of a redirect is not read.

        Whether the connection can be used again is in `is_reusable`.
        """
        status, version, headers = self.read_head()
        tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
        self.is_reusable = "close" not in tokens and (version == 1 or "keep-alive" in tokens)
        if 300 <= status < 400:  # noqa: PLR2004 (3xx)
            self.is_reusable = False
            return status, headers, b""
        body = self._read_body(status, headers, most)
        self.is_reusable = self.is_reusable and self.is_empty
        return status, headers, body

    def read_head(self) -> tuple[int, int, dict[str, str]]:
        """Read past all interim answers: the status of the final one, its minor version and its headers.

        Any number of 1xx may come before an answer (RFC 9110, 15.2); 101 would end HTTP, and is refused.
        """
        while True:
            status, version = self._read_status_line()
            headers = self._read_headers()
            if status == 101:  # noqa: PLR2004
                raise BrokenAnswerError("it switches to a protocol that was not asked for")
            if status >= 200:  # noqa: PLR2004 (not 1xx)
                return status, version, headers

    def _read_status_line(self) -> tuple[int, int]:
        if not self._received and not self._receive():
            raise BrokenAnswerError("the connection was closed without an answer")
        found = _STATUS_LINE.fullmatch(self._line())
        if found is None:
            raise BrokenAnswerError("what came is not an HTTP/1 answer")
        return int(found[2]), int(found[1])

    def _read_headers(self) -> dict[str, str]:
        """The headers by lower-case name; the values of one that comes several times are joined by commas."""
        headers: dict[str, str] = {}
        size, name = 0, ""
        while line := self._line():
            size += len(line)
            if size > _LONGEST_HEAD:
                raise BrokenAnswerError(f"its headers have more than {_LONGEST_HEAD} bytes")
            text = line.decode("latin-1")
            if text[0] in " \t":  # an obsolete way to continue the value above
                if name:
                    headers[name] += f" {text.strip()}"
                continue
            name, colon, value = text.partition(":")
            name, value = name.rstrip(" \t").lower(), value.strip()
            if not colon:
                name = ""  # not a header; curl skips it, too
                continue
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        return headers

    def _read_body(self, status: int, headers: Mapping[str, str], most: int) -> bytes:
        pieces = self._pieces(status, headers, most)
        for encoding in reversed(
            [one.strip().lower() for one in headers.get("content-encoding", "").split(",")]
        ):
            if encoding in _COMPRESSIONS:
                pieces = _inflated(pieces)
            elif encoding not in {"", "identity"}:
                raise BrokenAnswerError("its body is compressed in a way that was not asked for")
        parts, size = [], 0
        for part in pieces:
            size += len(part)
            if size > most:
                _refuse_size(status, most)
            parts.append(part)
        return b"".join(parts)

    def _pieces(self, status: int, headers: Mapping[str, str], most: int) -> Iterator[bytes]:
        """The body as its framing delimits it (RFC 9112, 6.3)."""
        if status in (204, 304):
            return iter(())
        if "transfer-encoding" in headers:
            # With both, the sender may be confused, or an attacker: RFC 9112 says to close the connection.
            self.is_reusable = self.is_reusable and "content-length" not in headers
            if headers["transfer-encoding"].strip().lower() != "chunked":
                raise BrokenAnswerError("its transfer encoding is not `chunked`")
            return self._chunks()
        if "content-length" in headers:
            length = _length_of(headers["content-length"])
            if length > most:
                _refuse_size(status, most)
            return self._exactly(length)
        self.is_reusable = False
        return self._until_close()

    def _chunks(self) -> Iterator[bytes]:
        while True:
            found = _CHUNK_SIZE.fullmatch(self._line())
            if found is None:
                raise BrokenAnswerError("a chunk of its body has no valid size")
            size = int(found[1], 16)
            if not size:
                break
            yield from self._exactly(size)
            if self._line():
                raise BrokenAnswerError("a chunk of its body has another size than it says")
        self._read_headers()  # trailers, which are not used

    def _exactly(self, length: int) -> Iterator[bytes]:
        while length:
            if not self._received and not self._receive():
                raise BrokenAnswerError("the body was cut short")
            piece = bytes(self._received[: min(length, _PIECE)])
            del self._received[: len(piece)]
            length -= len(piece)
            yield piece

    def _until_close(self) -> Iterator[bytes]:
        while self._received or self._receive():
            piece = bytes(self._received)
            self._received.clear()
            yield piece

    def _line(self) -> bytes:
        """The next line without its end, a line feed with or without a carriage return."""
        begin = 0
        while (end := self._received.find(b"\n", begin)) < 0 and len(self._received) <= _LONGEST_LINE:
            begin = len(self._received)
            if not self._receive():
                raise BrokenAnswerError("the answer was cut short")
        if not 0 <= end <= _LONGEST_LINE:
            raise BrokenAnswerError(f"a line of it has more than {_LONGEST_LINE} bytes")
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line.removesuffix(b"\r")

    def _receive(self) -> bool:
        """Receive more; False at the end of the connection."""
        self._socket.settimeout(_left(self.ends_at))
        piece = self._socket.recv(_PIECE)
        self._received += piece
        return bool(piece)


def _length_of(sent: str) -> int:
    """A Content-Length, which may be repeated if all are equal (RFC 9112, 6.3)."""
    lengths = {one.strip() for one in sent.split(",")}
    if len(lengths) != 1 or not _LENGTH.fullmatch(next(iter(lengths))):
        raise BrokenAnswerError("its Content-Length is not one number")
    return int(lengths.pop())


def _refuse_size(status: int, most: int) -> Never:
    raise TooLargeError(f"the body has more than {most} bytes, too many for an answer", http_status=status)


def _inflated(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress gzip or zlib, a bounded piece at a time; what follows its end is ignored."""
    unpacker = None
    for piece in pieces:
        rest = piece
        while rest:
            if unpacker is None or (unpacker.eof and rest.startswith(_GZIP)):
                unpacker = zlib.decompressobj(_GZIP_OR_ZLIB)
            if unpacker.eof:
                break
            try:
                part = unpacker.decompress(rest, _PIECE)
            except zlib.error as error:
                raise BrokenAnswerError("the body's compression is broken") from error
            yield part
            rest = unpacker.unconsumed_tail or unpacker.unused_data
    while unpacker is not None and not unpacker.eof:
        yield (part := unpacker.decompress(b"", _PIECE))  # what is left of its output
        if not part:
            raise BrokenAnswerError("the body's compression was cut short")


def _reason(error: Exception) -> str:
    """What went wrong, in words that repeat nothing that was sent or received."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"certificate verify failed: {error.verify_message} (CDR_SYNC_CA_FILE names whom to trust)"
        case ssl.SSLError():
            return f"TLS failed ({error.reason or type(error).__name__})"
        case OSError():
            return error.strerror or type(error).__name__
        case UnicodeError():
            return "the name of the host is not valid"
        case _:
            return str(error)
