"""Delivering what waits for one target: claim, send, settle, side by side, until it is drained or told to stop.

    claim ──▶ hand ──▶ senders (as many as the system may be asked at once) ──▶ settler
      ▲                                                                          │
      └────────────────────────── the gate: breaker and pause ◀──────────────────┘

Everything here belongs to one target: its own connector, tasks and queues, so that a target which hangs delays no
other. While its breaker is open nothing is claimed; one prober in the whole cluster finds out when it is back.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from tideover.errors import HubUnavailable
from tideover.hub.hand import Hand
from tideover.hub.probing import Prober
from tideover.hub.runs import Held, Run, Sender
from tideover.hub.runtime import Runtime
from tideover.hub.settler import Settler
from tideover.model import SECOND_US, Lease
from tideover.policy.breaker import State
from tideover.staging.leases import Claim
from tideover.staging.systems import Gate

DEPTH = 10  # records of one lane under one lease
HAND_LANES = 1_000
LEASE_MARGIN_S = 30.0
POLL_S = 0.05  # while lingering; grows to SLOW_POLL_S as nothing comes
SLOW_POLL_S = 0.25
PATIENCE_S = 10.0  # how long a run that does not linger waits without delivering anything
TICK_S = 0.5  # events are announced, and the drain's end looked for, this often


class Ending(enum.StrEnum):
    """Why a delivery ended."""

    DRAINED = "drained"  # nothing waits
    DOWN = "down"  # the system's breaker is open; what waits is kept
    PAUSED = "paused"  # the system asked for a pause; what waits is kept
    WAITING = "waiting"  # what waits is to be tried later, or another worker has it
    STOPPED = "stopped"  # the caller asked


@dataclass(slots=True)
class Progress:
    """What a delivery did so far. `gate` is the last known state of its system."""

    target: str
    system: str
    delivered: int = 0
    parked: int = 0
    refused: int = 0
    gate: Gate | None = None
    ending: Ending | None = None


class Delivery:
    """One run of delivering to one target; `run` it once.

    `lease_margin_s`: how much longer than the longest call a lease lasts. What a dead worker held waits that long.
    """

    def __init__(
        self,
        rt: Runtime,
        target: str,
        *,
        linger_s: float = 0.0,
        patience_s: float = PATIENCE_S,
        lease_margin_s: float = LEASE_MARGIN_S,
        stop: asyncio.Event | None = None,
        on_progress: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._rt = rt
        self._routes = rt.routes_to(target)
        self._system = rt.config.systems_of(target)[0]
        self._linger_s, self._patience_s, self._lease_margin_s = linger_s, patience_s, lease_margin_s
        self._stop = stop or asyncio.Event()
        self._on_progress = on_progress
        self.progress = Progress(target, self._system)
        self._hand = Hand(list(self._routes))
        self._claiming: asyncio.Future[tuple[Gate, list[Lease]]] | None = None
        self._busy = 0
        self._is_shut = False
        self._seen_delivered, self._progressed_at = 0, rt.monotonic()
        self._senders: dict[str, Sender] = {}

    async def run(self) -> Progress:
        """Deliver until the target is drained, or for `linger_s` whatever comes. Cancelling it leaves nothing stuck:
        leases are given back, and calls under way are settled as unknown.

        Raises `HubUnavailable` when the database stays away, `AccessError` when the credentials can't be had.
        """
        await self._prepare()
        settings = self._rt.system(self._system)
        tasks = [asyncio.create_task(self._send_forever()) for _ in range(settings.limits.concurrency)]
        tasks.append(asyncio.create_task(self._settler.run()))
        tasks.append(asyncio.create_task(self._tick_forever()))
        main = asyncio.create_task(self._claim_until_done())
        try:
            done, _ = await asyncio.wait([main, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a sender or the settler ends only by failing
            return self.progress
        finally:
            # Shielded, as it also runs when the run is cancelled; bounded, so that a stop is a stop.
            with suppress(TimeoutError):
                await asyncio.shield(asyncio.wait_for(self._wind_down(main, tasks), LEASE_MARGIN_S / 2))
            for task in (main, *tasks):
                task.cancel()

    async def _prepare(self) -> None:
        rt, system = self._rt, self._system
        connector = await rt.connector(system)
        self._call_s = rt.system(system).timeouts.total
        self._lease_s = self._call_s + self._lease_margin_s
        for name, route in self._routes.items():
            rule = rt.resolve_rule(name, system)
            self._senders[name] = Sender(connector, route.target.operation, rule, self._call_s, rt.monotonic)
        breaker_rule = rt.breaker_rule(system, has_probe=connector.has_probe)
        rules = {name: rt.route_rule(name) for name in self._routes}
        self._settler = Settler(rt, system, rules, breaker_rule, self.progress, self._note_gate)
        self._prober = Prober(rt, system, connector, breaker_rule, self._call_s)
        self.progress.gate = await rt.store.gate(system)

    # --- senders --------------------------------------------------------------------------------------------

    def _size(self, route: str) -> int:
        """How many records one call carries now: a connector takes fewer while a system refuses whole batches."""
        return self._senders[route].connector.batch_size(self._routes[route].target.operation)

    async def _send_forever(self) -> None:
        while True:
            route, group = await self._hand.draw(self._size)
            over: list[Run] = []
            self._busy += 1
            try:
                await self._senders[route].work_off(group, self._is_wanted, over.append)
            finally:
                for run in over:
                    self._settler.put(run)
                self._busy -= 1
            if any(run.met_trouble for run in over):
                # The breaker may have opened: know before the next call, or each sender hangs once more.
                await self._settler.flush()

    def _is_wanted(self) -> bool:
        return not self._is_shut and not self._stop.is_set()

    def _note_gate(self, gate: Gate) -> None:
        self.progress.gate = gate
        if not gate.lets_through and not self._is_shut:
            self._is_shut = True
            self._give_back(self._hand.empty())

    def _give_back(self, leases: list[Held]) -> None:
        for held in leases:
            self._settler.put(Run(held))

    # --- claiming -------------------------------------------------------------------------------------------

    async def _claim_until_done(self) -> None:
        until = self._rt.monotonic() + self._linger_s
        poll_s = POLL_S
        while not self._stop.is_set():
            self._note_progress()
            if self._is_shut or not (self.progress.gate is None or self.progress.gate.lets_through):
                ending = await self._wait_at_the_gate(until)
            elif await self._claim():
                poll_s, ending = POLL_S, None
            else:
                ending = await self._wait_for_work(until, poll_s)
                poll_s = min(poll_s * 1.3, SLOW_POLL_S)
            if ending is not None:
                self.progress.ending = ending
                return
        self.progress.ending = Ending.STOPPED

    def _note_progress(self) -> None:
        if self.progress.delivered != self._seen_delivered:
            self._seen_delivered = self.progress.delivered
            self._progressed_at = self._rt.monotonic()

    def _is_worth_waiting(self, wait_s: float) -> bool:
        """Whether a run that does not linger stays for work that is to come in `wait_s`."""
        waited_s = self._rt.monotonic() - self._progressed_at
        return wait_s + waited_s <= self._patience_s

    async def _claim(self) -> bool:
        """Fill the hand. True when something came in, or is still on its way out."""
        concurrency = self._rt.system(self._system).limits.concurrency
        got = False
        for name in self._routes:
            wanted = min(2 * concurrency * self._size(name), HAND_LANES)
            room = wanted - self._hand.count(name)
            if 2 * room >= wanted and not self._is_shut:
                got |= await self._claim_route(name, room)
        if got:
            return True
        if len(self._hand) or self._busy or not self._settler.is_idle:
            await self._settler.something_settled()
            return True
        return False

    async def _claim_route(self, name: str, room: int) -> bool:
        claimed_at = self._rt.monotonic()
        wish = Claim(name, self._system, self._routes[name].order, room, DEPTH, int(self._lease_s * SECOND_US))
        gate, leases = await self._known(self._rt.store.claim(wish))
        self._hand.add(name, [self._hold(lease, claimed_at) for lease in leases])
        self._note_gate(gate)
        return bool(leases)

    async def _known(self, claim: Coroutine[Any, Any, tuple[Gate, list[Lease]]]) -> tuple[Gate, list[Lease]]:
        """A claim's answer. Shielded: of one that is cancelled half-way nobody would know which lanes it took."""
        self._claiming = asyncio.ensure_future(claim)
        answer = await asyncio.shield(self._claiming)
        self._claiming = None
        return answer

    def _hold(self, lease: Lease, claimed_at: float) -> Held:
        return Held(lease, claimed_at + self._lease_s, claimed_at)

    async def _wait_for_work(self, until: float, poll_s: float) -> Ending | None:
        """Nothing can be claimed now. Wait a little, or say that the delivery is over."""
        now = self._rt.monotonic()
        now_us, due_us = await self._rt.store.next_due_us(list(self._routes), self._system)
        wait_s = max((due_us - now_us) / SECOND_US, 0.0) if due_us is not None else None
        if now >= until:
            if wait_s is None:
                return Ending.DRAINED
            if not self._is_worth_waiting(wait_s):
                return Ending.WAITING
        await self._pause(poll_s if wait_s is None else max(min(wait_s, poll_s), POLL_S / 5))
        return None

    async def _wait_at_the_gate(self, until: float) -> Ending | None:
        """The system is down or paused: let what is under way end, probe if it is time, or say that it is over."""
        while self._busy or not self._settler.is_idle:
            await self._settler.something_settled()
        gate = await self._rt.store.gate(self._system)
        if gate.state is not State.CLOSED and not gate.is_paused and gate.wait_s <= 0:
            gate = await self._prober.probe(self._probe_with_a_record, gate)
        self.progress.gate = gate
        if gate.lets_through:
            self._is_shut = False
            return None
        if self._rt.monotonic() >= until:
            if gate.state is not State.CLOSED:
                return Ending.DOWN
            if not self._is_worth_waiting(gate.wait_s):
                return Ending.PAUSED
        await self._pause(min(gate.wait_s or SLOW_POLL_S, SLOW_POLL_S))
        return None

    async def _probe_with_a_record(self) -> Gate | None:
        """Send one real record through the half-open breaker; None when no record waits."""
        for name in self._routes:
            claimed_at = self._rt.monotonic()
            wish = Claim(name, self._system, self._routes[name].order, 1, 1, int(self._lease_s * SECOND_US))
            _, leases = await self._known(self._rt.store.claim_probe(wish))
            for lease in leases:
                held = Held(lease, claimed_at + self._lease_s, claimed_at, is_probe=True)
                await self._senders[name].work_off([held], lambda: True, self._settler.put)
                while not self._settler.is_idle:
                    await self._settler.something_settled()
                return await self._rt.store.gate(self._system)
        return None

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)

    # --- beside it ------------------------------------------------------------------------------------------

    async def _tick_forever(self) -> None:
        while True:
            await self._rt.sleep(TICK_S)
            with suppress(HubUnavailable):  # the claimer meets it too, and decides
                await self._tick()

    async def _tick(self) -> None:
        if await self._rt.store.is_undrained(self._system):
            await self._rt.store.end_drain(self._system, self._rt.routes_through(self._system))
        await self._rt.announce_events()
        self._on_progress(self.progress)

    async def _wind_down(self, main: asyncio.Task[None], tasks: list[asyncio.Task[None]]) -> None:
        *senders, settler, ticker = tasks
        for task in (main, ticker, *senders):
            task.cancel()
        await asyncio.gather(main, ticker, *senders, return_exceptions=True)
        self._give_back(self._hand.empty())
        if self._claiming is not None:
            with suppress(HubUnavailable):
                _, leases = await self._claiming
                self._give_back([self._hold(lease, self._rt.monotonic()) for lease in leases])
        with suppress(HubUnavailable):
            await self._settler.flush()
            await self._tick()
        settler.cancel()
        await asyncio.gather(settler, return_exceptions=True)
