"""Answers that hurt: they drip, stall, break off, swell or lead astray. They cost their own request alone."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from time import monotonic

import pytest
import requests
from support.operators import finish
from support.systems import a_moment, numbered

from etl.db.tables import cdr_requests, metadata
from etl.piopiy import http1
from etl.piopiy.client import CdrApi, HttpAnswer
from etl.simulator.server import Simulator

DRIP = 0.03  # seconds per byte: ten or more for an answer, and much less between two bytes
DEADLINE = 4.0  # which a good answer meets on a busy machine too
WITHOUT_LIMIT = "from etl.piopiy.client import CdrApi; CdrApi.__init__.__kwdefaults__['max_bytes'] = 10**12"
needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")


KINDS = {
    "drip_body": "timeout",
    "drip_headers": "timeout",
    "stall_headers": "timeout",
    "stall_body": "timeout",
    "reset": "connection",
    "empty_reply": "connection",
    "cut": "malformed",  # nothing but the JSON says that the body is not whole
    "truncated": "connection",
}


def hurts(number, *scenarios):
    return pytest.param(scenarios, marks=pytest.mark.fault(number), id=" ".join(scenarios))


@pytest.mark.parametrize(
    "scenarios",
    [
        hurts(19, "drip_body"),
        hurts(20, "drip_headers"),
        hurts(21, "stall_headers", "stall_body", "reset", "empty_reply"),
        hurts(22, "cut", "truncated"),
    ],
)
def test_an_answer_that_hurts_is_the_failure_of_its_own_request(site, scenarios):
    site.simulator.drip_pause = DRIP
    deadline = 60 if "cut" in scenarios else DEADLINE  # only what is slow is to meet it
    good, bad = numbered("answered", 12), [f"{scenarios[turn % len(scenarios)]}-{turn}" for turn in range(12)]
    site.enqueue(*(name for pair in zip(good, bad, strict=True) for name in pair))
    summaries = site.work_off(site.settings(workers=12, max_attempts=2, request_timeout=deadline))
    dead = site.rows(cdr_requests, state="dead")

    assert site.states() == {"done": 12, "dead": 12}
    assert kinds_of(dead) == {name: KINDS[name] for name in scenarios}
    assert {(row["attempts"], row["leg_count"]) for row in dead} == {(2, 0)}
    assert {site.simulator.calls[name] for name in bad} == {2}
    assert {summary.exit_code for summary in summaries} <= {0, 65}
    assert not site.is_breaker_open()
    site.report(f"{', '.join(scenarios)}: dead after two attempts, the neighbours done")


def kinds_of(rows):
    return {row["request_id"].partition("-")[0]: row["last_error_kind"] for row in rows}


# Negative controls: what is one request's failure above does its harm once the guard is taken out.


@pytest.mark.databases("sqlite")
@pytest.mark.parametrize("scenario", ["drip_body", "drip_headers"])
def test_without_one_deadline_for_all_of_a_call_it_lasts_as_long_as_the_api_likes(
    site, scenario, monkeypatch
):
    monkeypatch.setattr(http1, "_left", lambda _ends_at: DEADLINE)  # each step has all of the time
    site.simulator.drip_pause = DRIP
    site.enqueue(f"{scenario}-1")
    began = monotonic()
    site.sync(site.settings(request_timeout=DEADLINE), seconds=240)

    assert monotonic() - began > 2 * DEADLINE
    assert site.states() == {"done": 1}


# Memory


def peak_megabytes(process):
    """The most memory that a process had at once, until its end."""
    peak = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process.pid}/status").read_text()
            peak = max([peak, *map(int, re.findall(r"VmHWM:\s+(\d+) kB", status))])
        a_moment(0.01)
    return peak / 1024


@needs_proc
@pytest.mark.fault(23)
def test_bombs_and_bodies_without_end_leave_memory_flat(site):
    site.simulator.oversize_bytes = 10**12
    site.enqueue(*numbered("answered", 5), *numbered("gzip_bomb", 8), *numbered("oversize", 8))
    process = site.start("sync", CDR_SYNC_MAX_ATTEMPTS="1")
    peak = peak_megabytes(process)
    finished = finish(process)
    dead = site.rows(cdr_requests, state="dead")

    assert peak < 150
    assert (finished.code, finished.stdout) == (65, "")
    assert len(finished.events) == 1
    assert re.match(r"16 requests became dead, such as (gzip_bomb|oversize)-\d \(", finished.events[0])
    assert site.states() == {"done": 5, "dead": 16}
    assert kinds_of(dead) == {
        "gzip_bomb": "too_large",
        "oversize": "too_large",
    }
    assert not site.is_breaker_open()
    site.report("memory stays below 150 MB")


@needs_proc
@pytest.mark.databases("sqlite")
def test_without_a_largest_body_one_bomb_fills_the_memory(site):
    site.enqueue("gzip_bomb-1")
    process = site.start_changed(WITHOUT_LIMIT, "sync", CDR_SYNC_TRIES="1")
    peak = peak_megabytes(process)
    finish(process)

    assert peak > 250


# Redirects


@pytest.fixture
def elsewhere():
    """Another host, which would take the secret if it came along."""
    with Simulator() as running:
        yield running


def redirect_to(site, elsewhere):
    site.simulator.redirect_to = elsewhere.url.replace("127.0.0.1", "localhost")


def stored_and_written(site):
    """All that the database and the home folder hold, as one text."""
    rows = [str(dict(row)) for table in metadata.sorted_tables for row in site.rows(table)]
    files = [path.read_text(errors="replace") for path in site.operator.home.rglob("*") if path.is_file()]
    return "\n".join([*rows, *files])


@pytest.mark.fault(24)
def test_a_redirect_to_another_host_takes_the_secret_nowhere(site, elsewhere):
    redirect_to(site, elsewhere)
    site.enqueue(*numbered("answered", 3), *numbered("redirect", 6))
    finished = site.run("--verbose", "sync", CDR_SYNC_MAX_ATTEMPTS="1")
    row = site.request("redirect-0")

    assert (elsewhere.connections_opened, elsewhere.total_calls) == (0, 0)
    assert finished.code == 65
    assert site.states() == {"done": 3, "dead": 6}
    assert (row["last_error_kind"], row["last_http_status"]) == ("redirected", 307)
    assert "localhost" in row["last_error"]
    assert site.simulator.secret not in finished.all + stored_and_written(site)
    site.report("the other host was not even connected to")


@pytest.mark.databases("sqlite")
def test_a_client_that_follows_takes_the_secret_along(site, elsewhere, monkeypatch):
    redirect_to(site, elsewhere)
    site.enqueue("redirect-1")

    def follow(api, request_id, credentials):
        question = {"appid": credentials.app_id, "secret": credentials.secret, "request_id": request_id}
        answer = requests.post(api._request.url, json=question, timeout=5)
        return HttpAnswer(answer.status_code, answer.content, None)

    monkeypatch.setattr(CdrApi, "fetch_answer", follow)
    site.sync()

    assert site.simulator.secret.encode() in elsewhere.last_body
