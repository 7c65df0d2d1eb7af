"""What the soak does to a site: a schedule drawn from a seed, and the code that carries it out."""

from __future__ import annotations

import contextlib
import heapq
import random
import signal
import threading
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from time import monotonic

from sqlalchemy import exc

from support.operators import wait_until

OUTAGES = ("error_503", "error_500", "reset", "empty_reply", "stall_headers", "garbage", "truncated")
NOT_LISTENING, WRONG_SECRET = "not listening", "wrong secret"
LONG_FREEZE = "freeze past the lease"
_DECK = ("kill", "kill", "terminate", "freeze", LONG_FREEZE, LONG_FREEZE, "outage", "outage", "crash")


@dataclass(frozen=True, order=True)
class Injury:
    """What happens, when, to whom and for how long. Times are in seconds."""

    at: float
    kind: str
    seconds: float = 0.0
    slot: int = 0
    outage: str = ""


def draw_injuries(seed, *, seconds, slots, lease, has_server):
    """The same injuries for the same seed: of every kind in each round, in an order drawn by chance."""
    chance = random.Random(seed)
    injuries, at = [], 1.0
    while True:
        for kind in chance.sample(_DECK, len(_DECK)):
            at += chance.uniform(0.3, 1.1)
            if at >= seconds:
                return injuries
            injury = Injury(at, kind, chance.uniform(0.2, 1.0), chance.randrange(slots))
            if kind == LONG_FREEZE:
                injury = replace(injury, seconds=lease + 1 + injury.seconds)  # others look each second
            if kind == "outage":
                every = (*OUTAGES, NOT_LISTENING, WRONG_SECRET)
                injury = replace(injury, seconds=3 * injury.seconds, outage=chance.choice(every))
            if kind != "crash" or has_server:
                injuries.append(injury)


class Hands:
    """Carries injuries out, and heals all of them in the end.

    Attributes:
        done: how many of each kind had a target.
    """

    def __init__(self, site, crons, server):
        self.done = Counter()
        self._site, self._crons, self._server = site, crons, server
        self._simulator, self._secret = site.simulator, site.simulator.secret
        self._order = count()  # of what is to be healed at the same instant

    def carry_out(self, injuries, *, until):
        """Do each at its moment, counted from now; late where the one before it took long."""
        began = monotonic()
        agenda = [(injury.at, next(self._order), self._injure, injury) for injury in injuries]
        agenda.append((until, next(self._order), lambda _: None, None))
        heapq.heapify(agenda)
        while agenda:
            at, _, act, injury = heapq.heappop(agenda)
            threading.Event().wait(max(0.0, began + at - monotonic()))
            if heal := act(injury):
                at = monotonic() - began + injury.seconds
                heapq.heappush(agenda, (at, next(self._order), lambda _, heal=heal: heal() and None, injury))

    def _injure(self, injury):
        """Do it; gives what heals it."""
        match injury.kind:
            case "kill":
                return self._signal(injury, signal.SIGKILL)
            case "terminate":
                return self._signal(injury, signal.SIGTERM)
            case "freeze":
                return self._signal(injury, signal.SIGSTOP)
            case "freeze past the lease":
                return self._signal(replace(injury, slot=self._busy_slot(injury.slot)), signal.SIGSTOP)
            case "outage":
                self.done[f"outage: {injury.outage}"] += 1
                return self._begin_outage(injury.outage)
            case "crash":
                self.done["database killed"] += 1
                self._server.kill()
                return self._server.start

    def _busy_slot(self, first):
        """The first worker from this one on that holds requests, if there is one within a while."""
        slots = [*range(first, len(self._crons)), *range(first)]
        busy = []
        with contextlib.suppress(AssertionError, exc.DBAPIError):
            wait_until(
                lambda: (
                    busy.extend(slot for slot in slots if self._crons[slot].has_claims(self._site)) or busy
                ),
                2,
            )
        return busy[0] if busy else first

    def _signal(self, injury, number):
        run = self._crons[injury.slot].signal(number)
        if run is None:
            return None
        self.done[injury.kind] += 1
        return partial(run.send, signal.SIGCONT) if number == signal.SIGSTOP else None

    def _begin_outage(self, outage):
        simulator = self._simulator
        if outage == NOT_LISTENING:
            simulator.stop()
            return simulator.start
        if outage == WRONG_SECRET:
            simulator.secret = "another"
            return partial(setattr, simulator, "secret", self._secret)
        simulator.outage = outage
        return partial(setattr, simulator, "outage", None)
