"""How many of a system's calls each worker may have under way, where all workers together have a cap.

Each worker keeps a row with the most that it may have under way now, for a time: what a dead one held lapses. Nobody is
granted more than what the others' rows leave, so the sum is never above the cap; a newcomer waits until the others have
shrunk to their share.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text

from tideover.model import SECOND_US
from tideover.policy.sharing import fair_shares
from tideover.staging import systems
from tideover.staging.database import Transaction

_TURN_US = 5 * SECOND_US  # what can't be divided goes to another worker so often


@dataclass(frozen=True, slots=True)
class Ask:
    """A worker's word: at most `held` calls are under way or may begin before it hears the answer; it could do with
    `wanted`, of the `cap` that all share. Its row stands for `ttl_us`, unless it asks again."""

    system: str
    worker: str
    cap: int
    wanted: int
    held: int
    ttl_us: int


def share(tx: Transaction, ask: Ask) -> int:
    """How many calls the worker may have under way from now on; those above it that are, are let end."""
    systems.load(tx, ask.system, for_update=True)  # one at a time: each must see what the others hold
    tx.conn.execute(
        text("delete from call_share where system = :system and until_us <= :now"),
        {"system": ask.system, "now": tx.now_us},
    )
    rows = tx.conn.execute(
        text("select worker, wanted, held from call_share where system = :system and worker <> :worker"),
        {"system": ask.system, "worker": ask.worker},
    ).all()
    wanted = {worker: int(count) for worker, count, _ in rows} | {ask.worker: ask.wanted}
    fair = fair_shares(ask.cap, wanted, tx.now_us // _TURN_US)[ask.worker]
    granted = max(min(fair, ask.cap - sum(int(held) for _, _, held in rows)), 0)
    tx.conn.execute(
        text(
            "insert into call_share (system, worker, wanted, held, until_us) "
            "values (:system, :worker, :wanted, :held, :until) on conflict (system, worker) "
            "do update set wanted = excluded.wanted, held = excluded.held, until_us = excluded.until_us"
        ),
        {
            "system": ask.system,
            "worker": ask.worker,
            "wanted": ask.wanted,
            "held": max(granted, ask.held),
            "until": tx.now_us + ask.ttl_us,
        },
    )
    return granted


def give_up(tx: Transaction, system: str, worker: str) -> None:
    """A worker has nothing under way any more."""
    tx.conn.execute(
        text("delete from call_share where system = :system and worker = :worker"),
        {"system": system, "worker": worker},
    )
