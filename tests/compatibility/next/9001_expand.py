"""What a next release may add while workers of this one run.

Revision ID: 9001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "9001"
down_revision = "0001"
kind = "expand"


def upgrade() -> None:
    op.add_column("lane", sa.Column("weight", sa.Integer, nullable=False, server_default=sa.text("1")))
    op.add_column("record", sa.Column("origin", sa.Text))
    op.add_column("ledger", sa.Column("origin", sa.Text, nullable=False, server_default=sa.text("''")))
    op.create_table(
        "note",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.CheckConstraint("kind in ('person')", name="note_kind"),
    )
    op.create_index("attempt_lane_kind", "attempt", ["lane", "seq", "kind"])
