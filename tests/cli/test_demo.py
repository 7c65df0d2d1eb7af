"""`cdr-sync demo`."""

from __future__ import annotations

import pytest
from support.commands import mistake


@pytest.mark.parametrize("until", ["2099-01-01", "2000-12-31T23:59:59Z", "0001-01-01"])
def test_a_demo_of_future_or_ancient_days_is_rejected(new_operator, until):
    result = new_operator.type("demo", "--until", until)

    assert result.exit_code == 2
    assert "Choose a time in the past, from 2001-01-01 on" in mistake(result)
