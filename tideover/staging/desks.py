"""Who gets each of the lanes that a claim finds: one system all of them, or the provider that the group's policy says.

A desk is made for one claim, in its transaction, from the rows of breakers, pauses and quotas as they are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from tideover.model import SECOND_US, LeasedRecord, Order
from tideover.policy.choice import Send, Wait, Want, choose, draw_of
from tideover.policy.failover import GroupRule, canary_began, may_have_canary
from tideover.policy.quota import RateRule
from tideover.staging import groups, reconciliation
from tideover.staging.database import Transaction
from tideover.staging.quotas import Quotas
from tideover.staging.systems import SystemRow

NOBODY = "no_provider"  # the code under which a record is parked that no provider takes
_RECHECK_MIN_S, _RECHECK_MAX_S = 2.0, 60.0

Mark = tuple[int, int, int]  # priority, due_us and id of a lane: a place in the order of a route's waiting lanes
Eligible = Callable[[bytes], Sequence[str]]  # the providers that take a record, by its payload, in order of preference


@dataclass(frozen=True, slots=True)
class GroupWish:
    """What a claim for a failover group needs to know besides the tables.

    `eligible` is None where every provider takes every record. `rto_s` is the route's, None without one.
    `reroute_after_s`: the route's `max_hold` with `on_unknown: reroute`, else None.
    """

    name: str
    rule: GroupRule
    eligible: Eligible | None = None
    rto_s: float | None = None
    max_pause_s: float = 60.0
    reroute_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker asks for: lanes of a route, up to `depth` records of each, for `lease_us`.

    `rooms`: how many lanes each of the target's systems may get; one that must get none is not there. `after`: where
    the last claim stopped looking.
    """

    route: str
    rooms: Mapping[str, int]
    order: Order
    depth: int
    lease_us: int
    rates: Mapping[str, RateRule] = field(default_factory=dict)
    group: GroupWish | None = None
    after: Mark | None = None


@dataclass(slots=True)
class Head:
    """A lane that a claim found, and the records that may be leased with it."""

    id: int
    token: int
    last_seq: int
    done_seq: int
    in_doubt: int
    doubted_us: int
    attempts: int
    lease_until_us: int
    due_us: int
    system: str
    avoid: str
    records: list[LeasedRecord] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Take:
    """The lane goes to a system, with so many of its records. `from_system`: what may be there is sent elsewhere."""

    head: Head
    system: str
    depth: int
    is_backup: bool = False
    is_canary: bool = False
    from_system: str = ""


