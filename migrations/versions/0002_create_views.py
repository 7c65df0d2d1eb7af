"""Create the views for analysts: calls, figures per day, coverage, findings, and evidence on `rate`.

Why: the API answers with legs, and analysts ask about calls. The same questions come every month, and a query
written by hand takes nulls for zeros, counts legs that were withdrawn, or uses days of another zone. Here
each rule is written once: which leg stands for a side, what "answered" means, what counts as talk.

A month among years must be fast. So `calls` starts from each call's first leg: an index by time finds the
calls of that month, and no others are read.

Revision: 0002, after 0001
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

# --- What differs from one database to the next ------------------------------------------------------


class Dialect(NamedTuple):
    """SQL that each database writes in its own way; {0} is the expression that it is about."""

    integer: str = "bigint"  # types to cast to
    double: str = "double precision"
    day: str = "CAST({0} AS date)"  # the UTC day of an instant
    money: str = "{0}"  # a computed amount
    shown_money: str = "{0}"  # an amount as text, without padding
    one_if: str = "{0}"  # 1 or 0 for a boolean
    text: str = "{0}"  # text made from parts, with `between` between them
    between: str = " || "
    # At least seven digits, with the punctuation that people write between them: neither an agent's ID such
    # as 209_1111113 nor an extension such as 101.
    is_number: str = ""
    # The vendor's clock may be minutes ahead.
    is_in_future: str = ""
    started_minutes: str = "(duration_seconds + 59) / 60"
    has_lateral: bool = False
    has_day_column: bool = False  # the hidden call_legs.call_day


DIALECTS = {
    "sqlite": Dialect(
        integer="integer",
        day="substr({0}, 1, 10)",
        money="round({0}, 9)",  # sums of doubles have noise in later decimals
        is_number="length(to_number) >= 7 AND to_number GLOB '*[0-9]*'"
        " AND NOT to_number GLOB '*[^0-9+ ().-]*'",
        is_in_future="call_time > strftime('%Y-%m-%d %H:%M:%f000', first_seen_at, '+5 minutes')",
    ),
    "postgresql": Dialect(
        day="CAST({0} AT TIME ZONE 'UTC' AS date)",
        shown_money="trim_scale({0})",
        one_if="CAST({0} AS integer)",
        is_number="to_number ~ '^[0-9+ ().-]{7,}$' AND to_number ~ '[0-9]'",
        is_in_future="call_time > first_seen_at + interval '5 minutes'",
        has_lateral=True,
    ),
    "mysql": Dialect(
        integer="signed",
        double="double",
        shown_money="TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST({0} AS char)))",
        text="CONCAT({0})",
        between=", ",
        is_number="to_number REGEXP '^[0-9+ ().-]{7,}$' AND to_number REGEXP '[0-9]'",
        is_in_future="call_time > first_seen_at + interval 5 minute",
        started_minutes="(duration_seconds + 59) DIV 60",
        has_day_column=True,
    ),
}

# --- The view `calls` --------------------------------------------------------------------------------
# `f` is the first leg of a call, and `l` are all its legs.

LEGS = """call_legs AS l
        WHERE l.account = f.account AND l.request_id = f.request_id AND l.missing_since IS NULL"""
# A leg was answered if the API says so.
IS_ANSWERED = "lower(l.status) = 'answered'"
# The leg that stands for its side is the longest answered one, else the latest.
BEST = f"""CASE WHEN {IS_ANSWERED} THEN COALESCE(l.duration_seconds, -1) ELSE -2 END DESC,
            l.call_time DESC, l.to_number DESC, l.occurrence DESC"""
EARLIEST = "l.call_time, l.to_number, l.occurrence"


def count(side: str) -> str:
    """How many legs of a side a call has, as an aggregate."""
    return f"COUNT(CASE WHEN l.leg = '{side}' THEN 1 END)"


def of_talkers(aggregate: Callable[[str], str]) -> str:
    """What decides about a call: its b legs, or its a legs where it has no b leg."""
    return f"""CASE WHEN {count("b")} > 0
            THEN {aggregate("b")}
            ELSE {aggregate("a")} END"""


def answered_legs(side: str) -> str:
    return f"COUNT(CASE WHEN l.leg = '{side}' AND {IS_ANSWERED} THEN 1 END)"


def talk(side: str) -> str:
    """The seconds of the answered legs; null without any that has a duration."""
    return f"SUM(CASE WHEN l.leg = '{side}' AND {IS_ANSWERED} THEN l.duration_seconds END)"


def of_all_legs(sql: Dialect) -> dict[str, str]:
    """The columns that all legs of a call have together, as aggregates."""
    return {
        "leg_count": "COUNT(*)",
        "b_leg_count": count("b"),
        "answered": f"{of_talkers(answered_legs)} > 0",
        "talk_seconds": f"CAST(COALESCE({of_talkers(talk)}, 0) AS {sql.integer})",
        "billed_rate_total": sql.money.format("SUM(l.rate)"),
        "legs_without_rate": "COUNT(*) - COUNT(l.rate)",
    }


def look_up(side: str, column: str, order: str = BEST) -> str:
    """What the first leg of a side says, in an order; null without such a leg."""
    return f"(SELECT l.{column} FROM {LEGS} AND l.leg = '{side}'\n        ORDER BY {order} LIMIT 1)"


def has(side: str) -> str:
    return f"EXISTS (SELECT 1 FROM {LEGS} AND l.leg = '{side}')"


# What the legs that stand for the sides say.
SIDES = {
    f"{side}_{name}": (side, column)
    for side in "ab"
    for name, column in {
        "from": "from_number",
        "to": "to_number",
        "status": "status",
        "duration_seconds": "duration_seconds",
        "from_e164": "from_e164",
        "to_e164": "to_e164",
    }.items()
}
OF_ONE_LEG = {
    "direction": f"CASE WHEN {has('a')} THEN {look_up('a', 'direction')}"
    f" ELSE {look_up('b', 'direction', EARLIEST)} END",
    **{name: look_up(side, column) for name, (side, column) in SIDES.items()},
    "to_country": f"CASE WHEN {has('b')} THEN {look_up('b', 'to_country')}"
    f" ELSE {look_up('a', 'to_country')} END",
}


def only(side: str, column: str) -> str:
    """What the only leg of a side says, as an aggregate."""
    return f"MAX(CASE WHEN l.leg = '{side}' THEN l.{column} END)"


# The same as aggregates, for calls that have at most one leg on each side.
OF_ONLY_LEGS = {
    "direction": f"CASE WHEN {count('a')} > 0 THEN {only('a', 'direction')}"
    f" ELSE {only('b', 'direction')} END",
    **{name: only(side, column) for name, (side, column) in SIDES.items()},
    "to_country": f"CASE WHEN {count('b')} > 0 THEN {only('b', 'to_country')}"
    f" ELSE {only('a', 'to_country')} END",
}

COLUMNS = (
    "direction",
    "leg_count",
    "b_leg_count",
    *SIDES,
    "to_country",
    "answered",
    "talk_seconds",
    "billed_rate_total",
    "legs_without_rate",
)

# The call's time is a column of `f`: a condition on it, or an order by it, uses the index of that column even
# inside other views.
HAS_EARLIER = f"""EXISTS (
    SELECT 1 FROM {LEGS}
        AND (l.call_time, l.leg, l.to_number, l.occurrence) < (f.call_time, f.leg, f.to_number, f.occurrence)
)"""


def calls(sql: Dialect, more: str = "") -> str:
    """The query of `calls`; `more` are further columns of the first leg."""
    if sql.has_lateral:
        return calls_by_lateral_join(sql)
    # Each column is a look-up by the primary key, and made only where it is asked for.
    each = OF_ONE_LEG | {name: f"(SELECT {of_all} FROM {LEGS})" for name, of_all in of_all_legs(sql).items()}
    columns = ",\n    ".join(f"{each[name]} AS {name}" for name in COLUMNS)
    return f"""SELECT f.account, f.request_id, f.call_time{more},
    {columns}
