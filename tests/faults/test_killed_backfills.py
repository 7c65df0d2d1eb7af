"""A backfill that is killed or stopped during marking."""

from __future__ import annotations

import json
import signal

import pytest
from support.operators import finish

from etl.db.tables import cdr_requests

MARK = ("backfill", "--only", "all", "--batch", "july", "--no-run", "--json")


def marked(site):
    """The marked requests, with the time of their marking."""
    return {row["id"]: row["run_after"] for row in site.rows(cdr_requests, batch="july", lane=1)}


@pytest.mark.parametrize(("place", "expected"), [("before-mark-commit", 0), ("after-mark-commit", 500)])
def test_a_kill_leaves_whole_chunks_and_the_same_command_marks_only_the_rest(site, place, expected):
    site.fill(700)
    killed = finish(site.start_sabotaged(place, "KILL", *MARK))
    left = marked(site)
    again = site.run(*MARK)
    now = marked(site)

    assert killed.code == -signal.SIGKILL
    assert len(left) == expected
    assert again.code == 0, again.all
    assert f'"selected": {700 - expected}' in again.stdout
    assert f'"already_marked": {expected}' in again.stdout
    assert len(now) == 700
    assert {number: now[number] for number in left} == left
    assert site.states() == {"pending": 700}


@pytest.mark.parametrize(("name", "code"), [("TERM", 143), ("INT", 130)])
def test_a_signal_during_marking_rolls_the_chunk_back_without_a_traceback(site, name, code):
    site.fill(30)
    stopped = finish(site.start_sabotaged("before-mark-commit", name, *MARK))

    assert (stopped.code, stopped.stdout) == (code, "")
    (line,) = stopped.stderr.split("\n\n")[0].splitlines()  # after it, click ends the line of a ^C
    assert json.loads(line)["event"].startswith("Stopped during marking. ")
    assert marked(site) == {}


def test_a_signal_during_marking_warns_that_resuming_would_leave_out_the_rest(site):
    site.fill(700)
    stopped = finish(site.start_sabotaged("after-mark-commit", "INT", *MARK))

    assert stopped.code == 130
    assert 0 < len(marked(site)) < 700
    assert (
        '"Stopped during marking. To mark the rest, repeat this command with --batch july; '
        '`cdr-sync backfill --resume july` would leave out what is not marked yet."'
    ) in stopped.stderr


def test_resume_works_off_what_was_marked_before_the_kill(site):
    request_ids = site.fill(530)
    site.change(*request_ids[30:], state="cancelled", finished_at=site.now())
    site.change(*request_ids[:30], state="dead", finished_at=site.now())
    killed = finish(
        site.start_sabotaged("after-mark-commit", "KILL", "backfill", "--only", "dead", "--batch", "july")
    )
    resumed = site.run("backfill", "--resume", "july")

    assert killed.code == -signal.SIGKILL
    assert (resumed.code, resumed.stderr) == (0, "")
    assert "30 claims = 30 done" in resumed.stdout
    assert site.states() == {"done": 30, "cancelled": 500}
    assert site.stored_legs() == site.true_legs()
    assert site.asked_twice() == set()
