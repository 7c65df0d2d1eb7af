"""Broken connections to a server: nothing is lost or fetched twice, no wait is endless, one line reports."""

from __future__ import annotations

import json
import threading

import pytest
from sqlalchemy import exc, select, text
from support.ledgers import contradictions
from support.operators import finish, wait_until
from support.sites import told_once
from support.systems import System, guard

from etl.db.engine import open_engine, read_url
from etl.db.tables import api_accounts, sync_runs

pytestmark = pytest.mark.databases("postgresql", "mariadb")

IN_HAND = 16  # twice the threads of a run
COMMIT = {"postgresql": b"COMMIT\0", "mariadb": b"\x03COMMIT"}  # "READ COMMITTED" is none
DONE = {"postgresql": b"COMMIT\0", "mariadb": b"\0\0\0"}  # as the server reports it
KILL = {"postgresql": "SELECT pg_terminate_backend({})", "mariadb": "KILL {}"}


# --- The reply to a COMMIT is lost -------------------------------------------------------------------


def lose_the_reply_to_the_opening(site, proxy):
    """The commit of a run's row in the ledger: the run waits for its account's row, which we hold."""
    with site.engine.connect() as connection:
        connection.execute(api_accounts.insert().values(account="default"))
        process = site.start("sync", "--json", "--workers", "1")
        wait_until(site.blocked)
        proxy.loses_reply_of = COMMIT[site.database_kind]
    return process


def lose_the_reply_to_a_turn(site, proxy):
    """The commit of a turn in mid-run: with one thread each settles one answer and claims one request."""
    process = site.start("sync", "--json", "--workers", "1")
    wait_until(lambda: site.states().get("done", 0) >= 10)
    proxy.loses_reply_of = COMMIT[site.database_kind]
    return process


@pytest.mark.fault(8)
@pytest.mark.parametrize("lose", [lose_the_reply_to_the_opening, lose_the_reply_to_a_turn])
def test_a_commit_whose_reply_is_lost_is_known_to_have_happened(site_behind_proxy, proxy, lose):
    site = site_behind_proxy
    site.fill(40)
    site.simulator.latency = 0.02
    ended = finish(lose(site, proxy))
    summary, ledger = json.loads(ended.stdout), site.row(sync_runs)

    assert (proxy.lost, DONE[site.database_kind] in proxy.lost_reply) == (1, True)
    assert (ended.code, ended.stderr) == (0, "")
    assert site.states() == {"done": 40}
    assert site.asked_twice() == set()
    for counts in (summary, ledger):
        assert [counts[name] for name in ("claimed", "done", "api_calls", "lost_leases")] == [40, 40, 40, 0]
    site.report("found out, and not done again")


@pytest.mark.untrue_ledger("the run forgets a claim")
def test_negative_control_a_run_that_does_not_look_whether_it_committed_forgets_what_it_claimed(
    site_behind_proxy, proxy, monkeypatch
):
    monkeypatch.setattr("etl.db.runs.last_transaction", lambda _connection, _run_id: 0)
    site = site_behind_proxy
    site.fill(40)
    site.simulator.latency = 0.02
    through_proxy = open_engine(site.operator.environment["CDR_SYNC_DATABASE_URL"])
    run = threading.Thread(
        target=lambda: System(through_proxy, site.simulator).sync(site.settings(workers=1))
    )
    run.start()
    wait_until(lambda: site.states().get("done", 0) >= 10)
    proxy.loses_reply_of = COMMIT[site.database_kind]
    guard(run.join)
    through_proxy.dispose()

    assert proxy.lost == 1
    assert site.states() == {"done": 39, "running": 1}
    assert any(contradictions(site.engine))


# --- The connection is killed in a transaction -------------------------------------------------------


def kill_in_a_turn(site, run):
    """Kill the connection of a run when its transaction has done everything but write the ledger."""
    thread = threading.Thread(target=run)
    thread.start()
    wait_until(lambda: site.states().get("done", 0) >= 10)
    with site.engine.begin() as connection:
        connection.execute(select(sync_runs.c.id).with_for_update())
        wait_until(site.blocked)
        (number,) = site.blocked()
        with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as killer:
            killer.execute(text(KILL[site.database_kind].format(number)))
    guard(thread.join)


