"""Delivering what waits for one target: claim for each of its systems, and let their lines work side by side, until
the target is drained or somebody says stop.

    claim ──▶ a line for each system (`line`): hand ──▶ senders ──▶ settler
      ▲                                                               │
      └────────────── gates: breakers and pauses, and room ◀──────────┘

Everything here belongs to one target. Which provider of a failover group gets a record is decided where it is claimed,
in the staging database, so that all workers follow one policy (`policy.choice`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from tideover.config.models import Route
from tideover.errors import HubUnavailable
from tideover.hub.chores import Chores
from tideover.hub.line import Line
from tideover.hub.lineup import line_up
from tideover.hub.progress import Ending, Episodes, Progress
from tideover.hub.routing import group_rule, group_wish
from tideover.hub.runtime import Runtime
from tideover.hub.sweeps import Sweeps
from tideover.hub.terms import Terms
from tideover.hub.turns import Turns
from tideover.model import SECOND_US
from tideover.policy.breaker import State
from tideover.policy.depth import DEPTH
from tideover.policy.failover import Phase
from tideover.staging.claiming import Claimed
from tideover.staging.systems import Gate
from tideover.staging.wishes import Claim

LEASE_MARGIN_S = 30.0
POLL_S = 0.05  # while lingering; grows to SLOW_POLL_S as nothing comes
SLOW_POLL_S = 0.25
QUOTA_POLL_S = 0.02  # while a limit lets nothing more through for the moment, and calls are under way
PATIENCE_S = 10.0  # how long a run that does not linger waits without delivering anything


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
        self._rt, self._target = rt, target
        self._routes = rt.routes_to(target)
        self._turns = Turns({name: _own_priority(route) for name, route in self._routes.items()})
        self._group = target if target in rt.config.groups else ""
        self._linger_s, self._patience_s, self._lease_margin_s = linger_s, patience_s, lease_margin_s
        self._stop = stop or asyncio.Event()
        self._on_progress = on_progress
        self.progress = Progress(target, rt.config.systems_of(target))
        self._stirred = asyncio.Event()
        self._episodes = Episodes(self.progress, group_rule(rt.config, self._group) if self._group else None)
        self._lines: dict[str, Line] = {}
        self._claiming: asyncio.Future[Claimed] | None = None
        self._sweeps = Sweeps()
        self._quota_wait_s = 0.0
        self._used_up: Mapping[str, Gate] = {}
        self._over_at = 0.0  # when the run had nothing more to deliver
        self._seen_delivered, self._progressed_at = 0, rt.monotonic()

    async def run(self) -> Progress:
        """Deliver until the target is drained, or for `linger_s` whatever comes. Cancelling it leaves nothing stuck:
        leases are given back, and calls under way are settled as unknown.

        Raises `HubUnavailable` when the database stays away, `AccessError` when no provider's credentials can be had.
        """
        await self._prepare()
        tasks = [asyncio.create_task(task) for line in self._lines.values() for task in line.tasks()]
        tasks += [asyncio.create_task(task) for task in self._chores.tasks()]
        main = asyncio.create_task(self._claim_until_done())
        deaf = self._rt.store.on_staged(list(self._routes), self._stirred.set)
        try:
            done, _ = await asyncio.wait([main, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # only the claimer ends without failing
            return self.progress
        finally:
            deaf()
            # Shielded, as it also runs when the run is cancelled; bounded, so that a stop is a stop.
            with suppress(TimeoutError):
                await asyncio.shield(asyncio.wait_for(self._wind_down([main, *tasks]), LEASE_MARGIN_S / 2))

    async def _prepare(self) -> None:
        """The lines, what each claim asks for besides, and the chores."""
        rt = self._rt
        terms = Terms(
            rt,
            self._routes,
            self._group,
            self._lease_margin_s,
            self._stop.is_set,
            self.progress,
            self._stirred,
            self._may_resend,
        )
        self._lines = await line_up(terms, self._target, self.progress)
        self._wishes = {name: group_wish(rt.config, name) for name in self._routes}
        self._limits = rt.limit_rules(self._lines)
        self._chores = Chores(rt, self._group, self._lines, self._episodes, lambda: self._on_progress(self.progress))
        await self._chores.begin()

    def _may_resend(self, system: str) -> bool:
        state = self.progress.state
        return state is None or state.trust(system).phase not in (Phase.OUT, Phase.DWELL, Phase.CANARY)

    # --- claiming -------------------------------------------------------------------------------------------

    async def _claim_until_done(self) -> None:
        until = self._rt.monotonic() + self._linger_s
        poll_s = POLL_S
        while not self._stop.is_set():
            self._stirred.clear()  # before looking: what changes from here on is not missed
            self._note_progress()
            if not any(line.is_open for line in self._lines.values()):
                ending = await self._wait_at_the_gates(until)
            elif await self._claim():
                poll_s, ending = POLL_S, None
            else:
                ending = await self._wait_for_work(until, poll_s)
                poll_s = min(poll_s * 1.3, SLOW_POLL_S)
            if ending is not None and await self._let_cases_end():
                self.progress.ending = ending
                return
        self.progress.ending = Ending.STOPPED

    async def _let_cases_end(self) -> bool:
        """A run that is over stays with the cases that are due for as long as it has patience, and then with the one
        under way. True once there is none; else it has waited a little."""
        busy = [line for line in self._lines.values() if line.is_reconciling]
        if not busy:
            return True
        now = self._rt.monotonic()
        self._over_at = self._over_at or now
        if now - self._over_at >= self._patience_s:
            for line in busy:
                line.wind_up()
        await self._something_stirred()
        return False

    def _note_progress(self) -> None:
        for line in self._lines.values():
            self.progress.gates[line.system] = self._used_up.get(line.system, line.gate)
        if self.progress.delivered != self._seen_delivered:
            self._seen_delivered = self.progress.delivered
            self._progressed_at = self._rt.monotonic()

    def _is_worth_waiting(self, wait_s: float) -> bool:
        """Whether a run that does not linger stays for work that is to come in `wait_s`."""
        waited_s = self._rt.monotonic() - self._progressed_at
        return wait_s + waited_s <= self._patience_s

    @property
    def _is_idle(self) -> bool:
        return all(line.is_idle for line in self._lines.values())

    async def _claim(self) -> bool:
        """Fill the hands, a route at a time in their turns. True when something came in, or is still on its way out."""
        got = False
        self._quota_wait_s = 0.0
        if offers := [line.offer for line in self._lines.values() if line.offer.is_wanted]:
            await asyncio.gather(*(offer.make() for offer in offers))
        for name in self._turns.order():
            rooms = {system: line.room(name) for system, line in self._lines.items()}
            rooms = {system: room for system, room in rooms.items() if room}
            if rooms and self._is_worth_claiming(name, rooms):
                got |= await self._claim_route(name, rooms)
        if got:
            return True
        if not self._is_idle:
            if 0 < self._quota_wait_s <= SLOW_POLL_S:
                await self._rt.sleep(QUOTA_POLL_S)  # whatever stirs, there is no more quota: let some gather
            else:
                await self._something_stirred()
            return True
        return False

    def _is_worth_claiming(self, name: str, rooms: Mapping[str, int]) -> bool:
        """Where every provider takes every record, and the one that gets them has no room, the others only get their
        share of what it gets: that can wait until it has."""
        wish, state = self._wishes[name], self.progress.state
        if wish is None or wish.eligible is not None or state is None or state.serving not in self._lines:
            return True
        return state.serving in rooms or not self._lines[state.serving].is_open

    async def _claim_route(self, name: str, rooms: dict[str, int]) -> bool:
        began = self._rt.monotonic()
        sweep = self._sweeps.of(name, rooms)
        if began < sweep.rest_until:
            return False
        wish = Claim(
            route=name,
            rooms=rooms,
            order=self._routes[name].order,
            depth=DEPTH,
            longest=min(self._lines[system].longest_run(name) for system in rooms),
            lease_us=int(max(self._lines[system].lease_s for system in rooms) * SECOND_US),
            limits=self._limits,
            group=self._wishes[name],
            after=sweep.mark,
        )
        claimed = await self._known(wish)
        self._sweeps.note(name, rooms, claimed.mark, began, self._rt.monotonic())
        for system, gate in claimed.gates.items():
            if system in self._lines:
                self._lines[system].note(gate)
        for system in rooms:
            leases = [lease for lease in claimed.leases if lease.system == system]
            if leases:
                self._lines[system].add(name, leases, began)
        if claimed.leases:
            self._turns.serve(name, sum(len(lease.records) for lease in claimed.leases))
        self._quota_wait_s = max(self._quota_wait_s, claimed.quota_wait_s)
        self._used_up = claimed.used_up
        self._episodes.note(claimed, began)
        return bool(claimed.leases) or claimed.mark is not None

    async def _known(self, wish: Claim) -> Claimed:
        """A claim's answer. Shielded, and kept until its caller has it: of one that is cancelled before that, nobody
        would know which lanes it took."""
        self._claiming = asyncio.ensure_future(self._rt.store.claim(wish))
        claimed = await asyncio.shield(self._claiming)
        self._claiming = None
        return claimed

    # --- waiting --------------------------------------------------------------------------------------------

    async def _wait_for_work(self, until: float, poll_s: float) -> Ending | None:
        """Nothing can be claimed now. Wait a little, or say that the delivery is over."""
        ready = [line.system for line in self._lines.values() if line.is_open]
        outlook = await self._rt.store.outlook(list(self._routes), ready)
        wait_s: float | None = None
        if outlook.due_us is not None:
            wait_s = max((outlook.due_us - outlook.now_us) / SECOND_US, self._quota_wait_s)
        if self._rt.monotonic() >= until and self._has_looked:
            if wait_s is None and not outlook.is_pinned:
                return Ending.DRAINED
            if wait_s is None or not self._is_worth_waiting(wait_s):
                return self._why_not_drained()
        if self._quota_wait_s:
            poll_s = min(self._quota_wait_s, SLOW_POLL_S)
        await self._something_stirred(poll_s if wait_s is None else max(min(wait_s, poll_s), poll_s / 5))
        return None

    @property
    def _has_looked(self) -> bool:
        return all(line.is_open or line.has_looked for line in self._lines.values())

    def _why_not_drained(self) -> Ending:
        self._note_progress()
        gates = [gate for gate in self.progress.gates.values() if not gate.lets_through]
        if any(gate.state is not State.CLOSED for gate in gates):
            return Ending.DOWN
        return Ending.PAUSED if gates else Ending.WAITING

    async def _wait_at_the_gates(self, until: float) -> Ending | None:
        """No system may be called: let what is under way end and be probed, or say that it is over."""
        wait_s = min(line.gate.wait_s for line in self._lines.values())
        is_over = self._rt.monotonic() >= until and self._has_looked and self._is_idle
        if is_over and not any(line.is_open for line in self._lines.values()):
            is_down = any(line.gate.state is not State.CLOSED for line in self._lines.values())
            if is_down:
                return Ending.DOWN
            if not self._is_worth_waiting(wait_s):
                return Ending.PAUSED
        await self._something_stirred()
        return None

    async def _something_stirred(self, at_most_s: float = SLOW_POLL_S) -> None:
        """Wait until something was settled, a gate opened or closed, or the caller says stop; or for a moment."""
        stopped = asyncio.ensure_future(self._stop.wait())
        stirred = asyncio.ensure_future(self._stirred.wait())
        try:
            await asyncio.wait([stopped, stirred], timeout=at_most_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            stirred.cancel()

    # --- ending ---------------------------------------------------------------------------------------------

    async def _wind_down(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._claiming is not None:
            [claimed] = await asyncio.gather(self._claiming, return_exceptions=True)
            for lease in claimed.leases if isinstance(claimed, Claimed) else ():
                self._lines[lease.system].add(lease.route, [lease], self._rt.monotonic())
        # Each line, whatever becomes of the others: what was accepted and is not written is in doubt.
        settling = [line.give_everything_back() for line in self._lines.values()]
        ends = await asyncio.gather(*settling, return_exceptions=True)
        self._episodes.end()
        self._note_progress()
        await self._chores.end()
        for end in ends:
            if isinstance(end, BaseException) and not isinstance(end, HubUnavailable):
                raise end


def _own_priority(route: Route) -> int | None:
    return route.priority if isinstance(route.priority, int) else None
