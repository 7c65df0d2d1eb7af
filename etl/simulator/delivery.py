"""Replies as pieces of bytes to send, and what becomes of the connection after them. Pure: no sockets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from itertools import chain

from etl.simulator.replies import Manner, Reply

_PIECE = b" " * 65_536
_PHRASES = {
    200: "OK",
    307: "Temporary Redirect",
    400: "Bad Request",
    404: "Not Found",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


class Ending(Enum):
    """What becomes of the connection once the pieces are sent."""

    KEEP = auto()
    CLOSE = auto()
    RESET = auto()
    STALL = auto()


@dataclass(frozen=True, slots=True)
class Delivery:
    """Pieces to send, a pause in seconds after each of them, and how it ends."""

    pieces: Iterable[bytes]
    ending: Ending
    pause: float = 0.0


_FRAMINGS: Mapping[Manner, str] = {
    Manner.CHUNKED: "Transfer-Encoding: chunked",
    Manner.CUT: "",
    Manner.ENDLESS: "",
}
_ENDINGS: Mapping[Manner, Ending] = {
    Manner.RESET: Ending.RESET,
    Manner.EMPTY: Ending.CLOSE,
    Manner.STALLED_HEADERS: Ending.STALL,
    Manner.STALLED_BODY: Ending.STALL,
    Manner.TRUNCATED: Ending.CLOSE,
}
_DRIPPING = frozenset({Manner.DRIPPED, Manner.DRIPPED_BODY})


def deliver(
    reply: Reply, *, keeps_alive: bool, drip_pause: float = 1.0, oversize_bytes: int = 64_000_000
) -> Delivery:
    """Turn a reply into what goes over the wire, in its manner."""
    body = reply.body
    framing = f"Content-Length: {oversize_bytes if reply.manner is Manner.LARGE else len(body)}"
    framing = _FRAMINGS.get(reply.manner, framing)
    keeps_alive = keeps_alive and bool(framing)
    head = _head(reply.status, reply.content_type, reply.headers, framing, keeps_alive=keeps_alive)
    pieces: Iterable[bytes]
    match reply.manner:
        case Manner.RESET | Manner.EMPTY:
            pieces = ()
        case Manner.STALLED_HEADERS:
            pieces = (head[: len(head) // 2],)
        case Manner.STALLED_BODY | Manner.TRUNCATED | Manner.CUT:
            pieces = (head + body[: len(body) // 2],)
        case Manner.DRIPPED:
            pieces = _bytewise(head + body)
        case Manner.DRIPPED_BODY:
            pieces = chain((head,), _bytewise(body))
        case Manner.ENDLESS | Manner.LARGE:
            pieces = chain((head,), _blanks(oversize_bytes))
        case Manner.CHUNKED:
            pieces = (head, *_chunks(body))
        case Manner.WHOLE:
            pieces = (head + body,)
    ending = _ENDINGS.get(reply.manner, Ending.KEEP if keeps_alive else Ending.CLOSE)
    return Delivery(pieces, ending, drip_pause if reply.manner in _DRIPPING else 0.0)


@lru_cache(maxsize=4096)  # most answers differ in their length alone
def _head(
    status: int, content_type: str, headers: tuple[tuple[str, str], ...], framing: str, *, keeps_alive: bool
) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_PHRASES[status]}",
        f"Content-Type: {content_type}",
        "Connection: keep-alive" if keeps_alive else "Connection: close",
        *(f"{name}: {value}" for name, value in headers),
        *((framing,) if framing else ()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _chunks(body: bytes) -> Iterator[bytes]:
    for start in range(0, len(body), 100):
        chunk = body[start : start + 100]
        yield b"%x\r\n%b\r\n" % (len(chunk), chunk)
    yield b"0\r\n\r\n"


def _bytewise(data: bytes) -> Iterator[bytes]:
    return (data[position : position + 1] for position in range(len(data)))


def _blanks(length: int) -> Iterator[bytes]:
    """Blanks, which JSON allows anywhere, so that only their number is wrong; memory stays flat."""
    for _ in range(length // len(_PIECE)):
        yield _PIECE
    yield _PIECE[: length % len(_PIECE)]
