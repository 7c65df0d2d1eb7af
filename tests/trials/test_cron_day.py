"""A day under cron, with a run each half hour, and each minute around what happens; `make trial` runs all."""

from __future__ import annotations

import pytest
from cron_day import DAY, STRANGER, minutes, morning


@pytest.mark.heavy
def test_the_mail_of_a_day_is_only_what_a_person_must_act_on():
    with morning() as day:
        day.live_through(minutes(DAY, 30))

        assert list(day.violations()) == []
        assert sum(bool(run.mail) for run in day.runs) == 60 + 1 + 20


def test_negative_control_a_trouble_that_the_day_must_not_have_is_noticed():
    with morning() as day:
        day.live_through(range(STRANGER - 1, STRANGER + 2), has_stranger=True)
        violations = list(day.violations())

    assert [violation[:20] for violation in violations[:2]] == [
        "10:00: the mail says",
        "10:01: the mail says",
    ]
    assert all("no credentials" in violation for violation in violations[:2])
