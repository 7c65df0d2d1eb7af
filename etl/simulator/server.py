"""The simulator: what it was asked, what it answers, and the sockets over which it does so."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import struct
import threading
import time
from asyncio import StreamReader, StreamWriter
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Literal, NamedTuple, Self

from etl.simulator.calls import SentLeg
from etl.simulator.scenarios import (
    BROKEN,
    FINAL,
    HEALTHY,
    SCENARIOS,
    WHOLE,
    Ending,
    Reply,
    check_scenario,
    html_reply,
    json_reply,
    legs_at,
    reply_to,
    scenario_of,
)

PATH = "/v1/piopiy/requestid_cdr"

_REFUSED = json_reply(200, {"code": 404, "msg": "Invalid app id or secret"})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_LARGEST_HEAD, _LARGEST_BODY = 64 * 1024, 1024 * 1024
_BACKLOG = 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds
_TURNS = 10  # of the event loop; a connection that is just being accepted needs fewer


def wall_clock() -> float:
    """Return the current time in epoch seconds: simulated calls take place on the days before it."""
    return time.time()  # noqa: TID251 (there is no database here, and no rule depends on it)


class Simulator:
    """Answers like the vendor's API, in the scenarios of its mix: `with Simulator() as simulator: …`.

    After `stop` and `start` it has the same port, settings and counts; in between, connections are refused.
    Any thread may change its attributes while it answers.
    """

    auth_error_form: Literal["body", "http"] = "body"  # where wrong credentials get their code 404
    failures = 1  # how many asks a `flaky_` scenario fails before it succeeds
    retry_after: float | str = 1  # the `Retry-After` of `rate_limited`: seconds, or an HTTP date
    redirect_to = "/elsewhere"  # the `Location` of `redirect`
    drip_pause = 1.0  # seconds between two bytes of the `drip_` scenarios
    oversize_bytes = 64_000_000  # the size of the `oversize` bodies
    unauthorized_calls = 0  # questions that were malformed or had wrong credentials
    connections_opened = 0
    last_body = b""  # the bytes of the last question

    def __init__(
        self,
        port: int = 0,
        seed: int = 1,
        *,
        latency: float = 0.0,
        weights: Mapping[str, float] = HEALTHY,
        epoch: float | None = None,
        days: int = 1,
        clock: Callable[[], float] = wall_clock,
    ) -> None:
        """Prepare a simulator; `start` makes it listen.

        Args:
            port: where to listen; 0 chooses a free port at the first start.
            seed: what the invented calls depend on.
            latency: seconds before each answer.
            weights: the mix of scenarios for IDs that do not name one.
            epoch: in epoch seconds; the calls take place on the `days` before it. By default, it is now.
            days: the number of these days.
            clock: returns the current time in epoch seconds.
        """
        self.host, self.port, self.seed = "127.0.0.1", port, seed
        self.latency, self.weights = latency, weights
        self.app_id, self.secret = 2222222, "simulated-secret"
        self.accounts: dict[int, str] = {}  # the secrets of further app IDs
        self.epoch, self.days = clock() if epoch is None else epoch, days
        self.headers_seen: Mapping[str, str] = {}  # of the last question, names in lower case
        self._clock = clock
        self._outage: str | None = None
        self._calls, self._calls_in_outage = Counter[str](), Counter[str]()
        self._first_asked: dict[str, float] = {}
        self._clients: set[StreamWriter] = set()
        self._thread: threading.Thread | None = None
        self._end_thread: Callable[[], object] = lambda: None

    @property
    def url(self) -> str:
        """The address of the one endpoint."""
        return f"http://{self.host}:{self.port}{PATH}"

    @property
    def outage(self) -> str | None:
        """The scenario that every question gets, whatever its ID and its credentials; None for none.

        An ask during an outage counts as a call, but not as one of the asks after which `late`, `flaky_500`
        and similar scenarios give legs.
        """
        return self._outage

    @outage.setter
    def outage(self, scenario: str | None) -> None:
        if scenario is not None:
            check_scenario(scenario)
        self._outage = scenario

    @property
    def calls(self) -> Counter[str]:
        """How often each request ID was asked for with right credentials, as of now."""
        return self._calls.copy()

    @property
    def total_calls(self) -> int:
        """The number of questions with right credentials."""
        return self.calls.total()

    def legs_of(self, request_id: str) -> list[SentLeg]:
        """Return the expected final legs of an ID; none if its scenario never gives a valid answer."""
        scenario = scenario_of(request_id, self.seed, self.weights)
        return [] if scenario in BROKEN else self._legs(scenario, request_id, FINAL)

    def stats(self) -> dict[str, int]:
        """Sum up the questions so far; `GET /stats` returns this."""
        calls = self.calls
        return {
            "total": calls.total(),
            "unauthorized": self.unauthorized_calls,
            "distinct": len(calls),
            "max_calls_of_one_id": max(calls.values(), default=0),
        }

    # --- Running ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen in a background thread; returns once connections are accepted.

        Raises:
            OSError: it cannot listen on the port.
        """
        if self._thread is not None:
            raise RuntimeError("the simulator is already running")
        listening = self._listen()
        is_ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening, is_ready.set)), name="simulator", daemon=True
        )
        self._thread.start()
        is_ready.wait()

    def stop(self) -> None:
        """Stop listening and drop all connections; does nothing when it is not running."""
        if self._thread is not None:
            self._end_thread()
            self._thread.join()
            self._thread = None

    def serve_forever(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve in this thread until SIGINT or SIGTERM, calling `on_ready` once connections are accepted.

        Raises:
            OSError: it cannot listen on the port.
        """
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._serve(self._listen(), on_ready, signals=(signal.SIGINT, signal.SIGTERM)))

    def _listen(self) -> socket.socket:
        listening = socket.create_server((self.host, self.port), backlog=_BACKLOG)
        self.port = listening.getsockname()[1]
        return listening

    async def _serve(
        self, listening: socket.socket, on_ready: Callable[[], object], signals: Sequence[signal.Signals] = ()
    ) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        self._end_thread = lambda: loop.call_soon_threadsafe(stopping.set)
        with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C still ends it
            for number in signals:
                loop.add_signal_handler(number, stopping.set)
        server = await asyncio.start_server(
            self._serve_client, sock=listening, backlog=_BACKLOG, limit=_LARGEST_HEAD
        )
        on_ready()
        await stopping.wait()
        # Accept no more before closing: asyncio's `close` leaks a connection that it is just accepting.
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.remove_reader(listening)
        for _ in range(_TURNS):
            for client in tuple(self._clients):
                client.transport.abort()
            await asyncio.sleep(0)
        server.close()

    async def _serve_client(self, reader: StreamReader, writer: StreamWriter) -> None:
        """Answer the requests of a connection in order, until one of them or the client ends it."""
        self.connections_opened += 1
        self._clients.add(writer)
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # the client has left, or the simulator stops
        finally:
            self._clients.discard(writer)
            writer.close()

    async def _exchange(self, reader: StreamReader, writer: StreamWriter) -> bool:
        """Answer one request; returns whether the connection stays open for the next."""
        try:
            head = _parse_head(await reader.readuntil(b"\r\n\r\n"))
        except (ValueError, asyncio.LimitOverrunError) as error:
            return await self._send(html_reply(400, f"400 Bad Request: {error}"), reader, writer)
        body = await reader.readexactly(head.length)
        if self.latency > 0:
            await asyncio.sleep(self.latency)
            if reader.at_eof() or writer.is_closing():  # the client has left: this does not count as a call
                return False
        return await self._send(self._reply_to(head, body), reader, writer, keeps_alive=head.keeps_alive)

    async def _send(
        self, reply: Reply, reader: StreamReader, writer: StreamWriter, *, keeps_alive: bool = False
    ) -> bool:
        """Send a reply in its manner; returns whether the connection stays open."""
        manner = reply.manner
        keeps_alive = keeps_alive and bool(manner.framing)
        head = self._head(reply, "keep-alive" if keeps_alive else "close")
        for piece in manner.pieces(head, reply.body, self.oversize_bytes):
            writer.write(piece)
            if manner is not WHOLE:  # wait for a slow client, and give other connections their turn
                await writer.drain()
                await asyncio.sleep(self.drip_pause if manner.drips else 0)
        if manner.ending is Ending.STALL:
            await reader.read()  # until the client gives up
        elif manner.ending is Ending.RESET:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
        return keeps_alive and manner.ending is Ending.KEEP

    def _head(self, reply: Reply, connection: str) -> bytes:
        more = (reply.header + reply.manner.framing).format(
            length=len(reply.body),
            oversize_bytes=self.oversize_bytes,
            retry_after=self.retry_after,
            redirect_to=self.redirect_to,
        )
        return (
            f"HTTP/1.1 {reply.status} {_PHRASES[reply.status]}\r\nContent-Type: {reply.content_type}\r\n"
            f"Connection: {connection}\r\n{more}\r\n"
        ).encode("latin-1")

    # --- Answering -------------------------------------------------------------------------------

    def _reply_to(self, head: _Head, body: bytes) -> Reply:
        match head.method, head.target:
            case "POST", target if target == PATH:
                self.headers_seen, self.last_body = head.headers, body
                return self._answer(self._request_id_in(body))
            case "GET", "/stats":
                return json_reply(200, self.stats())
            case "GET", "/calls":
                return json_reply(200, self.calls)
        return html_reply(404, "404 Not Found")

    def _request_id_in(self, body: bytes) -> str | None:
        """Read a question as strictly as documented; None if it is malformed or has wrong credentials."""
        try:
            content = json.loads(body.decode())
            app_id, secret, request_id = content["appid"], content["secret"], content["request_id"]
        except (ValueError, RecursionError, TypeError, KeyError):
            return None
        # `type`, because true is an int in Python but not a number in JSON.
        if type(app_id) is not int or not isinstance(secret, str) or not isinstance(request_id, str):
            return None
        right = self.secret if app_id == self.app_id else self.accounts.get(app_id)
        return request_id if request_id and secret == right else None

    def _answer(self, request_id: str | None) -> Reply:
        outage, asked_before = self._outage, 0
        if request_id is None:
            self.unauthorized_calls += 1
            if outage is None:
                return _REFUSED if self.auth_error_form == "body" else _REFUSED._replace(status=404)
            scenario, request_id = outage, ""
        else:
            scenario = outage or scenario_of(request_id, self.seed, self.weights)
            asked_before = self._calls[request_id] - self._calls_in_outage.get(request_id, 0)
            self._calls[request_id] += 1
            if outage:
                self._calls_in_outage[request_id] += 1
            if SCENARIOS[scenario].has_just_ended:
                self._first_asked.setdefault(request_id, self._clock())
        legs = self._legs(scenario, request_id, asked_before)
        return reply_to(scenario, legs, asked_before=asked_before, failures=self.failures)

    def _legs(self, scenario: str, request_id: str, asked_before: int) -> list[SentLeg]:
        return legs_at(
            scenario,
            request_id,
            self.seed,
            epoch=self.epoch,
            days=self.days,
            asked_before=asked_before,
            first_asked=self._first_asked.get(request_id),
        )


class _Head(NamedTuple):
    method: str
    target: str
    headers: Mapping[str, str]  # names in lower case
    length: int  # of the body, in bytes
    keeps_alive: bool


@lru_cache(maxsize=256)  # a client sends the same head over and over
def _parse_head(head: bytes) -> _Head:
    """Parse the first line and the headers, with the empty line after them.

    Raises:
        ValueError: they are malformed, or announce a body that this server does not read.
    """
    first, *lines = head.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    try:
        method, target, version = first.split(" ")
        length = int(headers.get("content-length", "0"))
    except ValueError:
        raise ValueError("the first line or the length is malformed") from None
    if not 0 <= length <= _LARGEST_BODY or "transfer-encoding" in headers:
        raise ValueError("a body needs a Content-Length of at most 1 MB")
    keeps_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Head(method, target, headers, length, keeps_alive)
