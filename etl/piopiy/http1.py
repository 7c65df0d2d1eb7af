"""HTTP whose calls have one deadline for all of their steps, and one TLS context for all of their threads.

The time-outs of requests hold for each step and each read anew, so that a server which sends one byte now
and then can keep a call for hours. Here they are what is left until one instant: of the time to connect,
for the handshake, for a proxy's tunnel, and before each read of headers and body.

Two limits. Looking up a name is a call of the C library, which cannot be ended from within the process: it
ends by the resolver's own time-outs. And TLS within TLS, to an https:// proxy, is unwrapped by urllib3
with a time-out for each of its reads.
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
    """What is left of a call's time, where urllib3 expects a time-out for each step."""

    def __init__(self, seconds: float) -> None:
        super().__init__(total=seconds)
        self._ends_at = monotonic() + seconds

    def clone(self) -> WholeCall:
        """Give the same clock: urllib3 clones a time-out to start it anew."""
        return self

    def start_connect(self) -> float:
        """Start nothing: the clock runs already."""
        return monotonic()

    @property
    def connect_timeout(self) -> float:
        """What is left, for connecting."""
        return max(_SHORTEST, self._ends_at - monotonic())

    @property
    def read_timeout(self) -> float:
        """What is left, for reading; urllib3 takes 0 for "over"."""
        return max(0.0, self._ends_at - monotonic())


class _Socket(Protocol):
    def gettimeout(self) -> float | None: ...
    def settimeout(self, value: float | None, /) -> None: ...


class _BoundedReader(io.RawIOBase):
    """A socket's stream that gives each read only the time which is left."""

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
    """A response whose status line, headers and body arrive within one deadline.

    Just before it makes one, be it for the answer or for a proxy's tunnel, urllib3 sets the socket's
    time-out to what is left of the call.
    """

    def __init__(
        self, sock: socket.socket, debuglevel: int = 0, method: str | None = None, url: str | None = None
    ) -> None:
        super().__init__(sock, debuglevel, method, url)
        left = sock.gettimeout()
        if left is not None:
            self.fp = io.BufferedReader(_BoundedReader(self.fp.detach(), sock, monotonic() + left))


class _BoundedConnection(HTTPConnection):
    """A connection whose `timeout` is a moment: set in seconds, it shrinks as time passes."""

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

        urllib3 would give each of them all of it, and in the order of the resolver one dead IPv6 address
        would use up the time of the others.
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
    """The way from requests to urllib3: our connections, one TLS context, one pool, no repetition."""

    pool_classes: ClassVar = {"http": _Pool, "https": _TlsPool}

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._pool: Any = None
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Have our pools made, with our TLS context."""
        super().init_poolmanager(*args, ssl_context=self._tls, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self.pool_classes

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Have them made behind a proxy as well."""
        manager = super().proxy_manager_for(
            proxy, ssl_context=self._tls, proxy_ssl_context=self._tls, **proxy_kwargs
        )
        manager.pool_classes_by_scheme = self.pool_classes
        return manager

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Give the one pool."""
        if self._pool is None:  # there is one URL, and so one pool: it need not be looked up for each call
            self._pool = super().get_connection_with_tls_context(*args, **kwargs)
        return self._pool

    def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
        """Wrap the response without looking for cookies or an encoding, which nobody asks for here."""
        response = requests.Response()
        response.request = req
        response.raw = resp
        return response

    def cert_verify(self, conn: object, url: object, verify: object, cert: object) -> None:
        """Leave verification to the shared context: requests would load the CA bundle for each connection."""

    def close(self) -> None:
        """Close the pool and its connection."""
        super().close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None


# --- TLS ---------------------------------------------------------------------------------------------

_tls_lock = threading.Lock()


def needs_tls(url: str, proxy: str | None) -> bool:
    """Whether a call goes over TLS anywhere on its way."""
    return url.lower().startswith("https:") or (proxy or "").lower().startswith("https:")


def tls_context(ca_file: str | None) -> ssl.SSLContext:
    """The context that all threads share, since loading the CA bundle takes tens of milliseconds."""
    with _tls_lock:  # a cache alone would let threads that start together load one each
        return _loadtls_context(ca_file)


@functools.cache
def _loadtls_context(ca_file: str | None) -> ssl.SSLContext:
    context = create_urllib3_context()  # verifies the certificate and the name in it
    context.load_verify_locations(ca_file or DEFAULT_CA_BUNDLE_PATH)
    return context
