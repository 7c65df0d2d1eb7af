"""A listening socket on the loopback, served in a thread of its own or in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable
from typing import Self

from etl.simulator.connection import Connection
from etl.simulator.delivery import Delivery
from etl.simulator.wire import Request

_BACKLOG = 1024
_TURNS = 10  # more turns of the loop than a connection needs that is being accepted while the listener stops


class Listener:
    """Listens while its `with` block lasts, or from `start` to `stop`.

    Stopped and started again it has the same port, so that a client sees refused connections in between.
    """

    def __init__(self, port: int, host: str) -> None:
        self.host = host
        self.port = port  # from the first start on, the port that the system chose where this was 0
        self.latency = 0.0
        self.connections_opened = 0
        self._connections: set[Connection] = set()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None

    def deliver_to(self, request: Request) -> Delivery:
        """Answer one request; what is listening says how."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Listen in a background thread; returns once connections are accepted.

        Raises:
            OSError: the port cannot be had.
        """
        if self._thread is not None:
            raise RuntimeError("the simulator is running already")
        listening = self._listen()
        is_ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._serve(listening, is_ready.set)), name="simulator", daemon=True
        )
        self._thread.start()
        is_ready.wait()

    def stop(self) -> None:
        """Stop listening and drop all connections; nothing happens where it is not running."""
        if self._thread is None or self._loop is None or self._stopping is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = self._stopping = None

    def serve_forever(self, on_ready: Callable[[], object] = lambda: None) -> None:
        """Serve in this thread until SIGINT or SIGTERM, calling `on_ready` once connections are accepted.

        Raises:
            OSError: the port cannot be had.
        """
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(self._serve(self._listen(), on_ready, signals=(signal.SIGINT, signal.SIGTERM)))

    def _listen(self) -> socket.socket:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((self.host, self.port))
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        self.port = listening.getsockname()[1]
        return listening

    def _accept(self) -> Connection:
        self.connections_opened += 1
        return Connection(self, self._connections)

    async def _serve(
        self,
        listening: socket.socket,
        on_ready: Callable[[], object],
        signals: tuple[signal.Signals, ...] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        for number in signals:
            with contextlib.suppress(NotImplementedError):  # on Windows, where Ctrl-C still ends it
                self._loop.add_signal_handler(number, self._stopping.set)
        server = await self._loop.create_server(self._accept, sock=listening, backlog=_BACKLOG)
        on_ready()
        await self._stopping.wait()
        await self._drop_all(listening)
        server.close()
        await server.wait_closed()

    async def _drop_all(self, listening: socket.socket) -> None:
        """Accept nobody any more, and drop those who were.

        asyncio's own `close` trips over a connection that it is accepting at that moment, and leaks it.
        """
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NotImplementedError):  # on Windows
            loop.remove_reader(listening)
        for _ in range(_TURNS):
            for connection in tuple(self._connections):
                connection.abort()
            await asyncio.sleep(0)