FROM call_legs AS f
WHERE f.missing_since IS NULL AND NOT {HAS_EARLIER}"""


def calls_by_lateral_join(sql: Dialect) -> str:
    """The same with one look-up for all columns of a call."""
    are_only = f"{count('a')} < 2 AND {count('b')} < 2"
    each = of_all_legs(sql) | {
        name: f"CASE WHEN {are_only} THEN {only_leg}\n        ELSE {OF_ONE_LEG[name]} END"
        for name, only_leg in OF_ONLY_LEGS.items()
    }
    names = ", ".join(f"c.{name}" for name in COLUMNS)
    columns = ",\n        ".join(f"{each[name]} AS {name}" for name in COLUMNS)
    # `IS FALSE` makes PostgreSQL look up earlier legs by the key. For `NOT EXISTS` it would first read the
    # whole table.
    return f"""SELECT f.account, f.request_id, f.call_time,
    {names}
FROM call_legs AS f
CROSS JOIN LATERAL (
    SELECT
        {columns}
    FROM {LEGS}
) AS c
WHERE f.missing_since IS NULL AND ({HAS_EARLIER}) IS FALSE"""


# --- The views made from `calls` ---------------------------------------------------------------------

# 1 for an answered call of unknown duration. The leg that stands for it is the longest answered one.
UNMEASURED = """CASE WHEN talk_seconds = 0 AND answered AND
        CASE WHEN b_leg_count > 0 THEN b_duration_seconds ELSE a_duration_seconds END IS NULL THEN 1 END"""


def calls_by_day(sql: Dialect, column: str, value: str) -> str:
    """Figures per UTC day, account and one more column."""
    day, source = sql.day.format("call_time"), "calls"
    if sql.has_day_column:
        day, source = "call_day", f"({calls(sql, more=', f.call_day')}) AS calls"
    answered = sql.one_if.format("answered")
    return f"""SELECT {day} AS day, account, {value} AS {column},
    COUNT(*) AS calls,
    CAST(SUM({answered}) AS {sql.integer}) AS answered_calls,
    CAST(SUM({answered}) AS {sql.double}) / COUNT(*) AS answer_rate,
    -- Calls that were not answered, or are of unknown duration, add nothing to the sum of talk.
    CAST(SUM(talk_seconds) AS {sql.double}) / NULLIF(SUM({answered}) - COUNT({UNMEASURED}), 0)
        AS avg_talk_seconds,
    CAST(SUM(talk_seconds) AS {sql.integer}) AS talk_seconds,
    {sql.money.format("SUM(billed_rate_total)")} AS billed_rate_total,
    CAST(SUM(legs_without_rate) AS {sql.integer}) AS legs_without_rate,
    COUNT({UNMEASURED}) AS answered_without_duration
