"""Who stands outside the hub: clients that hand records in and wait for an answer, sources that change, operators."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from tests.simulation.plan import GROUP, Act, Arrival
from tideover.errors import HubUnavailable
from tideover.hub.intake import stage_records
from tideover.hub.replay import release, replay
from tideover.hub.routing import group_rule
from tideover.hub.runtime import Runtime
from tideover.model import Order
from tideover.policy.breaker import State
from tideover.staging.parking import Selection

if TYPE_CHECKING:
    from tests.simulation.world import Process, World

PATIENCE_S = 8.0  # how long a client waits before it hands the record in again, to whoever is there
RETRY_S = 3.0


class People:
    """What they want is done in the end, however often it takes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._pushed = {route.name: route.is_pushed for route in world.scenario.routes}
        self._queues: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        self._words: list[asyncio.Task[None]] = []

    def arrives(self, arrival: Arrival) -> None:
        """A business object changed."""
        record = {"id": arrival.key, "v": arrival.version}
        if not self._pushed[arrival.route]:
            self._world.listings[arrival.route].append(record)
            return
        queue = self._queues[arrival.route, arrival.key]
        queue.append(record)
        if len(queue) == 1:
            self._world.loop.create_task(self._hand_in(arrival.route, queue))

    @property
    def is_done(self) -> bool:
        return not any(self._queues.values())

    async def _hand_in(self, route: str, queue: list[dict[str, Any]]) -> None:
        """One version of a key at a time, each until it is acknowledged."""
        while queue:
            alive = self._world.alive()
            if alive:
                process = self._world.luck.choice(alive)
                task = process.spawn(stage_records(process.rt, route, [queue[0]]))
                if await _is_done(task):
                    self._world.watch.acknowledged(route, queue[0])
                    queue.pop(0)
                    continue
            await asyncio.sleep(RETRY_S)

    # --- operators ------------------------------------------------------------------------------------------

    def acts(self, act: Act) -> None:
        """A person gives a word, through whichever process is there."""
        alive = self._world.alive()
        if alive and not self._world.is_calm:
            self._world.tell(f"a person: {act.what} {act.system}".rstrip())
            process = self._world.luck.choice(alive)
            self._words.append(process.spawn(self._do(process, act)))

    async def _do(self, process: Process, act: Act) -> None:
        try:
            await self._act(process.rt, act)
        except HubUnavailable:
            self._world.tell(f"a person is told that it did not work: {act.what}")

    async def _act(self, rt: Runtime, act: Act) -> None:
        store, routes = rt.store, list(rt.config.routes)
        match act.what:
            case "pin" | "unpin" | "hurry":
                rule = group_rule(rt.config, GROUP)
                if act.what == "pin":
                    await store.pin(GROUP, rule, act.system, why="because", author="ops")
                elif act.what == "unpin":
                    await store.unpin(GROUP, rule, why="because", author="ops")
                else:
                    await store.hurry(GROUP, rule, act.system)
                await store.make_due([name for name in routes if rt.route(name).target.name == GROUP])
            case "open" | "auto":
                before = await store.gate(act.system)
                gate = await store.force(act.system, act.what, "because")
                if before.state is not State.CLOSED and gate.state is State.CLOSED:
                    await store.hasten(act.system, rt.routes_through(act.system))
            case "replay" | "release":
                await self._decide_on_parked(rt, act.what)

    async def _decide_on_parked(self, rt: Runtime, what: str) -> None:
        """A person has looked at what is parked. What nobody can tell is asked by telephone first, and what a system
        turns out to have is let go; one that no order holds stays parked when it is sent behind newer versions."""
        for parked in await rt.store.parked(Selection()):
            is_there = any(system.standing(parked.record) for system in self._world.systems.values())
            chosen = "release" if is_there else what
            if chosen == "replay" and rt.route(parked.route).order is not Order.BLOCK:
                continue
            self._world.watch.decided(parked.record)
            selection = Selection(records=(parked.record,))
            await (replay(rt, selection) if chosen == "replay" else release(rt, selection))

    async def undo_all(self) -> None:
        """Nothing is forced or pinned any more: by nobody's word either that a worker which stood still has yet to
        carry out."""
        await asyncio.gather(*self._words, return_exceptions=True)
        for plan in self._world.scenario.systems:
            self._world.loop.create_task(self._insist(Act(0, "auto", plan.name)))
        if self._world.scenario.grouped:
            self._world.loop.create_task(self._insist(Act(0, "unpin")))

    async def _insist(self, act: Act) -> None:
        while True:
            process = self._world.luck.choice(self._world.alive())
            if await _is_done(process.spawn(self._act(process.rt, act))):
                return
            await asyncio.sleep(RETRY_S)


async def _is_done(task: asyncio.Task[Any]) -> bool:
    """Whether it ended well before one's patience did. It may end later all the same."""
    await asyncio.wait([task], timeout=PATIENCE_S)
    return task.done() and not task.cancelled() and task.exception() is None
