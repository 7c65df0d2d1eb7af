"""Whole runs: a real database, the simulated API over real sockets, and what goes wrong between them."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import select
from support.systems import numbered

from etl.db.engine import open_engine, reading
from etl.db.tables import (
    RUN_COUNTS,
    api_accounts,
    call_legs,
    cdr_requests,
    cdr_responses,
    sync_runs,
)
from etl.errors import SettingsError
from etl.settings import Account
from etl.simulator.scenarios import BROKEN, CHANGING, FLAKY, SCENARIOS, VALID, make_request_id
from etl.sync.fetching import Answered, Timing, fetch
from etl.sync.ledger import this_process

HOUR = timedelta(hours=1)


def no_legs(request, body=b"{}"):
    """An answer without legs, made without the API."""
    return Answered(request, Timing(seconds=(0.0,)), 200, body, (), 0)


def attempts_used(database):
    return sum(row["attempts"] for row in database.rows(cdr_requests) if row["state"] == "pending")


def tells_the_truth(summary, database):
    """Whether a run's row in the ledger says what the run itself says, and every claim came to something."""
    row = database.row(sync_runs, id=summary.run_id)
    counts = {name: summary.counts[name] for name in RUN_COUNTS}
    return {name: row[name] for name in RUN_COUNTS} == counts and row["outcome"] == summary.outcome


# --- Legs as the API sent them and legs as they are stored, side by side -----------------------------


def sent_leg(leg):
    """A leg of the API in the words of the table; nothing of the product is used."""
    time = Decimal(str(leg["time"]).strip())
    seconds = time / 1000 if time > 10**11 else time
    extra = {name: value for name, value in leg.items() if name not in DOCUMENTED}
    return (
        leg["leg"],
        str(leg["from"]).strip(),
        str(leg["to"]).strip(),
        datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(seconds * 10**6)),
        int(leg["duration"]),
        money(leg["rate"]),
        money(leg["balance"]),
        leg["direction"],
        leg["status"],
        repr(sorted(extra.items())) if extra else None,
    )


DOCUMENTED = {"leg", "from", "to", "time", "duration", "rate", "balance", "direction", "status"}


def money(sent):
    """Exact, or 15 significant digits of it: what a database without decimals gives back."""
    return None if sent is None else Decimal(f"{Decimal(str(sent)):.15g}")


def stored_leg(row):
    return (
        row["leg"],
        row["from_number"],
        row["to_number"],
        row["call_time"],
        row["duration_seconds"],
        money(row["rate"]),
        money(row["balance"]),
        row["direction"],
        row["status"],
        repr(sorted(row["extra"].items())) if row["extra"] is not None else None,
    )


def stored_legs(database):
    """What is stored of each request, the legs that vanished left out."""
    legs = {}
    for row in database.rows(call_legs):
        if row["missing_since"] is None:
            legs.setdefault(row["request_id"], Counter())[stored_leg(row)] += 1
    return legs


def true_legs(simulator, request_ids):
    return {
        request_id: Counter(sent_leg(leg) for leg in simulator.legs_of(request_id))
        for request_id in request_ids
        if simulator.legs_of(request_id)
    }


# --- Everything that the simulator can do ------------------------------------------------------------

KINDS = {
    "not_found_body": "not_found",
    "not_found": "not_found",
    "not_found_html": "not_found",
    "unauthorized_body": "unauthorized",
    "rejected": "rejected",
    "error_500": "server_error",
    "error_503": "server_error",
    "rate_limited": "rate_limited",
    "body_500": "server_error",
    "msg_object": "server_error",
    "reset": "connection",
    "empty_reply": "connection",
    "stall_headers": "timeout",
    "stall_body": "timeout",
    "drip_headers": "timeout",
    "drip_body": "timeout",
    "garbage": "malformed",
    "not_an_object": "malformed",
    "truncated": "connection",
    "cut": "malformed",  # nothing but the JSON says that the body is not whole
    "malformed_money": "malformed",
    "malformed_nan": "malformed",
    "malformed_time": "malformed",
    "malformed_duration": "malformed",
    "missing_leg_field": "malformed",
    "missing_cdr": "malformed",
    "null_cdr": "malformed",
    "oversize": "too_large",
    "oversize_declared": "too_large",
    "gzip_bomb": "too_large",
    "redirect": "redirected",
}
FINAL_AT_ONCE = {name for name in KINDS if name.startswith(("malformed_", "missing_leg"))}
GOOD = numbered("answered", 10)


