"""Reading archived answers once more: what each would change in the rows of its request, by today's rules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, Row

from etl.cdr.answers import SUCCESS, read_answer
from etl.cdr.identity import LegChanges
from etl.cdr.outcomes import Done, Empty, decide_answer
from etl.cdr.parsing import parse_legs
from etl.cdr.records import ClaimedRequest, Leg
from etl.db.archive import MALFORMED, ArchivedAnswer, Rereading, Span, hold_requests, latest_answers
from etl.db.call_legs import RequestKey, stored_legs
from etl.db.states import DEAD, DONE, EMPTY, PENDING, RUNNING
from etl.errors import MalformedError, RequestError
from etl.settings import Settings
from etl.sync.settling import leg_changes, waiting_rules

SHOWN = 20
REVIVED_AS = {DONE: "done", EMPTY: "empty", PENDING: "put_off"}  # by the names of the ledger's columns
_BODIES = 20  # in memory at a time: each may have 4 MB


@dataclass(slots=True)
class Page:
    """What some answers come to; of a whole run in the end."""

    counts: Counter[str] = field(default_factory=Counter)
    left: list[tuple[str, str, str]] = field(default_factory=list)  # some left alone: ID, account, why
    changes: dict[RequestKey, LegChanges] = field(default_factory=dict)  # to be written; not added up
    rereadings: list[Rereading] = field(default_factory=list)  # likewise

    def leave(self, key: RequestKey, why: object, *, counted_as: str) -> None:
        """Note an answer of which nothing can be made."""
        account, request_id = key
        self.counts["requests"] += 1
        self.counts[counted_as] += 1
        self.left.append((request_id, account, " ".join(str(why).split())[:300]))

    def add(self, other: Page) -> None:
        """Take over what another page came to."""
        self.counts.update(other.counts)
        self.left += other.left[: SHOWN - len(self.left)]


def read_page(
    connection: Connection,
    account: str,
    request_ids: Sequence[str],
    *,
    span: Span,
    settings: Settings,
    locks: bool,
) -> Page:
    """Read the latest answers of some requests of an account, and tell what they change.

    What is running is left to its run. With `locks`, no other request becomes so until the commit. The legs
    of a request that is not in the queue any more are derived all the same.
    """
    page = Page()
    held = hold_requests(connection, account, request_ids, locks=locks)
    running = {request_id for request_id in request_ids if _state(held.get(request_id)) == RUNNING}
    page.counts.update(requests=len(running), running=len(running))
    wanted = [request_id for request_id in request_ids if request_id not in running]
    for first in range(0, len(wanted), _BODIES):
        answers = latest_answers(connection, account, wanted[first : first + _BODIES], span)
        stored = stored_legs(connection, [(account, answer.request_id) for answer in answers])
        for answer in answers:
            key = (account, answer.request_id)
            try:
                legs, count = _derive(answer, region=settings.default_region)
            except RequestError as error:
                page.leave(key, error, counted_as="unreadable")
                continue
            changes = leg_changes(connection, stored.get(key), legs)
            row = held.get(answer.request_id)
            rereading = None if row is None else _reread(row, answer, legs, count, changes, settings=settings)
            _note(page, key, changes, rereading)
    return page


def _state(row: Row[Any] | None) -> str | None:
    return None if row is None else row.state


def _derive(answer: ArchivedAnswer, *, region: str) -> tuple[tuple[Leg, ...], int | None]:
    """The legs of an archived answer, and how many the API said there are."""
    if not answer.is_as_received:
        raise MalformedError("the archive does not hold the bytes that came: they were no text")
    sent = read_answer(answer.http_status or SUCCESS, answer.body.encode())
    return parse_legs(sent, region=region), sent.count


def _reread(
    row: Row[Any],
    answer: ArchivedAnswer,
    legs: Sequence[Leg],
    count: int | None,
    changes: LegChanges,
    *,
    settings: Settings,
) -> Rereading | None:
    """What the queue's row must say now; None where it says so already.

    An answer that made its request dead, since it could not be read, is settled as it would have been when
    it came: one that was not final then is asked for again.
    """
    said = Rereading(row.id, changes.leg_count, count)
    if row.state == DEAD and row.last_error_kind == MALFORMED:
        request = ClaimedRequest(
            row.id, row.account, row.request_id, "", row.attempts, row.fetches, row.enqueued_at
        )
        rules = waiting_rules(settings)
        outcome = decide_answer(request, legs, count, changes, now=answer.fetched_at, rules=rules, chance=1.0)
        return replace(said, state={Done: DONE, Empty: EMPTY}.get(type(outcome), PENDING))
    return None if (row.leg_count, row.api_count) == (said.leg_count, said.api_count) else said


def _note(page: Page, key: RequestKey, changes: LegChanges, rereading: Rereading | None) -> None:
    page.counts.update(
        requests=1,
        changed=int(rereading is not None or not changes.is_same),
        legs_inserted=len(changes.inserted),
        legs_updated=len(changes.updated),
        legs_missing=len(changes.vanished),
        legs_unchanged=changes.unchanged,
    )
    if not changes.is_same:
        page.changes[key] = changes
    if rereading is not None:
        page.rereadings.append(rereading)
        if rereading.state is not None:
            page.counts[REVIVED_AS[rereading.state]] += 1
