"""PostgreSQL's driver, whose waits have no end of their own: here each of them gets one.

The server's own time-outs end a statement only where the server can still be heard. A network that swallows
everything, or a frozen server, would keep a command for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from time import monotonic
from typing import Any

import psycopg


def bounded_connect(seconds: float) -> Callable[..., psycopg.Connection[Any]]:
    """Give what makes connections that wait for an answer no longer than this."""

    class BoundedConnection(psycopg.Connection[Any]):
        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
            return super().wait(self._until(gen, monotonic() + seconds), *args, **kwargs)

        def _until(self, gen: Generator[Any, Any, Any], ends_at: float) -> Generator[Any, Any, Any]:
            """The driver's own steps, each of which says what it waits for and is told what came."""
            try:
                wanted = next(gen)
                while True:
                    came = yield wanted
                    if not came and monotonic() > ends_at:
                        self.pgconn.finish()  # nobody knows in which state it is
                        raise psycopg.OperationalError(f"no answer from the server within {seconds:g} s")
                    wanted = gen.send(came)
            except StopIteration as end:
                return end.value

    return BoundedConnection.connect
