"""The forty faults that a release is tested against, and the databases on which each can happen."""

from __future__ import annotations

from typing import NamedTuple

EVERY = ("sqlite", "postgresql", "mariadb")
SERVERS = ("postgresql", "mariadb")
FILE = ("sqlite",)


class Fault(NamedTuple):
    """One fault: what happens, and on which databases it can."""

    title: str
    databases: tuple[str, ...] = EVERY


FAULTS = {
    1: Fault("SIGKILL after the claim's commit"),
    2: Fault("SIGKILL during the body"),
    3: Fault("SIGKILL between fence and commit"),
    4: Fault("SIGKILL right after the commit"),
    5: Fault("SIGSTOP past the lease, another worker finishes, SIGCONT"),
    6: Fault("that zombie fails or releases"),
    7: Fault("zombie and reaper at one instant, both orders"),
    8: Fault("the commit's reply is lost", SERVERS),
    9: Fault("the connection is killed in a transaction", SERVERS),
    10: Fault("the database is half open: a black hole", SERVERS),
    11: Fault("six processes, 10,000 requests"),
    12: Fault("a second worker beside the first one's locks"),
    13: Fault("overlapping upserts in opposite orders"),
    14: Fault("forced deadlock, lock wait timeout"),
    15: Fault("a frozen writer of the file", FILE),
    16: Fault("the disk is full"),
    17: Fault("a read-only or corrupt file", FILE),
    18: Fault("a request that kills its worker every time"),
    19: Fault("dripping body"),
    20: Fault("dripping headers"),
    21: Fault("stalls, reset, empty reply, refused, unknown host"),
    22: Fault("body cut without Content-Length"),
    23: Fault("gzip bomb, endless body"),
    24: Fault("redirect to another host"),
    25: Fault("Retry-After in every form"),
    26: Fault("all 404 with a thousand pending"),
    27: Fault("an outage over twenty runs, then recovery"),
    28: Fault("one call in three fails"),
    29: Fault("500 requests fail together"),
    30: Fault("the worker's clock an hour off, or jumping"),
    31: Fault("session time zone, daylight saving"),
    32: Fault("SIGTERM in a retry's wait, in HTTP, in the upsert"),
    33: Fault("a second SIGTERM"),
    34: Fault("the time limit is reached"),
    35: Fault("ten runs started at once"),
    36: Fault("a long read transaction is open"),
    37: Fault("a million done rows, 100,000 deferred"),
    38: Fault("IDs that differ in case, space, Unicode; one ID twice"),
    39: Fault("migration from each version with rows; two migrators"),
    40: Fault("ping URL down or hanging, metrics folder unwritable"),
}
