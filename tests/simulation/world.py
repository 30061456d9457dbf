"""One simulated history: processes of the real engine, the systems around them, and what goes wrong.

run(scenario) -> Verdict     the same scenario gives the same history, byte for byte
"""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

from tests.simulation.disk import Disk, ProcessDatabase, Trouble, shared_disk
from tests.simulation.driver import statements_remembered
from tests.simulation.people import People
from tests.simulation.plan import DAY_S, SOURCE, START_US, Crash, Scenario
from tests.simulation.systems import SimConnector, SimSystem, SourceConnector
from tests.simulation.verdict import Failed, Line, Verdict
from tests.simulation.virtual import PLACE, Place, Spinning, VirtualLoop, virtual_time
from tests.simulation.watch import Watch
from tideover.config.models import System
from tideover.connectors.port import Connector
from tideover.errors import HubUnavailable, Overtaken
from tideover.hub.delivery import Delivery
from tideover.hub.intake import extract, stage
from tideover.hub.runtime import Runtime
from tideover.hub.upkeep import housekeeping
from tideover.model import SECOND_US
from tideover.staging.store import Store

RETRY_S = 0.05
CALM_S = 4 * 3600.0  # after the last trouble, everything has to be delivered or parked within this;
QUOTA_CALM_S = 6 * DAY_S  # where a system takes only so much a day, within some of them
LULL_S, SELDOM_S = 600.0, 1800.0  # then, after so long, only the reset is waited for, and work is looked for seldom
LOOK_S = 5.0  # how often it is looked whether that is so
REST_S = 60.0  # and how long it has to stay so: what was on its way when the last trouble ended may come late
UPKEEP_S = 900.0  # and where it lasts for days, a quarter of a day