@pytest.fixture(scope="module")
def every_scenario(lasting_system):
    """One request for each scenario, worked off by as many runs as it takes, as cron would start them."""
    system = lasting_system
    system.simulator.retry_after = "when it suits us"  # says nothing: a failure like any other
    system.simulator.oversize_bytes = 5_000_000
    system.enqueue(*GOOD)
    system.enqueue(*(f"{scenario}-1" for scenario in SCENARIOS))
    settings = system.settings(
        workers=12, tries=2, max_attempts=2, request_timeout=1, settle=0.5, empty_delay=0.1
    )
    system.summaries = system.work_off(settings, but=["none-1"], seconds=60)
    system.change("none-1", enqueued_at=system.now() - 73 * HOUR, run_after=system.now())
    system.summaries += system.work_off(settings)
    return system


def test_the_table_of_error_kinds_is_complete():
    assert set(KINDS) == set(BROKEN)


@pytest.mark.parametrize("scenario", [*VALID, *CHANGING, *FLAKY])
def test_a_scenario_that_ends_well_is_done(every_scenario, scenario):
    row = every_scenario.request(f"{scenario}-1")

    assert row["state"] == ("empty" if scenario == "none" else "done")
    assert (row["last_error_kind"], row["last_error"]) == (None, None)
    assert row["leg_count"] == len(every_scenario.simulator.legs_of(f"{scenario}-1"))


@pytest.mark.parametrize("scenario", BROKEN)
def test_a_scenario_that_always_fails_is_dead_with_its_error_kind(every_scenario, scenario):
    row = every_scenario.request(f"{scenario}-1")

    assert (row["state"], row["last_error_kind"]) == ("dead", KINDS[scenario])
    assert row["last_error"]
    assert row["attempts"] == (1 if scenario in FINAL_AT_ONCE else 2)


def test_the_stored_legs_are_exactly_those_of_the_api(every_scenario):
    ids = [*GOOD, *(f"{scenario}-1" for scenario in SCENARIOS)]

    assert stored_legs(every_scenario) == true_legs(every_scenario.simulator, ids)


def test_a_leg_that_vanished_between_two_answers_is_kept_with_its_mark(every_scenario):
    rows = every_scenario.rows(call_legs, request_id="shrinking-1")
    missing = [row for row in rows if row["missing_since"] is not None]

    assert len(missing) == 1
    assert len(rows) == len(every_scenario.simulator.legs_of("shrinking-1")) + 1


def test_a_leg_that_changed_between_two_answers_is_at_its_second_revision(every_scenario):
    rows = every_scenario.rows(call_legs, request_id="changing-1")

    assert {row["leg"]: row["revision"] for row in rows} == {"a": 2, "b": 1}
    assert {row["missing_since"] for row in rows} == {None}


def test_the_ledger_accounts_for_every_claim_of_every_run(every_scenario, unexplained):
    rows = every_scenario.rows(sync_runs)

    assert [unexplained(row) for row in rows] == [0] * len(rows)
    assert all(tells_the_truth(summary, every_scenario) for summary in every_scenario.summaries)
    assert sum(row["dead"] for row in rows) == len(BROKEN)
    assert sum(row["without_legs"] for row in rows) == 1
    assert sum(row["done"] for row in rows) == len(every_scenario.rows(cdr_requests, state="done"))
    assert sum(row["legs_inserted"] for row in rows) == len(every_scenario.rows(call_legs))
    assert sum(row["api_calls"] for row in rows) == every_scenario.simulator.total_calls


