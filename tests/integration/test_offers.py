"""A system that only a record can tell of: when it gets one, and what looking for one costs while there is none.

The carriers are in memory, the hub's database is real.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from tests.fakes import FakeSystem
from tests.hubs import running
from tideover.config.models import Hub
from tideover.hub.delivery import Delivery
from tideover.hub.runtime import Runtime
from tideover.model import Accepted, NewRecord, Unsent
from tideover.policy.breaker import State
from tideover.staging.stage import Batch

A, B = "carrier-a", "carrier-b"
WATCHED_S = 2.0


def config(open_for: str) -> Hub:
    system = {
        "block": "tideover-open/x",
        "resolve": "key",
        "timeouts": {"connect": "1s", "read": "1s", "total": "2s"},
        "breaker": {"failures": 1, "open_for": open_for, "max_open": open_for, "successes": 2},
        "rest": {"operations": {"take": {"path": "/things"}}, "streams": {"orders": {"path": "/orders"}}},
    }
    route = {
        "source": {"system": "shop", "stream": "orders"},
        "target": {"group": "shipping", "operation": "take"},
        "key": "id",
    }
    failback = {"dwell": "0s", "canary": 1, "ramp": "0s"}
    group = {"providers": [A, B], "live_share": "0%", "failback": failback}
    hub = {
        "name": "test",
        "systems": dict.fromkeys(("shop", A, B), system),
        "groups": {"shipping": group},
        "routes": {"orders": route},
    }
    return Hub.model_validate_json(json.dumps(hub))


@dataclass
class Scene:
    """`asked`: how often each method of the store was called."""

    rt: Runtime
    a: FakeSystem
    b: FakeSystem
    asked: Counter[str]

    async def stage(self, *keys: str) -> None:
        await self.rt.store.stage(Batch("orders", "shop", [NewRecord(key, b"{}") for key in keys]))

    def has(self, key: str) -> bool:
        return key in self.a.keys_in_order() + self.b.keys_in_order()

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not is_so():
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def lingering(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        run = asyncio.create_task(Delivery(self.rt, "shipping", linger_s=600, stop=stop).run())
        yield
        stop.set()
        await run


@pytest.fixture
async def scene(
    request: pytest.FixtureRequest, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Scene]:
    open_for = getattr(request, "param", "50ms")
    carriers = {"shop": FakeSystem(), A: FakeSystem(), B: FakeSystem()}
    async with running(config(open_for), database_url, carriers) as rt:
        asked = Counter[str]()
        for name in ("claim", "outlook", "gate", "take_probe", "claim_probe"):
            monkeypatch.setattr(rt.store, name, counted(asked, name, getattr(rt.store, name)))
        yield Scene(rt, carriers[A], carriers[B], asked)


def counted(asked: Counter[str], name: str, method: Callable[..., object]) -> Callable[..., object]:
    def call(*given: object, **named: object) -> object:
        asked[name] += 1
        return method(*given, **named)

    return call


async def test_system_that_is_down_costs_an_idle_worker_a_few_looks_a_second(scene: Scene) -> None:
    scene.a.answer = lambda _: Unsent("refused")
    async with scene.lingering():
        await scene.stage("first")
        await scene.until(lambda: bool(scene.b.effects))
        await asyncio.sleep(0.5)  # it is due, and nothing waits that it could be tried with
        scene.asked.clear()
        await asyncio.sleep(WATCHED_S)
        most = 60 * WATCHED_S  # it polls up to twenty times a second, and ever less
        assert all(number < most for number in scene.asked.values()), scene.asked
        assert scene.asked["take_probe"] == 0


async def test_system_that_an_operator_holds_is_not_tried_and_costs_no_more(scene: Scene) -> None:
    await scene.rt.store.force(A, "open", "maintenance")
    async with scene.lingering():
        await scene.stage("first")
        await scene.until(lambda: bool(scene.b.effects))
        scene.asked.clear()
        await asyncio.sleep(WATCHED_S)
        assert all(number < 60 * WATCHED_S for number in scene.asked.values()), scene.asked
        assert scene.asked["take_probe"] == 0
    assert scene.a.calls == 0


async def test_record_that_comes_while_a_system_is_due_is_offered_to_it_first(scene: Scene) -> None:
    """The backup could have each of them at once. One that comes in the very moment of a look may go there."""
    down, well = Unsent("refused"), Accepted()
    offered = 0
    async with scene.lingering():
        for number in range(8):
            scene.a.answer = lambda _: down
            await scene.rt.store.force(A, "auto", "again")
            await scene.stage(f"down-{number}")
            await scene.until(lambda number=number: f"down-{number}" in scene.b.keys_in_order())  # type: ignore[misc]
            assert (await scene.rt.store.gate(A)).state is not State.CLOSED
            scene.a.answer = lambda _: well
            await asyncio.sleep(1.0)  # it is due, and looks have become rare
            await scene.stage(f"well-{number}")
            await scene.until(lambda number=number: scene.has(f"well-{number}"))  # type: ignore[misc]
            offered += f"well-{number}" in scene.a.keys_in_order()
    assert offered >= 4, "of eight"
