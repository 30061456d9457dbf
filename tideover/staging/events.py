"""What people and automations want to know, written in the transaction that made it true.

An event that nobody announced yet is announced by the next run that looks, so a crash between the two loses none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from sqlalchemy import text

from tideover.model import HubEvent
from tideover.staging.database import Transaction


@dataclass(frozen=True, slots=True)
class Recorded:
    id: int
    at_us: int
    event: HubEvent


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


def take_unannounced(tx: Transaction, limit: int) -> list[Recorded]:
    """Events to announce, oldest first, marked as announced in this transaction: each one goes to one taker."""
    rows = tx.conn.execute(
        text(
            "select id, name, subject, detail, at_us from event where announced_us = 0 "
            f"order by id limit :n {tx.dialect.skip_locked}"
        ),
        {"n": limit},
    ).all()
    if rows:
        tx.conn.execute(
            text(f"update event set announced_us = :now where id {tx.dialect.in_list('ids')}"),
            {"now": tx.now_us, "ids": tx.dialect.array([row.id for row in rows])},
        )
    return [_recorded(row) for row in rows]


def recent(tx: Transaction, limit: int) -> list[Recorded]:
    """The newest events, newest first."""
    rows = tx.conn.execute(
        text("select id, name, subject, detail, at_us from event order by id desc limit :n"), {"n": limit}
    )
    return [_recorded(row) for row in rows]


def _recorded(row: Sequence[object]) -> Recorded:
    identity, name, subject, detail, at_us = row
    return Recorded(int(str(identity)), int(str(at_us)), HubEvent(str(name), str(subject), orjson.loads(str(detail))))
