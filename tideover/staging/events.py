"""What people and automations want to know, written in the transaction that made it true.

An event is handed on first and marked afterwards, by whoever looks next, so a crash loses none; it may be handed on
twice, under the same identity.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID, uuid5

import orjson
from sqlalchemy import text

from tideover.model import HubEvent
from tideover.staging.database import Transaction

_IDENTITIES = UUID("5d2c7d60-5f1e-4a52-9d3b-6f6a1f0c8e11")  # any, the same in every release

_NEWEST = 1_000


@dataclass(frozen=True, slots=True)
class Recorded:
    """An event as the outbox holds it."""

    id: int
    at_us: int
    event: HubEvent

    @property
    def identity(self) -> UUID:
        """The same each time it is announced, so that whoever hears it twice can tell."""
        return uuid5(_IDENTITIES, f"{self.id}|{self.at_us}|{self.event.name}|{self.event.subject}")


def announce(tx: Transaction, event: HubEvent) -> None:
    """Put an event into the outbox."""
    tx.conn.execute(
        text(
            "insert into event (name, subject, detail, at_us, announced_us) values (:name, :subject, :detail, :now, 0)"
        ),
        {
            "name": event.name,
            "subject": event.subject,
            "detail": orjson.dumps(dict(event.detail)).decode(),
            "now": tx.now_us,
        },
    )


def is_known(tx: Transaction, event: HubEvent) -> bool:
    """Whether the same is said of something already, among the newest events."""
    found = tx.conn.execute(
        text(
            f"select 1 from (select name, detail from event order by id desc limit {_NEWEST}) as newest "
            "where name = :name and detail = :detail limit 1"
        ),
        {"name": event.name, "detail": orjson.dumps(dict(event.detail)).decode()},
    )
    return found.scalar() is not None


def unannounced(tx: Transaction, limit: int) -> list[Recorded]:
    """Events that nobody has announced yet, oldest first."""
    rows = tx.conn.execute(
        text("select id, name, subject, detail, at_us from event where announced_us = 0 order by id limit :n"),
        {"n": limit},
    )
    return [_recorded(row) for row in rows]


def mark_announced(tx: Transaction, ids: Sequence[int]) -> None:
    """Note that events were handed on. Only after that: a crash between the two announces them once more."""
    tx.conn.execute(
        text(f"update event set announced_us = :now where id {tx.dialect.in_list('ids')}"),
        {"now": tx.now_us, "ids": tx.dialect.array(sorted(ids))},
    )


def recent(tx: Transaction, limit: int) -> list[Recorded]:
    """The newest events, newest first."""
    rows = tx.conn.execute(
        text("select id, name, subject, detail, at_us from event order by id desc limit :n"), {"n": limit}
    )
    return [_recorded(row) for row in rows]


def _recorded(row: Sequence[object]) -> Recorded:
    identity, name, subject, detail, at_us = row
    return Recorded(int(str(identity)), int(str(at_us)), HubEvent(str(name), str(subject), orjson.loads(str(detail))))
