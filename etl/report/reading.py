"""Reading a report from the database: all from one snapshot, calls, legs and findings in one pass each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING

from etl.cdr.masking import masked_number, masked_text
from etl.db import streams
from etl.db.dialects import database_now
from etl.db.figures import dead_by_error_kind
from etl.report import figures
from etl.report.figures import Balance, Check, Coverage, Mask, Traffic
from etl.report.period import Period, choose_period, read_zone

if TYPE_CHECKING:
    from sqlalchemy import Connection


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that a report shows. Phone numbers in it are masked already if they are to be."""

    period: Period
    as_of: datetime | None  # the last change of any request or leg, in the period's zone
    coverage: Coverage
    traffic: Traffic
    checks: Mapping[str, Check]  # findings by check
    balances: Sequence[Balance]  # by account
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
    """Read the figures of a period.

    Args:
        connection: one of `long_reading`, whose snapshot all figures come from.
        since: the period's start, in the zone if it has no zone of its own; None for the default.
        until: the period's end, in the zone if it has no zone of its own; None for the default.
        zone_name: the IANA name of the zone of days and hours.
        region: ISO 3166 alpha-2 of numbers without a country code, for masking.
        is_masked: whether phone numbers and agent IDs are hidden.

    Raises:
        UsageError: there is no such zone, or the period does not start before its end.
    """
    period = choose_period(since, until, zone=read_zone(zone_name), now=database_now(connection))
    bounds = (period.since, period.until)
    masks = (partial(masked, region=region) for masked in (masked_number, masked_text))
    mask = Mask(*masks) if is_masked else figures.NO_MASK
    as_of = streams.last_change_at(connection)
    coverage = figures.coverage_of(
        period,
        streams.count_requests(connection, *bounds),
        streams.list_waiting(connection),
        last_enqueued_at=streams.last_enqueued_at(connection),
        missing_legs=streams.count_missing_legs(connection, *bounds),
        dead=sum(dead_by_error_kind(connection).values()),
    )
    return Report(
        period=period,
        as_of=as_of and as_of.astimezone(period.zone),
        coverage=coverage,
        traffic=figures.tally_calls(streams.stream_calls(connection, *bounds), period, mask=mask),
        checks=figures.count_findings(streams.stream_findings(connection, *bounds), mask=mask),
        balances=figures.follow_balances(streams.stream_balance_legs(connection, *bounds), period),
        is_masked=is_masked,
    )
