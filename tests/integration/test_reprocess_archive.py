"""Deriving legs again from the archive: what it changes, what it skips, and how it behaves beside a run."""

from __future__ import annotations

import hashlib
import json
import signal
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from sqlalchemy import delete, event, exc, update
from support.builders import api_body as body_of
from support.builders import api_leg
from support.claims import RULES, claim_in

from etl import reprocess
from etl.db.engine import open_engine
from etl.db.figures import queue_figures
from etl.db.selection import Span
from etl.db.tables import call_legs, cdr_requests, cdr_responses, sync_runs
from etl.errors import NotFoundError
from etl.reprocess import Reprocessing
from etl.settings import Settings
from etl.sync.fetching import Failed, Timing, fetch
from etl.sync.settle import settle
from etl.sync.signals import Stop

LONG_AGO = datetime(2021, 11, 16, 13, 33, 29, tzinfo=UTC)
LEG, B_LEG = api_leg(), api_leg("b", to="2079460000")
WRONG = api_leg(duration="four")


@dataclass
class Archive:
    """A database whose legs came from answers, by the same way as those of a run."""

    database: object

    def claim(self, request_id):
        self.database.enqueue(request_id)
        self.database.change(
            request_id, state="pending", finished_at=None, run_after=self.database.now(), enqueued_at=LONG_AGO
        )
        with self.database.engine.begin() as connection:
            return next(one for one in claim_in(connection) if one.request_id == request_id)

    def settle(self, fetched):
        with self.database.engine.begin() as connection:
            settle(connection, [fetched], run_id=1, rules=RULES, chance=lambda: 1.0)

    def receive(self, request_id, body):
        """Store an answer as a run does that takes numbers without a country for Indian ones."""
        reply = SimpleNamespace(
            status=200, body=body if isinstance(body, bytes) else body.encode(), retry_after=None
        )
        self.settle(
            fetch(self.claim(request_id), lambda _: reply, lambda call: call(), region="IN", secret="")
        )

    def put_right(self, request_id, body):
        """Have the archive hold another answer than it did, as if today's rules could read it."""
        self.change(cdr_responses, request_id, body=body, sha256=hashlib.sha256(body.encode()).hexdigest())

    def change(self, table, request_id, **values):
        with self.database.engine.begin() as connection:
            connection.execute(update(table).where(table.c.request_id == request_id).values(values))

    def legs(self, request_id="one"):
        return self.database.rows(call_legs, request_id=request_id)

    def work(self, region="IN", span=None, *, stop=None, settle=0, on_chunk=lambda _: None, chunk=3):
        settings = Settings(default_region=region, settle=timedelta(seconds=settle))
        return Reprocessing(
            self.database.engine,
            settings,
            span or Span(),
            stop=stop or Stop(),
            on_chunk=on_chunk,
            chunk=chunk,
        )

    def reprocess(self, *arguments, **options):
        """Apply, after a preview that must count the same; a second time there is nothing left to do."""
        before = self.everything()
        previewed = self.work(*arguments, **options).preview()
        assert self.everything() == before
        result = self.work(*arguments, **options).apply()
        assert (previewed.counts, previewed.skipped) == (result.counts, result.skipped)
        after = self.everything()
        again = self.work(*arguments, **options).apply()
        assert again.counts["changed"] == 0
        assert self.everything() == after
        return result

    def everything(self):
        return [self.database.rows(table) for table in (cdr_requests, cdr_responses, call_legs)]


@pytest.fixture(scope="module")
def engine(fresh_database):
    """One database for all these tests, each of which leaves it empty."""
    engine = open_engine(fresh_database())
    yield engine
    engine.dispose()


@pytest.fixture
def archive(database):
    yield Archive(database)
    with database.engine.begin() as connection:
        for table in (call_legs, cdr_responses, cdr_requests, sync_runs):
            connection.execute(delete(table))


def test_another_region_changes_the_stored_numbers_chunk_by_chunk_and_nothing_else(archive):
    for number in range(7):
        archive.receive(f"id {number}", body_of(LEG, B_LEG))
    totals = []
    result = archive.work("GB", on_chunk=lambda total: totals.append(total.counts["requests"])).apply()
    legs = archive.database.rows(call_legs)

    assert totals == [3, 6, 7]
    assert {name: count for name, count in result.counts.items() if count} == {
        "requests": 7,
        "changed": 7,
        "legs_updated": 7,
        "legs_unchanged": 7,
    }
    assert {(leg["leg"], leg["to_e164"], leg["revision"], leg["run_id"]) for leg in legs} == {
        ("a", "+919100000000", 1, 1),
        ("b", "+442079460000", 2, result.run_id),
    }