def test_what_failed_by_itself_never_opened_the_breaker(every_scenario):
    account = every_scenario.row(api_accounts)

    assert {row["outcome"] for row in every_scenario.rows(sync_runs)} <= {"ok", "dead_letters"}
    assert account["breaker_opened_at"] is None
    assert account["canary_request_id"] is not None


def test_the_run_in_which_requests_die_says_so(every_scenario):
    for summary in every_scenario.summaries:
        assert summary.exit_code == (65 if summary.counts["dead"] else 0)


def test_every_malformed_answer_is_in_the_archive(every_scenario):
    archived = {row["request_id"] for row in every_scenario.rows(cdr_responses)}
    malformed = {f"{scenario}-1" for scenario, kind in KINDS.items() if kind == "malformed"}

    assert malformed <= archived
    assert {f"{scenario}-1" for scenario in (*VALID, *CHANGING, *FLAKY)} <= archived


# --- Runs that find nothing new ----------------------------------------------------------------------


def test_a_second_run_has_nothing_to_do(system):
    system.enqueue(*(make_request_id(number) for number in range(100)))
    first = system.sync()
    before = system.rows(cdr_requests), system.rows(call_legs), system.rows(cdr_responses)

    second = system.sync()

    assert (first.counts["done"], first.exit_code) == (100, 0)
    assert (second.counts["claimed"], second.counts["api_calls"], second.exit_code) == (0, 0, 0)
    assert (system.rows(cdr_requests), system.rows(call_legs), system.rows(cdr_responses)) == before
    assert system.simulator.total_calls == 100


def test_asking_again_for_what_has_not_changed_changes_no_leg_and_archives_nothing(system, unexplained):
    system.enqueue(*(f"{scenario}-1" for scenario in VALID if scenario != "count_mismatch"))
    system.sync()
    before = system.rows(call_legs), system.rows(cdr_responses)
    system.change(state="pending", finished_at=None)

    again = system.sync()

    assert again.counts["done"] == len(VALID) - 1
    assert again.counts["legs_unchanged"] == len(before[0])
    assert again.counts["legs_inserted"] == again.counts["legs_updated"] == 0
    assert (system.rows(call_legs), system.rows(cdr_responses)) == before
    assert unexplained(again.counts) == 0


def test_the_vendors_sample_is_stored_digit_for_digit(system):
    system.enqueue("sample-1")
    system.sync()
    a, b = system.rows(call_legs)

    assert (a["balance"], a["rate"], a["duration_seconds"]) == (Decimal("1134.75"), Decimal("0.39"), 10)
    assert (b["balance"], b["rate"], b["duration_seconds"]) == (Decimal("1135.14"), Decimal("0.39"), 4)
    assert (a["from_number"], a["from_e164"]) == ("4471000000", "+914471000000")
    assert a["call_time"] == b["call_time"] == datetime(2021, 11, 16, 13, 33, 29, tzinfo=UTC)


def test_an_idle_run_is_in_the_ledger_and_asks_nothing(system):
    summary = system.sync()
    row = system.row(sync_runs)

    assert (summary.outcome, summary.exit_code) == ("ok", 0)
    assert (row["outcome"], row["claimed"], row["api_calls"]) == ("ok", 0, 0)
    assert row["started_at"] <= row["finished_at"]
    assert system.simulator.connections_opened == 0


# --- What falls due again while a run works ----------------------------------------------------------


def keep_busy(system):
    """Let requests fall due group after group, each faster than two workers can ask for it."""
    system.simulator.latency = 0.05
    groups = [numbered(f"answered-{turn}", 10) for turn in range(25)]
    system.enqueue(*itertools.chain(*groups))
    begin = system.now()
    for turn, group in enumerate(groups):
        system.change(*group, run_after=begin + turn * timedelta(seconds=0.2))
    return 250


