"""`cdr-sync demo`."""

from __future__ import annotations

import pytest
from support.commands import mistake


@pytest.mark.parametrize("until", ["2099-01-01", "2000-12-31T23:59:59Z", "0001-01-01"])
def test_a_demo_of_days_to_come_or_long_past_is_refused(new_operator, until):
    result = new_operator.type("demo", "--until", until)

    assert result.exit_code == 2
    assert "choose an instant of the past, from 2001-01-01 on" in mistake(result)
