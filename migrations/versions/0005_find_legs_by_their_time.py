"""Find legs by their time: the index of `call_time`.

Why: whoever looks at calls asks for a day or a month of them, and dashboards ask again every few minutes. The
key of `call_legs` begins with the request, so that each such question would read all legs ever stored.

Revision: 0005, after 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_call_legs_call_time", "call_legs", ["call_time"])


def downgrade() -> None:
    op.drop_index("ix_call_legs_call_time", "call_legs")
