"""What analysts ask most, as queries of Datasette with blanks to fill in.

Datasette hands over an empty text for a blank that was not filled in, and knows no defaults: each query
has its own, counted back from the newest call, so that it has rows the first time it is opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# Of the answered calls whose duration is known: where b legs were tried, that of the b leg.
AVERAGE_TALK = (
    "AVG(CASE WHEN answered AND CASE WHEN b_leg_count > 0 THEN b_duration_seconds ELSE a_duration_seconds END"
    " IS NOT NULL THEN talk_seconds END)"
)
DAYS = 30  # how far back a question looks where nobody says since when

# Half-open: from the beginning of `since` to the beginning of `until`. What is no day counts as left empty.
_PERIOD = f"""period AS (
    SELECT COALESCE(date(NULLIF(:since, '')), date(MAX(call_time), '-{DAYS - 1} days')) AS since,
        COALESCE(date(NULLIF(:until, '')), date(MAX(call_time), '+1 day')) AS until
    FROM call_legs
)"""
_IN_PERIOD = "call_time >= since AND call_time < until"
_OF_ACCOUNT = "(:account = '' OR account = :account)"
_ACCOUNT = {"account": "one account; empty for all"}
_SPAN = {
    "since": f"the first day, such as 2026-11-01, UTC; empty for {DAYS} days up to the newest call",
    "until": "the day after the last one; empty for all up to the newest call",
}


@dataclass(frozen=True, slots=True)
class Question:
    """A query with blanks: what it is called, what it tells, and its SQL."""

    title: str
    description: str
    blanks: Mapping[str, str]  # what to fill in, and what an empty one stands for
    sql: str


QUESTIONS = {
    "calls_of_a_day": Question(
        "Calls of a day",
        "One row a call, in their order.",
        {"day": "such as 2026-11-24, UTC; empty for the newest", **_ACCOUNT},
        f"""
WITH asked AS (
    SELECT COALESCE(date(NULLIF(:day, '')), date(MAX(call_time))) AS day FROM call_legs
)
SELECT substr(call_time, 1, 19) AS call_time, account, request_id, direction, a_from, a_to, a_status,
    b_from, b_to, b_status, to_country, answered, talk_seconds, billed_rate_total
FROM calls, asked
WHERE call_time >= day AND call_time < date(day, '+1 day') AND {_OF_ACCOUNT}
ORDER BY call_time, account, request_id""",
    ),
    "calls_of_a_number": Question(
        "Calls of a number",
        "Every leg from or to a number, the newest first.",
        {"number": "as the API sent it, or international; empty for whom the newest leg went to", **_SPAN},
        f"""
WITH {_PERIOD},
given AS (
    SELECT CASE WHEN :number <> '' THEN trim(:number)
        ELSE (SELECT to_number FROM call_legs ORDER BY call_time DESC, to_number LIMIT 1) END AS number
),
asked AS (
    SELECT number, '+' || replace(replace(replace(replace(replace(ltrim(number, '+'),
        ' ', ''), '-', ''), '.', ''), '(', ''), ')', '') AS e164
    FROM given
)
SELECT substr(call_time, 1, 19) AS call_time, account, request_id, leg, direction, from_number, to_number,
    status, duration_seconds, rate
FROM call_legs, period, asked
WHERE {_IN_PERIOD} AND missing_since IS NULL
    AND (from_number = number OR to_number = number OR from_e164 = e164 OR to_e164 = e164)
ORDER BY call_time DESC, account, request_id, leg""",
    ),
    "spend_by_destination": Question(
        "Spend by destination",
        "Calls, talk and billed rate by account, which has a currency of its own, and the country called, "
        "the dearest first; ?? where it is not known.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD}
SELECT account, COALESCE(to_country, '??') AS to_country, COUNT(*) AS calls, SUM(answered) AS answered_calls,
    SUM(talk_seconds) AS talk_seconds, round(SUM(billed_rate_total), 9) AS billed_rate_total,
    SUM(legs_without_rate) AS legs_without_rate
FROM calls, period
WHERE {_IN_PERIOD} AND {_OF_ACCOUNT}
GROUP BY account, COALESCE(to_country, '??')
ORDER BY account, billed_rate_total DESC, calls DESC, to_country""",
    ),
    "asr_and_acd_by_day": Question(
        "ASR and ACD by day",
        "How many of a hundred calls were answered (ASR), and the average talk of an answered one (ACD).",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD}
SELECT date(call_time) AS day, COUNT(*) AS calls, SUM(answered) AS answered_calls,
    round(100.0 * SUM(answered) / COUNT(*), 1) AS asr_percent,
    round({AVERAGE_TALK}, 1) AS acd_seconds
