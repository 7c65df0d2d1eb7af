"""A backfill that is killed while it marks what it is of."""

from __future__ import annotations

import json
import signal

import pytest
from support.operators import finish

from etl.db.tables import cdr_requests

MARK = ("backfill", "--only", "all", "--batch", "july", "--no-run", "--json")


def marked(site):
    """The marked requests, with the instant of their marking."""
    return {row["id"]: row["run_after"] for row in site.rows(cdr_requests, batch="july", lane=1)}


@pytest.mark.parametrize(("place", "expected"), [("before-mark-commit", 0), ("after-mark-commit", 500)])
def test_a_kill_leaves_whole_pages_and_the_same_command_marks_the_rest_alone(site, place, expected):
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
def test_a_signal_while_it_marks_takes_the_page_back_and_leaves_no_traceback(site, name, code):
    site.fill(30)
    stopped = finish(site.start_sabotaged("before-mark-commit", name, *MARK))

    assert (stopped.code, stopped.stdout) == (code, "")
    (line,) = stopped.stderr.split("\n\n")[0].splitlines()  # after it, click ends the line of a ^C
    assert json.loads(line)["event"].startswith("Stopped while it marked. ")
    assert marked(site) == {}


def test_a_signal_after_some_were_marked_says_that_resuming_would_leave_out_the_rest(site):
    site.fill(700)
    stopped = finish(site.start_sabotaged("after-mark-commit", "INT", *MARK))

    assert stopped.code == 130
    assert 0 < len(marked(site)) < 700
    assert (
        '"Stopped while it marked. The same command with --batch july marks the rest; '
        '`cdr-sync backfill --resume july` would leave the rest out."'
    ) in stopped.stderr


def test_what_was_marked_before_the_kill_is_worked_off_by_resume(site):
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
