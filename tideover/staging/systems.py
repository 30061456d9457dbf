"""Each system's breaker, pause and prober slot, as one row that all workers share; and its outages, as measured."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import text

from tideover.model import PRIORITIES, SECOND_US, HubEvent, Throttled
from tideover.policy.breaker import (
    Action,
    Breaker,
    BreakerRule,
    Event,
    ProbeBegan,
    Result,
    State,
    may_probe,
    step,
)
from tideover.policy.quota import throttle
from tideover.staging import ledger
from tideover.staging.database import Transaction
from tideover.staging.events import announce

_FRESH = orjson.dumps(Breaker()).decode()
_FIELDS = frozenset(Breaker.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether a system may be called now. `wait_s`: how long until that may change; 0 while it is open to traffic.
    `pause`: why it is paused, in words, where it is not because the system asked for it."""

    state: State
    reason: str
    detail: str
    is_forced: bool
    is_paused: bool
    wait_s: float
    pause: str = ""

    @property
    def lets_through(self) -> bool:
        return self.state is State.CLOSED and not self.is_paused

    @property
    def is_due(self) -> bool:
        """Whether it is time for somebody to try whether the system is back. An operator's word is not tried."""
        return self.state is not State.CLOSED and not (self.is_forced or self.is_paused) and self.wait_s <= 0


@dataclass(frozen=True, slots=True)
class SystemRow:
    """A system's row. `throttles`: pauses in a row for which it named no time. `draining_us`: when it was restored from
    an outage whose backlog is not delivered yet; 0 without one. `stored`: the breaker's JSON text as it was read."""

    name: str
    version: int
    breaker: Breaker
    paused_until_us: int
    prober: int
    prober_until_us: int
    throttles: int = 0
    draining_us: int = 0
    stored: str = _FRESH

    def holder(self, now_us: int) -> int:
        """The number of the prober that has the slot at `now_us`; 0: nobody has it."""
        return self.prober if self.prober_until_us > now_us else 0

    def gate(self, now_us: int) -> Gate:
        """What this row means for a caller at `now_us`."""
        b = self.breaker
        is_paused = self.paused_until_us > now_us
        until_us = self.paused_until_us if is_paused else 0
        if b.state is not State.CLOSED:
            until_us = max(until_us, b.retry_us, self.prober_until_us)
        wait_s = max(until_us - now_us, 0) / SECOND_US
        return Gate(b.state, b.reason, b.detail, b.is_forced, is_paused, wait_s)


_RESTORED = "select max(restored_us) from outage where system = :name and restored_us > 0 and drained_us = 0"


def load(tx: Transaction, name: str, *, for_update: bool = False) -> SystemRow:
    """The system's row; one that was never written is a closed breaker."""
    lock = tx.dialect.for_update if for_update else ""
    if for_update:
        ensure(tx, name)
    row = tx.conn.execute(
        text(
            "select version, breaker, paused_until_us, prober, prober_until_us, throttles, "
            f"({_RESTORED}) from system where name = :name {lock}"
        ),
        {"name": name},
    ).one_or_none()
    if row is None:
        return SystemRow(name, 0, Breaker(), 0, 0, 0)
    return SystemRow(name, row[0], _decode(row[1]), row[2], row[3], row[4], row[5], int(row[6] or 0), row[1])


def load_all(tx: Transaction, names: Collection[str], *, for_update: bool = False) -> dict[str, SystemRow]:
    """The rows of several systems, locked in the order of their names."""
    return {name: load(tx, name, for_update=for_update) for name in sorted(names)}


def apply(
    tx: Transaction,
    row: SystemRow,
    breaker: Breaker,
    actions: Sequence[Action],
    *,
    pause_s: float = 0.0,
    throttles: int | None = None,
) -> SystemRow:
    """Write a breaker's new state, and what its transition asks for: outage, events, records to restore. `throttles`:
    as in the row, where it changes."""
    throttles = row.throttles if throttles is None else throttles
    paused_until_us = (
        max(row.paused_until_us, tx.now_us + int(pause_s * SECOND_US)) if pause_s > 0 else row.paused_until_us
    )
    if (breaker, paused_until_us, throttles) == (row.breaker, row.paused_until_us, row.throttles):
        return row
    if pause_s > 0 and row.paused_until_us <= tx.now_us:
        announce(tx, HubEvent("tideover.system.throttled", row.name, {"pause_s": round(pause_s, 1)}))
    changed = replace(row, breaker=breaker, paused_until_us=paused_until_us, throttles=throttles)
    if Action.CLOSED in actions:
        changed = replace(changed, prober_until_us=0)
    changed = _write(tx, changed)
    for action in actions:
        if action is Action.OPENED:
            _begin_outage(tx, row.name, breaker)
        elif action is Action.CLOSED:
            _end_downtime(tx, row.name)
    return changed


