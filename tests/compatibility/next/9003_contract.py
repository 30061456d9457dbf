"""What the next release's workers no longer use goes with the one after it.

Revision ID: 9003
"""

from __future__ import annotations

from alembic import op

revision = "9003"
down_revision = "9002"
kind = "contract"


def upgrade() -> None:
    op.drop_index("attempt_lane", "attempt")
    op.execute("alter table record drop column origin")
    op.drop_table("note")
