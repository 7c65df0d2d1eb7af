"""Show one row a call: the view `calls`.

Why: analysts ask about calls, and the API answers with legs. The text is the same on every database but for
sums of money: SQLite adds doubles, whose noise far behind the point is cut off.

Revision: 0002, after 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

CALLS = """
CREATE VIEW calls AS
WITH graded AS (
    SELECT account, request_id, leg, to_number, call_time, occurrence, from_number, to_country,
        duration_seconds, rate, direction, status,
        CASE WHEN lower(status) = 'answered' THEN 1 ELSE 0 END AS is_answered
    FROM call_legs
    WHERE missing_since IS NULL
),
ranked AS (
    SELECT graded.*,
        -- The leg that stands for its side: the longest answered one, else the latest.
        row_number() OVER (
            PARTITION BY account, request_id, leg
            ORDER BY is_answered DESC, CASE WHEN is_answered = 1 THEN COALESCE(duration_seconds, -1) END DESC,
                call_time DESC, to_number DESC, occurrence DESC
        ) AS place,
        row_number() OVER (
            PARTITION BY account, request_id, leg ORDER BY call_time, to_number, occurrence
        ) AS turn
    FROM graded
)
SELECT
    account,
    request_id,
    MIN(call_time) AS call_time,
    CASE WHEN MAX(CASE WHEN leg = 'a' THEN 1 ELSE 0 END) = 1
        THEN MAX(CASE WHEN leg = 'a' AND place = 1 THEN direction END)
        ELSE MAX(CASE WHEN leg = 'b' AND turn = 1 THEN direction END) END AS direction,
    COUNT(*) AS leg_count,
    COUNT(CASE WHEN leg = 'b' THEN 1 END) AS b_leg_count,
    MAX(CASE WHEN leg = 'a' AND place = 1 THEN from_number END) AS a_from,
    MAX(CASE WHEN leg = 'a' AND place = 1 THEN to_number END) AS a_to,
    MAX(CASE WHEN leg = 'a' AND place = 1 THEN status END) AS a_status,
    MAX(CASE WHEN leg = 'a' AND place = 1 THEN duration_seconds END) AS a_duration_seconds,
    MAX(CASE WHEN leg = 'b' AND place = 1 THEN from_number END) AS b_from,
    MAX(CASE WHEN leg = 'b' AND place = 1 THEN to_number END) AS b_to,
    MAX(CASE WHEN leg = 'b' AND place = 1 THEN status END) AS b_status,
    MAX(CASE WHEN leg = 'b' AND place = 1 THEN duration_seconds END) AS b_duration_seconds,
    CASE WHEN COUNT(CASE WHEN leg = 'b' THEN 1 END) > 0
        THEN MAX(CASE WHEN leg = 'b' AND place = 1 THEN to_country END)
        ELSE MAX(CASE WHEN leg = 'a' AND place = 1 THEN to_country END) END AS to_country,
    CASE WHEN COUNT(CASE WHEN leg = 'b' THEN 1 END) > 0
        THEN MAX(CASE WHEN leg = 'b' THEN is_answered ELSE 0 END)
        ELSE MAX(CASE WHEN leg = 'a' THEN is_answered ELSE 0 END) END = 1 AS answered,
    COALESCE(CASE WHEN COUNT(CASE WHEN leg = 'b' THEN 1 END) > 0
        THEN SUM(CASE WHEN leg = 'b' AND is_answered = 1 THEN duration_seconds END)
        ELSE SUM(CASE WHEN leg = 'a' AND is_answered = 1 THEN duration_seconds END) END, 0) AS talk_seconds,
    {billed} AS billed_rate_total,
    COUNT(*) - COUNT(rate) AS legs_without_rate
FROM ranked
GROUP BY account, request_id
"""
BILLED = {"sqlite": "round(SUM(rate), 9)"}


def upgrade() -> None:
    op.execute("DROP VIEW IF EXISTS calls")
    op.execute(CALLS.format(billed=BILLED.get(op.get_bind().dialect.name, "SUM(rate)")))


def downgrade() -> None:
    op.execute("DROP VIEW IF EXISTS calls")
