"""Show what analysts ask for: calls by day and destination, coverage, findings, and evidence on `rate`.

Why: the same questions come every month, and an answer put together by hand takes nulls for zeros, counts
legs that were taken back, or days of some other zone. Nobody knows what `rate` means either; the balances
tell whoever looks at enough of them. Analysts ask for a month among years, so that `calls` is told anew: from
each call's first leg, so that an index by time finds the calls of that month, and no others are looked at.

Revision: 0004, after 0003
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

# --- The view `calls` --------------------------------------------------------------------------------
# `f` is the first leg of a call, and `l` are all its legs.

LEGS = """call_legs AS l
        WHERE l.account = f.account AND l.request_id = f.request_id AND l.missing_since IS NULL"""
IS_ANSWERED = "lower(l.status) = 'answered'"
# The leg that stands for its side is the longest answered one, else the latest.
BEST = f"""CASE WHEN {IS_ANSWERED} THEN COALESCE(l.duration_seconds, -1) ELSE -2 END DESC,
            l.call_time DESC, l.to_number DESC, l.occurrence DESC"""
EARLIEST = "l.call_time, l.to_number, l.occurrence"


def of(letter: str, column: str, order: str = BEST) -> str:
    """What one leg of a letter says, the first in an order; null without any."""
    return f"(SELECT l.{column} FROM {LEGS} AND l.leg = '{letter}'\n        ORDER BY {order} LIMIT 1)"


def has(letter: str) -> str:
    return f"EXISTS (SELECT 1 FROM {LEGS} AND l.leg = '{letter}')"


def count(letter: str) -> str:
    return f"COUNT(CASE WHEN l.leg = '{letter}' THEN 1 END)"


def only(letter: str, column: str) -> str:
    """The same as `of`, as an aggregate, where no letter has more than one leg."""
    return f"MAX(CASE WHEN l.leg = '{letter}' THEN l.{column} END)"


SIDES = {
    f"{letter}_{name}": (letter, column)
    for letter in "ab"
    for name, column in {
        "from": "from_number",
        "to": "to_number",
        "status": "status",
        "duration_seconds": "duration_seconds",
    }.items()
}
# What single legs say: as it always holds, and as an aggregate where no letter has more than one leg.
OF_LEGS = {
    "direction": (
        f"CASE WHEN {has('a')} THEN {of('a', 'direction')} ELSE {of('b', 'direction', EARLIEST)} END",
        f"CASE WHEN {count('a')} > 0 THEN {only('a', 'direction')} ELSE {only('b', 'direction')} END",
    ),
    **{name: (of(*which), only(*which)) for name, which in SIDES.items()},
    "to_country": (
        f"CASE WHEN {has('b')} THEN {of('b', 'to_country')} ELSE {of('a', 'to_country')} END",
        f"CASE WHEN {count('b')} > 0 THEN {only('b', 'to_country')} ELSE {only('a', 'to_country')} END",
    ),
}
# What all legs say together.
OF_ALL = {
    "leg_count": "COUNT(*)",
    "b_leg_count": count("b"),
    "answered": f"""CASE WHEN {count("b")} > 0
            THEN MAX(CASE WHEN l.leg = 'b' AND {IS_ANSWERED} THEN 1 ELSE 0 END)
            ELSE MAX(CASE WHEN l.leg = 'a' AND {IS_ANSWERED} THEN 1 ELSE 0 END) END = 1""",
    "talk_seconds": f"""CAST(COALESCE(CASE WHEN {count("b")} > 0
            THEN SUM(CASE WHEN l.leg = 'b' AND {IS_ANSWERED} THEN l.duration_seconds END)
            ELSE SUM(CASE WHEN l.leg = 'a' AND {IS_ANSWERED} THEN l.duration_seconds END) END, 0)
            AS {{whole}})""",
    "billed_rate_total": "{sum_of_rate}",
    "legs_without_rate": "COUNT(*) - COUNT(l.rate)",
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

# A condition on the time of `calls`, or an order by it, is one on `f.call_time`, and so served by its index,
# however deep in other views.
HAS_EARLIER = f"""EXISTS (
    SELECT 1 FROM {LEGS}
        AND (l.call_time, l.leg, l.to_number, l.occurrence) < (f.call_time, f.leg, f.to_number, f.occurrence)
)"""
# Each column is a look-up of its own, by the primary key, and made only where it is asked for.
CALLS = f"""SELECT f.account, f.request_id, f.call_time{{more}},
    {{columns}}
