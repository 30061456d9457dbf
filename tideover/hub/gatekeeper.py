"""Whether a system may be called, and, once it may not, finding out when it may again.

    a claim or a settlement saw it shut ──▶ what is under way ends ──▶ look ──▶ open: the line goes on
                                                                      ▲  │
                                                       wait a little ─┘◀─┘ shut: probe it, if it is time

The gate is what this worker knows of the system's breaker and pause. In the database they may say otherwise already.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from contextlib import suppress

from tideover.errors import HubUnavailable
from tideover.hub.claims import Claims
from tideover.hub.offer import Offer
from tideover.hub.probing import NO_SLOT, Prober, Slot
from tideover.hub.reconciling import Reconciler
from tideover.hub.runs import Held, Sender
from tideover.hub.settler import Settler
from tideover.hub.slots import Slots
from tideover.hub.terms import Terms
from tideover.model import Unknown, Unsent
from tideover.policy.breaker import Reason, State
from tideover.staging.systems import Gate

SLOW_POLL_S = 0.25
LONG_PAUSE_S = 5.0  # from here on a system that comes back from a pause gets few calls first, as after an outage


class Gatekeeper:
    """Keeps the gate of one system. It is shut by what others saw, and opened by a look only."""

    def __init__(
        self,
        terms: Terms,
        system: str,
        gate: Gate,
        prober: Prober,
        *,
        claims: Claims,
        senders: Mapping[str, Sender],
        settler: Settler,
        slots: Slots,
        reconciler: Reconciler | None,
    ) -> None:
        """`senders`: by route. `settler` and `slots`: the line's, as a look waits until nothing is under way.
        `reconciler`: None where no route of the target reroutes what is in doubt."""
        self._terms, self._rt, self._system, self._prober = terms, terms.rt, system, prober
        self._claims, self._senders, self._settler, self._slots = claims, senders, settler, slots
        self._reconciler = reconciler
        self.gate = gate
        self.is_open = gate.lets_through
        self.has_looked = False  # since the gate was found shut, somebody has tried whether the system is back
        self.slot_number = NO_SLOT.number  # of the slot that the last probe with a record was made in
        self.offer = Offer(is_wanted=gate.is_due and prober.needs_record(gate))
        self._was_down, self._shut_at = gate.state is not State.CLOSED, -math.inf
        self._shut = asyncio.Event()
        if not self.is_open:
            self._shut.set()

    def note(self, gate: Gate) -> bool:
        """Take note of what a claim or a settlement saw of the gate. True when that shut it. One that is shut is opened
        by nobody but `_look`: an answer that was on its way may be older than what shut it."""
        if gate.lets_through or not self.is_open:
            return False
        self.gate, self.is_open, self.has_looked = gate, False, False
        self._was_down, self._shut_at = gate.state is not State.CLOSED, self._rt.monotonic()
        self._shut.set()
        return True

    async def look_forever(self) -> None:
        """While the gate is shut, look again and again whether the system is back."""
        while True:
            await self._shut.wait()
            wait_s = SLOW_POLL_S  # also where the look fails: how long the gate said to wait is long over then
            with suppress(HubUnavailable):  # the claimer meets it too, and decides
                await self._look()
                wait_s = min(self.gate.wait_s or SLOW_POLL_S, SLOW_POLL_S)
            if not self.is_open:
                await self.offer.wait(wait_s)

    async def _look(self) -> None:
        """Let what is under way end; find out whether the system is back, if it is time and nobody else does."""
        while self._slots.busy or not self._settler.is_idle:
            await self._settler.something_settled()
        gate = await self._rt.store.gate(self._system)
        self._was_down |= gate.state is not State.CLOSED
        self._want(gate)
        if gate.is_due and await self._can_probe(gate):
            gate = await self._prober.probe(self._probe_with_a_record, gate)
            self._want(gate)
        is_news = not self.has_looked or (gate.state, gate.is_paused) != (self.gate.state, self.gate.is_paused)
        self.gate, self.is_open, self.has_looked = gate, gate.lets_through, True
        if self.is_open:
            if self._was_down or self._rt.monotonic() - self._shut_at >= LONG_PAUSE_S:
                self._slots.restart()
            self._shut.clear()
        self.offer.answer()
        if is_news:  # and not each time: whoever claims makes an offer, and would be woken by its answer to make one
            self._terms.stirred.set()

    def _want(self, gate: Gate) -> None:
        self.offer.is_wanted = gate.is_due and self._prober.needs_record(gate)

    # --- probing, where only a record can tell --------------------------------------------------------------

    async def _can_probe(self, gate: Gate) -> bool:
        """Whether there is anything to probe with: to find out by trying costs three transactions."""
        if not self._prober.needs_record(gate):
            return True
        store = self._rt.store
        if not self.offer.is_worth_a_look(self._rt.monotonic()):
            return False
        if gate.reason == Reason.CONTRACT and await store.has_storm(self._system):
            return True  # what it parked waits again as soon as somebody probes
        outlook = await store.outlook(list(self._terms.routes), [self._system])
        if outlook.due_us is not None and outlook.due_us <= outlook.now_us:
            return True
        return self._reconciler is not None and await store.has_case(self._system)

    async def _probe_with_a_record(self, slot: Slot) -> bool:
        """Send one real record through the half-open breaker; False when none waits that it may have. Then ask about
        what may be there and went elsewhere: nobody else would, however long no record comes."""
        self.slot_number = slot.number
        for name in self._terms.routes:
            claimed_at = self._rt.monotonic()
            for lease in await self._claims.for_probe(name):
                held = Held(lease, min(claimed_at + self._claims.lease_s, slot.deadline), claimed_at, is_probe=True)
                self.offer.was_taken()
                await self._senders[name].work_off([held], lambda: True, self._settler.put)
                while not self._settler.is_idle:
                    await self._settler.something_settled()
                return True
        if self._reconciler is not None and await self._probe_with_a_case(self._reconciler, slot):
            return True
        self.offer.was_unfit(self._rt.monotonic())
        return False

    async def _probe_with_a_case(self, reconciler: Reconciler, slot: Slot) -> bool:
        """That a look-up fails says that it is still down; that it is answered does not say that it books."""
        self.offer.answer()
        if reconciler.is_working:  # since before the gate was shut
            return False
        await reconciler.work(limit=1)
        if isinstance(reconciler.trouble, Unsent | Unknown):
            await self._prober.count(slot, reconciler.trouble)
            return True
        return False