def test_rows_altered_by_hand_are_restored_from_the_answer(archive):
    archive.receive("one", body_of(LEG, B_LEG))
    archive.receive("lost", body_of(LEG))
    archive.receive("same", body_of(LEG))
    archive.change(cdr_requests, "one", leg_count=5)
    archive.change(call_legs, "one", duration_seconds=9, to_number="911234")
    with archive.database.engine.begin() as connection:
        connection.execute(delete(call_legs).where(call_legs.c.request_id == "lost"))
    result = archive.reprocess()
    present = {
        leg["to_number"]: leg["duration_seconds"] for leg in archive.legs() if not leg["missing_since"]
    }

    assert result.counts["changed"] == 2
    assert [result.counts[f"legs_{what}"] for what in ("inserted", "missing", "unchanged")] == [3, 2, 1]
    assert present == {"919100000000": 4, "2079460000": 4}
    assert len(archive.legs()) == 4
    assert len(archive.legs("lost")) == 1
    assert archive.database.request("one")["leg_count"] == 2


def test_a_changed_leg_gets_a_new_revision_and_a_leg_that_is_back_does_not(archive):
    archive.receive("one", body_of(LEG))
    archive.receive("two", body_of(LEG))
    archive.change(call_legs, "one", rate=9)
    archive.change(call_legs, "two", missing_since=archive.database.now())
    result = archive.reprocess()
    (one,), (two,) = archive.legs("one"), archive.legs("two")

    assert result.counts["legs_updated"] == 2
    assert (one["revision"], one["run_id"], str(one["rate"])) == (2, result.run_id, "0.39")
    assert (two["revision"], two["missing_since"]) == (1, None)


def test_only_the_latest_answer_counts(archive):
    archive.receive("one", body_of(LEG))
    archive.receive("one", body_of(LEG, B_LEG))
    archive.receive("one", body_of(B_LEG))
    before = archive.everything()
    result = archive.reprocess()

    assert (result.counts["requests"], result.counts["changed"]) == (1, 0)
    assert archive.everything() == before


def test_the_time_of_the_latest_answer_is_half_open_to_the_microsecond(archive):
    midnight, day, tick = datetime(2026, 11, 1, tzinfo=UTC), timedelta(days=1), timedelta(microseconds=1)
    times = {"before": midnight - tick, "first": midnight, "last": midnight + day - tick}
    for name, at in {**times, "after": midnight + day}.items():
        archive.receive(name, body_of(B_LEG))
        archive.change(cdr_responses, name, fetched_at=at)
    archive.receive("later", body_of(LEG))
    archive.change(cdr_responses, "later", fetched_at=midnight)
    archive.receive("later", body_of(B_LEG))
    result = archive.reprocess("GB", Span(since=midnight, until=midnight + day))
    changed = {leg["request_id"] for leg in archive.database.rows(call_legs) if leg["revision"] > 1}

    assert result.counts["requests"] == 2
    assert changed == {"first", "last"}


def test_one_of_several_accounts_can_be_selected(archive):
    archive.receive("one", body_of(B_LEG))
    with archive.database.engine.begin() as connection:
        for table in (cdr_requests, call_legs, cdr_responses):
            (row,) = connection.execute(table.select()).mappings().all()
            values = {name: value for name, value in row.items() if name != "id"}
            connection.execute(table.insert().values({**values, "account": "sales"}))
    one = archive.reprocess("GB", Span(account="sales"))
    changed = [leg["account"] for leg in archive.legs() if leg["revision"] > 1]
    others = archive.reprocess("GB")

    assert (one.counts["changed"], changed) == (1, ["sales"])
    assert (others.counts["requests"], others.counts["changed"]) == (2, 1)


def test_legs_of_a_request_that_was_removed_from_the_queue_are_derived_too(archive):
    archive.receive("one", body_of(B_LEG))
    with archive.database.engine.begin() as connection:
        connection.execute(delete(cdr_requests))
    result = archive.reprocess("GB")

    assert result.counts["legs_updated"] == 1
    assert archive.legs()[0]["to_country"] == "GB"