FROM call_legs AS f
WHERE f.missing_since IS NULL AND NOT {HAS_EARLIER}"""
# PostgreSQL can look up all columns at once. `IS FALSE` has it look up by the key what is before a leg;
# for `NOT EXISTS` it would read the whole table beforehand.
CALLS_AT_ONCE = f"""SELECT f.account, f.request_id, f.call_time,
    {{names}}
FROM call_legs AS f
CROSS JOIN LATERAL (
    SELECT
        {{columns}}
    FROM {LEGS}
) AS c
WHERE f.missing_since IS NULL AND ({HAS_EARLIER}) IS FALSE"""


def calls(said: dict[str, str], more: str = "") -> str:
    """The query of `calls`, with more columns of the first leg where some are named."""
    each = {name: text for name, (text, _) in OF_LEGS.items()}
    each |= {name: f"(SELECT {text.format(**said)} FROM {LEGS})" for name, text in OF_ALL.items()}
    return CALLS.format(more=more, columns=",\n    ".join(f"{each[name]} AS {name}" for name in COLUMNS))


def calls_at_once(said: dict[str, str]) -> str:
    """The same for PostgreSQL."""
    are_single = f"{count('a')} < 2 AND {count('b')} < 2"
    each = {
        name: f"CASE WHEN {are_single} THEN {single}\n        ELSE {text} END"
        for name, (text, single) in OF_LEGS.items()
    }
    each |= {name: text.format(**said) for name, text in OF_ALL.items()}
    return CALLS_AT_ONCE.format(
        names=", ".join(f"c.{name}" for name in COLUMNS),
        columns=",\n        ".join(f"{each[name]} AS {name}" for name in COLUMNS),
    )


# --- The other views ---------------------------------------------------------------------------------
# Where the databases differ, the text holds a word in braces: see `words`.

BY_DAY = """
SELECT {day_of_call} AS day, account, {what} AS {name},
    COUNT(*) AS calls,
    CAST(SUM({is_answered}) AS {whole}) AS answered_calls,
    CAST(SUM({is_answered}) AS {real}) / COUNT(*) AS answer_rate,
    -- An unanswered call has no talk, and adds nothing to the sum; no more does one of unknown duration.
    CAST(SUM(talk_seconds) AS {real}) / NULLIF(SUM({is_answered}) - COUNT({unmeasured}), 0)
        AS avg_talk_seconds,
    CAST(SUM(talk_seconds) AS {whole}) AS talk_seconds,
    {sum_of_billed_rate_total} AS billed_rate_total,
    CAST(SUM(legs_without_rate) AS {whole}) AS legs_without_rate,
    COUNT({unmeasured}) AS answered_without_duration
FROM {calls}
GROUP BY {day_of_call}, account, {what}
"""
CALLS_DAILY = BY_DAY.replace("{what}", "direction").replace("{name}", "direction")
DESTINATIONS = BY_DAY.replace("{what}", "COALESCE(to_country, '??')").replace("{name}", "to_country")

SYNC_COVERAGE = """
SELECT {day_of_enqueued_at} AS day, account,
    COUNT(*) AS asked,
    COUNT(CASE WHEN state = 'done' THEN 1 END) AS done,
    COUNT(CASE WHEN state = 'empty' THEN 1 END) AS empty,
    COUNT(CASE WHEN state = 'dead' THEN 1 END) AS dead,
    COUNT(CASE WHEN state = 'cancelled' THEN 1 END) AS cancelled,
    COUNT(CASE WHEN state IN ('pending', 'running') THEN 1 END) AS waiting,
    CAST(SUM((
        SELECT COUNT(*) FROM call_legs
        WHERE call_legs.account = cdr_requests.account AND call_legs.request_id = cdr_requests.request_id
            AND call_legs.missing_since IS NULL
    )) AS {whole}) AS legs
