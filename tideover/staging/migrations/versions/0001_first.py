"""The first schema.

Revision ID: 0001
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
kind = "expand"

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _numbered() -> sa.Column[int]:
    return sa.Column("id", _ID, sa.Identity(), primary_key=True)


def _micros(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default=sa.text("0"))


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, server_default=None if default is None else sa.text(default))


def _partial_index(name: str, table: str, columns: list[str], where: str) -> None:
    op.create_index(name, table, columns, postgresql_where=sa.text(where), sqlite_where=sa.text(where))


def upgrade() -> None:
    _create_lanes()
    _create_records()
    _create_attempts()
    _create_parked()
    _create_books()
    _create_systems()
    _create_outages()
    _create_groups()
    _create_reconciliation()
    op.create_table("served_revision", sa.Column("revision", sa.Text, primary_key=True))


def _create_lanes() -> None:
    op.create_table(
        "lane",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        _text("route"),
        _text("key"),
        _micros("born_us"),
        sa.Column("last_seq", sa.BigInteger, nullable=False),
        sa.Column("done_seq", sa.BigInteger, nullable=False),
        sa.Column("last_hash", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.SmallInteger, nullable=False),
        sa.Column("priority", sa.SmallInteger, nullable=False, server_default=sa.text("3")),
        _micros("due_us"),
        _micros("lease_until_us"),
        _count("token"),
        _text("system", "''"),
        _text("avoid", "''"),
        sa.Column("in_doubt", sa.Integer, nullable=False, server_default=sa.text("0")),
        _micros("doubted_us"),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
    )
    _partial_index("lane_waiting", "lane", ["route", "priority", "due_us", "id"], "state = 1")
    _partial_index("lane_drained", "lane", ["route", "due_us", "id"], "state = 0")
    if op.get_bind().dialect.name == "postgresql":
        # Room in each page, so that claims and settles stay heap-only updates; and dead entries of the index of waiting
        # lanes go soon, however many lanes there are, as each claim would step over them.
        op.execute(
            "alter table lane set (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, "
            "autovacuum_vacuum_threshold = 25000, autovacuum_vacuum_cost_delay = 0, vacuum_truncate = off)"
        )


def _create_records() -> None:
    op.create_table(
        "record",
        sa.Column("lane", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _text("id"),
        _text("key"),
        _micros("staged_us"),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("parent", sa.Text),
        sa.PrimaryKeyConstraint("lane", "seq"),
    )
    if op.get_bind().dialect.name == "postgresql":
        # Retention removes a thirtieth a day: a fifth, the default, would be waited for too long.
        op.execute("alter table record set (autovacuum_vacuum_scale_factor = 0.02)")
        # JSON of a kilobyte is not worth compressing on the way in and out.
        op.execute("alter table record alter column payload set storage external")


def _create_attempts() -> None:
    op.create_table(
        "attempt",
        _numbered(),
        sa.Column("lane", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _text("record"),
        _text("route"),
        _text("system"),
        sa.Column("token", sa.BigInteger, nullable=False),
        _text("kind"),
        _text("outcome"),
        _text("code"),
        _text("detail"),
        sa.Column("reference", sa.Text),
        _micros("began_us"),
        sa.Column("took_us", sa.BigInteger, nullable=False),
    )
    op.create_index("attempt_lane", "attempt", ["lane", "seq"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute("alter table attempt set (autovacuum_vacuum_scale_factor = 0.02)")


def _create_parked() -> None:
    op.create_table(
        "parked",
        _numbered(),
        _text("record"),
        _text("route"),
        sa.Column("lane", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _text("key"),
        _text("system"),
        _text("code"),
        _text("detail"),
        sa.Column("payload", sa.LargeBinary, nullable=False),
        sa.Column("in_doubt", sa.Boolean, nullable=False),
        sa.Column("holds", sa.Boolean, nullable=False),
        sa.Column("at_intake", sa.Boolean, nullable=False),
        _micros("staged_us"),
        _micros("parked_us"),
        _micros("closed_us"),
        _text("closing", "''"),
    )
    _partial_index("parked_open", "parked", ["route", "id"], "closed_us = 0")
    op.create_index("parked_lane", "parked", ["lane", "seq"])


def _create_books() -> None:
    op.create_table(
        "ledger",
        _numbered(),
        _text("route"),
        _micros("at_us"),
        _count("staged"),
        _count("delivered"),
        _count("parked"),
        _count("superseded"),
        sa.Column("push", sa.Text),
    )
    op.create_index("ledger_route", "ledger", ["route"])
    op.create_table(
        "cursor",
        sa.Column("route", sa.Text, primary_key=True),
        _text("cursor"),
        _count("version"),
        _micros("moved_us"),
        _micros("complete_us"),
        sa.Column("own_lanes", sa.SmallInteger, nullable=False, server_default=sa.text("0")),
    )
    op.create_table(
        "event",
        _numbered(),
        _text("name"),
        _text("subject"),
        _text("detail"),
        _micros("at_us"),
        _micros("announced_us"),
    )
    _partial_index("event_unannounced", "event", ["id"], "announced_us = 0")


def _create_systems() -> None:
    op.create_table(
        "system",
        sa.Column("name", sa.Text, primary_key=True),
        _count("version"),
        _text("breaker"),
        _text("state"),
        _micros("retry_us"),
        _micros("paused_until_us"),
        _count("prober"),
        _micros("prober_until_us"),
        sa.Column("throttles", sa.Integer, nullable=False, server_default=sa.text("0")),
    )
    op.create_table(
        "quota",
        _text("system"),
        _text("name"),
        _count("used"),
        _micros("until_us"),
        _text("parts", "''"),
        sa.PrimaryKeyConstraint("system", "name"),
    )
    op.create_table(
        "call_share",
        _text("system"),
        _text("worker"),
        sa.Column("wanted", sa.Integer, nullable=False),
        sa.Column("held", sa.Integer, nullable=False),
        _micros("until_us"),
        sa.PrimaryKeyConstraint("system", "worker"),
    )


def _create_outages() -> None:
    op.create_table(
        "outage",
        _numbered(),
        _text("system"),
        _text("reason"),
        _text("detail"),
        _micros("first_failure_us"),
        _micros("opened_us"),
        _micros("restored_us"),
        _micros("drained_us"),
        _count("backlog"),
    )
    _partial_index("outage_open", "outage", ["system"], "drained_us = 0")


def _create_groups() -> None:
    op.create_table(
        "failover_group",
        sa.Column("name", sa.Text, primary_key=True),
        _count("version"),
        _text("state"),
    )
    op.create_table(
        "turn",
        _numbered(),
        _text("failover_group"),
        _text("kind"),
        _text("before"),
        _text("after"),
        _text("why"),
        _text("author"),
        _micros("failed_us"),
        _micros("at_us"),
        _micros("served_us"),
    )
    op.create_index("turn_group", "turn", ["failover_group", "id"])


def _create_reconciliation() -> None:
    op.create_table(
        "reconciliation",
        _numbered(),
        _text("failover_group"),
        _text("route"),
        sa.Column("lane", sa.BigInteger, nullable=False),
        sa.Column("seq", sa.BigInteger, nullable=False),
        _text("record"),
        _text("key"),
        _text("system"),
        _micros("doubted_us"),
        _micros("opened_us"),
        _micros("due_us"),
        _micros("lease_until_us"),
        _count("token"),
        sa.Column("misses", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("attempts", sa.Integer, nullable=False, server_default=sa.text("0")),
        _text("state", "'open'"),
        sa.Column("reference", sa.Text),
        _text("other_system", "''"),
        sa.Column("other_reference", sa.Text),
        _text("detail", "''"),
        _text("author", "''"),
        _micros("closed_us"),
    )
    _partial_index("reconciliation_open", "reconciliation", ["system", "due_us"], "closed_us = 0")
    op.create_index("reconciliation_lane", "reconciliation", ["lane"])