# --- Answers that could not be read ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "state", "counted", "settle"),
    [
        (body_of(LEG, B_LEG), "done", "done", 0),
        (body_of(), "empty", "without_legs", 0),
        (body_of(LEG, count=2), "pending", "put_off", 0),
        (body_of(LEG, B_LEG), "pending", "put_off", 10**9),
    ],
    ids=["final", "without legs", "count disagrees", "not final when it came"],
)
def test_a_request_that_is_dead_because_of_an_unreadable_answer_is_settled_once_it_can_be_read(
    archive, body, state, counted, settle
):
    archive.receive("one", body_of(WRONG))
    dead = archive.database.request("one")
    archive.put_right("one", body)
    result = archive.reprocess(settle=settle)
    row = archive.database.request("one")

    assert (dead["state"], dead["last_error_kind"], dead["fetches"]) == ("dead", "malformed", 0)
    assert (row["state"], row["fetches"], row["leg_count"]) == (state, 1, len(archive.legs()))
    assert row["api_count"] == json.loads(body)["count"]
    assert (row["last_error_kind"], row["last_error"]) == (None, None)
    assert (row["finished_at"] is None) == (state == "pending")
    assert (result.counts[counted], result.counts["changed"]) == (1, 1)


def test_a_request_to_be_fetched_again_is_due_at_once_with_all_its_attempts_left(archive):
    archive.receive("one", body_of(WRONG))
    archive.put_right("one", body_of(LEG, count=2))
    archive.database.change("one", attempts=8, run_after=archive.database.now() + timedelta(days=1))
    archive.reprocess()
    with archive.database.engine.begin() as connection:
        claimed = claim_in(connection)

    assert [(one.request_id, one.attempts, one.fetches) for one in claimed] == [("one", 1, 1)]


@pytest.mark.parametrize("body", [body_of(WRONG), b"<html>", body_of(LEG).encode().replace(b"out", b"\xff")])
def test_an_answer_that_still_cannot_be_read_is_counted_and_skipped(archive, body):
    archive.receive("one", body_of(LEG))
    archive.receive("one", body)
    before = archive.everything()
    result = archive.reprocess("GB")

    assert archive.everything() == before
    assert (result.counts["unreadable"], result.counts["changed"]) == (1, 0)
    assert [(name, account) for name, account, _ in result.skipped] == [("one", "default")]


def test_a_request_that_is_dead_for_another_reason_gets_its_legs_and_stays_dead(archive):
    archive.receive("one", body_of(B_LEG))
    archive.settle(Failed(archive.claim("one"), Timing(), NotFoundError("unknown"), 404))
    archive.database.change("one", state="dead", finished_at=archive.database.now())
    result = archive.reprocess("GB")
    row = archive.database.request("one")

    assert (row["state"], row["last_error_kind"], row["fetches"]) == ("dead", "not_found", 1)
    assert (result.counts["legs_updated"], result.counts["done"]) == (1, 0)


def test_a_value_that_the_database_rejects_costs_only_its_request(archive, monkeypatch):
    for name in ("good", "bad", "fine"):
        archive.receive(name, body_of(B_LEG))
    read_legs = reprocess._read_legs

    def read_too_much(answer, *, region):  # parsing refuses every value of which we know that it does not fit
        legs, count = read_legs(answer, region=region)
        return legs, 2**70 if answer.request_id == "bad" else count

    monkeypatch.setattr(reprocess, "_read_legs", read_too_much)
    result = archive.work("GB").apply()
    changed = {leg["request_id"] for leg in archive.database.rows(call_legs) if leg["revision"] > 1}

    assert changed == {"good", "fine"}
    assert (result.counts["requests"], result.counts["changed"], result.counts["refused"]) == (3, 2, 1)
    assert [name for name, _, _ in result.skipped] == ["bad"]
    assert archive.database.row(sync_runs)["legs_updated"] == 2


# --- The run and its end -----------------------------------------------------------------------------


def test_the_ledger_counts_a_run_without_api_calls_and_no_preview(archive):
    archive.receive("one", body_of(B_LEG))
    archive.receive("two", body_of(WRONG))
    archive.put_right("two", body_of(LEG))
    archive.work("GB").preview()
    result = archive.work("GB").apply()
    run = archive.database.row(sync_runs)
    names = ("command", "outcome", "api_calls", "claimed", "done", "legs_inserted", "legs_updated")

    assert [run[name] for name in names] == ["reprocess", "ok", 0, 0, 1, 1, 1]
    assert run["id"] == result.run_id
    assert run["finished_at"] is not None


def test_a_reprocess_run_does_not_count_as_a_success_of_the_job(archive):
    archive.receive("one", body_of(LEG))
    archive.work().apply()

    with archive.database.engine.connect() as connection:
        assert queue_figures(connection).last_success_at is None


def test_a_signal_stops_it_after_the_current_chunk_and_the_same_again_does_the_rest(archive):
    for number in range(7):
        archive.receive(f"id {number}", body_of(B_LEG))
    stop = Stop()
    stopped = archive.work("GB", stop=stop, on_chunk=lambda _: stop.request(signal.SIGINT)).apply()
    rest = archive.work("GB").apply()

    assert (stopped.counts["changed"], stopped.exit_code) == (3, 130)
    assert (rest.counts["changed"], rest.counts["legs_unchanged"]) == (4, 3)
    assert [run["outcome"] for run in archive.database.rows(sync_runs)] == ["interrupted", "ok"]


