"""Removes guards, for negative controls: without the guard, the damage must happen.

Typed as `python unguarded.py WORDS…`, it is `cdr-sync WORDS…` without the fence.
"""

from __future__ import annotations

import sys
from collections import Counter

from sqlalchemy import Engine, event

from etl.cli.main import main
from etl.db.queue import Fenced, fence
from etl.sync import settle as settling

# Words of statements, and their replacement without the guard.
NO_FENCE = {"cdr_requests.state = 'running' AND cdr_requests.lease_token = v.token": "1 = 1"}
NO_FENCE_LOCK = {" FOR UPDATE OF cdr_requests": "", " FOR UPDATE": ""}
NO_CLAIM_LOCK = {
    " FOR NO KEY UPDATE SKIP LOCKED": "",
    " FOR UPDATE SKIP LOCKED": "",
    # MySQL's claim is guarded twice.
    "WHERE state = 'pending' AND id IN": "WHERE id IN",
    " AND lease_token = %(token)s ORDER": " ORDER",
}
NO_SKIPPING = {" SKIP LOCKED": ""}
NO_INDEX = {"FROM cdr_requests\n": "FROM cdr_requests IGNORE INDEX (ix_cdr_requests_due)\n"}
NO_LAST_WORDS = {
    "ON CONFLICT (account, request_id) DO NOTHING": "",
    "ON DUPLICATE KEY UPDATE account = VALUES(account)": "",
}
NOT_IMMEDIATE = {"BEGIN IMMEDIATE": "BEGIN"}


def take_out(target, words):
    """Send every statement of an engine without these words; return how often each was found."""
    found = Counter()

    def rewrite(_connection, _cursor, statement, parameters, *_):
        for old, new in words.items():
            if old in statement:
                found[old] += 1
                statement = statement.replace(old, new)
        return statement, parameters

    event.listen(target, "before_cursor_execute", rewrite, retval=True)
    return found


def hold_everything(connection, claims):
    """Treat every claim as still held."""
    return Fenced(fence(connection, claims).now, set(claims), set())


def take_out_fence():
    """Let this process write even what it no longer holds."""
    settling.fence = hold_everything
    take_out(Engine, NO_FENCE)


if __name__ == "__main__":
    sys.argv[0] = "cdr-sync"
    take_out_fence()
    main()