def test_what_falls_due_again_while_a_run_works_is_asked_for_in_the_same_run(system, unexplained):
    system.simulator.failures = 2
    busy = keep_busy(system)
    system.enqueue("late-1", "not_ready-1", "flaky_500-1")
    system.change("late-1", "not_ready-1", "flaky_500-1", run_after=system.now() - HOUR)

    summary = system.sync(system.settings(workers=2, empty_delay=0.03, retry_delay=0.03))
    failed = system.request("flaky_500-1")

    assert system.states() == {"done": busy + 3}
    assert {system.simulator.calls[name] for name in ("late-1", "not_ready-1", "flaky_500-1")} == {3}
    assert (failed["attempts"], failed["last_error_kind"]) == (3, None)
    assert (summary.counts["put_off"], summary.counts["retried"]) == (4, 2)
    assert summary.counts["claimed"] == busy + 9
    assert unexplained(summary.counts) == 0


def test_a_run_ends_without_waiting_for_what_is_put_off(system):
    system.enqueue("late-1", "answered-1")

    summary = system.sync(system.settings(empty_delay=600))  # a run that waited would hang, and fail here

    assert summary.counts["put_off"] == 1
    assert system.states() == {"done": 1, "pending": 1}


# --- Outages -----------------------------------------------------------------------------------------


def begin_outage(simulator, outage):
    if outage == "not listening":
        simulator.stop()
    else:
        simulator.outage = outage


def end_outage(simulator):
    if simulator.outage is None:
        simulator.start()
    simulator.outage = None


@pytest.mark.parametrize(
    ("waiting", "outage"),
    [*((waiting, "not listening") for waiting in (1, 2, 4, 5, 6)), (2, "stall_headers"), (2, "error_503")],
)
def test_an_outage_uses_no_attempt_however_few_requests_wait_with_nothing_known_yet(system, waiting, outage):
    """With fewer than five there is never a row of five failures, and without a canary nothing to fetch."""
    system.enqueue(*numbered("answered", waiting))
    begin_outage(system.simulator, outage)

    codes = [system.sync(system.settings(request_timeout=0.2)).exit_code for _ in range(3)]
    untouched = system.is_untouched()
    end_outage(system.simulator)
    system.sync()

    assert untouched
    assert codes == [69, 69, 69]
    assert system.states() == {"done": waiting}


@pytest.mark.parametrize("waiting", [1, 2, 4, 5, 6])
def test_an_outage_uses_no_attempt_however_few_requests_wait(system, waiting):
    system.enqueue("answered-first")
    system.sync()
    system.enqueue(*numbered("answered", waiting))
    system.simulator.outage = "error_503"

    codes = [system.sync().exit_code for _ in range(3)]
    untouched = system.is_untouched()
    system.simulator.outage = None
    system.sync()

    assert untouched
    assert codes == [69, 69, 69]
    assert system.states() == {"done": waiting + 1}


def test_an_outage_in_the_middle_of_a_run_gives_everything_back(system, unexplained):
    system.enqueue(*(make_request_id(number) for number in range(300)))

    def fail_soon(counts):
        if counts["done"]:
            system.simulator.outage = "error_500"

    summary = system.sync(on_progress=fail_soon)
    states = system.states()

    assert summary.exit_code == 69
    assert set(states) == {"done", "pending"}
    assert system.is_untouched()
    assert unexplained(summary.counts) == 0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_an_outage_that_begins_after_an_answer_without_legs_uses_no_attempt(system, workers):
    """The API works at first, and there is no canary, because a request without legs cannot be one."""
    system.enqueue("none-1", *numbered("answered", 30))

    def fail_from_now_on(_counts):
        system.simulator.outage = "error_503"

    summary = system.sync(
        system.settings(workers=workers, empty_delay=600),
        make_fetcher=first_alone(system, fail_from_now_on),
    )

    assert summary.exit_code == 69
    assert system.request("none-1")["fetches"] == 1
    assert system.states() == {"pending": 31}
    assert system.is_untouched()


