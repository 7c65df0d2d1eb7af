"""Telling a health check, such as healthchecks.io, that a run began and how it ended.

Its URL is a secret, since whoever knows it can call the check well. So nothing that is told here holds any
of it, and no foreign error's text is repeated.
"""

from __future__ import annotations

from queue import SimpleQueue
from threading import Thread
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import requests

from etl import __version__

CALL_SECONDS = 2.5  # for connecting, and again for the answer
LAST_SECONDS = 5.0  # how long a run waits at its end for all its pings, whatever has become of them


class HealthCheck:
    """The pings of one run, sent one after the other by a thread of their own, which nobody waits for long.

    A thread, since looking up a name can take longer than any time-out; and so that a run need not wait
    for its first ping.

    Args:
        url: the check's URL, to which `/start` or the exit code is added.
        proxy: the URL of an HTTP proxy; nothing is taken from the environment.
    """

    def __init__(self, url: str, *, proxy: str | None = None) -> None:
        self._url = url
        self._proxies = {"http": proxy, "https": proxy} if proxy else {}
        self._run = uuid4()  # by which the check knows what start an end belongs to
        self._pings: SimpleQueue[tuple[str, str] | None] = SimpleQueue()
        self._failures: list[str] = []
        self._thread = Thread(target=self._work, name="health-check", daemon=True)

    def start(self) -> None:
        """Tell that the run begins; returns at once."""
        self._pings.put(("start", ""))
        self._thread.start()

    def finish(self, exit_code: int, told: str) -> list[str]:
        """Tell how the run ended, within seconds; returns which pings failed and why, without the URL."""
        self._pings.put((str(exit_code), told))
        self._pings.put(None)
        self._thread.join(LAST_SECONDS)
        late = ["it did not answer in time"] if self._thread.is_alive() else []
        return [*self._failures, *late]

    def _work(self) -> None:
        while (ping := self._pings.get()) is not None:
            try:
                status = self._ping(*ping)
            except Exception as error:  # noqa: BLE001 (whatever it is, no run fails by it)
                self._failures.append(type(error).__name__)
            else:
                if not 200 <= status < 300:  # noqa: PLR2004 (2xx)
                    self._failures.append(f"it answered with HTTP status {status}")

    def _ping(self, step: str, body: str) -> int:
        with requests.Session() as session:
            session.trust_env = False  # no proxy and no password of the environment
            session.headers["User-Agent"] = f"piopiy-cdr-sync/{__version__}"
            response = session.request(
                "POST" if body else "GET",
                _address(self._url, step, f"rid={self._run}"),
                data=body.encode(),
                proxies=self._proxies,
                timeout=CALL_SECONDS,
                allow_redirects=False,  # another host must not learn the URL
                stream=True,  # the answer's body is of no interest
            )
            with response:
                return response.status_code


def _address(url: str, step: str, parameter: str) -> str:
    parts = urlsplit(url)
    query = f"{parts.query}&{parameter}" if parts.query else parameter
    return urlunsplit((parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{step}", query, ""))