@pytest.mark.fault(9)
def test_a_connection_that_is_killed_in_a_transaction_costs_nothing(site):
    site.fill(200)
    site.simulator.latency = 0.01
    ended = []
    kill_in_a_turn(site, lambda: ended.append(site.run("sync")))

    assert (ended[0].code, ended[0].all) == (0, "")
    assert site.states() == {"done": 200}
    assert site.asked_twice() == set()
    assert site.outcomes() == ["ok"]
    site.report("the whole transaction again, on a fresh connection")


def test_negative_control_without_another_try_the_killed_connection_ends_the_run(site, monkeypatch):
    monkeypatch.setattr("etl.db.engine.is_worth_repeating", lambda _error: False)
    site.fill(200)
    site.simulator.latency = 0.01
    errors = []

    def run():
        try:
            site.sync()
        except exc.DBAPIError as error:
            errors.append(error)

    kill_in_a_turn(site, run)

    assert [error.connection_invalidated for error in errors] == [True]
    assert site.outcomes() == ["failed"]


# --- The whole server is killed ----------------------------------------------------------------------


def kill_server_in_a_run(site, server):
    site.fill(400)
    site.simulator.latency = 0.01
    process = site.start("sync")
    wait_until(lambda: site.states().get("done", 0) >= 100)
    server.kill()
    return process


@pytest.mark.fault(9)
def test_a_server_that_is_killed_and_comes_back_costs_at_most_what_was_in_hand(site, server):
    process = kill_server_in_a_run(site, server)
    server.start()
    ended = finish(process)
    again = site.run("sync")

    assert (ended.code, ended.all) == (0, "") or told_once(ended)
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 400}
    assert site.simulator.total_calls <= 400 + IN_HAND
    site.report(f"server killed, and back: exit {ended.code}, and all is done")


@pytest.mark.fault(9)
def test_a_server_that_is_killed_and_stays_away_ends_the_run_in_one_line(site, server):
    process = kill_server_in_a_run(site, server)
    ended = finish(process)
    server.start()
    again = site.run("sync")

    assert told_once(ended)
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 400}
    assert site.simulator.total_calls <= 400 + IN_HAND
    assert site.outcomes() == ["abandoned", "ok"]
    site.report("server killed for good: exit 69, and the next run does the rest")


# --- The network swallows everything -----------------------------------------------------------------


@pytest.fixture
def impatient_site(site_behind_proxy):
    """A site whose processes wait a second or two for an answer of their database."""
    environment = site_behind_proxy.operator.environment
    url = read_url(environment["CDR_SYNC_DATABASE_URL"])
    url = url.update_query_dict({"connect_timeout": "2", "read_timeout": "1"})
    environment["CDR_SYNC_DATABASE_URL"] = url.render_as_string(hide_password=False)
    return site_behind_proxy


@pytest.mark.fault(10)
def test_a_black_hole_in_the_middle_of_a_run_ends_it_in_one_line(impatient_site, proxy):
    site = impatient_site
    site.fill(200)
    site.simulator.latency = 0.01
    process = site.start("sync")
    wait_until(lambda: site.states().get("done", 0) >= 50)
    proxy.is_black_hole = proxy.refuses = True  # the connection that is open, and new ones
    ended = finish(process)
    proxy.is_black_hole = proxy.refuses = False
    again = site.run("sync")

    assert told_once(ended)
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 200}
    assert site.simulator.total_calls <= 200 + IN_HAND
    site.report("in mid-run: exit 69 by a time-out, and the next run does the rest")


@pytest.mark.fault(10)
def test_a_black_hole_from_the_start_ends_the_run_in_one_line(impatient_site, proxy):
    site = impatient_site
    site.fill(20)
    proxy.is_black_hole = True
    ended = site.run("sync")
    proxy.is_black_hole = False
    again = site.run("sync")

    assert told_once(ended)
    assert (again.code, again.all) == (0, "")
    assert site.states() == {"done": 20}
    assert site.simulator.total_calls == 20
    site.report("at the start: exit 69 by a time-out, and nothing was asked")
