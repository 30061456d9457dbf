"""The staging table and its companions, as SQLAlchemy Core metadata. Migrations make it; a test holds the two equal.

A lane is one row with a cursor: records 1..done_seq are settled, done_seq+1..last_seq wait, in_doubt of them may have
been processed already. Records are append-only, so a delivered record costs nothing more, and a claim touches lanes
only. Instants are microseconds since the epoch (`_us`), read from the database's clock.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    text,
)

metadata = MetaData()

_Id = BigInteger().with_variant(Integer, "sqlite")  # SQLite gives numbers by itself only to INTEGER keys


def _numbered() -> Column[int]:
    return Column("id", _Id, Identity(), primary_key=True)


def _micros(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=text("0"))


lane = Table(
    "lane",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("route", Text, nullable=False),
    Column("key", Text, nullable=False),
    _micros("born_us"),
    Column("last_seq", BigInteger, nullable=False),
    Column("done_seq", BigInteger, nullable=False),
    Column("last_hash", LargeBinary, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("priority", SmallInteger, nullable=False, server_default=text("3")),
    _micros("due_us"),
    _micros("lease_until_us"),
    Column("token", BigInteger, nullable=False, server_default=text("0")),
    Column("system", Text, nullable=False, server_default=text("''")),  # who had it last; pinned while in doubt
    Column("avoid", Text, nullable=False, server_default=text("''")),  # who could not be reached with its head
    Column("in_doubt", Integer, nullable=False, server_default=text("0")),
    _micros("doubted_us"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
)
Index(
    "lane_waiting",
    lane.c.route,
    lane.c.priority,
    lane.c.due_us,
    lane.c.id,
    postgresql_where=text("state = 1"),
    sqlite_where=text("state = 1"),
)
Index(
    "lane_drained",
    lane.c.route,
    lane.c.due_us,
    lane.c.id,
    postgresql_where=text("state = 0"),
    sqlite_where=text("state = 0"),
)

record = Table(
    "record",
    metadata,
    Column("lane", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("id", Text, nullable=False),
    Column("key", Text, nullable=False),
    _micros("staged_us"),
    Column("payload", LargeBinary, nullable=False),
    Column("parent", Text),  # the parked record that this one replaces, corrected by a person
    PrimaryKeyConstraint("lane", "seq"),
)

attempt = Table(
    "attempt",
    metadata,
    _numbered(),
    Column("lane", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("token", BigInteger, nullable=False),
    Column("kind", Text, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("reference", Text),
    _micros("began_us"),
    Column("took_us", BigInteger, nullable=False),
)
Index("attempt_lane", attempt.c.lane, attempt.c.seq)

parked = Table(
    "parked",
    metadata,
    _numbered(),
    Column("record", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("lane", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("key", Text, nullable=False),
    Column("system", Text, nullable=False),
    Column("code", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("in_doubt", Boolean, nullable=False),
    Column("holds", Boolean, nullable=False),  # it is the head of its lane, which waits for it
    Column("at_intake", Boolean, nullable=False),  # the payload is the source's, not yet mapped
    _micros("staged_us"),
    _micros("parked_us"),
    _micros("closed_us"),
    Column("closing", Text, nullable=False, server_default=text("''")),  # replayed, released, restored or resent
)
Index(
    "parked_open",
    parked.c.route,
    parked.c.id,
    postgresql_where=text("closed_us = 0"),
    sqlite_where=text("closed_us = 0"),
)
Index("parked_lane", parked.c.lane, parked.c.seq)

# Double entry: each transaction that moves records adds a line; the audit holds the sums against lanes and parked.
ledger = Table(
    "ledger",
    metadata,
    _numbered(),
    Column("route", Text, nullable=False),
    _micros("at_us"),
    Column("staged", BigInteger, nullable=False, server_default=text("0")),
    Column("delivered", BigInteger, nullable=False, server_default=text("0")),
    Column("parked", BigInteger, nullable=False, server_default=text("0")),
    Column("superseded", BigInteger, nullable=False, server_default=text("0")),
    Column("push", Text),  # the call that staged it, so that its next try knows it again
)

Index("ledger_route", ledger.c.route)

cursor = Table(
    "cursor",
    metadata,
    Column("route", Text, primary_key=True),
    Column("cursor", Text, nullable=False),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    _micros("moved_us"),
    _micros("complete_us"),  # when a listing was last read to its end
    Column(
        "own_lanes", SmallInteger, nullable=False, server_default=text("0")
    ),  # 1: its records had some, under `none`
)

system = Table(
    "system",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("breaker", Text, nullable=False),  # the state machine's fields, as JSON
    Column("state", Text, nullable=False),  # for people and queries: what `breaker` says
    _micros("retry_us"),
    _micros("paused_until_us"),
    Column("prober", BigInteger, nullable=False, server_default=text("0")),
    _micros("prober_until_us"),
    Column("throttles", Integer, nullable=False, server_default=text("0")),  # pauses in a row that nobody measured out
)

# How much of each limit of a system is used: see `policy.quota.Use`.
quota = Table(
    "quota",
    metadata,
    Column("system", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("used", BigInteger, nullable=False, server_default=text("0")),
    _micros("until_us"),
    Column("parts", Text, nullable=False, server_default=text("''")),
    PrimaryKeyConstraint("system", "name"),
)

# How many of a system's calls each worker may have under way, where all workers share a cap.
call_share = Table(
    "call_share",
    metadata,
    Column("system", Text, nullable=False),
    Column("worker", Text, nullable=False),
    Column("wanted", Integer, nullable=False),
    Column("held", Integer, nullable=False),
    _micros("until_us"),
    PrimaryKeyConstraint("system", "worker"),
)

failover_group = Table(
    "failover_group",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", BigInteger, nullable=False, server_default=text("0")),
    Column("state", Text, nullable=False),  # trust, first choice and pin, as JSON
)

turn = Table(
    "turn",
    metadata,
    _numbered(),
    Column("failover_group", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("before", Text, nullable=False),
    Column("after", Text, nullable=False),
    Column("why", Text, nullable=False),
    Column("author", Text, nullable=False),
    _micros("failed_us"),  # of a failover: when the provider before was first met failing
    _micros("at_us"),
    _micros("served_us"),  # of a failover: when the provider after first accepted a record
)
Index("turn_group", turn.c.failover_group, turn.c.id)

# Unknown outcomes that were sent elsewhere, until their provider was asked and at most one of the two is left.
reconciliation = Table(
    "reconciliation",
    metadata,
    _numbered(),
    Column("failover_group", Text, nullable=False),
    Column("route", Text, nullable=False),
    Column("lane", BigInteger, nullable=False),
    Column("seq", BigInteger, nullable=False),
    Column("record", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("system", Text, nullable=False),  # the provider that may have it
    _micros("doubted_us"),
    _micros("opened_us"),
    _micros("due_us"),
    _micros("lease_until_us"),
    Column("token", BigInteger, nullable=False, server_default=text("0")),
    Column("misses", Integer, nullable=False, server_default=text("0")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("reference", Text),  # the provider's own, once it was found there
    Column("other_system", Text, nullable=False, server_default=text("''")),  # who has it, as far as the hub knows
    Column("other_reference", Text),
    Column("detail", Text, nullable=False, server_default=text("''")),
    Column("author", Text, nullable=False, server_default=text("''")),  # the person who settled it
    _micros("closed_us"),
)
Index(
    "reconciliation_open",
    reconciliation.c.system,
    reconciliation.c.due_us,
    postgresql_where=text("closed_us = 0"),
    sqlite_where=text("closed_us = 0"),
)
Index("reconciliation_lane", reconciliation.c.lane)

outage = Table(
    "outage",
    metadata,
    _numbered(),
    Column("system", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    _micros("first_failure_us"),
    _micros("opened_us"),
    _micros("restored_us"),
    _micros("drained_us"),
    Column("backlog", BigInteger, nullable=False, server_default=text("0")),
)
Index("outage_open", outage.c.system, postgresql_where=text("drained_us = 0"), sqlite_where=text("drained_us = 0"))

event = Table(
    "event",
    metadata,
    _numbered(),
    Column("name", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("detail", Text, nullable=False),
    _micros("at_us"),
    _micros("announced_us"),
)
Index("event_unannounced", event.c.id, postgresql_where=text("announced_us = 0"), sqlite_where=text("announced_us = 0"))

# Whose workers may work on this schema: the revisions that their releases were made for. `migrate` writes it.
served_revision = Table("served_revision", metadata, Column("revision", Text, primary_key=True))