def first_alone(system, then):
    """Asks for what comes first before the API changes its mind, and for everything else after that."""
    has_answered = threading.Event()

    def make_fetcher(account, _permit):
        real = system.fetcher(account)

        def fetch_one(request):
            if request.request_id == "none-1":
                fetched = real(request)
                then(None)
                has_answered.set()
                return fetched
            has_answered.wait(10)
            return real(request)

        return fetch_one

    return make_fetcher


def test_five_bad_requests_in_a_row_are_their_own_failure_where_the_canary_answers(system):
    system.enqueue("answered-1")
    system.sync()
    system.enqueue(*numbered("error_500", 12))

    summaries = system.work_off()

    assert {summary.exit_code for summary in summaries[:-1]} <= {0, 65}
    assert system.states() == {"done": 1, "dead": 12}
    assert system.row(api_accounts)["breaker_opened_at"] is None


# --- Credentials -------------------------------------------------------------------------------------


def test_single_requests_that_are_not_found_among_good_ones_die_alone(system):
    good, bad = numbered("answered", 60), numbered("not_found_body", 3)
    system.enqueue(*good[:20], bad[0], *good[20:40], bad[1], *good[40:], bad[2])

    summaries = system.work_off(system.settings(max_attempts=2))

    assert system.states() == {"done": 60, "dead": 3}
    assert {row["last_error_kind"] for row in system.rows(cdr_requests, state="dead")} == {"not_found"}
    assert summaries[-1].exit_code == 65
    assert {summary.exit_code for summary in summaries} <= {0, 65}
    assert system.row(api_accounts)["breaker_opened_at"] is None


def test_a_404_at_the_head_of_a_run_is_its_own_where_the_canary_answers(system):
    system.enqueue("answered-1")
    system.sync()
    system.enqueue(*numbered("not_found", 5))

    summaries = system.work_off(system.settings(max_attempts=1))

    assert [summary.exit_code for summary in summaries] == [65]
    assert system.states() == {"done": 1, "dead": 5}


def test_a_valid_answer_without_legs_proves_the_credentials_as_well(system):
    """No canary yet, and five times 404, but the API has answered in this run: it knows us."""
    system.enqueue("none-1", *numbered("not_found_body", 12))

    summary = system.sync(system.settings(workers=4, empty_delay=600, retry_delay=600))

    assert summary.refused == {}
    assert summary.exit_code == 0
    assert summary.counts["retried"] == 12


def test_one_accounts_trouble_never_stops_the_others(system):
    system.simulator.accounts[3333333] = "the right one"
    made = system.settings()
    accounts = {
        **made.accounts,
        "sales": Account("sales", 3333333, "the right one"),
        "support": Account("support", 3333333, "a wrong one"),
    }
    for name in accounts:
        system.enqueue(*numbered("answered", 30), account=name)

    summary = system.sync(system.settings(accounts=accounts))

    assert summary.exit_code == 77
    assert list(summary.refused) == ["support"]
    for name, state in (("default", "done"), ("sales", "done"), ("support", "pending")):
        assert {row["state"] for row in system.rows(cdr_requests, account=name)} == {state}
    assert system.is_untouched()


def test_an_account_of_which_nothing_is_known_here_is_left_alone(system):
    system.enqueue("answered-1", account="strangers")

    summary = system.sync()

    assert (summary.exit_code, summary.counts["claimed"]) == (0, 0)
    assert system.request("answered-1", account="strangers")["state"] == "pending"


# --- Retry-After -------------------------------------------------------------------------------------


def test_a_longer_pause_is_not_shortened(system):
    system.enqueue("rate_limited-1")
    system.sync(system.settings(accounts={}))  # no account is configured yet
    system.simulator.retry_after = 7200
    system.sync()
    until = system.row(api_accounts)["paused_until"]
    system.change("rate_limited-1", run_after=system.now())

    system.simulator.retry_after = 60
    system.sync()

    assert system.row(api_accounts)["paused_until"] == until


