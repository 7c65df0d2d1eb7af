"""`cdr-sync simulator`: the stand-in for the API, on its own."""

from __future__ import annotations

import os
from datetime import timedelta

import click

from etl.cli.options import DURATION
from etl.errors import UsageError
from etl.simulator.scenarios import SCENARIOS, parse_faults
from etl.simulator.server import Simulator


@click.command("simulator")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0 chooses a free port."
)
@click.option("--seed", type=int, default=1, show_default=True, help="What the invented calls depend on.")
@click.option("--latency", type=DURATION, default="0", help="Time that each answer takes, such as 0.05s.")
@click.option(
    "--faults", metavar="SPEC", default="", help="Shares of scenarios: none=0.02,flaky_500=0.05, or demo."
)
@click.option("--list", "lists", is_flag=True, help="List the scenarios and exit.")
def command(port: int, seed: int, latency: timedelta, faults: str, *, lists: bool) -> None:
    """Run a stand-in for the API on this machine, until Ctrl-C.

    It answers like PIOPIY where that is documented, and in every suspected way where it is not. An ID such
    as late-1 gets the scenario of that name. GET /stats returns how often it was asked.
    """
    if lists:
        for name, scenario in SCENARIOS.items():
            click.echo(f"{name:20} {scenario.description}")
        return
    try:
        weights = parse_faults(faults)
    except ValueError as error:
        raise UsageError(f"--faults: {error}") from None
    simulator = Simulator(port, seed, latency=latency.total_seconds(), weights=weights)

    def print_settings() -> None:
        click.echo(f"export CDR_SYNC_API_URL={simulator.url}")
        click.echo(f"export PIOPIY_APP_ID={simulator.app_id} PIOPIY_SECRET={simulator.secret}")
        click.echo("Stop with Ctrl-C.", err=True)

    try:
        simulator.serve_forever(on_ready=print_settings)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise UsageError(
            f"cannot listen on port {port}: {reason}", remedy="Use another --port, or 0"
        ) from error
