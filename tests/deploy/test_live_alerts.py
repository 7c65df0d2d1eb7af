"""The alerts, fired and cleared: real runs write their metrics, node_exporter reads them, Prometheus judges.

Time is short here, and nothing else is changed: each duration of the rules is a three-hundredth. What has to
be old is written by a run whose clock is behind.
"""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from contextlib import ExitStack

import pytest
from support.clocks import LIBFAKETIME, hurried, shifted
from support.operators import wait_until
from support.servers import do_without, free_port
from support.tools import program
from test_alerts import RULES

pytestmark = pytest.mark.heavy

FASTER = 300
MILLISECONDS = {"m": 60_000, "s": 1_000}
A_WHILE_AGO = -20 * 60  # seconds
HURRY = 100_000  # in which the few milliseconds of an idle run are minutes


def hasten(rules):
    """Divide the durations of rules: of `for`, and of `offset`; thresholds in seconds stay what they are."""

    def shorter(match):
        milliseconds = int(match[2]) * MILLISECONDS[match[3]] // FASTER
        return f"{match[1]} {milliseconds}ms"

    return re.sub(r"(for:|offset) (\d+)([ms])\b", shorter, rules)


class Watch:
    """Prometheus and node_exporter, each a process on a port of its own, which look every quarter second."""

    def __init__(self, folder, closing):
        self.textfiles = folder / "textfiles"
        self.textfiles.mkdir()
        self.port, exporter_port = free_port(), free_port()
        (folder / "rules.yml").write_text(hasten(RULES.read_text()))
        configuration = {
            "global": {"scrape_interval": "250ms", "scrape_timeout": "250ms", "evaluation_interval": "250ms"},
            "rule_files": ["rules.yml"],
            "scrape_configs": [
                {"job_name": "node", "static_configs": [{"targets": [f"127.0.0.1:{exporter_port}"]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(configuration))  # which is YAML, too
        commands = (
            (
                program("prometheus-node-exporter", "apt-get install prometheus-node-exporter"),
                f"--web.listen-address=127.0.0.1:{exporter_port}",
                "--collector.disable-defaults",
                "--collector.textfile",
                f"--collector.textfile.directory={self.textfiles}",
            ),
            (
                program("prometheus", "apt-get install prometheus"),
                f"--web.listen-address=127.0.0.1:{self.port}",
                "--config.file=prometheus.yml",
                f"--storage.tsdb.path={folder / 'data'}",
            ),
        )
        with (folder / "log").open("wb") as log:
            for command in commands:
                process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
                closing.callback(process.wait)
                closing.callback(process.kill)

    def firing(self):
        """The names of the alerts that fire; None as long as Prometheus does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/v1/alerts", timeout=5) as answer:
                alerts = json.load(answer)["data"]["alerts"]
        except OSError:
            return None
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    def wait_for(self, *names):
        """Wait until these alerts fire, and no others."""
        seen = []

        def is_so():
            seen.append(self.firing())
            return seen[-1] == set(names)

        try:
            wait_until(is_so, every=0.05)
        except AssertionError:
            pytest.fail(f"these fire: {seen[-1]}, and not {set(names)}")


@pytest.fixture(scope="module")
def watch(tmp_path_factory):
    with ExitStack() as closing:
        watch = Watch(tmp_path_factory.mktemp("watch"), closing)
        watch.wait_for("CdrSyncNoRun", "CdrSyncNoSuccess")  # no machine has reported a run
        yield watch


@pytest.fixture
def job(site, watch):
    """A machine whose runs write their metrics where node_exporter reads them."""
    site.environment |= {
        "CDR_SYNC_DATABASE_URL": f"sqlite:///{site.database}",
        "CDR_SYNC_API_URL": site.given["CDR_SYNC_API_URL"],
        "CDR_SYNC_METRICS_FILE": str(watch.textfiles / "cdr-sync.prom"),
        "CDR_SYNC_TRIES": "1",
        "PIOPIY_APP_ID": "2222222",
        "PIOPIY_SECRET_FILE": str(site.secrets / "secret"),
    }
    site.rows("DELETE FROM cdr_requests")
    return site


def run(job, code=0):
    result = job.type("sync")

    assert result.exit_code == code, result.output


def run_by_clock(job, clock):
    if not LIBFAKETIME.exists():
        do_without("no libfaketime: apt-get install libfaketime")
    finished = job.run("sync", **clock)

    assert (finished.code, finished.all) == (0, "")


def run_a_while_ago(job):
    run_by_clock(job, shifted(A_WHILE_AGO))


def enqueue_long_due(job, *request_ids):
    for request_id in request_ids:
        job.rows(
            "INSERT INTO cdr_requests (request_id, run_after) VALUES (?, datetime('now', '-20 minutes'))",
            request_id,
        )


def test_runs_that_came_to_an_end_are_missed_until_they_come_again(job, watch):
    run(job)
    watch.wait_for()
    run_a_while_ago(job)
    watch.wait_for("CdrSyncNoRun", "CdrSyncNoSuccess")
    run(job)
    watch.wait_for()


def test_an_api_that_is_down_alerts_until_it_works_again(job, watch, simulator):
    run_a_while_ago(job)
    enqueue_long_due(job, *(f"answered-{number}" for number in range(9)))
    simulator.outage = "error_503"
    run(job, 69)
    watch.wait_for("CdrSyncBreakerOpen", "CdrSyncQueueLate", "CdrSyncNoSuccess")
    simulator.outage = None
    run(job)
    watch.wait_for()


def test_refused_credentials_alert_until_they_are_right(job, watch, simulator):
    run(job)
    job.type("enqueue", *(f"answered-{number}" for number in range(9)))
    simulator.secret = "another"
    run(job, 77)
    watch.wait_for("CdrSyncRunFails", "CdrSyncBreakerOpen")
    (job.secrets / "secret").write_text("another\n")
    run(job)
    watch.wait_for()


def test_dead_requests_alert_for_a_while_and_the_job_goes_on(job, watch):
    run(job)
    watch.wait_for()
    job.type("enqueue", "answered-1", "malformed_money-1")
    run(job, 65)
    watch.wait_for("CdrSyncRequestsDied")
    run(job)
    watch.wait_for()

    assert job.states() == {"done": 1, "dead": 1}


def test_a_run_of_minutes_alerts_until_one_is_short_again(job, watch):
    run(job)
    watch.wait_for()
    run_by_clock(job, hurried(HURRY))
    watch.wait_for("CdrSyncLongRun")
    run(job)
    watch.wait_for()
