"""A stand-in for the PIOPIY API over real HTTP, for the demo, the tests and the benchmarks.

`calls` invents legs, `scenarios` is the table of everything that the API can do with them, and `server` sends
it over sockets. The first two are pure, and importing this package does not load asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    "make_request_id",
    "parse_faults",
    "scenario_of",
]


def __getattr__(name: str) -> object:
    """Import the server only when it is used: asyncio would slow down every start of the command line."""
    if name == "Simulator":
        from etl.simulator.server import Simulator  # noqa: PLC0415 (the purpose of this function)

        return Simulator
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