def test_a_failure_between_two_chunks_leaves_whole_chunks_and_the_same_again_does_the_rest(archive):
    for number in range(7):
        archive.receive(f"id {number}", body_of(B_LEG))

    def end(total):
        if total.counts["requests"] == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        archive.work("GB", on_chunk=end).apply()
    left = {leg["request_id"] for leg in archive.database.rows(call_legs, revision=1)}
    rest = archive.work("GB").apply()

    assert left == {"id 6"}
    assert rest.counts["changed"] == 1
    assert [run["outcome"] for run in archive.database.rows(sync_runs)] == ["failed", "ok"]


def test_a_lost_reply_to_a_commit_counts_nothing_twice(archive, monkeypatch):
    archive.receive("one", body_of(B_LEG))
    commit, commits = archive.database.engine.dialect.do_commit, []

    def commit_and_break(connection):
        commit(connection)
        commits.append(connection)
        if len(commits) in (1, 3):  # the run's begin, then its page; between them it is looked up
            error = exc.OperationalError("COMMIT", {}, Exception("gone"))
            error.connection_invalidated = True
            raise error

    monkeypatch.setattr(archive.database.engine.dialect, "do_commit", commit_and_break)
    result = archive.work("GB").apply()

    assert result.counts["changed"] == 1
    assert archive.database.row(sync_runs)["legs_updated"] == 1
    assert archive.legs()[0]["revision"] == 2


# --- Beside a run ------------------------------------------------------------------------------------


def test_a_running_request_is_left_to_its_run_and_counted(archive):
    archive.receive("one", body_of(B_LEG))
    archive.claim("one")
    before = archive.everything()
    result = archive.reprocess("GB")

    assert archive.everything() == before
    assert (result.counts["requests"], result.counts["running"], result.counts["changed"]) == (1, 1, 0)


def reprocess_beside_a_run(archive):
    """Derive legs again while a run brings a new answer: after the old one was read, before it is used."""
    archive.receive("one", body_of(LEG, count=2))  # not final, and so due again
    archive.change(call_legs, "one", duration_seconds=9)
    archive.database.change("one", run_after=LONG_AGO)
    fresh = body_of({**LEG, "duration": 60})
    reply = SimpleNamespace(status=200, body=fresh.encode(), retry_after=None)

    def run():
        with archive.database.engine.begin() as connection:
            claims = claim_in(connection)
        for claim in claims:
            archive.settle(fetch(claim, lambda _: reply, lambda call: call(), region="IN", secret=""))

    rival = threading.Thread(target=run)

    def start_rival(_connection, _cursor, statement, *_):
        """Start it once the old answer was read; it ends within the second, unless it waits for a lock."""
        if rival.ident is None and "INTO call_legs" in statement:
            rival.start()
            rival.join(1)

    event.listen(archive.database.engine, "before_cursor_execute", start_rival)
    archive.work().apply()
    rival.join(20)
    event.remove(archive.database.engine, "before_cursor_execute", start_rival)
    assert not rival.is_alive()
    run()
    return [leg["duration_seconds"] for leg in archive.legs()]


def test_a_new_answer_is_never_replaced_by_the_one_before(archive):
    assert reprocess_beside_a_run(archive) == [60]


@pytest.mark.databases("postgresql", "mariadb")
def test_negative_control_without_the_lock_a_new_answer_is_replaced_by_the_one_before(archive):
    def take_out(_connection, _cursor, statement, parameters, *_):
        return statement.removesuffix(" FOR UPDATE"), parameters

    event.listen(archive.database.engine, "before_cursor_execute", take_out, retval=True)
    stored = reprocess_beside_a_run(archive)
    event.remove(archive.database.engine, "before_cursor_execute", take_out)

    assert stored == [4]


@pytest.mark.databases("postgresql", "mariadb")
def test_it_does_not_wait_for_a_transaction_that_holds_other_requests(archive, guard):
    archive.receive("theirs", body_of(B_LEG))
    archive.receive("ours", body_of(B_LEG))
    archive.change(cdr_responses, "ours", fetched_at=LONG_AGO)
    with archive.database.engine.begin() as other:
        other.execute(update(cdr_requests).where(cdr_requests.c.request_id == "theirs").values(reclaims=1))
        result = guard(archive.work("GB", Span(until=LONG_AGO + timedelta(1))).apply)

    assert result.counts["changed"] == 1
