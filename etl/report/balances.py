"""The balance of each account over time, and the top-ups that it shows. Pure.

A leg's balance is what it left behind at its end, so that legs are put in the order of their ends: a long
call that began before a short one is billed after it.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from etl.report.figures import EXACT
from etl.report.period import Period

if TYPE_CHECKING:
    from etl.db.streams import BalanceLeg

_POINTS = 360  # of a curve, at most
_TOP_UPS = 20  # told one by one, the largest
LEAST_TOP_UP = Decimal(100)  # of an account's currency: above what a call costs, whose refund is a rise too
_LONGEST = timedelta(days=7)  # a leg that claims to have lasted longer did not


@dataclass(frozen=True, slots=True, order=True)
class Rise:
    """A rise of the balance between one leg and the next."""

    at: datetime  # when the leg ended that first showed it
    before: Decimal
    after: Decimal

    @property
    def amount(self) -> Decimal:
        """By how much the balance rose; what that leg itself cost is not known to it."""
        return EXACT.subtract(self.after, self.before)


@dataclass(slots=True)
class Balance:
    """How an account's balance went."""

    account: str
    legs: int = 0
    legs_without_balance: int = 0
    first: Decimal | None = None
    lowest: Decimal | None = None
    last: Decimal | None = None
    top_ups: int = 0
    topped_up: Decimal = Decimal(0)
    small_rises: int = 0  # by less
    risen: Decimal = Decimal(0)  # by these in all
    largest_top_ups: list[Rise] = field(default_factory=list)  # in the order of time
    curve: dict[int, tuple[datetime, Decimal]] = field(default_factory=dict)  # the last one of each slot

    def mark(self, at: datetime, amount: Decimal, slot: int) -> None:
        """Take in what the next leg left behind at its end."""
        if self.last is None or self.lowest is None:
            self.first = self.lowest = amount
        elif amount > self.last:
            self._rise(Rise(at, self.last, amount))
        self.lowest = min(self.lowest, amount)
        self.last = amount
        self.curve[slot] = (at, amount)

    def _rise(self, rise: Rise) -> None:
        if rise.amount < LEAST_TOP_UP:
            self.small_rises += 1
            self.risen = EXACT.add(self.risen, rise.amount)
            return
        self.top_ups += 1
        self.topped_up = EXACT.add(self.topped_up, rise.amount)
        if len(self.largest_top_ups) == _TOP_UPS:
            self.largest_top_ups.remove(min(self.largest_top_ups, key=attrgetter("amount")))
        self.largest_top_ups.append(rise)

    @property
    def amounts(self) -> list[Decimal | None]:
        """All that is told of it."""
        told = [self.first, self.last, self.lowest, self.topped_up, self.risen]
        return [*told, *(amount for rise in self.largest_top_ups for amount in (rise.before, rise.after))]


def follow_balances(legs: Iterable[BalanceLeg], period: Period) -> list[Balance]:
    """How the balance of each account went.

    Args:
        legs: each account's together, in the order of their beginning.
        period: the period that they began in.
    """
    begin, slot = period.since.astimezone(UTC), max(period.length / _POINTS, timedelta.resolution)
    balances = []
    for account, theirs in groupby(legs, key=attrgetter("account")):
        balance = Balance(account)
        for at, amount in _in_order_of_ends(_known(theirs, balance)):
            balance.mark(at.astimezone(period.zone), amount, (at - begin) // slot)
        balances.append(balance)
    return balances


def _known(legs: Iterable[BalanceLeg], balance: Balance) -> Iterator[tuple[datetime, datetime, Decimal]]:
    """Beginning, end and balance of the legs that have one; all are counted."""
    for leg in legs:
        balance.legs += 1
        if leg.balance is None:
            balance.legs_without_balance += 1
            continue
        lasted = min(timedelta(seconds=leg.duration_seconds or 0), _LONGEST)
        yield leg.call_time, leg.call_time + lasted, leg.balance


def _in_order_of_ends(
    legs: Iterable[tuple[datetime, datetime, Decimal]],
) -> Iterator[tuple[datetime, Decimal]]:
    """Ends and balances in order; only the legs that are under way at one instant are held.

    Of legs that end together the higher balance comes first: no top-up is seen where there need be none.
    """
    under_way: list[tuple[datetime, Decimal]] = []
    for begin, end, amount in legs:
        while under_way and under_way[0][0] < begin:
            at, negative = heapq.heappop(under_way)
            yield at, -negative
        heapq.heappush(under_way, (end, -amount))
    while under_way:
        at, negative = heapq.heappop(under_way)
        yield at, -negative