# --- Limits and signals ------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7, 30])
def test_a_run_claims_no_more_than_its_limit_and_leaves_nothing_running(system, limit, unexplained):
    system.enqueue(*numbered("answered", 25))

    summary = system.sync(most=limit)

    done = min(limit, 25)
    assert summary.counts["claimed"] == summary.counts["done"] == done
    assert Counter(system.states()) == Counter(done=done, pending=25 - done)
    assert system.simulator.total_calls == done
    assert unexplained(summary.counts) == 0


def test_an_account_with_nothing_due_uses_nothing_of_the_limit(system):
    (default,) = system.settings().accounts.values()
    accounts = {"default": default, "sales": Account("sales", default.app_id, default.secret)}
    system.enqueue(*numbered("answered", 5), account="sales")

    assert system.sync(system.settings(accounts=accounts), most=3).counts["claimed"] == 3


def test_a_limit_counts_failures_too(system):
    system.enqueue("answered-1", "error_500-1", "answered-2", "answered-3")

    summary = system.sync(system.settings(workers=1), most=3)

    assert (summary.counts["done"], summary.counts["retried"]) == (2, 1)
    assert system.states() == {"done": 2, "pending": 2}


def test_a_run_keeps_to_its_batch(system):
    system.enqueue("answered-1", "answered-2", batch="march")
    system.enqueue("answered-3")

    summary = system.sync(batch="march")

    assert summary.counts["done"] == 2
    assert system.request("answered-3")["state"] == "pending"
    assert system.row(sync_runs)["batch"] == "march"


def test_a_time_limit_of_nothing_claims_nothing(system):
    system.enqueue("answered-1")

    summary = system.sync(time_limit=timedelta(0))

    assert (summary.exit_code, summary.counts["claimed"]) == (0, 0)
    assert system.states() == {"pending": 1}


# --- Kills, and what they leave behind ---------------------------------------------------------------


def left_running(system, *request_ids, lease_until, run_id=None, attempts=1):
    """What a killed worker leaves behind."""
    system.enqueue(*request_ids)
    leased = {"lease_token": "0" * 32, "lease_until": lease_until, "run_id": run_id}
    system.change(*request_ids, state="running", attempts=attempts, **leased)


def test_a_run_completes_what_a_killed_one_left_once_its_leases_ran_out(system):
    system.enqueue(*numbered("answered", 5))
    left_running(system, *numbered("missed", 4), lease_until=system.now() - timedelta(seconds=1))

    summary = system.sync()
    rows = system.rows(cdr_requests)[5:]

    assert summary.exit_code == 0
    assert system.states() == {"done": 9}
    assert {(row["reclaims"], row["attempts"]) for row in rows} == {(1, 2)}
    assert set(system.simulator.calls.values()) == {1}


def test_a_run_leaves_alone_what_another_machine_still_works_on(system):
    left_running(system, "answered-1", lease_until=system.now() + HOUR)
    before = system.request("answered-1")

    summary = system.sync()

    assert summary.counts["claimed"] == 0
    assert system.request("answered-1") == before


def pid_of_nobody():
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def run_row(system, **values):
    here = this_process()
    row = {"command": "sync", "host": here.host, "pid_scope": here.pid_scope, "version": "0", **values}
    with system.engine.begin() as connection:
        return connection.execute(sync_runs.insert().values(row)).inserted_primary_key[0]


def test_a_run_does_not_wait_for_the_leases_of_a_process_that_is_gone(system):
    dead_run = run_row(system, pid=pid_of_nobody())
    left_running(system, *numbered("answered", 5), lease_until=system.now() + HOUR, run_id=dead_run)

    summary = system.sync()
    abandoned = system.row(sync_runs, id=dead_run)

    assert summary.counts["done"] == 5
    assert system.states() == {"done": 5}
    assert {row["reclaims"] for row in system.rows(cdr_requests)} == {1}
    assert abandoned["outcome"] == "abandoned"
    assert abandoned["finished_at"] is not None