class Process:
    """One life of one worker process. Dead, it changes nothing any more, whatever of it still runs."""

    def __init__(self, world: World, number: int, life: int) -> None:
        self.world, self.number, self.life = world, number, life
        self.is_dead = False
        self.place = Place()
        self._context = copy_context()
        self._context.run(PLACE.set, self.place)
        self._ahead_s = world.luck.uniform(0, 1e5)  # its monotonic clock begins anywhere
        self.stop = asyncio.Event()
        store = Store(ProcessDatabase(world.disk, world, self), spread=world.luck.random)
        self.rt = Runtime(world.config, store, self._connect, Path(), monotonic=self.monotonic, sleep=asyncio.sleep)

    def __str__(self) -> str:
        return f"worker {self.number + 1}" + (f" (life {self.life})" if self.life > 1 else "")

    def monotonic(self) -> float:
        return self.world.loop.time() + self._ahead_s

    def spawn(self, task: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run something as a part of this process."""
        return self.world.loop.create_task(task, context=self._context)

    def meets(self, point: str) -> bool:
        """Whether the process dies here."""
        return self.is_dead or self.world.strikes(self, point)

    async def _connect(self, name: str, _: System) -> Connector:
        if name == SOURCE:
            return SourceConnector(self.world.listings, self.world.pages, self)  # type: ignore[return-value]
        return SimConnector(self.world.systems[name], self)

    # --- what it does ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Deliver to every target, read every listing, keep house."""
        for target in self.world.config.targets:
            self.spawn(self._guarded(partial(self._deliver, target)))
        for route in self.world.scenario.routes:
            if not route.is_pushed:
                self.spawn(self._guarded(partial(self._read, route.name)))
        self.spawn(self._guarded(self._keep_house))

    async def _guarded(self, job: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await job()
        except asyncio.CancelledError:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, the engine let it through
            if not self.is_dead:
                self.world.fail("a run broke", traceback.format_exc(limit=-4))

    async def _deliver(self, target: str) -> None:
        scenario = self.world.scenario
        while not self.stop.is_set():
            if self.world.has_work(target):
                delivery = Delivery(
                    self.rt, target, linger_s=scenario.linger_s, lease_margin_s=scenario.margin_s, stop=self.stop
                )
                with suppress(HubUnavailable):
                    await delivery.run()
            await self._rest(self.world.every_s)

    async def _read(self, route: str) -> None:
        while not self.stop.is_set():
            while self.world.is_unread(route):
                try:
                    await stage(self.rt, await extract(self.rt, route, limit=1))
                except Overtaken:
                    continue
                except HubUnavailable:
                    await asyncio.sleep(RETRY_S)
            await self._rest(self.world.every_s)

    async def _keep_house(self) -> None:
        while not self.stop.is_set():
            await self._rest(UPKEEP_S if self.world.scenario.horizon_s < DAY_S else DAY_S / 4)
            with suppress(HubUnavailable):
                await housekeeping(self.rt)

    async def _rest(self, most_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.world.luck.uniform(0.5, 1.0) * most_s):
                await self.stop.wait()

    def die(self) -> None:
        """Nothing of it reaches anybody from now on."""
        self.is_dead = True
        for task in list(self.place.tasks):
            task.cancel()
        if self.place.is_frozen:
            self.world.loop.thaw(self.place)


class World:
    """See the module's text."""

    def __init__(self, scenario: Scenario, disk: Disk) -> None:
        self.scenario, self.disk = scenario, disk
        self.luck = random.Random(f"history {scenario.seed}")
        self.loop = VirtualLoop(random.Random(f"schedule {scenario.seed}"), scenario.shuffle)
        self.config = scenario.hub()
        self.history: list[Line] = []
        self.failed: Failed | None = None
        self.is_calm = False
        self.listings: dict[str, list[dict[str, Any]]] = {route.name: [] for route in scenario.routes}
        self.pages = {route.name: route.page for route in scenario.routes}
        self.watch = Watch(self)
        self.systems = {
            plan.name: SimSystem(plan, [f for f in scenario.faults if f.system == plan.name], self, self.watch)
            for plan in scenario.systems
        }
        self.processes: dict[int, Process] = {}
        self._armed: list[list[Any]] = [[crash, crash.nth] for crash in scenario.crashes if crash.point != "any"]
        self._has_quota = any(plan.quota is not None for plan in scenario.systems)
        self.people = People(self)
        self.transactions = 0
        disk.wipe()

    # --- what the parts ask of it ---------------------------------------------------------------------------

    def now_s(self) -> float:
        return self.loop.time()

    def now_us(self) -> int:
        return START_US + round(self.loop.time() * SECOND_US)

    def outside(self, delay_s: float, act: Callable[..., object], *args: Any) -> object:
        return self.loop.outside(delay_s, act, *args)

    def travel_s(self) -> float:
        return self.luck.choice([0.0005, 0.001, 0.004])

    def tell(self, text: str, *records: str) -> None:
        self.history.append(Line(self.loop.time(), text, records))

    def fail(self, rule: str, detail: str, *records: str) -> None:
        """A promise is broken. The first one counts, and ends the history."""
        if self.failed is None:
            self.failed = Failed(rule, detail, records)
            self.tell(f"BROKEN: {rule}: {detail}", *records)
            self.loop.stop()

    def trouble(self) -> Trouble | None:
        now = self.loop.time()
        for outage in () if self.is_calm else self.scenario.outages:
            if outage.at_s <= now < outage.until_s and self.luck.random() < outage.share:
                self.watch.disturbed()
                return Trouble(outage.kind)
        return None

    def transacts(self, who: Process) -> None:
        self.watch.transacts(who)

    def committed(self, who: Process, name: str, result: object) -> None:
        self.transactions += 1
        self.watch.committed(who, name, result)

    def has_work(self, target: str) -> bool:
        """Whether a run of this target would do anything: one that would find nothing is not begun."""
        routes = list(self.config.routes_to(target))
        marks = ", ".join("?" * len(routes))
        systems = self.config.systems_of(target)
        names = ", ".join("?" * len(systems))
        found = self.disk.rows(
            f"select exists (select 1 from lane where state = 1 and route in ({marks})) "
            f"or exists (select 1 from system where state <> 'closed' and name in ({names})) "
            "or exists (select 1 from outage where drained_us = 0) "
            "or exists (select 1 from event where announced_us = 0) "
            "or exists (select 1 from reconciliation where closed_us = 0 and state <> 'raised')",
            *routes,
            *systems,
        )
        return bool(found[0][0])

    def is_unread(self, route: str) -> bool:
        """Whether a listing has records behind the route's cursor."""
        found = self.disk.rows("select cursor from cursor where route = ?", route)
        return int((found[0][0] if found else "") or 0) < len(self.listings[route])

    @property
    def every_s(self) -> float:
        """How often a process looks for work."""
        is_lull = self._has_quota and self.now_s() > self.scenario.horizon_s + LULL_S
        return max(self.scenario.every_s, SELDOM_S) if is_lull else self.scenario.every_s

    # --- processes ------------------------------------------------------------------------------------------

    def alive(self) -> list[Process]:
        return [process for process in self.processes.values() if not process.is_dead]

    def strikes(self, process: Process, point: str) -> bool:
        """Whether a crash is due that waits for this point."""
        now = self.loop.time()
        for armed in self._armed:
            crash: Crash = armed[0]
            if crash.process == process.number and crash.point == point and crash.at_s <= now:
                armed[1] -= 1
                if armed[1] <= 0:
                    self._armed.remove(armed)
                    self._kill(process, point, crash.down_s)
                    return True
        return False

    def _kill(self, process: Process, point: str, down_s: float) -> None:
        self.tell(f"{process} dies {'' if point == 'any' else point}".rstrip())
        process.die()
        if not self.is_calm:
            self.outside(down_s, self._start, process.number, process.life + 1)

    def _kill_any(self, crash: Crash) -> None:
        process = self.processes[crash.process]
        if not (process.is_dead or self.is_calm):
            self._kill(process, "any", crash.down_s)

    def _start(self, number: int, life: int) -> None:
        if number not in self.processes or self.processes[number].is_dead:
            process = self.processes[number] = Process(self, number, life)
            self.tell(f"{process} starts")
            process.start()

    def _freeze(self, number: int, until_s: float) -> None:
        process = self.processes[number]
        if not (process.is_dead or process.place.is_frozen or self.is_calm):
            process.place.is_frozen = True
            self.watch.disturbed()
            self.tell(f"{process} stands still until {until_s:.1f} s")
            self.outside(max(until_s - self.now_s(), 0), self._thaw, process)

    def _thaw(self, process: Process) -> None:
        if process.place.is_frozen:
            self.tell(f"{process} goes on")
            self.watch.disturbed()
            self.loop.thaw(process.place)

    # --- the history ----------------------------------------------------------------------------------------

    def run(self) -> Verdict:
        """Let it happen."""
        asyncio.set_event_loop(None)
        with virtual_time(self.loop, self.luck), statements_remembered():
            try:
                self._plan()
                self.loop.create_task(self._until_over())
                self.loop.run_forever()
            except Spinning as error:
                self.fail("a loop that waits for nothing", str(error))
            finally:
                self._clear()
        figures = {
            "virtual_s": self.loop.time(),
            "transactions": self.transactions,
            "records": len(self.watch.seen.records),
            "effects": sum(system.count for system in self.systems.values()),
        }
        return Verdict(self.failed, self.history, figures)

    def _plan(self) -> None:
        scenario = self.scenario
        for number in range(scenario.processes):
            self.outside(0.0, self._start, number, 1)
        for arrival in scenario.arrivals:
            self.outside(arrival.at_s, self.people.arrives, arrival)
        for fault in scenario.faults:
            self.outside(fault.at_s, self.tell, f"{fault.system}: {fault.kind}, {fault.share:.0%} of calls")
            self.outside(fault.until_s, self.tell, f"{fault.system}: no longer {fault.kind}")
        for outage in scenario.outages:
            self.outside(outage.at_s, self.tell, f"database: {outage.kind}, {outage.share:.0%} of transactions")
            self.outside(outage.until_s, self.tell, f"database: no longer {outage.kind}")
        for freeze in scenario.freezes:
            self.outside(freeze.at_s, self._freeze, freeze.process, freeze.until_s)
        for crash in scenario.crashes:
            if crash.point == "any":
                self.outside(crash.at_s, self._kill_any, crash)
        for act in scenario.acts:
            self.outside(act.at_s, self.people.acts, act)

    async def _until_over(self) -> None:
        await asyncio.sleep(self.scenario.horizon_s)
        self._calm()
        give_up, quiet_s = self.now_s() + (QUOTA_CALM_S if self._has_quota else CALM_S), 0.0
        while quiet_s < REST_S and self.now_s() < give_up:
            await asyncio.sleep(LOOK_S)
            quiet_s = quiet_s + LOOK_S if self.watch.is_settled() else 0.0
        for process in self.alive():
            process.stop.set()
        await asyncio.sleep(60.0)
        self.watch.finish()
        self.loop.stop()

    def _calm(self) -> None:
        """Every trouble is over, and every process runs."""
        self.tell("every trouble is over")
        self.is_calm, self._armed = True, []
        for system in self.systems.values():
            system.is_mended = True
        for process in list(self.processes.values()):
            self._thaw(process)
        for number in range(self.scenario.processes):
            self._start(number, self.processes[number].life + 1 if number in self.processes else 1)
        self.loop.create_task(self.people.undo_all())

    def _clear(self) -> None:
        """Close every coroutine, so that none is collected half run."""
        for process in self.processes.values():
            process.die()
        tasks = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
        for task in tasks:
            task.cancel()
        gathered = asyncio.gather(*tasks, return_exceptions=True) if tasks else None
        with suppress(Spinning):
            for _ in range(3):
                self.loop.run_until_complete(_settle(gathered))
        self.loop.close()


async def _settle(gathered: asyncio.Future[Any] | None) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(100.0):
            if gathered is not None:
                await asyncio.shield(gathered)


def run(scenario: Scenario) -> Verdict:
    """One history, from beginning to end."""
    return World(scenario, shared_disk()).run()
