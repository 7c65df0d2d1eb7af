"""Putting a run together: the real API, the real patience, the real database."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from etl.cdr.records import ClaimedRequest
from etl.settings import Account, Settings
from etl.sync.asking import Asked, AskOne
from etl.sync.job import Job, MakeAsker
from etl.sync.observing import Observer
from etl.sync.stopping import Stop
from etl.sync.summary import Limits, Summary

if TYPE_CHECKING:
    from etl.cdr_api import HttpAnswer
    from etl.retrying import Patience

# Dozens of threads that each do a millisecond's work between two waits gain nothing by being interrupted
# in it: with Python's 5 ms the same run takes about a fifth more CPU.
_SWITCH_SECONDS = 0.02


def run_sync(
    engine: Engine,
    settings: Settings,
    accounts: Sequence[Account],
    *,
    limits: Limits,
    stop: Stop,
    command: str = "sync",
    on_progress: Callable[[Mapping[str, int]], None] = lambda _counts: None,
    observers: Sequence[Observer] = (),
) -> Summary:
    """Run the job once for these accounts; `command` is what the ledger calls it. Returns what it did."""
    sys.setswitchinterval(_SWITCH_SECONDS)
    job = Job(
        engine,
        settings,
        make_asker=_asker_maker(settings, stop),
        stop=stop,
        limits=limits,
        command=command,
        on_progress=on_progress,
        observers=observers,
    )
    return job.run(accounts)


def _asker_maker(settings: Settings, stop: Stop) -> MakeAsker:
    """What makes a thread's way of asking; the patience is one for all threads."""
    timeout = settings.request_timeout.total_seconds()

    @cache
    def patience() -> Patience:
        from etl.retrying import Patience  # noqa: PLC0415 (a run with nothing to do does not pay for it)

        # No try begins that could end after the lease: the claim would be somebody else's by then. A claim
        # may wait for the one before it in the same thread, so that each has half of the lease.
        return Patience(settings.tries, settings.lease.total_seconds() / 2 - timeout, stop=stop.event)

    def make_asker(account: Account, may_call: Callable[[], bool]) -> AskOne:
        from etl.cdr_api import CdrApi, Credentials  # noqa: PLC0415 (likewise)
        from etl.sync.asking import ask  # noqa: PLC0415 (likewise)

        api = CdrApi(settings.api_url, timeout=timeout, proxy=settings.proxy or None)
        credentials = Credentials(account.app_id, account.secret)

        def fetch(request_id: str) -> HttpAnswer:
            return api.fetch_answer(request_id, credentials)

        def ask_one(request: ClaimedRequest, /, *, is_canary: bool) -> Asked:
            return ask(
                request,
                fetch,
                patience().call,
                region=settings.default_region,
                secret=account.secret,
                is_canary=is_canary,
                may_call=may_call,
            )

        return ask_one

    return make_asker
