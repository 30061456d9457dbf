"""Who gets each of the lanes that a claim finds: one system all of them, or the provider that the group's policy says.

A desk is made for one claim, in its transaction, from the rows of breakers, pauses and quotas as they are there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tideover.errors import CorruptPayload
from tideover.model import SECOND_US
from tideover.policy.choice import Send, Wait, Want, choose, draw_of
from tideover.policy.failover import canary_began, may_have_canary
from tideover.staging import groups, reconciliation
from tideover.staging.database import Transaction
from tideover.staging.decisions import RECHECK_MAX_S, Decision, Defer, Head, Skip, Take, put_off
from tideover.staging.quotas import Quotas, UsedUp
from tideover.staging.rooms import Rooms, live_since_us
from tideover.staging.systems import SystemRow
from tideover.staging.wishes import Claim, Eligible, GroupWish

NOBODY = "no_provider"  # the code under which a record is parked that no provider takes
_RECHECK_MIN_S = 2.0


def eligible_at(head: Head, at: int, eligible: Eligible | None) -> Sequence[str] | None:
    """The providers that may have one of a lane's records; None where all may: also one that can't be sent, and is only
    handed out to be parked. That it can't be read may show only here."""
    record = head.records[at]
    if eligible is None or record.fault:
        return None
    try:
        return eligible(record.payload)
    except CorruptPayload as error:
        head.records[at] = record._replace(fault=str(error))
        return None