FROM {source}
GROUP BY {day}, account, {value}"""


# --- The views about the data ------------------------------------------------------------------------


def sync_coverage(sql: Dialect) -> str:
    day = sql.day.format("enqueued_at")
    return f"""SELECT {day} AS day, account,
    COUNT(*) AS asked,
    COUNT(CASE WHEN state = 'done' THEN 1 END) AS done,
    COUNT(CASE WHEN state = 'empty' THEN 1 END) AS without_legs,
    COUNT(CASE WHEN state = 'dead' THEN 1 END) AS dead,
    COUNT(CASE WHEN state = 'cancelled' THEN 1 END) AS cancelled,
    COUNT(CASE WHEN state IN ('pending', 'running') THEN 1 END) AS waiting,
    CAST(SUM((
        SELECT COUNT(*) FROM call_legs
        WHERE call_legs.account = cdr_requests.account AND call_legs.request_id = cdr_requests.request_id
            AND call_legs.missing_since IS NULL
    )) AS {sql.integer}) AS legs
FROM cdr_requests
GROUP BY {day}, account"""


# Whether a b leg lasts longer than the a legs of its call.
IS_LONGER_THAN_A = """missing_since IS NULL AND leg = 'b' AND duration_seconds > (
    SELECT MAX(a.duration_seconds) FROM call_legs AS a
    WHERE a.account = call_legs.account AND a.request_id = call_legs.request_id
        AND a.leg = 'a' AND a.missing_since IS NULL
)"""


def data_quality(sql: Dialect) -> str:
    """One SELECT per check. A sentence in `detail` holds no phone number: that is in `number` alone."""

    def detail(*parts: str) -> str:
        return sql.text.format(sql.between.join(parts))

    def about_legs(check: str, condition: str, *parts: str) -> str:
        return f"""SELECT '{check}' AS check_name, account, request_id, leg, NULLIF(to_number, '') AS number,
    {detail(*parts)} AS detail
