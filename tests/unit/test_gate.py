"""The gate before the API: calls go through as they are paid for, whoever makes them."""

from __future__ import annotations

import threading
from collections import Counter

from support.operators import wait_until

from etl.sync.account import Gate


class Crowd:
    """Some threads that all want to go through one gate."""

    def __init__(self, count, patience=30.0):
        self.woken = Counter()
        self.gate = Gate(lambda: self.woken.update(["woken"]), patience)
        self.passed = []
        self.threads = [threading.Thread(target=self.try_it, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def try_it(self):
        self.passed.append(self.gate.pass_through())

    def join(self):
        for thread in self.threads:
            thread.join(10)
        return Counter(self.passed)


def test_a_call_that_is_paid_for_goes_through_at_once_and_wakes_nobody():
    crowd = Crowd(0)
    crowd.gate.pay(2)

    assert [crowd.gate.pass_through(), crowd.gate.pass_through()] == [True, True]
    assert crowd.woken.total() == 0
    assert crowd.gate.unpaid == 0


def test_a_call_that_is_not_paid_for_waits_and_wakes_the_coordinator():
    crowd = Crowd(3)
    wait_until(lambda: crowd.gate.unpaid == 3)
    passed_before = list(crowd.passed)
    crowd.gate.pay(3)

    assert crowd.join() == {True: 3}
    assert passed_before == []
    assert crowd.woken.total() == 3


def test_no_more_calls_go_through_than_are_paid_for():
    crowd = Crowd(5)
    wait_until(lambda: crowd.gate.unpaid == 5)
    crowd.gate.pay(2)
    wait_until(lambda: len(crowd.passed) == 2)
    unpaid = crowd.gate.unpaid
    crowd.gate.give_up()

    assert crowd.join() == {True: 2, False: 3}
    assert unpaid == 3


def test_a_wait_that_is_given_up_ends_and_so_does_every_later_one():
    crowd = Crowd(2)
    wait_until(lambda: crowd.gate.unpaid == 2)
    crowd.gate.give_up()

    assert crowd.join() == {False: 2}
    assert crowd.gate.pass_through() is False


def test_patience_ends_too_and_leaves_nothing_unpaid():
    crowd = Crowd(1, patience=0.01)

    assert crowd.join() == {False: 1}
    assert crowd.gate.unpaid == 0
