"""One connection of a client: requests in, replies out in their manner, one after the other."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Iterator
from typing import Protocol, cast

from etl.simulator.delivery import Delivery, Ending, deliver
from etl.simulator.replies import html_reply
from etl.simulator.wire import BadRequestError, Request, RequestReader

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds


class Service(Protocol):
    """What a connection asks: how long to wait, and then what to send."""

    latency: float

    def deliver_to(self, request: Request) -> Delivery:
        """Answer one request."""


class Connection(asyncio.Protocol):
    """Speaks HTTP/1.1 with keep-alive; a request that comes before its predecessor's reply waits."""

    def __init__(self, service: Service, connections: set[Connection]) -> None:
        self._service = service
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._reader = RequestReader()
        self._is_busy = False
        self._is_paused = False
        self._timer: asyncio.Handle | None = None
        self._pieces: Iterator[bytes] = iter(())
        self._delivery = Delivery((), Ending.KEEP)

    def abort(self) -> None:
        """Drop the connection, whatever it is doing."""
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 (asyncio's)
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002, D102 (asyncio's)
        self._connections.discard(self)
        self._pieces = iter(())
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:  # noqa: D102 (asyncio's)
        self._reader.feed(data)
        if not self._is_busy:
            self._take_next()

    def pause_writing(self) -> None:  # noqa: D102 (asyncio's)
        self._is_paused = True

    def resume_writing(self) -> None:  # noqa: D102 (asyncio's)
        self._is_paused = False
        if self._is_busy and self._timer is None:
            self._send_next()

    def _take_next(self) -> None:
        self._timer = None
        try:
            request = self._reader.next_request()
        except BadRequestError as error:
            self._is_busy = True
            self._send(deliver(html_reply(400, f"400 Bad Request: {error}"), keeps_alive=False))
            return
        self._is_busy = request is not None
        if request is None:
            return
        latency = self._service.latency
        if latency > 0:
            self._timer = self._loop.call_later(latency, self._answer, request)
        else:
            self._answer(request)

    def _answer(self, request: Request) -> None:
        self._send(self._service.deliver_to(request))

    def _send(self, delivery: Delivery) -> None:
        self._delivery = delivery
        self._pieces = iter(delivery.pieces)
        self._send_next()

    def _send_next(self) -> None:
        """Send one piece and come back for the next, so that other connections have their turn between."""
        self._timer = None
        if self._transport.is_closing() or self._is_paused:
            return
        piece = next(self._pieces, None)
        if piece is None:
            self._end()
            return
        self._transport.write(piece)
        if self._delivery.pause:
            self._timer = self._loop.call_later(self._delivery.pause, self._send_next)
        elif isinstance(self._delivery.pieces, tuple):
            self._send_next()
        else:
            self._timer = self._loop.call_soon(self._send_next)

    def _end(self) -> None:
        match self._delivery.ending:
            case Ending.KEEP:
                self._is_busy = self._reader.has_bytes
                if (
                    self._is_busy
                ):  # not at once: a client that sends many requests ahead would deepen the stack
                    self._timer = self._loop.call_soon(self._take_next)
            case Ending.CLOSE:
                self._transport.close()
            case Ending.RESET:
                connected: socket.socket = self._transport.get_extra_info("socket")
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                self._transport.abort()
            case Ending.STALL:
                pass
