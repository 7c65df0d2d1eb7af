"""The HTTP client of the API: one POST per call, and what came back.

`etl.cdr.answers` reads what the answer means. Here a call has one deadline for all its steps and a limit on
the size of the answer; nothing is redirected or retried; all errors are ours (see `etl.piopiy.http1`).
It takes nothing from the environment: proxy and authorities come from the settings, and there is no netrc.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import mktime_tz, parsedate_tz

import requests

from etl import __version__
from etl.errors import SettingsError
from etl.piopiy.http1 import DeadlineAdapter
from etl.settings import Settings, expanded

USER_AGENT = f"piopiy-cdr-sync/{__version__} (+python-requests/{requests.__version__})"
MAX_BYTES = 4 * 1024 * 1024
LONGEST_RETRY_AFTER = 1e9  # seconds, 31 years: fits an interval of every database
_SECONDS = re.compile(r"[0-9]+(\.[0-9]+)?")


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


def api_of(settings: Settings) -> CdrApi:
    """The client that the settings describe.

    Raises:
        SettingsError: the URL, the proxy or the CA file cannot be used.
    """
    return CdrApi(
        settings.api_url,
        timeout=settings.request_timeout.total_seconds(),
        proxy=settings.proxy or None,
        ca_file=str(expanded(settings.ca_file)) if settings.ca_file else None,
    )


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
        headers = {
            "User-Agent": user_agent,
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",  # answers are small: compression costs more than it saves
        }
        try:
            self._request = requests.Request("POST", url, headers=headers).prepare()
            # requests may have changed the URL (a host that is not ASCII, `..` in the path): use its form.
            self._adapter = DeadlineAdapter(
                str(self._request.url), max_bytes=max_bytes, proxy=proxy, ca_file=ca_file
            )
            self._session = requests.Session()
            self._session.trust_env = False  # no proxy and no password of the environment
            for scheme in ("http://", "https://"):  # instead of the adapters of requests, for every URL
                self._session.mount(scheme, self._adapter)
        except (ValueError, OSError):
            # Without the cause: it would repeat the URL, and a proxy's URL can contain a password.
            raise SettingsError(
                "The URL of the API, the URL of the proxy, or the CA file is not valid",
                remedy="Check api_url, proxy and ca_file in the settings",
            ) from None

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
        try:
            response = self._session.send(
                request, timeout=self._timeout, allow_redirects=False, proxies={}, verify=True, cert=None
            )
        finally:
            request.body = None  # no error keeps the secret alive
        return HttpAnswer(response.status_code, response.content, retry_after_of(response.headers))

    def close(self) -> None:
        """Close the connection."""
        self._session.close()


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
