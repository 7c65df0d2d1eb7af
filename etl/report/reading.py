"""Reading a report from the database: everything in one snapshot, and long things in one pass."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from etl.cdr.masking import masked_number, masked_text
from etl.db import streams as stored
from etl.db.dialects import database_now
from etl.db.figures import dead_by_error_kind
from etl.report.balances import Balance, follow_balances
from etl.report.coverage import Coverage, coverage_of
from etl.report.figures import Traffic
from etl.report.period import Period, chosen_period, read_zone

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report tells."""

    period: Period
    as_of: datetime | None  # the last change of any request or leg; in the period's zone
    coverage: Coverage
    traffic: Traffic
    balances: list[Balance]
    is_masked: bool


def read_report(
    connection: Connection,
    since: datetime | None,
    until: datetime | None,
    *,
    zone_name: str,
    region: str,
    is_masked: bool,
) -> Report:
    """Read and add up what a period comes to.

    Args:
        connection: one of `long_reading`, so that all of it tells of one instant.
        since: the period's beginning, in the zone where it has none of its own; None for the default.
        until: its end, likewise.
        zone_name: the IANA name of the zone whose days count.
        region: ISO 3166 alpha-2 of numbers without a country code, for masking.
        is_masked: whether phone numbers and agent IDs are hidden.

    Raises:
        UsageError: there is no such zone, or the period ends before it begins.
    """
    zone = read_zone(zone_name)
    period = chosen_period(since, until, zone=zone, zone_name=zone_name, now=database_now(connection))
    span = (period.since, period.until)
    traffic = Traffic(period)
    if is_masked:
        traffic.mask_number = partial(masked_number, region=region)
        traffic.mask_text = partial(masked_text, region=region)
    traffic.add_calls(stored.stream_calls(connection, *span))
    traffic.add_findings(stored.stream_findings(connection, *span))
    coverage = coverage_of(
        period,
        stored.count_requests(connection, *span),
        stored.list_waiting(connection),
        last_enqueued_at=stored.last_enqueued_at(connection),
        missing_legs=stored.count_missing_legs(connection, *span),
        dead=sum(dead_by_error_kind(connection).values()),
    )
    balances = follow_balances(stored.stream_balance_legs(connection, *span), period)
    as_of = stored.last_change_at(connection)
    shown_as_of = None if as_of is None else as_of.astimezone(zone)
    return Report(period, shown_as_of, coverage, traffic, balances, is_masked)
