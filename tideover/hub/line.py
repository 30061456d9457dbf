"""One system's side of a delivery: what it holds for it, who sends it and who settles it.

    hand ──▶ senders (as many as the system may be asked at once) ──▶ settler
                                                                        │
    shut: look whether it is back (`gatekeeper`), ask what became of ◀──┘  the gate: breaker and pause
          what may have reached it (`asking`)

Each line has its own connector, tasks and queues, so that a provider which hangs delays no other.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tideover.connectors.port import Connector
from tideover.hub.asking import Asker
from tideover.hub.claims import Claims
from tideover.hub.gatekeeper import Gatekeeper
from tideover.hub.hand import Hand, priority_of
from tideover.hub.offer import Offer
from tideover.hub.pace import Pace
from tideover.hub.probing import Prober
from tideover.hub.reconciling import Reconciler
from tideover.hub.routing import Shape
from tideover.hub.runs import Held, Run, Sender
from tideover.hub.settler import BATCH, Settler
from tideover.hub.slots import Slots
from tideover.hub.terms import Terms
from tideover.model import Lease, LookUp, Outcome
from tideover.policy.breaker import BreakerRule
from tideover.policy.depth import DEPTH, RunLength
from tideover.policy.resolve import Step, next_step
from tideover.staging.systems import Gate

HAND_LANES = 2_000
HAND_S = 0.25
HELD_BYTES = 32 * 2**20  # from here on nothing more is claimed: records of a kilobyte never come near it
UNSETTLED_LANES = 2 * BATCH  # one settlement is written and one gathers; what is beyond that is a jam
_LOOK_EACH = 8  # of the hand, so many parts: once one is gone, whether there is room for a claim is asked again


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
        rt, settings = terms.rt, terms.rt.system(system)
        self.system, self._terms, self._rt, self._connector = system, terms, rt, connector
        self._concurrency = settings.limits.concurrency
        self._slots = Slots(self._concurrency, is_restored=is_draining)
        self._is_rated = settings.limits.rate is not None
        self._call_s = settings.timeouts.total
        self.lease_s = self._call_s + terms.lease_margin_s
        self._hand = Hand({name: priority_of(route) for name, route in terms.routes.items()})
        self._look_below: dict[str, int] = {}  # by route: what the hand holds when it is next worth asking for its room
        self._held_bytes = 0  # of all that was claimed and is not settled
        self._pace = Pace()
        self._run_length = RunLength()
        self._claims = Claims(rt, system, terms.routes, self.lease_s)
        self._senders = {name: self._make_sender(name, shape) for name in terms.routes}
        breaker_rule = rt.breaker_rule(system, has_probe=connector.has_probe)
        self._settler = self._make_settler(breaker_rule)
        reroutes = bool(terms.group) and any(it.on_unknown == "reroute" for it in terms.routes.values())
        reconciler = Reconciler(rt, system, connector, self._call_s) if reroutes else None
        self._gatekeeper = Gatekeeper(
            terms,
            system,
            gate,
            Prober(rt, system, connector, breaker_rule, self._call_s, self.lease_s),
            claims=self._claims,
            senders=self._senders,
            settler=self._settler,
            slots=self._slots,
            reconciler=reconciler,
        )
        self._asker = Asker(
            terms,
            self._gatekeeper,
            claims=self._claims,
            senders=self._senders,
            settler=self._settler,
            reconciler=reconciler,
        )

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
            prober=lambda: self._gatekeeper.slot_number,
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
        return self._gatekeeper.is_open

    @property
    def gate(self) -> Gate:
        """The system's breaker and pause, as this worker last saw them."""
        return self._gatekeeper.gate

    @property
    def has_looked(self) -> bool:
        """True once somebody has tried whether the system is back, since the gate was found shut."""
        return self._gatekeeper.has_looked

    @property
    def offer(self) -> Offer:
        """By which whoever claims lets the system have a record to be probed with."""
        return self._gatekeeper.offer

    @property
    def is_idle(self) -> bool:
        """True when nothing is held, under way or unsettled; a case may be."""
        return not (len(self._hand) or self._slots.busy or self._asker.is_asking) and self._settler.is_idle

    @property
    def is_reconciling(self) -> bool:
        """True while cases of the reconciliation are worked on."""
        return self._asker.is_reconciling

    def wind_up(self) -> None:
        """Begin no more cases; the one under way is best let end."""
        self._asker.wind_up()

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
        if not (self.is_open and allowed) or self._held_bytes >= HELD_BYTES:
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
        if self.is_open and self._slots.allowed:
            self._hand.add(route, held)
            self._look_below.pop(route, None)
        else:
            self._give_back(held)

    def note(self, gate: Gate) -> None:
        """Take note of what a claim or a settlement saw of the system's gate; a shut one empties the hand."""
        if self._gatekeeper.note(gate):
            self._give_back(self._hand.empty())
            self._terms.stirred.set()

    def tasks(self) -> list[Coroutine[Any, Any, None]]:
        """What has to run beside the claimer; none of them ever returns."""
        senders = [self._send_forever() for _ in range(self._concurrency)]
        return [self._settler.run(), self._gatekeeper.look_forever(), *senders, *self._asker.tasks()]

    async def give_everything_back(self) -> None:
        """What is held and not begun, once the senders are stopped; and settle it."""
        self._give_back(self._hand.empty())
        self._give_back([self._hold(lease, self._rt.monotonic()) for lease in await self._claims.unknown()])
        await self._settler.flush()

    # --- sending --------------------------------------------------------------------------------------------

    def _hold(self, lease: Lease, claimed_at: float) -> Held:
        return Held(lease, claimed_at + self.lease_s, claimed_at)

    def _give_back(self, leases: Sequence[Held]) -> None:
        self._settler.put_all([Run(held) for held in leases])

    def _let_go(self, runs: Sequence[Run]) -> None:
        self._held_bytes -= sum([run.held.size_bytes for run in runs])

    def _size(self, route: str) -> int:
        """How many records one call carries now: a connector takes fewer while a system refuses whole batches."""
        return self._connector.batch_size(self._terms.routes[route].target.operation)

    def _is_wanted(self) -> bool:
        return self.is_open and not self._slots.is_over and not self._terms.is_stopped()

    def _hear(self, outcomes: Sequence[Outcome | LookUp], began: float, ended: float, records: int) -> None:
        """A call has ended. One through a shut gate, a probe or a question, says nothing of how many there may be."""
        if self.is_open:
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
