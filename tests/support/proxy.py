"""A small TCP proxy in front of a database server that does to connections what networks do."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from typing import Self

_PIECE = 65_536
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, zero seconds


class Proxy:
    """Passes bytes on until a fault is switched on; a fault applies to new connections too.

    Attributes:
        port: where it listens, on the loopback.
        is_black_hole: connections are accepted and their bytes silently dropped.
        refuses: new connections are reset.
        loses_reply_of: the reply to the next message from a client that holds these bytes is lost, and
            the connection with it; then this is None again.
        lost: how many replies were lost.
        lost_reply: the last of them, which proves what the server did.
    """

    def __init__(self, target_port: int) -> None:
        self.is_black_hole = False
        self.refuses = False
        self.loses_reply_of: bytes | None = None
        self.lost = 0
        self.lost_reply = b""
        self._target = ("127.0.0.1", target_port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._pairs: list[_Pair] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        """Reset every connection that there is."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            pair.close()

    @property
    def connections(self) -> int:
        """How many connections there are."""
        with self._lock:
            self._pairs = [pair for pair in self._pairs if not pair.is_closed]
            return len(self._pairs)

    def takes_reply(self, message: bytes) -> bool:
        """Whether this message is the one whose reply is to be lost."""
        with self._lock:
            if self.loses_reply_of is None or self.loses_reply_of not in message:
                return False
            self.loses_reply_of = None
            self.lost += 1
            return True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuses:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _reset(client)
                continue
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs.append(pair)
            pair.start()


class _Pair:
    """One client's connection, and the one to the server."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy, self._client, self._server = proxy, client, server
        self._loses_reply = False
        self.is_closed = False

    def start(self) -> None:
        for pump in (self._ask, self._answer):
            threading.Thread(target=self._run, args=(pump,), daemon=True).start()

    def close(self) -> None:
        self.is_closed = True
        _reset(self._client)
        _reset(self._server)

    def _run(self, pump) -> None:
        with contextlib.suppress(OSError):
            pump()
        self.close()

    def _ask(self) -> None:
        while message := self._client.recv(_PIECE):
            if self._proxy.is_black_hole:
                continue
            self._loses_reply = self._loses_reply or self._proxy.takes_reply(message)
            self._server.sendall(message)

    def _answer(self) -> None:
        while message := self._server.recv(_PIECE):
            if self._loses_reply:
                self._proxy.lost_reply = message
                return
            if not self._proxy.is_black_hole:
                self._client.sendall(message)


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it
    connection.close()
