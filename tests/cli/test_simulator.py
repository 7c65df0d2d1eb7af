"""`cdr-sync simulator`."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request

import pytest
from support.commands import mistake
from support.operators import finish

from etl.simulator.scenarios import SCENARIOS


def test_the_simulator_lists_its_scenarios_with_nothing_configured(new_operator):
    result = new_operator.type("simulator", "--list")

    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines()] == list(SCENARIOS)


@pytest.mark.parametrize(
    ("spec", "named"),
    [("no_such=0.1", "no_such"), ("none=2", "none"), ("none", "none"), ("none=0.9,late=0.9", "1.8")],
)
def test_wrong_shares_of_scenarios_are_a_mistake(new_operator, spec, named):
    result = new_operator.type("simulator", "--faults", spec)

    assert result.exit_code == 2
    assert named in mistake(result)


def test_the_simulator_runs_until_it_is_stopped_and_says_how_to_use_it(new_operator):
    process = new_operator.start("simulator", "--port", 0, "--faults", "none=1")
    lines = [process.stdout.readline().decode() for _ in range(2)]
    printed = subprocess.run(
        ["/bin/sh"], input=f"{''.join(lines)}env", capture_output=True, text=True, check=True
    )
    names = ("CDR_SYNC_API_URL", "PIOPIY_APP_ID", "PIOPIY_SECRET")
    settings = dict(line.split("=", 1) for line in printed.stdout.splitlines() if line.startswith(names))
    ours = new_operator.type("fetch", "x", **settings)
    stats = settings["CDR_SYNC_API_URL"].replace("/v1/piopiy/requestid_cdr", "/stats")
    with urllib.request.urlopen(stats, timeout=10) as answer:  # noqa: S310 (an address of our own)
        counted = json.load(answer)
    process.terminate()
    finished = finish(process)

    assert json.loads(ours.stdout)["cdr"] == []
    assert counted["total"] == 1
    assert finished.code in (0, 143)
    assert "Traceback" not in finished.stderr


def test_a_port_that_is_taken_is_a_mistake(new_operator):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = new_operator.type("simulator", "--port", port)

    assert result.exit_code == 2
    assert str(port) in mistake(result)
