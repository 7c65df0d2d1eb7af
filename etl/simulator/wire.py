"""Requests in HTTP/1.1, read from whatever pieces of bytes arrive.

Parsed by hand, since a general library would take several times as long as the answer itself. It reads
what a client of this API sends (a body with `Content-Length`) and refuses the rest. Pure: no sockets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

_LARGEST_HEAD, _LARGEST_BODY = 64 * 1024, 1024 * 1024


class BadRequestError(Exception):
    """What arrived is no request that this server reads."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; the names of its headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    keeps_alive: bool


class _Head(NamedTuple):
    method: str
    target: str
    headers: Mapping[str, str]
    length: int
    keeps_alive: bool


class RequestReader:
    """Gathers bytes until they are a request."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head: _Head | None = None

    @property
    def has_bytes(self) -> bool:
        """Whether bytes of a next request have already arrived."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take the next bytes, wherever they were cut."""
        self._buffer += data

    def next_request(self) -> Request | None:
        """Return the next whole request, or None while one is incomplete.

        Raises:
            BadRequestError: no request can come of these bytes.
        """
        if self._head is None and not self._read_head():
            return None
        head = self._head
        if head is None or len(self._buffer) < head.length:
            return None
        body = bytes(self._buffer[: head.length])
        del self._buffer[: head.length]
        self._head = None
        return Request(head.method, head.target, head.headers, body, head.keeps_alive)

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > _LARGEST_HEAD:
                raise BadRequestError("the headers do not end")
            return False
        self._head = _parse_head(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        return True


@lru_cache(maxsize=256)  # a client sends the same head over and over
def _parse_head(head: bytes) -> _Head:
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    try:
        method, target, version = first.split(" ")
        length = int(headers.get("content-length", "0"))
    except ValueError:
        raise BadRequestError("the first line or the length is malformed") from None
    if not 0 <= length <= _LARGEST_BODY or "transfer-encoding" in headers:
        raise BadRequestError("bodies need a Content-Length of at most 1 MB")
    keeps_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return _Head(method, target, headers, length, keeps_alive)
