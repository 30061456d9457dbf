"""Finding out whether a system is back: one prober in the whole cluster, by the system's probe or one real record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from tideover.connectors.port import Connector
from tideover.errors import Refused
from tideover.hub.runtime import Runtime
from tideover.model import Accepted, Outcome
from tideover.policy.breaker import BreakerRule, Reason, Result, State
from tideover.staging.systems import Gate

_MARGIN_S = 5.0


class Prober:
    """Probes one system when its breaker says that it is time."""

    def __init__(self, rt: Runtime, system: str, connector: Connector, rule: BreakerRule, call_s: float) -> None:
        self._rt, self._system, self._connector, self._rule = rt, system, connector, rule
        # A real record may have to be asked for before it is sent.
        self._lease_s = (1 if connector.has_probe else 2) * call_s + _MARGIN_S

    def needs_record(self, gate: Gate) -> bool:
        """Whether only a record can tell: there is no probe, or it is well but for what it is sent."""
        return not self._connector.has_probe or gate.reason == Reason.CONTRACT

    async def probe(self, with_record: Callable[[int], Awaitable[Gate | None]], gate: Gate) -> Gate:
        """Probe until the breaker closes or a probe fails; a gate that is not due, or that somebody else probes, is
        returned as it is. `with_record` sends one real record in the prober's slot, where only that can tell."""
        store = self._rt.store
        has_delivered = False
        while gate.state is not State.CLOSED and not gate.is_paused:
            slot = await store.take_probe(self._system, self._lease_s)
            if slot is None:
                return await store.gate(self._system)
            try:
                if not self.needs_record(gate):
                    gate = await self._by_call(slot)
                else:
                    if gate.reason == Reason.CONTRACT:
                        await store.restore_storm(self._system)
                    found = await with_record(slot)
                    if found is None and not has_delivered:
                        return await store.gate(self._system)
                    # Where the last record that waited went through, there is no second one to ask with.
                    gate = found or await self.count(slot, Accepted())
                    has_delivered = True
            finally:
                await store.release_probe(self._system, slot)
            if gate.state is State.OPEN:
                return gate
        if gate.state is not State.CLOSED:
            return gate
        await store.hasten(self._system, self._rt.routes_through(self._system))
        await self._rt.announce_events()
        return gate

    async def _by_call(self, slot: int) -> Gate:
        outcome = await self._connector.probe()
        await self._rt.store.spend(self._system, self._rt.limit_rule(self._system), 1)
        return await self.count(slot, outcome)

    async def count(self, slot: int, outcome: Outcome) -> Gate:
        """Let what a probe met count, if the slot is still this prober's."""
        result = Result("", 0, outcome, is_probe=True)
        return await self._rt.store.end_probe(self._system, slot, result, self._rule)


async def probe_system(rt: Runtime, system: str) -> tuple[Outcome, Gate]:
    """Ask a system now, whatever its breaker says, and let the answer count.

    With an open breaker the answer counts only if it is time to probe; with a closed one a failure counts like a
    record's. Raises `Refused` for a system without a probe.
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
    if gate.state is State.CLOSED:
        gate = await rt.store.tell(system, result, rule)
    else:
        call_s = rt.system(system).timeouts.total
        prober = Prober(rt, system, connector, rule, call_s)
        gate = await prober.probe(_no_record, gate)
    await rt.announce_events()
    return outcome, gate


async def _no_record(_: int) -> Gate | None:
    return None
