"""Each failover group's trust, first choice and pin, as one row that all workers share; and what happened to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import text

from tideover.errors import Refused
from tideover.model import HubEvent
from tideover.policy.breaker import State
from tideover.policy.failover import (
    GroupRule,
    GroupState,
    Health,
    Phase,
    Pin,
    Trust,
    Turn,
    TurnKind,
    advance,
    canary_ended,
    hurried,
)
from tideover.staging.database import Transaction
from tideover.staging.events import announce
from tideover.staging.systems import SystemRow, load_all


@dataclass(frozen=True, slots=True)
class TurnRow:
    """A turn as it was recorded. `served_us`: when the provider after it first accepted a record; 0 before that."""

    kind: str
    before: str
    after: str
    why: str
    author: str
    failed_us: int
    at_us: int
    served_us: int


def health_of(row: SystemRow) -> Health:
    b = row.breaker
    is_open = b.state is not State.CLOSED
    return Health(is_open, b.first_failure_us, b.opened_us, b.closed_us, row.paused_until_us, b.reason)


def load(tx: Transaction, name: str, *, for_update: bool = False) -> GroupState:
    """The group's state; one that was never written has every provider serving."""
    lock = tx.dialect.for_update if for_update else ""
    if for_update:
        tx.conn.execute(
            text("insert into failover_group (name, state) values (:name, :state) on conflict (name) do nothing"),
            {"name": name, "state": _FRESH},
        )
    stored = tx.conn.execute(text(f"select state from failover_group where name = :name {lock}"), {"name": name})
    found = stored.scalar()
    return _decode(found) if found else GroupState()


def save(tx: Transaction, name: str, state: GroupState, turns: Sequence[Turn]) -> None:
    """Write a group that was loaded `for_update`, and what happened to it."""
    stored = tx.conn.execute(text("select state from failover_group where name = :name"), {"name": name}).scalar_one()
    tx.conn.execute(
        text("update failover_group set version = version + 1, state = :state where name = :name"),
        {"name": name, "state": _encode(state, stored)},
    )
    for turn in turns:
        _record(tx, name, turn)


def current(
    tx: Transaction, name: str, rule: GroupRule, health: Mapping[str, Health], *, is_exclusive: bool = False
) -> GroupState:
    """The group as it is now: time and breakers may have moved it. `is_exclusive`: nobody else changes it meanwhile.

    Before it is moved the breakers are read again, under its lock: held against what somebody else wrote since, older
    ones would look like another outage, or the end of one.
    """
    if not is_exclusive:
        state = load(tx, name)
        if advance(state, rule, health, tx.now_us)[0] == state:
            return state
    state = load(tx, name, for_update=True)
    moved, turns = advance(state, rule, _health_now(tx, rule), tx.now_us)
    if moved != state:
        save(tx, name, moved, turns)
    return moved


def look(tx: Transaction, name: str, rule: GroupRule) -> GroupState:
    """The group as it is now, by its providers' own rows."""
    return current(tx, name, rule, _health_now(tx, rule))


def _health_now(tx: Transaction, rule: GroupRule) -> dict[str, Health]:
    return {system: health_of(row) for system, row in load_all(tx, rule.providers).items()}


def end_canary(tx: Transaction, name: str, system: str, is_good: bool | None) -> None:
    """Count what became of a provider's canary."""
    before = load(tx, name, for_update=True)
    after, turns = canary_ended(before, system, is_good, tx.now_us)
    if after != before:
        save(tx, name, after, turns)


def pin(tx: Transaction, name: str, rule: GroupRule, system: str, why: str, author: str) -> GroupState:
    """Everything goes to this provider until the pin is removed. Raises `Refused` for one that is not in the group."""
    if system not in rule.providers:
        raise Refused(f"{system} is not a provider of {name}; it has {', '.join(rule.providers)}")
    look(tx, name, rule)
    before = load(tx, name, for_update=True)
    after = GroupState(before.trusts, before.serving, Pin(system, why, author, tx.now_us))
    first = before.pin.system if before.pin else before.serving or ""
    save(tx, name, after, [Turn(TurnKind.PIN, first, system, why, author)])
    return after