FROM cdr_requests
GROUP BY {day_of_enqueued_at}, account
"""

# A number is at least seven digits, with the marks that people write between them: so neither an agent's ID
# such as 209_1111113 nor an extension such as 101 is one. A clock of the vendor's may be minutes ahead.
DATA_QUALITY = """
SELECT 'count_mismatch' AS check_name, account, request_id, NULL AS leg, {says_count_mismatch} AS detail
FROM cdr_requests WHERE api_count <> leg_count
UNION ALL
SELECT 'missing_leg', account, request_id, leg, {says_missing_leg}
FROM call_legs WHERE missing_since IS NOT NULL
UNION ALL
SELECT 'b_longer_than_a', account, request_id, leg, {says_b_longer_than_a}
FROM call_legs AS b
WHERE missing_since IS NULL AND leg = 'b' AND duration_seconds > (
    SELECT MAX(a.duration_seconds) FROM call_legs AS a
    WHERE a.account = b.account AND a.request_id = b.request_id AND a.leg = 'a' AND a.missing_since IS NULL
)
UNION ALL
SELECT 'unknown_country', account, request_id, leg, {says_unknown_country}
FROM call_legs WHERE missing_since IS NULL AND to_country IS NULL AND {is_a_number}
UNION ALL
SELECT 'null_rate', account, request_id, leg, {says_null_rate}
FROM call_legs WHERE missing_since IS NULL AND rate IS NULL
UNION ALL
SELECT 'null_balance', account, request_id, leg, {says_null_balance}
FROM call_legs WHERE missing_since IS NULL AND balance IS NULL
UNION ALL
SELECT 'negative_money', account, request_id, leg, {says_negative_rate}
FROM call_legs WHERE missing_since IS NULL AND rate < 0
UNION ALL
SELECT 'negative_money', account, request_id, leg, {says_negative_balance}
FROM call_legs WHERE missing_since IS NULL AND balance < 0
UNION ALL
SELECT 'future_time', account, request_id, leg, {says_future_time}
FROM call_legs WHERE missing_since IS NULL AND call_time > {five_minutes_after_first_seen_at}
"""
FINDINGS = {
    "count_mismatch": "count says {api_count}, and the last valid answer has {leg_count} legs",
    "missing_leg": "leg {leg} to {name} is not in a later answer",
    "b_longer_than_a": "leg {leg} to {name} lasts {duration_seconds} s, longer than leg a",
    "unknown_country": "leg {leg} calls {to_number}, whose country is unknown",
    "null_rate": "leg {leg} to {name} has no rate",
    "null_balance": "leg {leg} to {name} has no balance",
    "negative_rate": "leg {leg} to {name} has the rate {rate}",
    "negative_balance": "leg {leg} to {name} has the balance {balance}",
    "future_time": "leg {leg} to {name} has a time more than 5 minutes after it was first stored",
}

RATE_EVIDENCE = """
SELECT account, request_id, leg, to_number, call_time, occurrence, status, duration_seconds,
    balance_before, balance, {fall} AS balance_fall,
    rate, {minutes} AS started_minutes, {rate_times_minutes} AS rate_times_minutes
