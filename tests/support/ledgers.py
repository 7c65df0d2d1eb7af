"""Whether the ledger adds up: every claim of every run has an outcome."""

from __future__ import annotations

from operator import itemgetter

from sqlalchemy import func, select

from etl.db.engine import reading
from etl.db.tables import cdr_requests, sync_runs
from support.systems import unexplained

NO_LAST_WORD = ("running", "abandoned")  # how runs stand that could not say what became of their claims


def contradictions(engine):
    """Sentences that say where the ledger and the queue contradict each other.

    A run that came to its end knows what became of each of its claims. One that was killed leaves claims
    behind, and one that is at work holds some. Each of these is running still, or was taken back when its
    lease ran out; and of what was taken back, some workers came back later, and counted it as lost.
    """
    column = cdr_requests.c
    # A run that asks nothing claims nothing: it counts requests that an archived answer revived.
    asking = select(sync_runs).where(sync_runs.c.command != "reprocess")
    with reading(engine) as connection:
        runs = connection.execute(asking).mappings().all()
        running = connection.scalar(select(func.count()).where(column.state == "running"))
        reclaims = int(connection.scalar(select(func.coalesce(func.sum(column.reclaims), 0))))
    for run in runs:
        left = unexplained(run)
        if left < 0 or (left and run["outcome"] not in NO_LAST_WORD):
            yield f"{left} of {run['claimed']} claims of run {run['id']}, {run['outcome']}, have no outcome"
    left, lost = sum(map(unexplained, runs)), sum(map(itemgetter("lost_leases"), runs))
    if left != running + reclaims - lost:
        yield (
            f"{left} claims have no outcome, where {running} are running, and {reclaims} were taken back, "
            f"of which {lost} counted as lost"
        )