FROM call_legs WHERE {condition}"""

    present = "missing_since IS NULL AND"
    rate, balance = sql.shown_money.format("rate"), sql.shown_money.format("balance")
    counts = detail("'count is '", "api_count", "', but the last valid answer has '", "leg_count", "' legs'")
    checks = (
        f"""SELECT 'count_mismatch' AS check_name, account, request_id, NULL AS leg, NULL AS number,
    {counts} AS detail
FROM cdr_requests WHERE api_count <> leg_count""",
        about_legs("missing_leg", "missing_since IS NOT NULL", "'a later answer does not hold this leg'"),
        about_legs(
            "b_longer_than_a",
            IS_LONGER_THAN_A,
            "'the leg lasts '",
            "duration_seconds",
            "' s, longer than leg a'",
        ),
        about_legs(
            "unknown_country",
            f"{present} to_country IS NULL AND {sql.is_number}",
            "'the country of the number called is unknown'",
        ),
        about_legs("null_rate", f"{present} rate IS NULL", "'the leg has no rate'"),
        about_legs("null_balance", f"{present} balance IS NULL", "'the leg has no balance'"),
        about_legs("negative_money", f"{present} rate < 0", "'the leg has the rate '", rate),
        about_legs("negative_money", f"{present} balance < 0", "'the leg has the balance '", balance),
        about_legs(
            "future_time",
            f"{present} {sql.is_in_future}",
            "'the leg has a time more than 5 minutes after it was first stored'",
        ),
    )
    return "\nUNION ALL\n".join(checks)


def rate_evidence(sql: Dialect) -> str:
    return f"""SELECT account, request_id, leg, to_number, call_time, occurrence, status, duration_seconds,
    balance_before, balance, {sql.money.format("balance_before - balance")} AS balance_fall,
    rate, {sql.started_minutes} AS started_minutes,
    {sql.money.format(f"rate * ({sql.started_minutes})")} AS rate_times_minutes
FROM (
    SELECT account, request_id, leg, to_number, call_time, occurrence, status, duration_seconds,
        rate, balance,
        -- The balance falls from leg to leg, and the record of leg b is emitted before that of leg a.
        LAG(balance) OVER (
            PARTITION BY account, request_id
            ORDER BY CASE WHEN balance IS NULL THEN 1 ELSE 0 END, balance DESC, leg DESC,
                call_time, to_number, occurrence
        ) AS balance_before
    FROM call_legs
    WHERE missing_since IS NULL
) AS charged"""


def views(dialect: str) -> dict[str, str]:
    """The queries of all views, each after those that it reads.

    `cdr-sync db check` calls this function of the newest migration that has it.
    """
    sql = DIALECTS[dialect]
    return {
        "calls": calls(sql),
        "calls_daily": calls_by_day(sql, "direction", "direction"),
        "destinations": calls_by_day(sql, "to_country", "COALESCE(to_country, '??')"),
        "sync_coverage": sync_coverage(sql),
        "data_quality": data_quality(sql),
        "rate_evidence": rate_evidence(sql),
    }


def upgrade() -> None:
    for name, query in views(op.get_bind().dialect.name).items():
        # Where DDL commits by itself, a migration that was stopped has left some views behind.
        op.execute(f"DROP VIEW IF EXISTS {name}")
        op.execute(f"CREATE VIEW {name} AS\n{query}")


def downgrade() -> None:
    for name in reversed(views(op.get_bind().dialect.name)):
        op.execute(f"DROP VIEW IF EXISTS {name}")
