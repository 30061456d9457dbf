"""One system's side of a delivery: what it holds for it, who sends it, who settles it, and whether it may be called.

    hand ──▶ senders (as many as the system may be asked at once) ──▶ settler
                                                                        │
    shut: probe it when it is time, ask it what became of what      ◀───┘  the gate: breaker and pause
          may have reached it; open: reconcile what was sent elsewhere

Each line has its own connector, tasks and queues, so that a provider which hangs delays no other.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from tideover.connectors.port import Connector
from tideover.errors import HubUnavailable
from tideover.hub.claims import Claims
from tideover.hub.hand import Hand, priority_of
from tideover.hub.offer import Offer
from tideover.hub.pace import Pace
from tideover.hub.probing import NO_SLOT, Prober, Slot
from tideover.hub.reconciling import Reconciler
from tideover.hub.routing import Shape
from tideover.hub.runs import Held, Run, Sender
from tideover.hub.settler import BATCH, Settler
from tideover.hub.slots import Slots
from tideover.hub.terms import Terms
from tideover.model import Lease, LookUp, Outcome, Unknown, Unsent
from tideover.policy.breaker import BreakerRule, Reason, State
from tideover.policy.depth import DEPTH, RunLength
from tideover.policy.resolve import Step, next_step
from tideover.staging.systems import Gate

HAND_LANES = 2_000
HAND_S = 0.25
HELD_BYTES = 32 * 2**20  # from here on nothing more is claimed: records of a kilobyte never come near it
UNSETTLED_LANES = 2 * BATCH  # one settlement is written and one gathers; what is beyond that is a jam
SLOW_POLL_S = 0.25
ASK_LANES = 5  # at a time, of a system that may be in trouble
ASK_EVERY_S, ASK_AT_LEAST_EVERY_S = 1.0, 30.0
RECONCILE_EVERY_S = 1.0
_LOOK_EACH = 8  # of the hand, so many parts: once one is gone, whether there is room for a claim is asked again
LONG_PAUSE_S = 5.0  # from here on a system that comes back from a pause gets few calls first, as after an outage


class Line:
    """Delivers to one system what the claimer puts into its hand."""

    def __init__(
        self,
        terms: Terms,
        system: str,
        connector: Connector,
        gate: Gate,
        shape: Shape | None,
        *,
        is_draining: bool = False,
    ) -> None:
        """`is_draining`: the system is back, and not all of what waited for it meanwhile is delivered."""
        rt = terms.rt
        self.system, self.gate = system, gate
        self.has_looked = False  # since the gate was found shut, somebody has tried whether the system is back
        self._terms, self._rt, self._connector = terms, rt, connector
        self._concurrency = rt.system(system).limits.concurrency
        self._slots = Slots(self._concurrency, is_restored=is_draining)
        self._is_rated = rt.system(system).limits.rate is not None
        self._call_s = rt.system(system).timeouts.total
        self.lease_s = self._call_s + terms.lease_margin_s
        self._hand = Hand({name: priority_of(route) for name, route in terms.routes.items()})
        self._look_below: dict[str, int] = {}  # by route: what the hand holds when it is next worth asking for its room
        self._held_bytes = 0  # of all that was claimed and is not settled
        self._asking = 0
        self._pace = Pace()
        self._run_length = RunLength()
        self._is_open = gate.lets_through
        self._was_down, self._shut_at = gate.state is not State.CLOSED, -math.inf
        self._shut = asyncio.Event()
        if not self._is_open:
            self._shut.set()
        self._claims = Claims(rt, system, terms.routes, self.lease_s)
        self._slot = NO_SLOT
        self._senders = {name: self._make_sender(name, shape) for name in terms.routes}
        breaker_rule = rt.breaker_rule(system, has_probe=connector.has_probe)
        self._settler = self._make_settler(breaker_rule)
        self._prober = Prober(rt, system, connector, breaker_rule, self._call_s, self.lease_s)
        self.offer = Offer(is_wanted=gate.is_due and self._prober.needs_record(gate))
        self._reconciler = Reconciler(rt, system, connector, self._call_s)
        self._reconciles = bool(terms.group) and any(it.on_unknown == "reroute" for it in terms.routes.values())
        self._is_winding_up = False

    def _make_settler(self, breaker_rule: BreakerRule) -> Settler:
        return Settler(
            self._rt,
            self.system,
            {name: self._rt.route_rule(name) for name in self._terms.routes},
            breaker_rule,
            self._terms.counts,
            self.note,
            group=self._terms.group,
            on_written=self._let_go,
            on_settled=self._terms.stirred.set,
            pause_s=lambda: self._connector.pause_s,
            prober=lambda: self._slot.number,
        )

    def _make_sender(self, name: str, shape: Shape | None) -> Sender:
        route, rule = self._terms.routes[name], self._rt.route_rule(name)
        return Sender(
            self._connector,
            route.target.operation,
            self._rt.resolve_rule(name, self.system),
            self._call_s,
            self._rt.monotonic,
            shape,
            max_age_s=rule.retry.max_age_s,
            moves_on=bool(self._terms.group),
            heard=self._hear,
        )

    @property
    def is_open(self) -> bool:
        """True while the system may be called, as far as this worker knows."""
        return self._is_open

    @property
    def is_idle(self) -> bool:
        """True when nothing is held, under way or unsettled; a case may be."""
        return not (len(self._hand) or self._slots.busy or self._asking) and self._settler.is_idle

    @property
    def is_reconciling(self) -> bool:
        """True while cases of the reconciliation are worked on."""
        return self._reconciler.is_working

    def wind_up(self) -> None:
        """Begin no more cases; the one under way is best let end."""
        self._is_winding_up = True

    @property
    def busy(self) -> int:
        """How many senders have a call under way, or are about to."""
        return self._slots.busy

    @property
    def allowed(self) -> int:
        """How many calls may be under way now."""
        return self._slots.allowed

    def set_ceiling(self, calls: int) -> None:
        """Let at most so many calls be under way from now on, and never more than `limits.concurrency`; 0: none, and
        what is held and not begun goes back. Calls under way end as they are."""
        before = self._slots.allowed
        self._slots.cap(calls)
        if not self._slots.allowed:
            self._give_back(self._hand.empty())
        if self._slots.allowed != before:
            self._terms.stirred.set()

    def room(self, route: str) -> int:
        """For how many lanes of a route there is room; 0 while the hand is half full, so that claims are worth it.

        A full hand lasts for a moment at the pace of the last seconds: a claim and a settlement take their time, and
        the senders must not wait for them. It holds no more than that, as all of it is in doubt should we vanish.
        What is sent and waits to be settled takes room, too: where calls are faster than the database, it would grow
        without end, and outlast its leases.

        Under a rate limit, which counts what is claimed, there is room only for what is sent at once: what had gathered
        in the hand while the system was slow would go out in one go.
        """
        allowed = self._slots.allowed
        if not (self._is_open and allowed) or self._held_bytes >= HELD_BYTES:
            return 0
        if self._is_rated:
            return max((allowed - self._slots.busy) * self._size(route) - len(self._hand), 0)
        least = 2 * allowed * self._size(route)
        if self._hand.count_ahead(route) >= least:
            return 0  # it would only wait behind them
        wanted = min(max(least, int(self._pace.per_s(self._rt.monotonic()) * HAND_S)), HAND_LANES)
        room = wanted - self._hand.count(route) - max(len(self._settler) - UNSETTLED_LANES, 0)
        return room if 2 * room >= wanted else 0

    def give_back_overdue(self) -> None:
        """Let go of what has waited in the hand for long, behind more urgent records or slow calls: a lease that runs
        out there would leave its records in doubt, although nobody has sent them."""
        self._give_back(self._hand.take_older(self._rt.monotonic() - self._terms.lease_margin_s / 2))

    def longest_run(self, route: str) -> int:
        """How many records of one lane a lease may cover, where there is room for more lanes than wait."""
        is_short = self._is_rated or next_step(self._senders[route].rule, 0.0) is Step.PARK
        return DEPTH if is_short else self._run_length.longest

    def add(self, route: str, leases: Sequence[Lease], claimed_at: float) -> None:
        """Take leases into the hand; back they go at once where the gate was shut meanwhile."""
        held = [self._hold(lease, claimed_at) for lease in leases]
        for it in held:
            it.size_bytes = sum([len(record.payload) for record in it.lease.records])
            self._held_bytes += it.size_bytes
        if self._is_open and self._slots.allowed:
            self._hand.add(route, held)
            self._look_below.pop(route, None)
        else:
            self._give_back(held)

    def note(self, gate: Gate) -> None:
        """Take note of what a claim or a settlement saw of the system's gate; a shut one empties the hand. One that
        is shut is opened by nobody but `_look`: an answer that was on its way may be older than what shut it."""
        if gate.lets_through or not self._is_open:
            return
        self.gate, self._is_open, self.has_looked = gate, False, False
        self._was_down, self._shut_at = gate.state is not State.CLOSED, self._rt.monotonic()
        self._shut.set()
        self._give_back(self._hand.empty())
        self._terms.stirred.set()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run beside the claimer; none of them ever returns."""
        tasks = [self._settler.run(), self._look_forever(), *(self._send_forever() for _ in range(self._concurrency))]
        if self._terms.group:
            if askable := [name for name, sender in self._senders.items() if sender.rule.can_ask]:
                tasks.append(self._ask_forever(askable))
            if self._reconciles:
                tasks.append(self._reconcile_forever())
        return tasks

    async def give_everything_back(self) -> None:
        """What is held and not begun, once the senders are stopped; and settle it."""
        self._give_back(self._hand.empty())
        self._give_back([self._hold(lease, self._rt.monotonic()) for lease in await self._claims.unknown()])
        await self._settler.flush()

    # --- sending --------------------------------------------------------------------------------------------

    def _hold(self, lease: Lease, claimed_at: float, *, is_probe: bool = False) -> Held:
        return Held(lease, claimed_at + self.lease_s, claimed_at, is_probe)

    def _give_back(self, leases: Sequence[Held]) -> None:
        self._settler.put_all([Run(held) for held in leases])

    def _let_go(self, runs: Sequence[Run]) -> None:
        self._held_bytes -= sum([run.held.size_bytes for run in runs])

    def _size(self, route: str) -> int:
        """How many records one call carries now: a connector takes fewer while a system refuses whole batches."""
        return self._connector.batch_size(self._terms.routes[route].target.operation)

    def _is_wanted(self) -> bool:
        return self._is_open and not self._slots.is_over and not self._terms.is_stopped()

    def _hear(self, outcomes: Sequence[Outcome | LookUp], began: float, ended: float, records: int) -> None:
        """A call has ended. One through a shut gate, a probe or a question, says nothing of how many there may be."""
        if self._is_open:
            self._slots.hear(outcomes, began, ended, records)
        if records:
            self._run_length.note(ended - began)

    async def _send_forever(self) -> None:
        while True:
            if not len(self._hand):
                await self._hand.filled()
            if not self._slots.is_free:
                await self._slots.free()
                continue  # somebody else may have taken it meanwhile
            route, group = await self._hand.draw(self._size)
            self._pace.add(len(group), self._rt.monotonic())
            if self._is_worth_a_look(route) and self.room(route):
                self._terms.stirred.set()  # the next claim comes in while these are on their way
            over: list[Run] = []
            self._slots.busy += 1
            try:
                await self._work_off(self._senders[route], group, over.append)
            finally:
                self._settler.put_all(over)
                self._slots.busy -= 1
            if self._is_rated:
                self._terms.stirred.set()  # there is room again, which nothing in the hand is waiting for
            if any(run.met_trouble for run in over) or self._connector.pause_s > 0:
                # The breaker may have opened: know before the next call, or each sender hangs once more.
                await self._settler.flush()

    def _is_worth_a_look(self, route: str) -> bool:
        """Whether the hand has shrunk by a part since somebody asked for how much there is room in it."""
        held = self._hand.count(route)
        if held > self._look_below.get(route, HAND_LANES):
            return False
        self._look_below[route] = held - held // _LOOK_EACH - 1
        return True

    async def _work_off(self, sender: Sender, group: Sequence[Held], done: Callable[[Run], None]) -> None:
        """Send it. What may be at a provider that seems well again, but has proved nothing yet, is only asked about:
        sent there again, it would hang with it each time its breaker closes, and another provider can have it."""
        is_only_asked = sender.rule.can_ask and not self._terms.may_resend(self.system)
        if not is_only_asked:
            await sender.work_off(group, self._is_wanted, done)
            return
        asked: list[Held] = []
        sent: list[Held] = []
        for held in group:
            (asked if held.lease.doubted_us else sent).append(held)
        try:
            await sender.ask(asked, done)
        except BaseException:
            for held in sent:
                done(Run(held))
            raise
        await sender.work_off(sent, self._is_wanted, done)

    # --- while the gate is shut -----------------------------------------------------------------------------

    async def _look_forever(self) -> None:
        while True:
            await self._shut.wait()
            with suppress(HubUnavailable):  # the claimer meets it too, and decides
                await self._look()
            if not self._is_open:
                await self.offer.wait(min(self.gate.wait_s or SLOW_POLL_S, SLOW_POLL_S))

    async def _look(self) -> None:
        """Let what is under way end; find out whether the system is back, if it is time and nobody else does."""
        while self._slots.busy or not self._settler.is_idle:
            await self._settler.something_settled()
        gate = await self._rt.store.gate(self.system)
        self._was_down |= gate.state is not State.CLOSED
        self._want(gate)
        if gate.is_due and await self._can_probe(gate):
            gate = await self._prober.probe(self._probe_with_a_record, gate)
            self._want(gate)
        is_news = not self.has_looked or (gate.state, gate.is_paused) != (self.gate.state, self.gate.is_paused)
        self.gate, self._is_open, self.has_looked = gate, gate.lets_through, True
        if self._is_open:
            if self._was_down or self._rt.monotonic() - self._shut_at >= LONG_PAUSE_S:
                self._slots.restart()
            self._shut.clear()
        self.offer.answer()
        if is_news:  # and not each time: whoever claims makes an offer, and would be woken by its answer to make one
            self._terms.stirred.set()

    def _want(self, gate: Gate) -> None:
        self.offer.is_wanted = gate.is_due and self._prober.needs_record(gate)

    async def _can_probe(self, gate: Gate) -> bool:
        """Whether there is anything to probe with: to find out by trying costs three transactions."""
        if not self._prober.needs_record(gate):
            return True
        store = self._rt.store
        if not self.offer.is_worth_a_look(self._rt.monotonic()):
            return False
        if gate.reason == Reason.CONTRACT and await store.has_storm(self.system):
            return True  # what it parked waits again as soon as somebody probes
        outlook = await store.outlook(list(self._terms.routes), [self.system])
        if outlook.due_us is not None and outlook.due_us <= outlook.now_us:
            return True
        return self._reconciles and await store.has_case(self.system)

    async def _probe_with_a_record(self, slot: Slot) -> bool:
        """Send one real record through the half-open breaker; False when none waits that it may have. Then ask about
        what may be there and went elsewhere: nobody else would, however long no record comes."""
        self._slot = slot
        for name in self._terms.routes:
            claimed_at = self._rt.monotonic()
            leases = await self._claims.for_probe(name)
            for lease in leases:
                held = self._hold(lease, claimed_at, is_probe=True)
                held.deadline = min(held.deadline, slot.deadline)
                self.offer.was_taken()
                await self._senders[name].work_off([held], lambda: True, self._settler.put)
                while not self._settler.is_idle:
                    await self._settler.something_settled()
                return True
        if self._reconciles and await self._probe_with_a_case(slot):
            return True
        self.offer.was_unfit(self._rt.monotonic())
        return False

    async def _probe_with_a_case(self, slot: Slot) -> bool:
        """That a look-up fails says that it is still down; that it is answered does not say that it books."""
        self.offer.answer()
        if self._reconciler.is_working:  # since before the gate was shut
            return False
        await self._reconciler.work(limit=1)
        if isinstance(self._reconciler.trouble, Unsent | Unknown):
            await self._prober.count(slot, self._reconciler.trouble)
            return True
        return False

    async def _ask_forever(self, routes: Sequence[str]) -> None:
        """A system that may get nothing can often still be asked. What it says frees a record for another provider, or
        settles it; so ask, gently: rarer with each question that is not answered."""
        wait_s = ASK_EVERY_S
        while True:
            await self._rt.sleep(wait_s)
            wait_s = ASK_EVERY_S
            if self._is_open or self.gate.is_paused:
                continue
            with suppress(HubUnavailable):
                for name in routes:
                    if not await self._ask(name):
                        wait_s = min(2 * wait_s, ASK_AT_LEAST_EVERY_S)
                        break

    async def _ask(self, route: str) -> bool:
        """Ask about all that can be asked about now, one at a time. False as soon as it gave no answer."""
        while not (self._is_open or self._terms.is_stopped()):
            claimed_at = self._rt.monotonic()
            leases = await self._claims.in_doubt(route, ASK_LANES)
            held = [self._hold(lease, claimed_at) for lease in leases]
            self._asking += 1
            try:
                if not await self._senders[route].ask(held, self._settler.put):
                    return False
            finally:
                self._asking -= 1
            if len(leases) < ASK_LANES:
                break
        return True

    # --- while it is open -----------------------------------------------------------------------------------

    async def _reconcile_forever(self) -> None:
        while True:
            if self._is_open:
                with suppress(HubUnavailable):
                    if (await self._reconciler.work(is_wanted=lambda: not self._is_winding_up)).asked:
                        self._terms.stirred.set()  # a run that is over waits for it
            await self._rt.sleep(RECONCILE_EVERY_S)
