"""One question to the API over HTTP: who asks about which request, and what comes back.

What an answer means is read elsewhere. Here a call has one deadline for all of its steps, an answer has a
largest size, nothing is followed or repeated, and every error of requests, urllib3, ssl and socket becomes
one of ours. Nothing comes from the environment: no proxy, no netrc, no CA bundle.
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
LONGEST_RETRY_AFTER = 1e9  # 31 years: no answer can overflow an interval of the database
_PIECE = 64 * 1024
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")
_FOREIGN = (requests.RequestException, HTTPError, http.client.HTTPException, OSError, ProxySchemeUnsupported)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who asks. The secret is shown nowhere."""

    app_id: int
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What came back, not yet read: the status, the decoded body, and the pause that was asked for."""

    status: int
    body: bytes
    retry_after: float | None  # seconds, 0 or more; None where nothing usable was said


class CdrApi:
    """Asks the API about one request at a time, over a connection that is kept open.

    Each thread has its own: neither the connection nor the prepared request may be shared.

    Args:
        url: where to ask, http or https.
        timeout: seconds for a whole call, from connecting to the last byte.
        max_bytes: the largest decoded body that is taken in.
        proxy: the URL of an HTTP proxy, with user and password where it wants them.
        ca_file: a PEM file of the only authorities to trust; without it, those that requests brings along.
        user_agent: how the client names itself.

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
            "Accept-Encoding": "identity",  # answers are small: compressing costs more than it saves
        }
        try:
            self._request = requests.Request("POST", url, headers=headers).prepare()
            self._adapter = BoundedAdapter(tls_context(ca_file) if needs_tls(url, proxy) else None)
            self._adapter.get_connection_with_tls_context(self._request, True, self._proxies)
        except (ValueError, OSError, HTTPError):
            # The cause is left out: it would repeat the URL, and a proxy's URL can hold a password.
            raise SettingsError("The API's URL, the proxy's URL or the CA file cannot be used.") from None
        self._host = urlsplit(self._request.url or "").hostname or ""

    def fetch_answer(self, request_id: str, credentials: Credentials) -> HttpAnswer:
        """Ask about one request, once, and return what was answered, whatever it means.

        Raises:
            CallTimeoutError: the whole answer was not there within the deadline.
            CallConnectionError: there was no connection, or it broke before the answer was whole.
            RedirectedError: the answer is a redirect, which would take the secret along.
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
            # The adapter is what a requests.Session ends in. What the session adds (redirects, cookies,
            # hooks, the environment) is not wanted here, and is half of the CPU of a call.
            deadline: Any = WholeCall(self._timeout)  # requests takes urllib3's time-outs, its stubs do not
            response = self._adapter.send(request, stream=True, timeout=deadline, proxies=self._proxies)
            return self._take_in(response.raw)
        except _FOREIGN as error:
            chain = list(_causes(error, until=handled_before))
            # A cause that repeats what the server sent can repeat the secret, which was sent to it.
            secret = credentials.secret
            echoed = bool(secret) and any(secret in f"{cause} {cause!r}" for cause in chain)
            raise self._translated(chain) from (None if echoed else error)
        finally:
            request.body = None  # errors of requests hold the request: this one holds no secret any more
            if response is not None:
                response.close()  # gives the connection back where the body was read to its end, or closes it

    def close(self) -> None:
        """Close the connection."""
        self._adapter.close()

    def _take_in(self, raw: urllib3.HTTPResponse) -> HttpAnswer:
        status = raw.status
        if 300 <= status < 400:  # noqa: PLR2004 (3xx)
            where = _host_of(raw.headers.get("Location"))
            raise RedirectedError(f"HTTP status {status} leads to {where}: not followed", http_status=status)
        pieces: list[bytes] = []
        size = 0
        while piece := raw.read(_PIECE, decode_content=True):
            size += len(piece)
            if size > self._max_bytes:
                raise TooLargeError(
                    f"the body has more than {self._max_bytes} bytes, which no answer has", http_status=status
                )
            pieces.append(piece)
        return HttpAnswer(status=status, body=b"".join(pieces), retry_after=retry_after_of(raw.headers))

    def _translated(self, chain: list[BaseException]) -> RequestError:
        if any(_is_timeout(cause) for cause in chain):
            return CallTimeoutError(f"no whole answer from {self._host} within {self._timeout:g} s")
        at_proxy = any(isinstance(cause, ProxyError) for cause in chain)
        where = f"the proxy on the way to {self._host}" if at_proxy else self._host
        return CallConnectionError(f"the call to {where} failed: {_reason(chain)}")


# --- What the answer's headers say -------------------------------------------------------------------


def retry_after_of(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from Retry-After (RFC 9110, 10.2.3); None where nothing usable is said.

    A date counts from the answer's own Date, so that a wrong clock on this side does not matter; without
    that it says nothing. A date in the past is 0.
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
    except (ValueError, TypeError, IndexError, OverflowError):  # the parser's ways of saying "no date"
        return None


def _host_of(location: str | None) -> str:
    try:
        host = urlsplit(location or "").hostname
    except ValueError:
        host = None
    return f"the host {host[:100]!r}" if host else "no other host"


# --- Foreign errors, translated once -----------------------------------------------------------------


def _causes(error: BaseException, *, until: BaseException | None) -> Iterator[BaseException]:
    """An error and those that led to it, the outermost first, without what the caller was handling before."""
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and cause is not until and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        # urllib3 also wraps errors as arguments of ones that it never raises.
        wrapped = next((each for each in cause.args if isinstance(each, BaseException)), None)
        cause = cause.__cause__ or cause.__context__ or wrapped


def _is_timeout(cause: BaseException) -> bool:
    if isinstance(cause, NewConnectionError):  # by its class a time-out, by its meaning none
        return False
    return isinstance(cause, (TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError))


def _reason(chain: list[BaseException]) -> str:
    """What the innermost error says, in words that hold nothing of what was sent."""
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
