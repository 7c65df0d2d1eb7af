"""The views for analysts: their columns, types and comments. The migrations have their queries.

`cdr-sync db check`, the comments in PostgreSQL and docs/dictionary.md are all made from this description.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
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
from etl.db.tables import column

# Separate from that of the tables, because Alembic would treat a view there as a table.
view_metadata = MetaData()


_account = partial(column, "account", ExactText(64), "Account: a name from the configuration")
_request_id = partial(column, "request_id", ExactText(255), "Request ID as PIOPIY issued it; case matters")


def _side(letter: str) -> Sequence[Column[Any]]:
    which = (
        f"of the {letter} leg (of several the longest answered one, else the latest); null without {letter}"
    )
    return (
        column(f"{letter}_from", ExactText(64), f"Calling number, as sent, {which} leg"),
        column(f"{letter}_to", ExactText(64), f"Number or agent ID called, as sent, {which} leg"),
        column(f"{letter}_status", String(32), f"answered, missed or other, as sent, {which} leg"),
        column(
            f"{letter}_duration_seconds", Integer, f"Seconds; whether ringing counts is unknown; {which} leg"
        ),
        column(f"{letter}_from_e164", ExactText(16), f"{letter}_from in E.164; null if not valid"),
        column(f"{letter}_to_e164", ExactText(16), f"{letter}_to in E.164; null if not valid"),
    )


calls = Table(
    "calls",
    view_metadata,
    _account(),
    _request_id(),
    column("call_time", Instant, "UTC; the earliest leg's instant"),
    column(
        "direction",
        String(32),
        "outbound, inbound or other, as sent: the a leg's, else the first b leg's; null if not sent",
    ),
    column("leg_count", BigInteger, "Legs of the call"),
    column("b_leg_count", BigInteger, "b legs among them; several where it tried or rang several numbers"),
    *_side("a"),
    *_side("b"),
    column(
        "to_country",
        String(2),
        "Country called, ISO 3166 alpha-2: the b leg's, else the a leg's; null if unknown",
    ),
    column("answered", Boolean, "Whether any b leg was answered; without b legs, whether any a leg was"),
    column(
        "talk_seconds",
        BigInteger,
        "Seconds; durations of the answered b legs added up, without b legs of the answered a legs; "
        "0 if unanswered",
    ),
    column(
        "billed_rate_total",
        Money,
        "Account currency; rate added up over the legs that have one; null if none has. A charge "
        "only if rate is one: see rate_evidence",
    ),
    column("legs_without_rate", BigInteger, "Legs whose rate is null, which billed_rate_total leaves out"),
    comment="One row per request with legs. Legs that a later answer no longer contained are left out",
)


def _figures() -> Sequence[Column[Any]]:
    """The figures of a group of calls."""
    return (
        column("calls", BigInteger, "Requests that have legs"),
        column("answered_calls", BigInteger, "Those of them that were answered"),
        column("answer_rate", Float(53), "0 to 1; answered_calls of calls"),
        column(
            "avg_talk_seconds",
            Float(53),
            "Seconds; mean talk_seconds of answered calls of known duration; null without any",
        ),
        column("talk_seconds", BigInteger, "Seconds; talk_seconds of the calls added up"),
        column(
            "billed_rate_total",
            Money,
            "Account currency; billed_rate_total of the calls added up; null if no leg has a rate",
        ),
        column(
            "legs_without_rate", BigInteger, "Legs whose rate is null, which billed_rate_total leaves out"
        ),
        column(
            "answered_without_duration",
            BigInteger,
            "Answered calls of unknown duration, which avg_talk_seconds leaves out",
        ),
    )


calls_daily = Table(
    "calls_daily",
    view_metadata,
    column("day", Date, "UTC day on which the calls began"),
    _account(),
    column("direction", String(32), "As in calls; null where none was sent"),
    *_figures(),
    comment="Calls by UTC day, account and direction",
)

destinations = Table(
    "destinations",
    view_metadata,
    column("day", Date, "UTC day on which the calls began"),
    _account(),
    column("to_country", String(2), "Country called, ISO 3166 alpha-2; ?? where unknown"),
    *_figures(),
    comment="Calls by UTC day, account and country called",
)

sync_coverage = Table(
    "sync_coverage",
    view_metadata,
    column("day", Date, "UTC day on which the requests were enqueued"),
    _account(),
    column("asked", BigInteger, "Requests enqueued that day"),
    column("done", BigInteger, "Those whose answer is final and stored"),
    column("without_legs", BigInteger, "Those for which no leg ever came: their state is empty"),
    column("dead", BigInteger, "Those given up until a person retries them"),
    column("cancelled", BigInteger, "Those that a person cancelled"),
    column("waiting", BigInteger, "Those that are not finished: pending and running"),
    column("legs", BigInteger, "Legs stored for all of them"),
    comment="What became of the requests of each day of enqueueing, by account",
)

data_quality = Table(
    "data_quality",
    view_metadata,
    column(
        "check_name",
        Text,
        "count_mismatch, missing_leg, b_longer_than_a, unknown_country, null_rate, null_balance, "
        "negative_money or future_time",
    ),
    _account(),
    _request_id(),
    column("leg", ExactText(16), "Letter of the leg; null where the finding is the request's"),
    column(
        "number",
        ExactText(64),
        "Number or agent ID called, as sent; null where the finding is the request's, or if none",
    ),
    column("detail", Text, "What was found, in words without any phone number"),
    comment="One row per finding: what is odd about stored data. Findings do not change the other views",
)

rate_evidence = Table(
    "rate_evidence",
    view_metadata,
    _account(),
    _request_id(),
    column("leg", ExactText(16), "a or b"),
    column("to_number", ExactText(64), "Number or agent ID called, as sent"),
    column("call_time", Instant, "UTC; the leg's instant"),
    column("occurrence", Integer, "1, 2 and so on among legs equal in leg, to_number and call_time"),
    column("status", String(32), "answered, missed or other, as sent"),
    column("duration_seconds", Integer, "Seconds; null if not sent"),
    column(
        "balance_before",
        Money,
        "Account currency; balance after the leg of this request that was charged just before: the "
        "one with the next higher balance, at equal balances b before a; null for the first",
    ),
    column("balance", Money, "Account currency; balance after this leg; null if not sent"),
    column(
        "balance_fall",
        Money,
        "Account currency; balance_before less balance: the charge of this leg, and of whatever else "
        "the account was charged for in between; null if either is unknown",
    ),
    column("rate", Money, "Account currency; what balance_fall is if rate is the charge for the leg"),
    column(
        "started_minutes", BigInteger, "Minutes begun: duration_seconds / 60, rounded up; null if not sent"
    ),
    column(
        "rate_times_minutes",
        Money,
        "Account currency; rate times started_minutes: what balance_fall is if rate is the price of "
        "a minute; null if either is unknown",
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
