"""How a run ends, for those who tell others of it when it is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from etl.cli import exit_code_of


@contextmanager
def at_its_end(tell: Callable[[int], None]) -> Iterator[None]:
    """Call `tell` when a block is over, however it ends, with the exit code that its end means.

    A signal that comes meanwhile ends the telling, and changes nothing else.
    """
    exit_code = 0
    try:
        yield
    except BaseException as error:
        exit_code = exit_code_of(error)
        raise
    finally:
        with suppress(KeyboardInterrupt, SystemExit):
            tell(exit_code)
