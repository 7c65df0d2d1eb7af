"""What a request costs: the whole job beside fetching alone, in one run, as ratios.

    python benchmarks/job.py [--requests 5000] [--workers 32] [--latency 0.02] [--repeat 3]

Each part runs in a process of its own against one simulator process, and reports the CPU that it used and
the time that it took. `plain` is `requests.Session.post` in threads; `tuned` is this project's client in
threads, with nothing read or stored; `job` is `cdr-sync sync` on a fresh database. Only the ratios mean
anything: the figures themselves depend on the machine and on what else it does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

APP_ID, SECRET = 2222222, "simulated-secret"


def main() -> None:
    """Run all parts, and print a table of medians."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("part", nargs="?", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--requests", type=int, default=5_000)
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.02)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.part is not None:
        PARTS[options.part](options)
        return
    with tempfile.TemporaryDirectory() as folder:
        simulator, url = start_simulator(options.latency)
        repeats = range(options.repeat)
        try:
            measured = {
                part: [measure(part, options, url, Path(folder) / f"{part}{n}") for n in repeats]
                for part in PARTS
            }
        finally:
            simulator.terminate()
            simulator.wait()
    report(options, measured)


def start_simulator(latency: float) -> tuple[subprocess.Popen[str], str]:
    """Start the stand-in of the API in a process of its own."""
    command = [sys.executable, "-m", "etl", "simulator", "--port", "0", "--latency", str(latency)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    return process, process.stdout.readline().strip().removeprefix("export CDR_SYNC_API_URL=")


def measure(part: str, options: argparse.Namespace, url: str, folder: Path) -> tuple[float, float]:
    """CPU and wall seconds of one part, its start-up and imports included."""
    folder.mkdir()
    environment = {
        **os.environ,
        "CDR_SYNC_DATABASE_URL": f"sqlite:///{folder / 'cdr.sqlite3'}",
        "CDR_SYNC_API_URL": url,
        "CDR_SYNC_WORKERS": str(options.workers),
        "PIOPIY_APP_ID": str(APP_ID),
        "PIOPIY_SECRET": SECRET,
    }
    if part == "job":
        listed = "\n".join(request_ids(options.requests))
        enqueue = [sys.executable, "-m", "etl", "enqueue", "--from-file", "-"]
        quiet = subprocess.DEVNULL
        subprocess.run(enqueue, input=listed, text=True, env=environment, check=True, stdout=quiet)
        command = [sys.executable, "-m", "etl", "sync"]
    else:
        arguments = ["--requests", str(options.requests), "--workers", str(options.workers), "--url", url]
        command = [sys.executable, __file__, part, *arguments]
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, env=environment, check=True)
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def report(options: argparse.Namespace, measured: dict[str, list[tuple[float, float]]]) -> None:
    """Print the medians, and what each is of plain fetching and of the ideal wall time."""
    ideal = options.requests * options.latency / options.workers
    machine = f"{platform.platform()}, {os.cpu_count()} cores"
    print(f"{machine}, Python {platform.python_version()}, {time.strftime('%F')}")
    print(f"{options.requests} requests, {options.workers} threads, {options.latency * 1000:g} ms latency\n")
    print(f"{'part':8} {'CPU ms/request':>15} {'of plain':>9} {'of tuned':>9} {'wall s':>8} {'of ideal':>9}")
    cpu = {part: statistics.median(one[0] for one in runs) for part, runs in measured.items()}
    for part, runs in measured.items():
        wall = statistics.median(one[1] for one in runs)
        each = cpu[part] / options.requests * 1000
        print(
            f"{part:8} {each:15.2f} {cpu[part] / cpu['plain']:9.2f} {cpu[part] / cpu['tuned']:9.2f}"
            f" {wall:8.2f} {wall / ideal:9.2f}"
        )


def request_ids(count: int) -> list[str]:
    """The IDs that every part asks for."""
    from etl.simulator.scenarios import make_request_id

    return [make_request_id(number) for number in range(count)]


def in_threads(options: argparse.Namespace, make_fetch: Callable[[], Callable[[str], object]]) -> None:
    """Fetch all requests with long-lived threads, each with a session of its own."""
    inbox: SimpleQueue[str] = SimpleQueue()
    for request_id in request_ids(options.requests):
        inbox.put(request_id)

    def work() -> None:
        fetch = make_fetch()
        while True:
            try:
                fetch(inbox.get_nowait())
            except Empty:
                return

    threads = [threading.Thread(target=work) for _ in range(options.workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def plain(options: argparse.Namespace) -> None:
    """`requests` as most would use it."""
    import requests

    def make_fetch() -> Callable[[str], object]:
        session = requests.Session()

        def fetch(request_id: str) -> object:
            body = {"appid": APP_ID, "secret": SECRET, "request_id": request_id}
            return session.post(options.url, json=body, timeout=30).json()

        return fetch

    in_threads(options, make_fetch)


def tuned(options: argparse.Namespace) -> None:
    """This project's client alone."""
    from etl.piopiy.client import CdrApi, Credentials

    def make_fetch() -> Callable[[str], object]:
        api, credentials = CdrApi(options.url, timeout=30), Credentials(APP_ID, SECRET)
        return lambda request_id: json.loads(api.fetch_answer(request_id, credentials).body)

    in_threads(options, make_fetch)


def job(options: argparse.Namespace) -> None:
    """The whole job; `measure` starts it as a user would."""


PARTS = {"plain": plain, "tuned": tuned, "job": job}

if __name__ == "__main__":
    main()
