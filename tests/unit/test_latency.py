"""Latency: every call falls into one class, the smallest that holds it."""

from __future__ import annotations

import pytest

from etl.sync.summary import LATENCY_CLASSES, Latency

LAST = len(LATENCY_CLASSES)


@pytest.mark.parametrize(
    ("seconds", "place"), [(0.0, 0), (0.05, 0), (0.051, 1), (30.0, LAST - 1), (30.1, LAST)]
)
def test_a_call_falls_into_the_first_class_that_holds_it(seconds, place):
    latency = Latency()
    latency.add([seconds])

    assert [index for index, count in enumerate(latency.counts) if count] == [place]


def test_calls_add_up():
    latency = Latency()
    latency.add([0.5, 1.0])
    latency.add([])
    latency.add([60.0])

    assert (sum(latency.counts), latency.total) == (3, 61.5)