FROM (
    SELECT call_legs.*,
        -- The balance falls from leg to leg, and the record of leg b is emitted before that of leg a.
        LAG(balance) OVER (
            PARTITION BY account, request_id
            ORDER BY CASE WHEN balance IS NULL THEN 1 ELSE 0 END, balance DESC, leg DESC,
                call_time, to_number, occurrence
        ) AS balance_before
    FROM call_legs
    WHERE missing_since IS NULL
) AS charged
"""

VIEWS = {
    "calls": "{query_of_calls}",
    "calls_daily": CALLS_DAILY,
    "destinations": DESTINATIONS,
    "sync_coverage": SYNC_COVERAGE,
    "data_quality": DATA_QUALITY,
    "rate_evidence": RATE_EVIDENCE,
}

# --- Where the databases differ ----------------------------------------------------------------------

SAME = {
    "name": "CASE WHEN to_number = '' THEN 'nobody' ELSE to_number END",
    "rate": "rate",
    "balance": "balance",
    "whole": "bigint",
    "real": "double precision",
    "minutes": "(duration_seconds + 59) / 60",
    "exactly": "{0}",
    "is_answered": "answered",
    # 1 for an answered call of unknown duration: the leg that stands for it is the longest answered one.
    "unmeasured": "CASE WHEN talk_seconds = 0 AND answered AND CASE WHEN b_leg_count > 0"
    " THEN b_duration_seconds ELSE a_duration_seconds END IS NULL THEN 1 END",
    "calls": "calls",
    **{name: name for name in ("leg", "to_number", "duration_seconds", "api_count", "leg_count")},
}
DIALECTS = {
    "sqlite": {
        "whole": "integer",
        "day": "substr({0}, 1, 10)",
        # What doubles add far behind the point is cut off.
        "exactly": "round({0}, 9)",
        "is_a_number": "length(to_number) >= 7 AND to_number GLOB '*[0-9]*'"
        " AND NOT to_number GLOB '*[^0-9+ ().-]*'",
        "five_minutes_after_first_seen_at": "strftime('%Y-%m-%d %H:%M:%f000', first_seen_at, '+5 minutes')",
    },
    "postgresql": {
        "is_answered": "CAST(answered AS integer)",
        "day": "CAST({0} AT TIME ZONE 'UTC' AS date)",
        "rate": "trim_scale(rate)",
        "balance": "trim_scale(balance)",
        "is_a_number": "to_number ~ '^[0-9+ ().-]{7,}$' AND to_number ~ '[0-9]'",
        "five_minutes_after_first_seen_at": "first_seen_at + interval '5 minutes'",
    },
    "mysql": {
        "whole": "signed",
        "real": "double",
        "day": "CAST({0} AS date)",
        "rate": "TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST(rate AS char)))",
        "balance": "TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM CAST(balance AS char)))",
        "minutes": "(duration_seconds + 59) DIV 60",
        "is_a_number": "to_number REGEXP '^[0-9+ ().-]{7,}$' AND to_number REGEXP '[0-9]'",
        "five_minutes_after_first_seen_at": "first_seen_at + interval 5 minute",
    },
}


def words(dialect: str) -> dict[str, str]:
    """The words in braces, in a database's dialect."""
    is_mysql = dialect in ("mysql", "mariadb")
    said = {**SAME, **DIALECTS["mysql" if is_mysql else dialect]}
    said["day_of_call"] = said["day"].format("call_time")
    said["day_of_enqueued_at"] = said["day"].format("enqueued_at")
    said["sum_of_rate"] = said["exactly"].format("SUM(l.rate)")
    said["sum_of_billed_rate_total"] = said["exactly"].format("SUM(billed_rate_total)")
    said["query_of_calls"] = calls_at_once(said) if dialect == "postgresql" else calls(said)
    if is_mysql:
        # No index there holds an expression: the day is a column, which `calls` does not show.
        said["day_of_call"] = "call_day"
        said["calls"] = f"({calls(said, more=', f.call_day')}) AS calls"
    said["fall"] = said["exactly"].format("balance_before - balance")
    said["rate_times_minutes"] = said["exactly"].format(f"rate * ({said['minutes']})")
    before, after = ("', ", ", '") if is_mysql else ("' || ", " || '")
    for name, sentence in FINDINGS.items():
        text = sentence.replace("{", f"{before}{{").replace("}", f"}}{after}").format(**said)
        said[f"says_{name}"] = f"CONCAT('{text}')" if is_mysql else f"'{text}'"
    return said


def views(dialect: str) -> dict[str, str]:
    """The queries of all views. `cdr-sync db check` asks the newest migration that has this function."""
    said = words(dialect)
    return {name: text.format(**said) for name, text in VIEWS.items()}


# --- Comments ----------------------------------------------------------------------------------------

