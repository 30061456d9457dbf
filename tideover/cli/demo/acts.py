"""The play: orders, contacts and tickets flow; the ERP dies; everything else goes on; the ERP comes back. Then a
carrier takes orders and does not answer: the other one ships them, and nobody gets two parcels.

Nothing here is staged but the fault: the runs are those of the deployments, started as `prefect deployment run` does,
and every figure is read from the hub's tables and from the systems at the other end.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from tideover.cli.demo.prefect_api import PrefectApi, RunState
from tideover.cli.demo.screen import Screen
from tideover.errors import HubUnavailable
from tideover.hub.overview import Overview, audit, overview
from tideover.hub.runtime import Runtime
from tideover.policy.breaker import State
from tideover.policy.failover import Phase
from tideover.staging.reports import RouteAudit
from tideover.twins import TwinControl

ROUTES = {
    "orders-to-erp": "orders",
    "orders-to-shipping": "orders",
    "contacts-to-marketing": "contacts",
    "tickets-to-support": "tickets",
}
CARRIERS = ("carrier-a", "carrier-b")
# In which colour a run's state is told. Any other means that it did not do its work.
WELL = {"Completed": "green", "Queued": "yellow", "FailedOver": "yellow", "FailedBack": "green"}
FIRST = {"orders": 300, "contacts": 300, "tickets": 200}
SECOND = {"orders": 250, "contacts": 100, "tickets": 80}
THIRD = {"orders": 120}
LAST = {"orders": 30}
DOWN_FOR_S = 10.0
PATIENCE_S = 180.0
LOOK_S = 0.25


@dataclass
class Figures:
    """What the play measured."""

    sent: dict[str, int] = field(default_factory=dict)
    held: int = 0
    others_during_outage: int = 0
    back_to_drained_s: float = 0.0
    shipped_elsewhere: int = 0
    rerouted: int = 0
    voided: int = 0
    failover_s: float = 0.0
    failback_s: float = 0.0
    audits: list[RouteAudit] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0
    runs: dict[str, str] = field(default_factory=dict)


class Play:
    """One performance against a running server, worker and twins."""

    def __init__(self, screen: Screen, rt: Runtime, api: PrefectApi, twins: TwinControl) -> None:
        self._screen, self._rt, self._api, self._twins = screen, rt, api, twins
        self.figures = Figures()

    async def perform(self) -> Figures:
        await self._business_as_usual()
        await self._erp_dies()
        await self._erp_returns()
        await self._carrier_hangs()
        await self._carrier_returns()
        await self._compare_both_ends()
        return self.figures

    async def _business_as_usual(self) -> None:
        self._screen.begin("Act 1: business as usual")
        await self._create(FIRST)
        states = await self._sync_all()
        _expect(all(s.name == "Completed" for s in states.values()), "a run did not complete", states)
        await self._until(lambda view: all(r.status.waiting == 0 for r in view.routes), "everything delivered")
        self._screen.say("[green]all delivered[/]")

    async def _erp_dies(self) -> None:
        self._screen.begin("Act 2: the ERP stops answering")
        await self._twins.fault("erp", "down")
        self._screen.say("the ERP's port is [red]closed[/]")
        before = await self._received()
        await self._create(SECOND)
        states = await self._sync_all()
        _expect(states["orders-to-erp"].name == "Queued", "the orders' run should have ended Queued", states)
        others = [s for route, s in states.items() if route != "orders-to-erp"]
        _expect(all(s.name == "Completed" for s in others), "another system was held up", states)
        view = await self._until(lambda v: v.systems["erp"].state is not State.CLOSED, "the breaker to open")
        self.figures.held = next(r.status.waiting for r in view.routes if r.target == "erp")
        now = await self._received()
        self.figures.others_during_outage = sum(now[t] - before[t] for t in ("marketing", "support", "shipping"))
        self._screen.say(
            f"[yellow]{self.figures.held} orders wait[/] in staging; {self.figures.others_during_outage} contacts, "
            "tickets and parcels went out [green]untouched[/]"
        )
        await self._stay_down()

    async def _stay_down(self) -> None:
        until = time.monotonic() + DOWN_FOR_S
        self._screen.pulse(f"the ERP stays down for another {DOWN_FOR_S:.0f} s")
        while time.monotonic() < until:
            await self._look()
            await asyncio.sleep(LOOK_S)
        self._screen.pulse("")

    async def _erp_returns(self) -> None:
        self._screen.begin("Act 3: the ERP is back; nobody does anything")
        await self._twins.clear("erp")
        back = time.monotonic()
        await self._until(
            lambda v: bool(v.outages) and v.outages[0].is_over and all(r.status.waiting == 0 for r in v.routes),
            "the drain, which starts by itself",
        )
        self.figures.back_to_drained_s = time.monotonic() - back
        self._screen.say(f"[green]drained {self.figures.back_to_drained_s:.1f} s after its return[/]")

    async def _carrier_hangs(self) -> None:
        self._screen.begin("Act 4: carrier-a takes orders and no longer answers")
        before = await self._received()
        await self._twins.fault("carrier-a", "commit_then_hang")
        self._screen.say("carrier-a books each parcel, and [red]never says so[/]; questions hang as well")
        await self._create(THIRD)
        await self._sync_all(["orders-to-shipping", "orders-to-erp"])
        await self._until(lambda v: v.waiting("orders-to-shipping") == 0, "carrier-b, and the orders in doubt")
        now = await self._received()
        self.figures.shipped_elsewhere = now["carrier-b"] - before["carrier-b"]
        view = await self._look()
        self.figures.rerouted = view.reconciling
        self.figures.failover_s = max((r.served_us - r.failed_us for r in view.groups[0].recoveries), default=0) / 1e6
        self._screen.say(
            f"[green]{self.figures.shipped_elsewhere} orders went out by carrier-b[/]; {self.figures.rerouted} of them "
            "[yellow]may be at carrier-a as well[/], and are kept in mind"
        )

    async def _carrier_returns(self) -> None:
        self._screen.begin("Act 5: carrier-a answers again; it is asked, what is too much is voided, and it comes back")
        await self._twins.clear("carrier-a")
        back = time.monotonic()
        await self._until(lambda v: not v.reconciling, "carrier-a to be asked about what it may have")
        self.figures.voided = sum([int((await self._twins.ledger(name))["voided"]) for name in CARRIERS])
        self._screen.say(f"[green]{self.figures.voided} parcels were booked twice, and voided at carrier-a[/]")
        await self._feed_until_trusted()
        self.figures.failback_s = time.monotonic() - back
        self._screen.say(f"carrier-a is the first choice again, {self.figures.failback_s:.1f} s after its return")

    async def _feed_until_trusted(self) -> None:
        """Its canary and its ramp need orders: a few more, until carrier-a is trusted again."""
        give_up = time.monotonic() + PATIENCE_S
        self._screen.pulse("waiting for carrier-a's dwell, canary and ramp")
        while True:
            view = await self._look()
            carrier = view.groups[0].providers[0]
            if carrier.trust.phase is Phase.SERVING:
                break
            if time.monotonic() > give_up:
                raise HubUnavailable(f"carrier-a is still {carrier.trust.phase.value} after {PATIENCE_S:.0f} s")
            if carrier.trust.phase is Phase.CANARY and view.waiting("orders-to-shipping") == 0:
                await self._create(LAST)
                await self._sync_all(["orders-to-shipping", "orders-to-erp"])
            await asyncio.sleep(LOOK_S)
        self._screen.pulse("")

    async def _compare_both_ends(self) -> None:
        self._screen.begin("The books: the hub's tables against what each system holds")
        self.figures.audits = await audit(self._rt)
        await self._look()
        for route, objects in ROUTES.items():
            target = self._rt.config.routes[route].target.name
            sent, held = self.figures.sent[objects], self._screen.received[target]
            self.figures.lost += max(sent - held, 0)
            self.figures.duplicated += self._screen.duplicated[target]
            self._screen.say(f"{route}: {sent} created at the source, {held} at {target}")

    # --- by which it is done --------------------------------------------------------------------------------

    async def _create(self, counts: dict[str, int]) -> None:
        for objects, count in counts.items():
            start = self.figures.sent.get(objects, 0)
            await self._twins.seed(objects, count, start=start + 1)
            self.figures.sent[objects] = start + count
        self._screen.say("new in the CRM: " + ", ".join(f"{count} {objects}" for objects, count in counts.items()))

    async def _sync_all(self, routes: Sequence[str] = tuple(ROUTES)) -> dict[str, RunState]:
        """Run these routes' deployments at the same time, and wait for them."""
        runs = {route: await self._api.run(f"sync/{route}") for route in routes}
        self._screen.pulse("prefect deployment run " + ", ".join(f"'sync/{route}'" for route in routes))
        self.figures.runs.update(runs)
        states: dict[str, RunState] = {}
        give_up = time.monotonic() + PATIENCE_S
        while len(states) < len(runs):
            for route in [route for route in runs if route not in states]:
                state = await self._api.state(runs[route])
                if state.is_over:
                    states[route] = state
                    colour = WELL.get(state.name, "red")
                    self._screen.say(f"sync/{route} ended [{colour}]{state.name}[/]: {state.message}")
            if time.monotonic() > give_up:
                raise HubUnavailable(f"runs did not end within {PATIENCE_S:.0f} s; see {self._api.url}")
            await self._look()
            await asyncio.sleep(LOOK_S)
        self._screen.pulse("")
        _expect(all(state.name in WELL for state in states.values()), "a run did not do its work", states)
        return states

    async def _until(self, is_so: Callable[[Overview], bool], what: str) -> Overview:
        give_up = time.monotonic() + PATIENCE_S
        self._screen.pulse(f"waiting for {what}")
        while time.monotonic() < give_up:
            view = await self._look()
            if is_so(view):
                self._screen.pulse("")
                return view
            await asyncio.sleep(LOOK_S)
        raise HubUnavailable(f"waited {PATIENCE_S:.0f} s in vain for {what}")

    async def _look(self) -> Overview:
        self._screen.view = view = await overview(self._rt)
        await self._received()
        return view

    async def _received(self) -> dict[str, int]:
        for twin in await self._twins.twins():
            self._screen.received[twin["name"]] = twin["ledger"]["keys"]
            # Every key is created once here, so a second effect under any idempotency key is one too many.
            ledger = twin["ledger"]
            self._screen.duplicated[twin["name"]] = max(ledger["duplicates"], ledger["effects"] - ledger["keys"])
        await self._count_parcels()
        return dict(self._screen.received)

    async def _count_parcels(self) -> None:
        """What the carriers hold together: a parcel that was voided is none, and an order needs exactly one."""
        standing: Counter[str] = Counter()
        for name in CARRIERS:
            async for tally in self._twins.keys(name):
                standing[tally["key"]] += tally["effects"] - tally["voided"]
        self._screen.received["shipping"] = sum(count > 0 for count in standing.values())
        self._screen.duplicated["shipping"] = sum(count - 1 for count in standing.values() if count > 1)


def _expect(is_so: bool, what: str, states: dict[str, RunState]) -> None:
    if not is_so:
        said = "; ".join(f"{route}: {state.name} {state.message}" for route, state in states.items())
        raise HubUnavailable(f"{what} ({said})")


async def until_true(ask: Callable[[], Awaitable[bool]], seconds: float, what: str) -> None:
    """Ask until the answer is yes. Raises `HubUnavailable` when it takes too long."""
    give_up = time.monotonic() + seconds
    while not await ask():
        if time.monotonic() > give_up:
            raise HubUnavailable(f"waited {seconds:.0f} s in vain for {what}")
        await asyncio.sleep(LOOK_S)