class RoomyDesk:
    """What the desks of ordinary claims have in common: they give away what their systems have room for."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self.set_aside = rooms.set_aside

    @property
    def room(self) -> int:
        return self._rooms.total

    @property
    def live_since_us(self) -> int | None:
        return self._rooms.live_since_us

    @property
    def has_room_for_backlog(self) -> bool:
        return self._rooms.has_room_for_backlog

    @property
    def ready(self) -> Sequence[str]:
        return self._rooms.open

    @property
    def quota_wait_s(self) -> float:
        return self._rooms.wait_s

    @property
    def used_up(self) -> Mapping[str, UsedUp]:
        return self._rooms.used_up


class SingleDesk(RoomyDesk):
    """One system gets everything, as far as it has room: none where its breaker or a pause forbids."""

    def __init__(self, system: str, rooms: Rooms, now_us: int) -> None:
        super().__init__(rooms)
        self._system, self._now_us = system, now_us

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        pass

    def decide(self, head: Head) -> Decision:
        is_live = self._rooms.is_live(head.due_us)
        if not self._rooms.lanes(self._system, is_live=is_live):
            return Skip()
        if not head.records:  # taken and given back, it would be due again at once
            return put_off(head, self._now_us)
        depth = self._rooms.records(self._system, min(head.run, head.last_seq - head.done_seq), is_live=is_live)
        depth = head.in_doubt or depth
        self._rooms.take(self._system, depth)
        return Take(head, self._system, depth, depth)

    def close(self, tx: Transaction) -> None:
        self._rooms.close(tx)


class ProbeDesk:
    """One lane for a system that is being probed, whatever its breaker says: one whose head it takes."""

    def __init__(self, system: str, wish: GroupWish | None, pinned_to: str = "") -> None:
        is_for_others = pinned_to not in ("", system)
        self._system, self._wish, self._room = system, wish, 0 if is_for_others else 1
        self.live_since_us: int | None = None
        self._shunned: Mapping[tuple[int, str], set[str]] = {}

    @property
    def ready(self) -> Sequence[str]:
        return [self._system]

    @property
    def room(self) -> int:
        return self._room

    @property
    def has_room_for_backlog(self) -> bool:
        return self._room > 0

    def set_aside(self, is_on: bool) -> None:
        pass

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        if self._wish is not None:
            self._shunned = reconciliation.shunned(tx, [head.id for head in heads])

    def decide(self, head: Head) -> Decision:
        if not self._room or not head.records:
            return Skip()
        if not (head.system == self._system if head.in_doubt else self._is_taken(head)):
            return Skip()
        self._room = 0
        return Take(head, self._system, head.in_doubt or 1)

    def _is_taken(self, head: Head) -> bool:
        first = head.records[0]
        if self._system in self._shunned.get((head.id, first.id), ()):
            return False
        eligible = eligible_at(head, 0, self._wish.eligible if self._wish is not None else None)
        return eligible is None or self._system in eligible

    def close(self, tx: Transaction) -> None:
        pass


class GroupDesk(RoomyDesk):
    """Each lane to the provider that the group's policy says. One that has no room, or whose row says that it may not
    be called, gets nothing; one whose budget is used up has asked for a pause until its reset."""

    def __init__(
        self,
        tx: Transaction,
        wish: GroupWish,
        rows: Mapping[str, SystemRow],
        rooms: Rooms,
        *,
        lease_us: int,
    ) -> None:
        super().__init__(rooms)
        self._wish, self._rule, self._now_us, self._lease_us = wish, wish.rule, tx.now_us, lease_us
        self._health = {name: groups.health_of(row) for name, row in rows.items()}
        used_up = rooms.used_up
        gates = {name: rows[name].gate(tx.now_us) for name in self._rule.providers}
        self._open = [name for name, gate in gates.items() if gate.lets_through and name not in used_up]
        self.state = groups.current(tx, wish.name, self._rule, self._health)
        self._is_changed = False
        if any(may_have_canary(trust, self._rule.failback, tx.now_us) for trust in self.state.trusts.values()):
            self.state = groups.current(tx, wish.name, self._rule, self._health, is_exclusive=True)
        for name, it in used_up.items():
            health = self._health[name]
            self._health[name] = replace(health, paused_until_us=max(health.paused_until_us, it.until_us))
        self._shunned: Mapping[tuple[int, str], set[str]] = {}

    @property
    def ready(self) -> Sequence[str]:
        return [name for name in super().ready if name in self._open]

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        # Also where nothing is rerouted any more: what once was is shunned until its case is closed.
        self._shunned = reconciliation.shunned(tx, [head.id for head in heads])

    def decide(self, head: Head) -> Decision:
        if head.missing_key is not None and not head.records:
            return put_off(head, self._now_us)
        if head.in_doubt and head.system in self._open:
            return self._taken(head, Send(head.system), head.in_doubt)
        if not head.records:
            return Skip()  # its records are gone: the audit says so
        eligible = self._eligible(head, 0)
        if not eligible:
            return self._for_nobody(head)
        choice = choose(self.state, self._rule, self._health, self._want(head, eligible), self._now_us)
        if isinstance(choice, Wait):
            return Defer(head, self._until_us(head, choice))
        return self._taken(head, choice, self._run_of(head, choice))

    def _want(self, head: Head, eligible: Sequence[str]) -> Want:
        first = head.records[0]
        shunned = self._shunned.get((head.id, first.id), set())
        if head.in_doubt:
            shunned = shunned | {head.system}
        if self._wish.rto_s is not None:
            patience_us = first.staged_us + int(self._wish.rto_s * SECOND_US)
        else:
            patience_us = self._now_us + int(self._wish.max_pause_s * SECOND_US)
        return Want(eligible, draw_of(first.id), shunned, head.avoid, patience_us)

    def _eligible(self, head: Head, at: int) -> Sequence[str]:
        eligible = eligible_at(head, at, self._wish.eligible)
        return self._rule.providers if eligible is None else eligible

    def _taken(self, head: Head, choice: Send, depth: int) -> Decision:
        name, is_live = choice.system, self._rooms.is_live(head.due_us)
        if not self._rooms.lanes(name, is_live=is_live):
            return Skip()
        is_moved = head.in_doubt > 0 and head.system != name
        if is_moved or not head.in_doubt:
            depth = self._rooms.records(name, depth, is_live=is_live)
        self._rooms.take(name, depth)
        if choice.is_canary:
            self.state = canary_began(self.state, name, self._now_us + self._lease_us, self._now_us)
            self._is_changed = True
        return Take(head, name, depth, depth, choice.is_backup, choice.is_canary, head.system if is_moved else "")

    def _run_of(self, head: Head, choice: Send) -> int:
        """How many records from the head on may go to the same provider under one lease."""
        if choice.is_canary:
            return 1
        for at in range(1, len(head.records)):
            is_shunned = choice.system in self._shunned.get((head.id, head.records[at].id), ())
            if is_shunned or choice.system not in self._eligible(head, at):
                return at
        return len(head.records)

    def _for_nobody(self, head: Head) -> Decision:
        """No provider takes it: whoever has room parks it, without a call."""
        name = next(iter(self._rooms.open), "")
        if not name or head.in_doubt:
            return Skip()
        self._rooms.take(name, 0)
        detail = f"no provider of {self._wish.name} takes it: none of their `when` is true of it"
        head.records = [head.records[0]._replace(fault=detail, fault_code=NOBODY)]
        return Take(head, name, 1)

    def _until_us(self, head: Head, wait: Wait) -> int:
        """The end of the pause that is waited for, but not unseen for longer than anything else: meanwhile its provider
        may go down, and another one have it."""
        longest_us = self._now_us + int(RECHECK_MAX_S * SECOND_US)
        return min(wait.until_us, longest_us) if wait.until_us else self._recheck_us(head)

    def _recheck_us(self, head: Head) -> int:
        """Not at once again: the older, the rarer. A provider that comes back makes everything due at once."""
        age_s = (self._now_us - head.records[0].staged_us) / SECOND_US
        return self._now_us + int(min(max(age_s / 4, _RECHECK_MIN_S), RECHECK_MAX_S) * SECOND_US)

    def close(self, tx: Transaction) -> None:
        self._rooms.close(tx)
        if self._is_changed:
            groups.save(tx, self._wish.name, self.state, ())


def open_desk(tx: Transaction, wish: Claim, rows: Mapping[str, SystemRow]) -> SingleDesk | GroupDesk:
    """The desk for a claim. Quotas are locked first, then the group, as settling does."""
    quotas = Quotas(tx, wish.limits)
    lanes = {name: room for name, room in wish.rooms.items() if rows[name].gate(tx.now_us).lets_through}
    rooms = Rooms(tx, lanes, quotas, live_since_us(tx, rows, lanes, quotas))
    if wish.group is not None:
        return GroupDesk(tx, wish.group, rows, rooms, lease_us=wish.lease_us)
    (system,) = wish.rooms
    return SingleDesk(system, rooms, tx.now_us)