@dataclass(frozen=True, slots=True)
class Defer:
    """Nobody can have the lane before an instant."""

    head: Head
    until_us: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Its provider has no room for it now."""


Decision = Take | Defer | Skip


class Desk(Protocol):
    """Decides lane by lane; what it gives away is no longer there for the next."""

    @property
    def ready(self) -> Sequence[str]:
        """The systems whose lanes in doubt may be claimed."""
        ...

    @property
    def room(self) -> int:
        """How many more lanes can be given away."""
        ...

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        """Look up what the decisions on these lanes need."""
        ...

    def decide(self, head: Head) -> Decision: ...

    def close(self, tx: Transaction) -> None:
        """Write what the decisions used up."""
        ...


class SingleDesk:
    """One system gets everything, as far as it has room. `is_ready` is False where its breaker or a pause forbids."""

    def __init__(self, system: str, room: int, depth: int, quotas: Quotas) -> None:
        self._system, self._room, self._depth, self._quotas = system, room, depth, quotas

    @property
    def ready(self) -> Sequence[str]:
        return [self._system] if self._room else []

    @property
    def room(self) -> int:
        return min(self._room, self._quotas.left(self._system, self._room))

    @property
    def quota_wait_s(self) -> float:
        return self._quotas.wait_s

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        pass

    def decide(self, head: Head) -> Decision:
        depth = self._quotas.left(self._system, min(self._depth, head.last_seq - head.done_seq))
        if not self._room or not depth:
            return Skip()
        depth = head.in_doubt or depth
        self._room -= 1
        self._quotas.spend(self._system, depth)
        return Take(head, self._system, depth)

    def close(self, tx: Transaction) -> None:
        self._quotas.write(tx)


class ProbeDesk:
    """One lane for a system that is being probed, whatever its breaker says: one whose head it takes."""

    def __init__(self, system: str, wish: GroupWish | None, pinned_to: str = "") -> None:
        is_for_others = pinned_to not in ("", system)
        self._system, self._wish, self._room = system, wish, 0 if is_for_others else 1
        self._shunned: Mapping[tuple[int, str], set[str]] = {}

    @property
    def ready(self) -> Sequence[str]:
        return [self._system]

    @property
    def room(self) -> int:
        return self._room

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
        eligible = self._wish.eligible if self._wish is not None else None
        return eligible is None or bool(first.fault) or self._system in eligible(first.payload)

    def close(self, tx: Transaction) -> None:
        pass


class GroupDesk:
    """Each lane to the provider that the group's policy says. `rooms`: for how many lanes each one has room; one
    that is not there, or whose row says that it may not be called, gets nothing."""

    def __init__(
        self,
        tx: Transaction,
        wish: GroupWish,
        rows: Mapping[str, SystemRow],
        rooms: Mapping[str, int],
        *,
        lease_us: int,
        quotas: Quotas,
    ) -> None:
        self._wish, self._rule, self._now_us = wish, wish.rule, tx.now_us
        self._lease_us, self._quotas = lease_us, quotas
        self._health = {name: groups.health_of(row) for name, row in rows.items()}
        self._open = [name for name in self._rule.providers if rows[name].gate(tx.now_us).lets_through]
        self._rooms = {name: room for name, room in rooms.items() if name in self._open}
        self.state = groups.current(tx, wish.name, self._rule, self._health)
        self._is_changed = False
        if any(may_have_canary(trust, self._rule.failback, tx.now_us) for trust in self.state.trusts.values()):
            self.state = groups.current(tx, wish.name, self._rule, self._health, is_exclusive=True)
        self._shunned: Mapping[tuple[int, str], set[str]] = {}

    @property
    def ready(self) -> Sequence[str]:
        return [name for name, room in self._rooms.items() if room > 0]

    @property
    def room(self) -> int:
        return sum(self._quotas.left(name, room) for name, room in self._rooms.items())

    @property
    def quota_wait_s(self) -> float:
        return self._quotas.wait_s

    def prepare(self, tx: Transaction, heads: Sequence[Head]) -> None:
        # Also where nothing is rerouted any more: what once was is shunned until its case is closed.
        self._shunned = reconciliation.shunned(tx, [head.id for head in heads])

    def decide(self, head: Head) -> Decision:
        if head.in_doubt and head.system in self._open:
            return self._taken(head, Send(head.system), head.in_doubt)
        if not head.records:
            return Skip()  # its records are gone: the audit says so
        eligible = self._eligible(head.records[0])
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

    def _eligible(self, record: LeasedRecord) -> Sequence[str]:
        if self._wish.eligible is None or record.fault:
            return self._rule.providers
        return self._wish.eligible(record.payload)

    def _taken(self, head: Head, choice: Send, depth: int) -> Decision:
        name = choice.system
        if self._quotas.left(name, self._rooms.get(name, 0)) <= 0:
            return Skip()
        is_moved = head.in_doubt > 0 and head.system != name
        if is_moved or not head.in_doubt:
            depth = self._quotas.left(name, depth)
        self._rooms[name] -= 1
        self._quotas.spend(name, depth)
        if choice.is_canary:
            self.state = canary_began(self.state, name, self._now_us + self._lease_us, self._now_us)
            self._is_changed = True
        return Take(head, name, depth, choice.is_backup, choice.is_canary, head.system if is_moved else "")

    def _run_of(self, head: Head, choice: Send) -> int:
        """How many records from the head on may go to the same provider under one lease."""
        if choice.is_canary:
            return 1
        for count, record in enumerate(head.records[1:], start=1):
            is_shunned = choice.system in self._shunned.get((head.id, record.id), ())
            if is_shunned or choice.system not in self._eligible(record):
                return count
        return len(head.records)

    def _for_nobody(self, head: Head) -> Decision:
        """No provider takes it: whoever has room parks it, without a call."""
        name = next((name for name, room in self._rooms.items() if room > 0), "")
        if not name or head.in_doubt:
            return Skip()
        self._rooms[name] -= 1
        detail = f"no provider of {self._wish.name} takes it: none of their `when` is true of it"
        head.records = [replace(head.records[0], fault=detail, fault_code=NOBODY)]
        return Take(head, name, 1)

    def _until_us(self, head: Head, wait: Wait) -> int:
        """The end of the pause that is waited for, but not unseen for longer than anything else: meanwhile its provider
        may go down, and another one have it."""
        longest_us = self._now_us + int(_RECHECK_MAX_S * SECOND_US)
        return min(wait.until_us, longest_us) if wait.until_us else self._recheck_us(head)

    def _recheck_us(self, head: Head) -> int:
        """Not at once again: the older, the rarer. A provider that comes back makes everything due at once."""
        age_s = (self._now_us - head.records[0].staged_us) / SECOND_US
        return self._now_us + int(min(max(age_s / 4, _RECHECK_MIN_S), _RECHECK_MAX_S) * SECOND_US)

    def close(self, tx: Transaction) -> None:
        self._quotas.write(tx)
        if self._is_changed:
            groups.save(tx, self._wish.name, self.state, ())


def open_desk(tx: Transaction, wish: Claim, rows: Mapping[str, SystemRow]) -> SingleDesk | GroupDesk:
    """The desk for a claim. Quotas are locked first, then the group, as settling does."""
    quotas = Quotas(tx, wish.rates)
    if wish.group is not None:
        return GroupDesk(tx, wish.group, rows, wish.rooms, lease_us=wish.lease_us, quotas=quotas)
    ((system, room),) = wish.rooms.items()
    return SingleDesk(system, room if rows[system].gate(tx.now_us).lets_through else 0, wish.depth, quotas)