ELSEWHERE = {
    "on another machine": {"host": "elsewhere"},
    "on a machine of the same name": {"pid_scope": "another boot pid:[1]"},
    "in a living process": {"pid": 1},
}


@pytest.mark.parametrize("where", ELSEWHERE.values(), ids=ELSEWHERE)
def test_a_run_waits_for_the_leases_of_others_that_may_be_alive(system, where):
    other_run = run_row(system, **{"pid": pid_of_nobody(), **where})
    left_running(system, "answered-1", lease_until=system.now() + HOUR, run_id=other_run)

    summary = system.sync()

    assert summary.counts["claimed"] == 0
    assert system.request("answered-1")["state"] == "running"
    assert system.row(sync_runs, id=other_run)["outcome"] == "running"


def test_a_run_elsewhere_that_was_silent_for_long_is_closed_in_the_ledger(system):
    long_ago = system.now() - HOUR
    runs = {
        "silent": run_row(system, pid=1, host="elsewhere", started_at=long_ago, seen_at=long_ago),
        "never seen": run_row(system, pid=1, host="elsewhere", started_at=long_ago),
        "busy": run_row(system, pid=1, host="elsewhere", started_at=long_ago, seen_at=system.now()),
        "young": run_row(system, pid=1, host="elsewhere"),
    }

    system.sync()

    assert {name: system.row(sync_runs, id=run)["outcome"] for name, run in runs.items()} == {
        "silent": "abandoned",
        "never seen": "abandoned",
        "busy": "running",
        "young": "running",
    }


def test_a_request_that_killed_its_worker_every_time_is_dead_and_never_asked_for_again(system):
    left_running(system, "answered-1", lease_until=system.now() - HOUR, attempts=3)

    summary = system.sync()

    assert (summary.exit_code, summary.outcome) == (65, "dead_letters")
    assert system.request("answered-1")["last_error_kind"] == "lease_expired"
    assert system.simulator.total_calls == 0


# --- Several at once ---------------------------------------------------------------------------------


def test_a_claim_that_ran_out_while_others_finished_it_is_counted_as_lost(system, database_url, unexplained):
    """Another machine takes the request over while this run's answer is on its way."""
    system.enqueue("answered-1")
    other_engine = open_engine(database_url)
    other = type(system)(other_engine, system.simulator)

    def make_fetcher(_account, _permit):
        def fetch_one(request):
            system.change("answered-1", lease_until=system.now() - HOUR)
            assert other.sync().counts["done"] == 1
            return no_legs(request, body=b"stale")

        return fetch_one

    summary = system.sync(make_fetcher=make_fetcher)
    other_engine.dispose()

    assert (summary.exit_code, summary.counts["lost_leases"]) == (0, 1)
    assert unexplained(summary.counts) == 0
    assert system.request("answered-1")["state"] == "done"
    assert len(system.rows(call_legs)) == 2
    assert "stale" not in {row["body"] for row in system.rows(cdr_responses)}


def test_a_run_that_outlives_its_own_lease_still_settles_the_request_and_leaves_nothing_running(
    system, unexplained
):
    """As after a laptop's sleep: the run takes its own expired claim back, and asks a second time."""
    system.enqueue("slow", *(f"quick {number}" for number in range(2_000)))
    asked_again = threading.Event()
    slow_calls = itertools.count(1)

    def make_fetcher(_account, _permit):
        def fetch_one(request):
            if request.request_id != "slow":
                asked_again.is_set() or threading.Event().wait(0.01)
            elif next(slow_calls) == 1:
                asked_again.wait(15)
            else:
                asked_again.set()
                threading.Event().wait(0.3)  # the first answer is to come in before this one
            return no_legs(request)

        return fetch_one

    settings = system.settings(workers=3, lease=0.4, empty_for=0)

    summary = system.sync(settings, make_fetcher=make_fetcher)

    assert asked_again.is_set()
    assert system.states() == {"empty": 2_001}
    assert summary.counts["lost_leases"] == 1
    assert unexplained(summary.counts) == 0


