"""The HTTP client of the API: one POST per call, and what came back.

`etl.cdr.answers` reads what the answer means. Here a call has one deadline for all its steps and a limit on
the size of the answer; nothing is redirected or retried; every error of requests, urllib3, ssl and socket
becomes an error of ours. Nothing is taken from the environment: no proxy, no netrc, no CA bundle.
"""

from __future__ import annotations

import http.client
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from urllib3.exceptions import (
    DecodeError,
    HTTPError,
    NewConnectionError,
    ProxyError,
    ProxySchemeUnsupported,
)

from etl import __version__
from etl.errors import (
    CallConnectionError,
    CallTimeoutError,
    RedirectedError,
    RequestError,
    SettingsError,
    TooLargeError,
)
from etl.piopiy.http1 import BoundedAdapter, WholeCall, needs_tls, tls_context

USER_AGENT = f"piopiy-cdr-sync/{__version__} (+python-requests/{requests.__version__})"
MAX_BYTES = 4 * 1024 * 1024
LONGEST_RETRY_AFTER = 1e9  # seconds, 31 years: fits an interval of every database
_PIECE = 64 * 1024
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_FOREIGN = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ProxySchemeUnsupported)


@dataclass(frozen=True, slots=True)
class Credentials:
    """The app ID and secret of an account. The secret is never shown."""

    app_id: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """An HTTP response: the status, the decoded body, and the pause that the API asked for."""

    status: int
    body: bytes
    retry_after: float | None  # seconds, 0 or more; None without a usable Retry-After


class CdrApi:
    """Asks the API about one request at a time, over a connection that is kept open.

    Not thread-safe: each thread has its own client.

    Args:
        url: the endpoint, http or https.
        timeout: seconds for a whole call, from connecting to the last byte.
        max_bytes: the largest decoded body that is accepted.
        proxy: the URL of an HTTP proxy, with user and password if it needs them.
        ca_file: a PEM file with the only authorities to trust; by default those that requests ships.
        user_agent: the User-Agent header.

    Raises:
        SettingsError: the URL, the proxy or the CA file cannot be used.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout: float,
        max_bytes: int = MAX_BYTES,
        proxy: str | None = None,
        ca_file: str | None = None,
        user_agent: str = USER_AGENT,
    ) -> None:
        self._timeout = timeout
        self._max_bytes = max_bytes
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        headers = {
            "User-Agent": user_agent,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # answers are small: compression costs more than it saves
        }
        try:
            self._request = requests.Request("POST", url, headers=headers).prepare()
            self._adapter = BoundedAdapter(tls_context(ca_file) if needs_tls(url, proxy) else None)
            self._adapter.get_connection_with_tls_context(self._request, True, self._proxies)
        except (ValueError, OSError, HTTPError):
            # Without the cause: it would repeat the URL, and a proxy's URL can contain a password.
            raise SettingsError(
                "The URL of the API, the URL of the proxy, or the CA file is not valid",
                remedy="Check api_url and proxy in the settings",
            ) from None
        self._host = urlsplit(self._request.url or "").hostname or ""

    def fetch_answer(self, request_id: str, credentials: Credentials) -> HttpAnswer:
        """Ask about one request, once, and return the response, whatever it means.

        Raises:
            CallTimeoutError: the answer was not complete within the deadline.
            CallConnectionError: there was no connection, or it broke before the answer was complete.
            RedirectedError: the answer is a redirect; following it would send the secret along.
            TooLargeError: the body is larger than `max_bytes`.
        """
        question = {"appid": credentials.app_id, "secret": credentials.secret, "request_id": request_id}
        body = json.dumps(question).encode()
        request = self._request
        request.body = body
        request.headers["Content-Length"] = str(len(body))
        handled_before = sys.exception()
        response = None
        try:
            # requests.Session calls the adapter in the end. What the session adds (redirects, cookies, hooks,
            # the environment) is not wanted here, and takes half of the CPU time of a call.
            deadline: Any = WholeCall(self._timeout)  # requests accepts urllib3's Timeout, its stubs do not
            response = self._adapter.send(request, stream=True, timeout=deadline, proxies=self._proxies)
            return self._read(response.raw)
        except _FOREIGN as error:
            chain = list(_causes(error, until=handled_before))
            # A cause can quote the server, and the server can quote the secret that was sent to it.
            secret = credentials.secret
            echoed = bool(secret) and any(secret in f"{cause} {cause!r}" for cause in chain)
            raise self._translated(chain) from (None if echoed else error)
        finally:
            request.body = None  # errors of requests keep the request: remove the secret from it
            if response is not None:
                # Returns the connection to the pool if the body was read completely, else closes it.
                response.close()

    def close(self) -> None:
        """Close the connection."""
        self._adapter.close()

    def _read(self, raw: urllib3.HTTPResponse) -> HttpAnswer:
        status = raw.status
        if 300 <= status < 400:  # noqa: PLR2004 (3xx)
            where = _host_of(raw.headers.get("Location"))
            raise RedirectedError(
                f"HTTP status {status} redirects to {where}, which is not followed", http_status=status
            )
        pieces: list[bytes] = []
        size = 0
        while piece := raw.read(_PIECE, decode_content=True):
            size += len(piece)
            if size > self._max_bytes:
                raise TooLargeError(
                    f"the body has more than {self._max_bytes} bytes, too many for an answer",
                    http_status=status,
                )
            pieces.append(piece)
        return HttpAnswer(status=status, body=b"".join(pieces), retry_after=retry_after_of(raw.headers))

    def _translated(self, chain: list[BaseException]) -> RequestError:
        if any(_is_timeout(cause) for cause in chain):
            return CallTimeoutError(f"no complete answer from {self._host} within {self._timeout:g} s")
        at_proxy = any(isinstance(cause, ProxyError) for cause in chain)
        where = f"the proxy for {self._host}" if at_proxy else self._host
        return CallConnectionError(f"the call to {where} failed: {_reason(chain)}")


# --- Response headers --------------------------------------------------------------------------------


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from Retry-After (RFC 9110, 10.2.3); None if there is no usable value.

    A date is compared with the answer's own Date header, because the clock of this machine may be wrong.
    Without a Date header it is not used. A date in the past is 0.
    """
    text = (headers.get("Retry-After") or "").strip()
    if not text:
        return None
    if _SECONDS.fullmatch(text):
        return min(float(text), LONGEST_RETRY_AFTER)
    until, now = _instant(text), _instant(headers.get("Date") or "")
    if until is None or now is None:
        return None
    return min(max(0.0, until - now), LONGEST_RETRY_AFTER)


