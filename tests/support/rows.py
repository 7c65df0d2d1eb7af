"""Old names of `support.builders`."""

from support.builders import AN_INSTANT
from support.builders import fill_tables as fill

__all__ = ["AN_INSTANT", "fill"]