# --- Our own faults ----------------------------------------------------------------------------------


def fetching_without_api(spoil):
    """Answers every request well, without any API, but for what `spoil` does to it."""

    def make_fetcher(_account, _permit):
        def fetch_one(request):
            spoil(request)
            return no_legs(request)

        return fetch_one

    return make_fetcher


def stumbles_over_one(request):
    if request.request_id == "one":
        raise ZeroDivisionError("a bug of ours")


def test_a_crash_while_asking_for_one_request_is_that_requests_failure_alone(system, unexplained):
    system.enqueue("one", *(f"good {number}" for number in range(30)))

    def make_fetcher(account, _permit):
        def ask(request_id):
            if request_id == "one":
                raise ZeroDivisionError("a bug of ours")

            class Reply:
                status, body, retry_after = 200, b'{"code": 200, "cdr": []}', None

            return Reply

        return lambda request: fetch(request, ask, lambda once: once(), region="IN", secret=account.secret)

    summary = system.sync(system.settings(empty_for=0, retry_delay=600), make_fetcher=make_fetcher)
    row = system.request("one")

    assert (summary.exit_code, summary.outcome) == (1, "failed")
    assert system.states() == {"empty": 30, "pending": 1}
    assert (row["attempts"], row["last_error_kind"]) == (1, "unexpected")
    assert unexplained(summary.counts) == 0
    assert "ZeroDivisionError" in system.row(sync_runs)["error"]


def test_a_fetching_thread_that_breaks_neither_hangs_the_run_nor_loses_its_request(system, unexplained):
    system.enqueue("one", *(f"good {number}" for number in range(30)))

    summary = system.sync(
        system.settings(empty_for=0, retry_delay=600),
        make_fetcher=fetching_without_api(stumbles_over_one),
        seconds=3,
    )

    assert summary.exit_code == 1
    assert system.states() == {"empty": 30, "pending": 1}
    assert unexplained(summary.counts) == 0


def test_a_url_that_cannot_be_used_is_reported_and_every_claim_is_given_back(system):
    system.enqueue(*numbered("answered", 10))

    with pytest.raises(SettingsError, match="URL"):
        system.sync(system.settings(api_url="http://[broken"))

    assert system.states() == {"pending": 10}
    assert system.is_untouched()
    assert system.row(sync_runs)["outcome"] == "failed"
    assert system.row(sync_runs)["finished_at"] is not None


def test_threads_that_cannot_be_made_later_in_a_run_give_every_claim_back(system):
    system.enqueue(*numbered("answered", 100))
    made = itertools.count(1)

    def make_fetcher(_account, _permit):
        if next(made) > 2:
            raise SettingsError("no more")
        return no_legs

    with pytest.raises(SettingsError, match="no more"):
        system.sync(system.settings(workers=8), make_fetcher=make_fetcher)

    assert set(system.states()) == {"pending"}
    assert attempts_used(system) == 0


def test_progress_that_fails_ends_the_run_with_every_claim_given_back(system):
    system.enqueue(*numbered("answered", 50))

    def fail(counts):
        if counts["done"]:
            raise ZeroDivisionError("a bug of ours")

    with pytest.raises(ZeroDivisionError):
        system.sync(on_progress=fail)

    assert set(system.states()) == {"done", "pending"}
    assert system.is_untouched()
    assert system.row(sync_runs)["outcome"] == "failed"


def test_the_canary_is_the_latest_request_with_legs(system):
    system.enqueue("none-1", "answered-1", "error_500-1")
    system.sync(system.settings(empty_delay=600, retry_delay=600))
    with reading(system.engine) as connection:
        canary = connection.scalar(select(api_accounts.c.canary_request_id))

    assert canary == "answered-1"