def _write(tx: Transaction, row: SystemRow) -> SystemRow:
    """Compare and swap on the version; the row was locked before, so losing is a defect and not a race."""
    ensure(tx, row.name)
    changed = tx.conn.execute(
        text(
            "update system set version = version + 1, breaker = :breaker, state = :state, retry_us = :retry, "
            "paused_until_us = :paused, prober = :prober, prober_until_us = :prober_until, throttles = :throttles "
            "where name = :name and version = :version"
        ),
        {
            "breaker": _encode(row.breaker, row.stored),
            "state": row.breaker.state.value,
            "retry": row.breaker.retry_us,
            "paused": row.paused_until_us,
            "prober": row.prober,
            "prober_until": row.prober_until_us,
            "throttles": row.throttles,
            "name": row.name,
            "version": row.version,
        },
    )
    assert changed.rowcount == 1, f"the row of system {row.name} changed under its lock"
    return replace(row, version=row.version + 1)


def ensure(tx: Transaction, name: str) -> None:
    """Write the row of a system that has none."""
    tx.conn.execute(
        text(
            "insert into system (name, breaker, state) values (:name, :breaker, 'closed') on conflict (name) do nothing"
        ),
        {"name": name, "breaker": _FRESH},
    )


def _encode(breaker: Breaker, stored: str) -> str:
    """With what a newer release may have written beside the fields of this one."""
    return orjson.dumps({**orjson.loads(stored), **orjson.loads(orjson.dumps(breaker))}).decode()


def _decode(stored: str) -> Breaker:
    # A newer release may have written fields that this one does not know.
    fields: dict[str, Any] = {name: value for name, value in orjson.loads(stored).items() if name in _FIELDS}
    return Breaker(
        **{
            **fields,
            "state": State(fields["state"]),
            "failing": tuple(fields["failing"]),
            "rejecting": tuple(fields["rejecting"]),
        }
    )


def tell(
    tx: Transaction, name: str, event: Event, rule: BreakerRule, spread: float
) -> tuple[SystemRow, Sequence[Action]]:
    """Let an event change a system's breaker."""
    row = load(tx, name, for_update=True)
    breaker, actions = step(row.breaker, event, tx.now_us, rule, spread)
    return _heard(tx, row, event, breaker, actions), actions


def _heard(tx: Transaction, row: SystemRow, event: Event, breaker: Breaker, actions: Sequence[Action]) -> SystemRow:
    """Write what an event changed, and the pause that the system asked for in it."""
    outcome = event.outcome if isinstance(event, Result) else None
    if not isinstance(outcome, Throttled):
        return apply(tx, row, breaker, actions)
    asked_s, guess_s = (outcome.delay_s, 0.0) if outcome.is_asked else (0.0, outcome.delay_s)
    is_paused = row.paused_until_us > tx.now_us
    pause_s, throttles = throttle(asked_s, guess_s, row.throttles, is_paused=is_paused, is_served=False)
    return apply(tx, row, breaker, actions, pause_s=pause_s, throttles=throttles)


Slot = tuple[int, int]  # a prober's number, and until when


def take_probe(tx: Transaction, name: str, lease_s: float, tried: set[Slot]) -> int | None:
    """The half-open slot: a number that proves the right to probe, or None when it is not time or somebody has it.

    `tried`: what the same call wrote before, in transactions of which nobody knows whether they were committed.
    """
    row = load(tx, name, for_update=True)
    if (row.prober, row.prober_until_us) in tried:
        return row.prober
    if not may_probe(row.breaker, tx.now_us) or max(row.prober_until_us, row.paused_until_us) > tx.now_us:
        return None
    breaker, _ = step(row.breaker, ProbeBegan(), tx.now_us, BreakerRule(), 0.0)
    until_us = tx.now_us + int(lease_s * SECOND_US)
    tried.add((row.prober + 1, until_us))
    return _write(tx, replace(row, breaker=breaker, prober=row.prober + 1, prober_until_us=until_us)).prober


def end_probe(tx: Transaction, name: str, prober: int, result: Result, rule: BreakerRule, spread: float) -> SystemRow:
    """Count a probe's result, if the slot is still this prober's, and give the slot back."""
    row = load(tx, name, for_update=True)
    if row.prober != prober or row.prober_until_us <= tx.now_us:
        return row
    freed = _write(tx, replace(row, prober_until_us=0))
    breaker, actions = step(row.breaker, result, tx.now_us, rule, spread)
    return _heard(tx, freed, result, breaker, actions)