def unpin(tx: Transaction, name: str, rule: GroupRule, why: str, author: str) -> GroupState:
    """The group decides by itself again. Removing no pin changes nothing."""
    before = load(tx, name, for_update=True)
    if before.pin is None:
        return before
    after = GroupState(before.trusts, before.serving)
    save(tx, name, after, [Turn(TurnKind.UNPIN, before.pin.system, before.serving or "", why, author)])
    return look(tx, name, rule)


def hurry(tx: Transaction, name: str, rule: GroupRule, system: str) -> GroupState:
    """End a provider's dwell now."""
    look(tx, name, rule)
    before = load(tx, name, for_update=True)
    after = hurried(before, system, tx.now_us)
    if after != before:
        turn = Turn(TurnKind.CANARY, "", system, "an operator ended its dwell")
        save(tx, name, after, [turn])
    return after


def note_service(tx: Transaction, name: str, system: str, ago_us: int) -> None:
    """The provider accepted its first record after a failover to it, so long ago. It counts for the newest turn only:
    one that came to nothing is not what this record was for."""
    moves = ", ".join(
        f"'{kind.value}'" for kind in (TurnKind.FAILOVER, TurnKind.FAILBACK, TurnKind.PIN, TurnKind.UNPIN)
    )
    tx.conn.execute(
        text(
            "update turn set served_us = case when at_us > :at then at_us else :at end "
            "where kind = :kind and after = :system and served_us = 0 and id = ("
            f"select max(id) from turn where failover_group = :name and kind in ({moves}))"
        ),
        {"at": tx.now_us - ago_us, "name": name, "kind": TurnKind.FAILOVER.value, "system": system},
    )


def turns(tx: Transaction, name: str, limit: int) -> list[TurnRow]:
    """What happened to the group, newest first."""
    rows = tx.conn.execute(
        text(
            "select kind, before, after, why, author, failed_us, at_us, served_us from turn "
            "where failover_group = :name order by id desc limit :n"
        ),
        {"name": name, "n": limit},
    )
    return [TurnRow(*row) for row in rows]


def _record(tx: Transaction, name: str, turn: Turn) -> None:
    values = {"kind": turn.kind.value, "before": turn.before, "after": turn.after, "why": turn.why}
    tx.conn.execute(
        text(
            "insert into turn (failover_group, kind, before, after, why, author, failed_us, at_us) "
            "values (:name, :kind, :before, :after, :why, :author, :failed, :now)"
        ),
        {**values, "name": name, "author": turn.author, "failed": turn.failed_us, "now": tx.now_us},
    )
    detail = {"before": turn.before, "after": turn.after, "why": turn.why, "author": turn.author}
    announce(tx, HubEvent(f"tideover.group.{turn.kind.value}", name, detail))


_FRESH = orjson.dumps(GroupState()).decode()


def _encode(state: GroupState, stored: str) -> str:
    """With what a newer release may have written beside the fields of this one, of providers and a pin that stay."""
    old, new = orjson.loads(stored), orjson.loads(orjson.dumps(state))
    new["trusts"] = {name: {**old["trusts"].get(name, {}), **trust} for name, trust in new["trusts"].items()}
    if state.pin == _decode(stored).pin:
        new["pin"] = old["pin"]
    return orjson.dumps({**old, **new}).decode()


def _decode(stored: str) -> GroupState:
    fields: dict[str, Any] = orjson.loads(stored)
    trusts = {name: Trust(**{**_known(Trust, t), "phase": Phase(t["phase"])}) for name, t in fields["trusts"].items()}
    return GroupState(trusts, fields["serving"], Pin(**_known(Pin, fields["pin"])) if fields["pin"] else None)


def _known(kind: type[Trust | Pin], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Without what a newer release may have written beside the fields of this one."""
    return {name: value for name, value in fields.items() if name in kind.__dataclass_fields__}