SAID_OF_FIGURES = {
    "calls": "Requests that have legs",
    "answered_calls": "Those of them that were answered",
    "answer_rate": "0 to 1; answered_calls of calls",
    "avg_talk_seconds": "Seconds; mean talk_seconds of answered calls of known duration; null without any",
    "talk_seconds": "Seconds; talk_seconds of the calls added up",
    "billed_rate_total": (
        "Account currency; billed_rate_total of the calls added up; null if no leg has a rate"
    ),
    "legs_without_rate": "Legs whose rate is null, which billed_rate_total leaves out",
    "answered_without_duration": "Answered calls of unknown duration, which avg_talk_seconds leaves out",
}
# Those of etl/db/views.py, as of this revision; the empty name is the view itself.
COMMENTS = {
    "calls": {
        "": "One row a request that has legs. Legs that a later answer no longer held are left out",
        "account": "Account: a name from the configuration",
        "request_id": "Request ID as PIOPIY issued it; case matters",
        "call_time": "UTC; the earliest leg's instant",
        "direction": (
            "outbound, inbound or other, as sent: the a leg's, else the first b leg's; null if not sent"
        ),
        "leg_count": "Legs of the call",
        "b_leg_count": "b legs among them; several where it tried or rang several numbers",
        "a_from": (
            "Calling number, as sent, of the a leg (of several the longest answered one, else the "
            "latest); null without a leg"
        ),
        "a_to": (
            "Number or agent ID called, as sent, of the a leg (of several the longest answered one, "
            "else the latest); null without a leg"
        ),
        "a_status": (
            "answered, missed or other, as sent, of the a leg (of several the longest answered one, "
            "else the latest); null without a leg"
        ),
        "a_duration_seconds": (
            "Seconds; whether ringing counts is unknown; of the a leg (of several the longest answered "
            "one, else the latest); null without a leg"
        ),
        "b_from": (
            "Calling number, as sent, of the b leg (of several the longest answered one, else the "
            "latest); null without b leg"
        ),
        "b_to": (
            "Number or agent ID called, as sent, of the b leg (of several the longest answered one, "
            "else the latest); null without b leg"
        ),
        "b_status": (
            "answered, missed or other, as sent, of the b leg (of several the longest answered one, "
            "else the latest); null without b leg"
        ),
        "b_duration_seconds": (
            "Seconds; whether ringing counts is unknown; of the b leg (of several the longest answered "
            "one, else the latest); null without b leg"
        ),
        "to_country": "Country called, ISO 3166 alpha-2: the b leg's, else the a leg's; null if unknown",
        "answered": "Whether any b leg was answered; without b legs, whether any a leg was",
        "talk_seconds": (
            "Seconds; durations of the answered b legs added up, without b legs of the answered a legs;"
            " 0 if unanswered"
        ),
        "billed_rate_total": (
            "Account currency; rate added up over the legs that have one; null if none has. A charge "
            "only if rate is one: see rate_evidence"
        ),
        "legs_without_rate": "Legs whose rate is null, which billed_rate_total leaves out",
    },
    "calls_daily": {
        "": "Calls by UTC day, account and direction",
        "day": "UTC day on which the calls began",
        "account": "Account: a name from the configuration",
        "direction": "As in calls; null where none was sent",
        **SAID_OF_FIGURES,
    },
    "destinations": {
        "": "Calls by UTC day, account and country called",
        "day": "UTC day on which the calls began",
        "account": "Account: a name from the configuration",
        "to_country": "Country called, ISO 3166 alpha-2; ?? where unknown",
        **SAID_OF_FIGURES,
    },
    "sync_coverage": {
        "": "What became of the requests of each day of enqueueing, by account",
        "day": "UTC day on which the requests were enqueued",
        "account": "Account: a name from the configuration",
        "asked": "Requests enqueued that day, whatever became of them",
        "done": "Those whose answer is final and stored",
        "empty": "Those for which no leg ever came",
        "dead": "Those given up until a person replays them",
        "cancelled": "Those taken out by a person",
        "waiting": "Those still to be asked for, or being asked for: pending and running",
        "legs": "Legs stored of them, in whatever state they are",
    },
    "data_quality": {
        "": "One row a finding: what is odd about stored data. Nothing is changed or left out for it",
        "check_name": (
            "count_mismatch, missing_leg, b_longer_than_a, unknown_country, null_rate, null_balance, "
            "negative_money or future_time"
        ),
        "account": "Account: a name from the configuration",
        "request_id": "Request ID as PIOPIY issued it; case matters",
        "leg": "Letter of the leg; null where the finding is the request's",
        "detail": "What was found, in a sentence",
    },
    "rate_evidence": {
        "": (
            "What the balance says about the meaning of rate, leg by leg. Compare where started_minutes"
            " is 2 or more. Other calls of the account, and top-ups, fall in between: single rows prove"
            " nothing"
        ),
        "account": "Account: a name from the configuration",
        "request_id": "Request ID as PIOPIY issued it; case matters",
        "leg": "a or b",
        "to_number": "Number or agent ID called, as sent",
        "call_time": "UTC; the leg's instant",
        "occurrence": "1, 2 and so on among legs equal in leg, to_number and call_time",
        "status": "answered, missed or other, as sent",
        "duration_seconds": "Seconds; null if not sent",
        "balance_before": (
            "Account currency; balance after the leg of this request that was charged just before: the "
            "one with the next higher balance, at equal balances b before a; null for the first"
        ),
        "balance": "Account currency; balance after this leg; null if not sent",
        "balance_fall": (
            "Account currency; balance_before less balance: the charge of this leg, and of whatever "
            "else the account was charged for in between; null where either is"
        ),
        "rate": "Account currency; what balance_fall is if rate is the charge of the leg",
        "started_minutes": "Minutes begun: duration_seconds / 60, rounded up; null if not sent",
        "rate_times_minutes": (
            "Account currency; rate times started_minutes: what balance_fall is if rate is the price of"
            " a minute; null where either is"
        ),
    },
}

