"""Finding out whether a system is back: one prober in the whole cluster, by the system's probe or one real record."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

from tideover.connectors.port import Connector
from tideover.errors import HubUnavailable, Refused
from tideover.hub.runtime import Runtime
from tideover.model import Accepted, Outcome, Throttled
from tideover.policy.breaker import BreakerRule, Reason, Result, State
from tideover.staging.systems import Gate

_MARGIN_S = 5.0


class Slot(NamedTuple):
    """The right to probe a system, which one prober in the cluster has. After `deadline` (monotonic) nothing more may
    be sent by it."""

    number: int
    deadline: float


NO_SLOT = Slot(0, 0.0)


class Prober:
    """Probes one system when its breaker says that it is time."""

    def __init__(
        self, rt: Runtime, system: str, connector: Connector, rule: BreakerRule, call_s: float, lease_s: float = 0.0
    ) -> None:
        """`call_s`: the longest that a call can take. `lease_s`: how long the leases last by which it gets a record to
        probe with; 0: it gets none."""
        self._rt, self._system, self._connector, self._rule = rt, system, connector, rule
        self._call_s, self._lease_s = call_s, lease_s

    def needs_record(self, gate: Gate) -> bool:
        """Whether only a record can tell: there is no probe, or it is well but for what it is sent."""
        return not self._connector.has_probe or gate.reason == Reason.CONTRACT

    async def probe(self, with_record: Callable[[Slot], Awaitable[bool]], gate: Gate) -> Gate:
        """Probe until the breaker closes, a probe fails or the system asks for a pause; a gate that is not due, or that
        somebody else probes, is returned as it is. `with_record` sends one real record in the prober's slot, where only
        that can tell; False: there is none."""
        store = self._rt.store
        has_delivered = False
        while gate.state is not State.CLOSED and not gate.is_paused:
            slot = await self._take(self._slot_s(gate))
            if slot is None:
                return await store.gate(self._system)
            has_told = True
            try:
                if not self.needs_record(gate):
                    await self._by_call(slot)
                else:
                    if gate.reason == Reason.CONTRACT:
                        await store.restore_storm(self._system)
                    has_told = await with_record(slot)
                    if has_delivered and not has_told:
                        # Where the last record that waited went through, there is no second one to ask with.
                        has_told = True
                        await self.count(slot, Accepted())
                    has_delivered = True
            finally:
                gate = await self._release(slot)
            if gate.state is State.OPEN or not has_told:
                return gate
        if gate.state is not State.CLOSED:
            return gate
        await store.hasten(self._system, self._rt.routes_through(self._system))
        await self._rt.announce_events()
        return gate

    def _slot_s(self, gate: Gate) -> float:
        """For how long to take the slot: as long as there may be calls by it. A record may be one of a run in doubt,
        for which there is as much time as its lease lasts, or a case, which is asked about before it is voided."""
        return (max(2 * self._call_s, self._lease_s) if self.needs_record(gate) else self._call_s) + _MARGIN_S

    async def _take(self, slot_s: float) -> Slot | None:
        """The slot, if it is free. Shielded: of one that is cancelled before it has the answer nobody would know, and
        the slot would be taken until it lapses."""
        deadline = self._rt.monotonic() + slot_s
        taking = asyncio.ensure_future(self._rt.store.take_probe(self._system, slot_s))
        try:
            number = await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(HubUnavailable):
                if taken := await taking:
                    await self._rt.store.release_probe(self._system, taken)
            raise
        return None if number is None else Slot(number, deadline)

    async def _release(self, slot: Slot) -> Gate:
        """Give the slot back, also when this is cancelled meanwhile; the gate as it is after that."""
        releasing = asyncio.ensure_future(self._rt.store.release_probe(self._system, slot.number))
        try:
            return await asyncio.shield(releasing)
        except asyncio.CancelledError:
            with suppress(HubUnavailable):
                await releasing
            raise

    async def _by_call(self, slot: Slot) -> None:
        outcome = await self._connector.probe()
        await self._rt.store.spend(self._system, self._rt.limit_rule(self._system), 1)
        await self.count(slot, outcome)

    async def count(self, slot: Slot, outcome: Outcome) -> None:
        """Let what a probe met count, if the slot is still this prober's."""
        result = Result("", 0, outcome, is_probe=True)
        await self._rt.store.end_probe(self._system, slot.number, result, self._rule)


async def probe_system(rt: Runtime, system: str) -> tuple[Outcome, Gate]:
    """Ask a system now, whatever its breaker says, and let the answer count.

    With an open breaker the answer counts only if it is time to probe; with a closed one a failure counts like a
    record's. A pause that it asks for counts in any case. Raises `Refused` for a system without a probe.
    """
    connector = await rt.connector(system)
    if not connector.has_probe:
        raise Refused(
            f"system {system} has no probe: only a real record tells whether it is well; name one in `rest.probe`"
        )
    rule = rt.breaker_rule(system, has_probe=connector.has_probe)
    outcome = await connector.probe()
    await rt.store.spend(system, rt.limit_rule(system), 1)
    result = Result("", 0, outcome, is_probe=False)
    gate = await rt.store.gate(system)
    if gate.state is State.CLOSED or isinstance(outcome, Throttled):
        gate = await rt.store.tell(system, result, rule)
    else:
        call_s = rt.system(system).timeouts.total
        prober = Prober(rt, system, connector, rule, call_s)
        gate = await prober.probe(_no_record, gate)
    await rt.announce_events()
    return outcome, gate


async def _no_record(_: Slot) -> bool:
    return False
