"""HTTP calls with one deadline for all their steps, and one TLS context for all threads.

The time-outs of requests apply to each step and each read separately, so a server that sends one byte now
and then can hold a call for hours. Here each time-out is what is left until one deadline: for connecting,
for the TLS handshake, for a proxy's tunnel, and before each read of headers and body.

Two limits remain. A name lookup is a call of the C library, which the process cannot interrupt: it ends by
the resolver's own time-outs. For TLS within TLS, to an https:// proxy, urllib3 applies a time-out to each
read.
"""

from __future__ import annotations

import functools
import http.client
import io
import socket
import ssl
import threading
from time import monotonic
from typing import Any, ClassVar, Protocol

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError
from urllib3.util import connection as urllib3_connection
from urllib3.util import create_urllib3_context

_SHORTEST = 0.001  # seconds; a time-out of 0 would make a socket non-blocking


class WholeCall(urllib3.Timeout):
    """The time that a call has left, where urllib3 expects a time-out for each step."""

    def __init__(self, seconds: float) -> None:
        super().__init__(total=seconds)
        self._ends_at = monotonic() + seconds

    def clone(self) -> WholeCall:
        """Return the same object: urllib3 clones a time-out to restart it."""
        return self

    def start_connect(self) -> float:
        """Return the time; the clock is running already."""
        return monotonic()

    @property
    def connect_timeout(self) -> float:
        """Seconds left for connecting."""
        return max(_SHORTEST, self._ends_at - monotonic())

    @property
    def read_timeout(self) -> float:
        """Seconds left for reading; 0 means that the time is over."""
        return max(0.0, self._ends_at - monotonic())


class _Socket(Protocol):
    def gettimeout(self) -> float | None: ...
    def settimeout(self, value: float | None, /) -> None: ...


class _BoundedReader(io.RawIOBase):
    """A socket's stream whose reads each get only the time that is left."""

    def __init__(self, stream: io.RawIOBase, sock: _Socket, ends_at: float) -> None:
        self._stream = stream
        self._socket = sock
        self._ends_at = ends_at

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int | None:
        left = self._ends_at - monotonic()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        self._socket.settimeout(left)
        return self._stream.readinto(buffer)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            super().close()


class _BoundedResponse(http.client.HTTPResponse):
    """A response whose status line, headers and body must arrive within one deadline.

    Just before urllib3 creates it, for the answer or for a proxy's tunnel, it sets the socket's time-out to
    the time that the call has left.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        left = sock.gettimeout()
        if left is not None:
            self.fp = io.BufferedReader(_BoundedReader(self.fp.detach(), sock, monotonic() + left))


class _BoundedConnection(HTTPConnection):
    """A connection whose `timeout` is a deadline: set in seconds, it shrinks as time passes."""

    response_class = _BoundedResponse
    _ends_at: float | None = None

    @property
    def timeout(self) -> float | None:
        return None if self._ends_at is None else max(_SHORTEST, self._ends_at - monotonic())

    @timeout.setter
    def timeout(self, seconds: float | None) -> None:
        self._ends_at = None if seconds is None else monotonic() + seconds

    def _new_conn(self) -> socket.socket:
        """Connect to the first address that answers; the addresses share the time that is left.

        urllib3 would give each address all of it, so one dead IPv6 address could use up the time of the
        others.
        """
        try:
            found = socket.getaddrinfo(self._dns_host.strip("[]"), self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
        problem: OSError = OSError("the name has no address")
        for position, address in enumerate(addresses):
            share = None if self.timeout is None else self.timeout / (len(addresses) - position)
            try:
                sock = urllib3_connection.create_connection(
                    (address, self.port), share, socket_options=self.socket_options
                )
            except OSError as error:
                problem = error
            else:
                sock.settimeout(self.timeout)
                return sock
        if isinstance(problem, TimeoutError):
            raise ConnectTimeoutError(self, f"Connection to {self.host} timed out.") from problem
        raise NewConnectionError(self, f"Failed to establish a new connection: {problem}") from problem


class _BoundedTlsConnection(_BoundedConnection, HTTPSConnection):
    """The same over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _BoundedConnection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _BoundedTlsConnection


class BoundedAdapter(HTTPAdapter):
    """The adapter from requests to urllib3: our connections, one TLS context, one pool, no retries."""

    pool_classes: ClassVar = {"http": _Pool, "https": _TlsPool}

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._pool: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Use our pool classes, with our TLS context."""
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self.pool_classes

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Use them behind a proxy too."""
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._tls, proxy_ssl_context=self._tls, **proxy_kwargs
        )
        manager.pool_classes_by_scheme = self.pool_classes
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the one pool."""
        if self._pool is None:  # one URL means one pool, so it is looked up once
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Wrap the response, without parsing cookies or the encoding, which are not used here."""
        response = requests.Response()
        response.request = req
        response.raw = resp
        return response

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Leave verification to the shared context; requests would load the CA bundle per connection."""

    def close(self) -> None:
        """Close the pool and its connection."""
        super().close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None


# --- TLS ---------------------------------------------------------------------------------------------

_tls_lock = threading.Lock()


def needs_tls(url: str, proxy: str | None) -> bool:
    """Whether any hop of a call uses TLS."""
    return url.lower().startswith("https:") or (proxy or "").lower().startswith("https:")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The TLS context of all threads; loading the CA bundle takes tens of milliseconds."""
    with _tls_lock:  # a cache alone would let threads that start together load it several times
        return _load_tls_context(ca_file)


@functools.cache
def _load_tls_context(ca_file: str | None) -> ssl.SSLContext:
    context = create_urllib3_context()  # verifies the certificate and its host name
    context.load_verify_locations(ca_file or DEFAULT_CA_BUNDLE_PATH)
    return context