# --- Up and down -------------------------------------------------------------------------------------


class DayOfCall(sa.types.UserDefinedType[None]):
    """A column that MySQL computes, hidden from `SELECT *` where it can (before 8.0.23 it cannot)."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        return "date AS (CAST(call_time AS date)) VIRTUAL /*!80023 INVISIBLE */ /*M!100300 INVISIBLE */"


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    if dialect in ("mysql", "mariadb"):
        comment = "UTC day of call_time, for the index"
        op.add_column("call_legs", sa.Column("call_day", DayOfCall(), comment=comment))
    create_indexes(dialect)
    for name, query in views(dialect).items():
        op.execute(f"DROP VIEW IF EXISTS {name}")
        op.execute(f"CREATE VIEW {name} AS\n{query}")
    if dialect == "postgresql":
        for view, comments in COMMENTS.items():
            for column, comment in comments.items():
                what = f"COLUMN {view}.{column}" if column else f"VIEW {view}"
                quoted = comment.replace("'", "''")
                op.execute(f"COMMENT ON {what} IS '{quoted}'")


def create_indexes(dialect: str) -> None:
    day = "call_day" if dialect in ("mysql", "mariadb") else f"({words(dialect)['day_of_call']})"
    op.create_index("ix_call_legs_call_time", "call_legs", ["call_time"])
    op.create_index("ix_call_legs_call_day", "call_legs", [sa.text(day)])
    for column in ("from_e164", "to_e164"):
        is_there = sa.text(f"{column} IS NOT NULL")
        op.create_index(
            f"ix_call_legs_{column}",
            "call_legs",
            [column],
            sqlite_where=is_there,
            postgresql_where=is_there,
        )
    has_label = sa.text("batch IS NOT NULL")
    op.create_index(
        "ix_cdr_requests_batch",
        "cdr_requests",
        ["batch", "state", "account", "lane", "run_after", "id"],
        sqlite_where=has_label,
        postgresql_where=has_label,
    )


def downgrade() -> None:
    for name in reversed(VIEWS):
        op.execute(f"DROP VIEW IF EXISTS {name}")
    # The view as it was, by the migration that made it.
    op.get_context().script.get_revision("0002").module.upgrade()
    op.drop_index("ix_cdr_requests_batch", "cdr_requests")
    for column in ("to_e164", "from_e164", "call_day", "call_time"):
        op.drop_index(f"ix_call_legs_{column}", "call_legs")
    if op.get_bind().dialect.name in ("mysql", "mariadb"):
        op.drop_column("call_legs", "call_day")