def release_probe(tx: Transaction, name: str, prober: int) -> SystemRow:
    """Give the slot back, if it is still this prober's."""
    row = load(tx, name, for_update=True)
    if row.prober == prober and row.prober_until_us:
        return _write(tx, replace(row, prober_until_us=0))
    return row


def _begin_outage(tx: Transaction, name: str, breaker: Breaker) -> None:
    tx.conn.execute(
        text(
            "insert into outage (system, reason, detail, first_failure_us, opened_us) "
            "values (:system, :reason, :detail, :first, :opened)"
        ),
        {
            "system": name,
            "reason": breaker.reason,
            "detail": breaker.detail,
            "first": breaker.first_failure_us or tx.now_us,
            "opened": tx.now_us,
        },
    )
    announce(tx, HubEvent("tideover.system.down", name, {"reason": breaker.reason, "detail": breaker.detail}))


def _end_downtime(tx: Transaction, name: str) -> None:
    tx.conn.execute(
        text("update outage set restored_us = :now where system = :system and restored_us = 0"),
        {"system": name, "now": tx.now_us},
    )
    announce(tx, HubEvent("tideover.system.restored", name, {}))


def undrained(tx: Transaction, name: str) -> int | None:
    """When the system was restored, if what had waited for it is not all delivered yet."""
    return tx.conn.execute(text(_RESTORED), {"name": name}).scalar()


def end_drain(tx: Transaction, name: str, backlog_routes: Sequence[str]) -> bool:
    """Close the system's outages if nothing staged before its restoration waits any more. True when it did."""
    restored_us = undrained(tx, name)
    if restored_us is None or _is_waiting(tx, backlog_routes, restored_us):
        return False
    ended = tx.conn.execute(
        text("update outage set drained_us = :now where system = :system and restored_us > 0 and drained_us = 0"),
        {"now": tx.now_us, "system": name},
    )
    if not ended.rowcount:
        return False  # another worker saw it first
    announce(tx, HubEvent("tideover.system.drained", name, {"took_s": round((tx.now_us - restored_us) / SECOND_US, 3)}))
    return True


def is_drained(tx: Transaction, name: str, backlog_routes: Sequence[str]) -> bool:
    """Whether the system was restored from an outage, and nothing staged before that waits any more."""
    restored_us = undrained(tx, name)
    return restored_us is not None and not _is_waiting(tx, backlog_routes, restored_us)


def _is_waiting(tx: Transaction, routes: Sequence[str], before_us: int) -> bool:
    """Whether a lane that can move waits with a record staged before an instant. Held lanes wait for a person."""
    return any(
        tx.conn.execute(
            text(
                "select 1 from lane join record on record.lane = lane.id and record.seq = lane.done_seq + 1 "
                "where lane.route = :route and lane.state = 1 and record.staged_us <= :before limit 1"
            ),
            {"route": route, "before": before_us},
        ).scalar()
        for route in routes
    )


def note_backlog(tx: Transaction, name: str, routes: Sequence[str]) -> None:
    """After a restoration: how many records waited, for the outage."""
    tx.conn.execute(
        text("update outage set backlog = :backlog where system = :system and restored_us > 0 and drained_us = 0"),
        {"backlog": ledger.waiting(tx, routes), "system": name},
    )


def make_due(tx: Transaction, route: str, restored: str = "") -> bool:
    """Some of the lanes of a route that backed off are due now: those of a drain, of a `restored` system, as part of
    its backlog. False when there may be more.

    In pieces, each of which locks its lanes in the order of their ids, as staging and settling do: no deadlock.
    """
    since_us = undrained(tx, restored) if restored else None
    bound = {"due": since_us or tx.now_us, "now": tx.now_us, "route": route, "n": _PIECE}
    is_done = True
    ids: list[int] = []
    for priority in PRIORITIES:  # one by one, as the index of waiting lanes has them
        later = "select id from lane where route = :route and state = 1 and priority = :priority and due_us > :now"
        ids += tx.conn.execute(text(f"{later} order by due_us, id limit :n"), bound | {"priority": priority}).scalars()
        if len(ids) >= _PIECE:
            is_done = False
            break
    if ids:
        among = f"id {tx.dialect.in_list('ids')} and state = 1 and due_us > :now"
        bound |= {"ids": tx.dialect.array(sorted(ids))}
        tx.conn.execute(text(f"select id from lane where {among} order by id {tx.dialect.for_update}"), bound)
        tx.conn.execute(text(f"update lane set due_us = :due where {among}"), bound)
    tx.dialect.notify(tx.conn, route)
    return is_done


_PIECE = 2_000  # lanes