def _instant(text: str) -> float | None:
    try:
        parts = parsedate_tz(text)
        return None if parts is None or parts[9] is None else float(mktime_tz(parts))
    except (ValueError, TypeError, IndexError, OverflowError):  # what the parser raises for an invalid date
        return None


def _host_of(location: str | None) -> str:
    try:
        host = urlsplit(location or "").hostname
    except ValueError:
        host = None
    return f"the host {host[:100]!r}" if host else "an address without a host"


# --- Foreign errors, translated once -----------------------------------------------------------------


def _causes(error: BaseException, *, until: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes, the outermost first, without what the caller was already handling."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and cause is not until and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # urllib3 also passes errors as arguments of errors that it never raises.
        wrapped = next((each for each in cause.args if isinstance(each, BaseException)), None)
        cause = cause.__cause__ or cause.__context__ or wrapped


def _is_timeout(cause: BaseException) -> bool:
    if isinstance(cause, NewConnectionError):  # a subclass of a time-out, but not one
        return False
    return isinstance(cause, (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError))


def _reason(chain: list[BaseException]) -> str:
    """What the innermost error says, without anything that was sent."""
    for cause in reversed(chain):
        match cause:
            case http.client.RemoteDisconnected():
                return "the connection was closed without an answer"
            case http.client.IncompleteRead():
                return "the body was cut short"
            case DecodeError():
                return "the body's compression is broken"
            case requests.RequestException():
                continue
            case OSError():
                return cause.strerror or str(cause)
    return type(chain[-1]).__name__
