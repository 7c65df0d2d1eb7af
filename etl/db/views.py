"""The views for analysts: their columns, types and comments. The migrations have their queries.

`cdr-sync db check`, the comments in PostgreSQL and docs/dictionary.md are all made from this description.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Date,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

from etl.db.dialects import ExactText, Instant, Money

# Apart from that of the tables, because Alembic would take a view in there for a table.
view_metadata = MetaData()


def _account() -> Column[str]:
    return Column("account", ExactText(64), comment="Account: a name from the configuration")


def _request_id() -> Column[str]:
    return Column("request_id", ExactText(255), comment="Request ID as PIOPIY issued it; case matters")


def _side(letter: str) -> Sequence[Column[Any]]:
    which = (
        f"of the {letter} leg (of several the longest answered one, else the latest); null without {letter}"
    )
    return (
        Column(f"{letter}_from", ExactText(64), comment=f"Calling number, as sent, {which} leg"),
        Column(f"{letter}_to", ExactText(64), comment=f"Number or agent ID called, as sent, {which} leg"),
        Column(f"{letter}_status", String(32), comment=f"answered, missed or other, as sent, {which} leg"),
        Column(
            f"{letter}_duration_seconds",
            Integer,
            comment=f"Seconds; whether ringing counts is unknown; {which} leg",
        ),
        Column(f"{letter}_from_e164", ExactText(16), comment=f"{letter}_from in E.164; null if not valid"),
        Column(f"{letter}_to_e164", ExactText(16), comment=f"{letter}_to in E.164; null if not valid"),
    )


calls = Table(
    "calls",
    view_metadata,
    _account(),
    _request_id(),
    Column("call_time", Instant, comment="UTC; the earliest leg's instant"),
    Column(
        "direction",
        String(32),
        comment="outbound, inbound or other, as sent: the a leg's, else the first b leg's; null if not sent",
    ),
    Column("leg_count", BigInteger, comment="Legs of the call"),
    Column(
        "b_leg_count", BigInteger, comment="b legs among them; several where it tried or rang several numbers"
    ),
    *_side("a"),
    *_side("b"),
    Column(
        "to_country",
        String(2),
        comment="Country called, ISO 3166 alpha-2: the b leg's, else the a leg's; null if unknown",
    ),
    Column(
        "answered", Boolean, comment="Whether any b leg was answered; without b legs, whether any a leg was"
    ),
    Column(
        "talk_seconds",
        BigInteger,
        comment="Seconds; durations of the answered b legs added up, without b legs of the answered a legs; "
        "0 if unanswered",
    ),
    Column(
        "billed_rate_total",
        Money,
        comment="Account currency; rate added up over the legs that have one; null if none has. A charge "
        "only if rate is one: see rate_evidence",
    ),
    Column(
        "legs_without_rate", BigInteger, comment="Legs whose rate is null, which billed_rate_total leaves out"
    ),
    comment="One row per request with legs. Legs that a later answer no longer held are left out",
)


def _figures() -> Sequence[Column[Any]]:
    """The figures of a group of calls."""
    return (
        Column("calls", BigInteger, comment="Requests that have legs"),
        Column("answered_calls", BigInteger, comment="Those of them that were answered"),
        Column("answer_rate", Float(53), comment="0 to 1; answered_calls of calls"),
        Column(
            "avg_talk_seconds",
            Float(53),
            comment="Seconds; mean talk_seconds of answered calls of known duration; null without any",
        ),
        Column("talk_seconds", BigInteger, comment="Seconds; talk_seconds of the calls added up"),
        Column(
            "billed_rate_total",
            Money,
            comment="Account currency; billed_rate_total of the calls added up; null if no leg has a rate",
        ),
        Column(
            "legs_without_rate",
            BigInteger,
            comment="Legs whose rate is null, which billed_rate_total leaves out",
        ),
        Column(
            "answered_without_duration",
            BigInteger,
            comment="Answered calls of unknown duration, which avg_talk_seconds leaves out",
        ),
    )


def _day(of: str) -> Column[date]:
    return Column("day", Date, comment=f"UTC day {of}")


calls_daily = Table(
    "calls_daily",
    view_metadata,
    _day("on which the calls began"),
    _account(),
    Column("direction", String(32), comment="As in calls; null where none was sent"),
    *_figures(),
    comment="Calls by UTC day, account and direction",
)

destinations = Table(
    "destinations",
    view_metadata,
    _day("on which the calls began"),
    _account(),
    Column("to_country", String(2), comment="Country called, ISO 3166 alpha-2; ?? where unknown"),
    *_figures(),
    comment="Calls by UTC day, account and country called",
)

sync_coverage = Table(
    "sync_coverage",
    view_metadata,
    _day("on which the requests were enqueued"),
    _account(),
    Column("asked", BigInteger, comment="Requests enqueued that day"),
    Column("done", BigInteger, comment="Those whose answer is final and stored"),
    Column("without_legs", BigInteger, comment="Those for which no leg ever came: their state is empty"),
    Column("dead", BigInteger, comment="Those given up until a person retries them"),
    Column("cancelled", BigInteger, comment="Those that a person cancelled"),
    Column("waiting", BigInteger, comment="Those that are not finished: pending and running"),
    Column("legs", BigInteger, comment="Legs stored for all of them"),
    comment="What became of the requests of each day of enqueueing, by account",
)

data_quality = Table(
    "data_quality",
    view_metadata,
    Column(
        "check_name",
        Text,
        comment="count_mismatch, missing_leg, b_longer_than_a, unknown_country, null_rate, null_balance, "
        "negative_money or future_time",
    ),
    _account(),
    _request_id(),
    Column("leg", ExactText(16), comment="Letter of the leg; null where the finding is the request's"),
    Column(
        "number",
        ExactText(64),
        comment="Number or agent ID called, as sent; null where the finding is the request's, or if none",
    ),
    Column("detail", Text, comment="What was found, in words that hold no phone number"),
    comment="One row per finding: what is odd about stored data. The other views are not changed by it",
)

rate_evidence = Table(
    "rate_evidence",
    view_metadata,
    _account(),
    _request_id(),
    Column("leg", ExactText(16), comment="a or b"),
    Column("to_number", ExactText(64), comment="Number or agent ID called, as sent"),
    Column("call_time", Instant, comment="UTC; the leg's instant"),
    Column("occurrence", Integer, comment="1, 2 and so on among legs equal in leg, to_number and call_time"),
    Column("status", String(32), comment="answered, missed or other, as sent"),
    Column("duration_seconds", Integer, comment="Seconds; null if not sent"),
    Column(
        "balance_before",
        Money,
        comment="Account currency; balance after the leg of this request that was charged just before: the "
        "one with the next higher balance, at equal balances b before a; null for the first",
    ),
    Column("balance", Money, comment="Account currency; balance after this leg; null if not sent"),
    Column(
        "balance_fall",
        Money,
        comment="Account currency; balance_before less balance: the charge of this leg, and of whatever else "
        "the account was charged for in between; null if one of them is",
    ),
    Column("rate", Money, comment="Account currency; what balance_fall is if rate is the charge for the leg"),
    Column(
        "started_minutes",
        BigInteger,
        comment="Minutes begun: duration_seconds / 60, rounded up; null if not sent",
    ),
    Column(
        "rate_times_minutes",
        Money,
        comment="Account currency; rate times started_minutes: what balance_fall is if rate is the price of "
        "a minute; null if one of them is",
    ),
    comment="What the balance says about the meaning of rate, leg by leg. Compare where started_minutes is 2 "
    "or more. Other calls of the account, and top-ups, fall in between: single rows prove nothing",
)

VIEWS = (calls, calls_daily, destinations, sync_coverage, data_quality, rate_evidence)


def comment_views(connection: Connection) -> None:
    """Write the comments into the database, if it is PostgreSQL: the others keep none on views."""
    if connection.dialect.name != "postgresql":
        return
    for view in VIEWS:
        comments = {f"VIEW {view.name}": view.comment}
        comments |= {f"COLUMN {view.name}.{column.name}": column.comment for column in view.columns}
        for target, comment in comments.items():
            quoted = str(comment).replace("'", "''")
            connection.exec_driver_sql(f"COMMENT ON {target} IS '{quoted}'")