FROM calls, period
WHERE {_IN_PERIOD} AND {_OF_ACCOUNT}
GROUP BY date(call_time)
ORDER BY day""",
    ),
    "answered_by_a_but_not_b": Question(
        "Answered by a, but not by b",
        "Calls whose a leg was answered and none of whose b legs was: somebody waited in vain.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD}
SELECT substr(call_time, 1, 19) AS call_time, account, request_id, direction, a_from, a_to,
    a_duration_seconds, b_leg_count, b_to, b_status, billed_rate_total
FROM calls, period
WHERE {_IN_PERIOD} AND {_OF_ACCOUNT} AND lower(a_status) = 'answered' AND b_leg_count > 0 AND NOT answered
ORDER BY call_time DESC, account, request_id""",
    ),
    "numbers_to_call_back": Question(
        "Whom to call back",
        "Numbers of the other side (who called in, or whom the b leg rang) whose last call was not answered, "
        "the latest first.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD},
sent AS (
    SELECT account, call_time, direction, answered, request_id,
        CASE WHEN lower(direction) = 'inbound' THEN COALESCE(a_from, b_from) ELSE b_to END AS number
    FROM calls, period
    WHERE {_IN_PERIOD} AND {_OF_ACCOUNT}
),
contacts AS (  -- by E.164, since the API sends one number in several forms
    SELECT account, call_time, direction, answered, request_id, COALESCE(
        (SELECT MAX(CASE WHEN from_number = number THEN from_e164 WHEN to_number = number THEN to_e164 END)
         FROM call_legs WHERE call_legs.account = sent.account AND call_legs.request_id = sent.request_id),
        number) AS number
    FROM sent
),
ranked AS (
    SELECT contacts.*,
        row_number() OVER (PARTITION BY account, number ORDER BY call_time DESC, request_id DESC) AS place,
        SUM(NOT answered) OVER (PARTITION BY account, number) AS unanswered_calls
    FROM contacts
    WHERE number <> ''
)
SELECT account, number, unanswered_calls, substr(call_time, 1, 19) AS last_call_time,
    direction AS last_direction, request_id AS last_request_id
FROM ranked
WHERE place = 1 AND NOT answered
ORDER BY last_call_time DESC, account, number""",
    ),
    "legs_of_a_request": Question(
        "Legs of a request",
        "Everything stored about the legs of one request, those included that a later answer no longer held.",
        {"request_id": "as PIOPIY issued it; empty for the newest call's"},
        """
WITH asked AS (
    SELECT CASE WHEN :request_id <> '' THEN trim(:request_id)
        ELSE (SELECT request_id FROM call_legs ORDER BY call_time DESC, request_id LIMIT 1) END AS request_id
)
SELECT call_legs.*
FROM call_legs JOIN asked USING (request_id)
ORDER BY account, call_time, leg, to_number, occurrence""",
    ),
    "what_is_incomplete": Question(
        "What is incomplete",
        "Days of enqueueing some of whose requests are still waited for or dead: their figures can grow. "
        "No row means that all is there.",
        _ACCOUNT,
        f"""
SELECT day, account, asked, done, without_legs, waiting, dead, cancelled, legs,
    round(100.0 * (done + without_legs + cancelled) / asked, 2) AS complete_percent
FROM sync_coverage
WHERE waiting + dead > 0 AND {_OF_ACCOUNT}
ORDER BY day DESC, account""",
    ),
    "balance_over_time": Question(
        "Balance over time",
        "The balance after the last leg that began in each hour: what is left, and when it was topped up.",
        {**_SPAN, **_ACCOUNT},
        f"""
WITH {_PERIOD},
ranked AS (
    SELECT account, strftime('%Y-%m-%d %H', call_time) AS hour, balance,
        row_number() OVER (
            PARTITION BY account, strftime('%Y-%m-%d %H', call_time) ORDER BY call_time DESC, balance
        ) AS place
    FROM call_legs, period
    WHERE {_IN_PERIOD} AND {_OF_ACCOUNT} AND balance IS NOT NULL AND missing_since IS NULL
)
SELECT hour, account, balance
FROM ranked
WHERE place = 1
ORDER BY hour, account""",
    ),
    "findings_about_the_data": Question(
        "Findings about the data",
        "What is odd about single requests and legs, each with the check that found it.",
        {"check_name": "such as count_mismatch; empty for all", **_ACCOUNT},
        f"""
SELECT check_name, account, request_id, leg, number, detail
FROM data_quality
WHERE (:check_name = '' OR check_name = :check_name) AND {_OF_ACCOUNT}
ORDER BY check_name, account, request_id, leg""",
    ),
}
