"""`cdr-sync reprocess`: what it prints, its exit codes, and what a signal leaves."""

from __future__ import annotations

import json
import signal
import sys

import pytest
from support.operators import finish

CHANGED = "UPDATE call_legs SET duration_seconds = duration_seconds + 1"
# A process that sends itself a signal in the middle of its second chunk.
SIGNALLED = """
import os
from etl import reprocess

def write_later(*arguments, write=reprocess.write_rereadings, chunks=[]):
    chunks.append(1)
    if len(chunks) == 2:
        os.kill(os.getpid(), {number})
    write(*arguments)

reprocess.write_rereadings = write_later
reprocess.Reprocessing.__init__.__kwdefaults__["chunk"] = 2
from etl.cli.main import main
main()
"""


@pytest.fixture
def archived(operator):
    """An operator with five calls, whose stored legs are not what their answers say."""
    operator.type("enqueue", *(f"answered-{number}" for number in range(5)))
    operator.type("sync", CDR_SYNC_SETTLE="0")
    assert operator.states() == {"done": 5}
    operator.true = operator.rows("SELECT request_id, leg, duration_seconds FROM call_legs")
    operator.rows(CHANGED)
    return operator


def legs(operator):
    return operator.rows("SELECT request_id, leg, duration_seconds FROM call_legs")


def test_legs_are_restored_from_their_answers_without_calls_and_a_dry_run_counts_the_same(
    archived, simulator
):
    calls, wrong = simulator.total_calls, legs(archived)
    dry = json.loads(archived.type("reprocess", "--dry-run", "--json").stdout)
    untouched = legs(archived)
    result = archived.type("reprocess", "--json")
    done = json.loads(result.stdout)

    assert (result.exit_code, result.stderr) == (0, "")
    assert untouched == wrong
    assert dry == {**done, "dry_run": True, "run": None}
    assert (done["requests"], done["changed"], done["legs_updated"]) == (5, 5, len(archived.true))
    assert legs(archived) == archived.true
    assert simulator.total_calls == calls


def test_a_few_lines_say_what_was_changed_and_what_was_skipped(archived):
    archived.rows("UPDATE cdr_responses SET body = 'no answer' WHERE request_id = 'answered-3'")
    count = len(archived.true)
    dry = archived.type("reprocess", "--dry-run").stdout.splitlines()
    run = archived.type("reprocess").stdout.splitlines()
    again = archived.type("reprocess").stdout.splitlines()

    assert dry[0] == "Dry run: 5 requests with an archived answer, 4 would change"
    assert run[0] == "Run 2: 5 requests with an archived answer, 4 changed"
    assert run[1] == f"Legs: 0 new, {count * 4 // 5} changed, 0 now missing, 0 unchanged"
    assert run[2] == "Skipped: 1 still cannot be parsed"
    assert run[3].startswith("  answered-3 of account default: the body is not JSON")
    assert dry[1:] == run[1:]
    assert again[0] == "Run 3: 5 requests with an archived answer, 0 changed"


def test_a_dead_request_whose_answer_can_be_parsed_now_is_reported(operator):
    operator.type("enqueue", "answered-1")
    operator.type("sync", CDR_SYNC_SETTLE="0")
    operator.rows(
        "UPDATE cdr_requests SET state = 'dead', last_error_kind = 'malformed', last_error = 'it was odd'"
    )
    result = operator.type("reprocess", CDR_SYNC_SETTLE="0")

    assert "No longer dead: 1 done" in result.stdout.splitlines()
    assert operator.rows("SELECT state, last_error_kind, last_error FROM cdr_requests") == [
        ("done", None, None)
    ]


def test_it_takes_the_region_from_the_settings(operator):
    operator.type("enqueue", "answered-1")
    operator.type("sync")
    operator.rows('UPDATE cdr_responses SET body = replace(body, \'"to":\', \'"to": 2079460000, "was":\')')
    operator.type("reprocess", CDR_SYNC_DEFAULT_REGION="GB")
    countries = operator.rows("SELECT DISTINCT to_country FROM call_legs WHERE missing_since IS NULL")

    assert countries == [("GB",)]


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--since", "2020-01-01"), 5),
        (("--until", "2020-01-01"), 0),
        (("--account", "default"), 5),
        (("--account", "sales"), 0),
    ],
    ids=["since", "until", "its account", "another account"],
)
def test_it_can_be_narrowed(archived, options, count):
    archived.type("enqueue", "one", "--account", "sales")
    result = json.loads(archived.type("reprocess", *options, "--json").stdout)

    assert (result["requests"], result["changed"]) == (count, count)


def test_it_needs_no_credentials(archived):
    for name in ("PIOPIY_APP_ID", "PIOPIY_SECRET"):
        del archived.environment[name]
    result = archived.type("reprocess")

    assert result.exit_code == 0
    assert legs(archived) == archived.true


@pytest.mark.parametrize(
    ("name", "code", "chunks", "outcome"),
    [("SIGINT", 130, 2, "interrupted"), ("SIGTERM", 143, 2, "interrupted"), ("SIGKILL", -9, 1, "abandoned")],
)
def test_stopped_or_killed_it_leaves_whole_chunks_and_the_same_command_does_the_rest(
    archived, name, code, chunks, outcome
):
    program = (sys.executable, "-c", SIGNALLED.format(number=int(signal.Signals[name])))
    ended = finish(archived.start("reprocess", "--json", program=program))
    right = {leg[0] for leg in set(legs(archived)) & set(archived.true)}
    rest = json.loads(archived.type("reprocess", "--json").stdout)

    assert ended.code == code
    assert "Traceback" not in ended.stderr
    assert len(right) == 2 * chunks
    assert rest["changed"] == 5 - 2 * chunks
    assert legs(archived) == archived.true
    assert archived.rows("SELECT outcome FROM sync_runs WHERE command = 'reprocess'") == [(outcome,), ("ok",)]


@pytest.mark.parametrize("option", ["--since", "--until"])
def test_an_invalid_time_is_wrong_usage(operator, option):
    result = operator.type("reprocess", option, "yesterday")

    assert result.exit_code == 2
    assert "'yesterday' is not a valid time" in result.stderr
