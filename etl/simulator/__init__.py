"""A stand-in for the PIOPIY API over real HTTP: for the demo, for tests and for benchmarks.

`scenarios` names what can happen, `calls` and `alterations` invent the legs, `replies` and `delivery` turn
them into bytes, `wire` and `questions` read what is asked, `listener` and `connection` own the sockets, and
`server` brings all of it together. All but the last three are pure, and importing them loads no event loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from etl.simulator.calls import legs_of
from etl.simulator.scenarios import (
    HEALTHY,
    SAMPLE_REQUEST_ID,
    SCENARIOS,
    make_request_id,
    parse_faults,
    scenario_of,
)

if TYPE_CHECKING:
    from etl.simulator.server import Simulator

__all__ = [
    "HEALTHY",
    "SAMPLE_REQUEST_ID",
    "SCENARIOS",
    "Simulator",
    "legs_of",
    "make_request_id",
    "parse_faults",
    "scenario_of",
]


def __getattr__(name: str) -> object:
    """Import the server only where it is wanted: asyncio would slow every start of the command line."""
    if name == "Simulator":
        from etl.simulator.server import Simulator  # noqa: PLC0415 (the point of this function)

        return Simulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
