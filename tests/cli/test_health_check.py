"""The health check: one ping when a run starts, one when it ends in any way, and its URL nowhere."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from support.health_checks import SECRET, health_check, silent_listener
from support.operators import PATIENCE, finish, wait_until

from etl.cli.app import only_one


@pytest.fixture
def check():
    with health_check() as running:
        yield running


@pytest.fixture
def operator(operator, check):
    operator.environment["CDR_SYNC_PING_URL"] = check.url
    return operator


def dead_letter(operator, _):
    operator.type("enqueue", "answered-1", "malformed_money-1")


def outage(operator, simulator):
    simulator.outage = "error_500"
    operator.type("enqueue", *(f"answered-{number}" for number in range(6)))


def refusal(operator, simulator):
    simulator.secret = "a new one"
    operator.type("enqueue", *(f"answered-{number}" for number in range(6)))


def no_credentials(operator, _):
    del operator.environment["PIOPIY_APP_ID"], operator.environment["PIOPIY_SECRET"]


def old_schema(operator, _):
    operator.rows("UPDATE alembic_version SET version_num = '0001'")


def no_database(operator, _):
    operator.environment["CDR_SYNC_DATABASE_URL"] = "mysql://nobody@127.0.0.1:9/cdr"


def broken_program(operator, _):
    operator.type("enqueue", "answered-1")
    operator.rows("ALTER TABLE api_accounts RENAME COLUMN paused_until TO waits_until")


# What happens to a run, its exit code, and part of the text that is sent to the check.
ENDS = {
    "idle": (lambda *_: None, 0, "nothing was due"),
    "work": (lambda operator, _: operator.type("enqueue", "answered-1"), 0, "1 claim = 1 done"),
    "bug": (broken_program, 1, ""),
    "dead": (dead_letter, 65, "2 claims = 1 done, 1 dead"),
    "outage": (outage, 69, "given back"),
    "no database": (no_database, 69, ""),
    "refusal": (refusal, 77, "given back"),
    "no credentials": (no_credentials, 78, ""),
    "old schema": (old_schema, 78, ""),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_run_pings_its_start_and_its_exit_code(operator, simulator, check, end):
    prepare, code, sent = ENDS[end]
    prepare(operator, simulator)
    result = operator.type("sync", CDR_SYNC_TRIES="1")
    start, end = check.pings

    assert result.exit_code == code
    assert (start.step, start.method, start.body) == ("start", "GET", "")
    assert end.step == str(code)
    assert start.run == end.run != ""
    assert sent in end.body
    assert SECRET not in result.output


def test_each_run_has_its_own_id(operator, check):
    operator.type("sync")
    operator.type("sync")

    assert check.steps == ["start", "0", "start", "0"]
    assert len({ping.run for ping in check.pings}) == 2


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_stopped_by_a_signal_pings_its_exit_code(operator, simulator, check, number, code):
    simulator.latency = 0.05
    operator.type("enqueue", *(f"answered-{number}" for number in range(100)))
    process = operator.start("sync")
    wait_until(lambda: simulator.total_calls >= 5)
    process.send_signal(number)
    finished = finish(process)

    assert (finished.code, finished.all) == (code, "")
    assert check.steps == ["start", str(code)]


def test_a_run_stopped_before_its_work_begins_pings_too(operator, check):
    with silent_listener() as database:
        url = f"postgresql://nobody@127.0.0.1:{database.getsockname()[1]}/cdr"
        process = operator.start("sync", CDR_SYNC_DATABASE_URL=url)
        connection, _ = database.accept()
        with connection:
            process.terminate()
            finished = finish(process)

    assert (finished.code, finished.all) == (143, "")
    assert check.steps == ["start", "143"]


def test_commands_that_run_nothing_do_not_ping(operator, check):
    operator.type("enqueue", "answered-1")
    with only_one(f"sqlite:///{operator.database}"):
        url = f"sqlite:///{operator.database}"
        left = operator.type("--database-url", url, "sync", "--single-instance")
    results = [operator.type("sync", "--dry-run"), operator.type("status"), operator.type("sync", "--wrong")]

    assert [left.exit_code, *(result.exit_code for result in results)] == [75, 0, 0, 2]
    assert check.pings == []


def test_backfill_and_reprocess_neither_ping_nor_write_metrics(operator, check):
    file = operator.home / "cdr-sync.prom"
    operator.environment["CDR_SYNC_METRICS_FILE"] = str(file)
    operator.type("enqueue", "answered-1")
    results = [operator.type("backfill", "answered-1"), operator.type("reprocess")]
    steps, is_there = check.steps, file.exists()
    operator.type("sync")
    option = operator.type("backfill", "answered-1", "--metrics-file", file)

    assert [result.exit_code for result in results] == [0, 0]
    assert (steps, is_there) == ([], False)
    assert (check.steps, file.exists()) == (["start", "0"], True)
    assert option.exit_code == 2


def test_the_url_may_come_from_a_file_and_have_a_query(operator, check):
    file = operator.home / "ping-url"
    file.write_text(f"{check.url}/?create=1\n")
    operator.type("sync", CDR_SYNC_PING_URL="", CDR_SYNC_PING_URL_FILE=str(file))

    assert [target.split("rid=")[0] for target in check.targets] == [
        f"/{SECRET}/start?create=1&",
        f"/{SECRET}/0?create=1&",
    ]


def test_no_proxy_or_password_is_taken_from_the_environment(operator, check):
    (operator.home / ".netrc").write_text("default login somebody password their-own\n")
    dead_end = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
    operator.run("sync", **dead_end)

    assert check.steps == ["start", "0"]
    assert not any("Authorization" in ping.headers for ping in check.pings)


def test_the_proxy_of_the_settings_is_used(operator, check):
    operator.type("sync", CDR_SYNC_PING_URL=f"http://check.invalid/{SECRET}", CDR_SYNC_PROXY=check.url)

    assert [target.split("?")[0] for target in check.targets] == [
        f"http://check.invalid/{SECRET}/start",
        f"http://check.invalid/{SECRET}/0",
    ]


def test_failed_pings_are_logged_only_with_verbose_and_never_with_the_url(operator):
    url = f"http://127.0.0.1:9/{SECRET}"
    quiet = operator.type("sync", CDR_SYNC_PING_URL=url)
    verbose = operator.type("--verbose", "sync", CDR_SYNC_PING_URL=url)
    odd = operator.type("--verbose", "sync", CDR_SYNC_PING_URL=f"http://[{SECRET}")

    assert (quiet.exit_code, quiet.output) == (0, "")
    assert verbose.exit_code == odd.exit_code == 0
    assert verbose.output.count("A ping of the health check failed: ConnectionError") == 2
    assert odd.output.count("A ping of the health check failed: ValueError") == 2
    assert SECRET not in verbose.output + odd.output
    assert not any(SECRET in str(row) for row in operator.rows("SELECT * FROM sync_runs"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_wait_for_the_health_check_and_keeps_the_exit_code(operator, check, number):
    check.drips_at = "0"
    process = operator.start("sync")
    wait_until(lambda: "0" in check.steps)
    process.send_signal(number)
    finished = finish(process)

    assert (finished.code, finished.all) == (0, "")


def test_a_health_check_whose_answer_never_ends_does_not_keep_the_process(operator, check):
    check.drips_at = "0"
    finished = operator.run("--verbose", "sync")

    assert (finished.code, finished.stdout) == (0, "")
    assert finished.events == ["A ping of the health check failed: it did not answer in time"]
    assert check.steps == ["start", "0"]


UNCONFIGURED = """
import sys
from etl.cli.main import main
sys.argv = ["cdr-sync", "sync"]
try:
    main()
finally:
    print([name for name in ("requests", "prometheus_client", "opentelemetry") if name in sys.modules])
"""


def test_an_idle_run_without_monitoring_loads_no_library_for_it(operator):
    finished = subprocess.run(
        [sys.executable, "-c", UNCONFIGURED],
        env=operator.whole_environment(CDR_SYNC_PING_URL=""),
        capture_output=True,
        timeout=PATIENCE,
        check=True,
        text=True,
    )

    assert (finished.stdout, finished.stderr) == ("[]\n", "")
