"""Draining: gently at first, with as many calls as the system can take, and with a forecast of its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.forecasting import forecast
from tideover.hub.overview import audit, overview
from tideover.hub.progress import Ending, Progress
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US, Accepted, Outcome, Outgoing, Throttled, Unknown, Unsent
from tideover.policy.breaker import State
from tideover.policy.forecast import Bound, Course

CEILING = 16


@dataclass
class Watched(FakeSystem):
    """Keeps how many calls were under way as each began, itself among them; a call takes `call_s`. Above `capacity` it
    answers 503."""

    capacity: int = 1_000
    call_s: float = 0.02
    seen: list[int] = field(default_factory=list)

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        self.seen.append(self.in_flight + 1)
        if self.in_flight >= self.capacity:
            self.in_flight += 1
            await asyncio.sleep(self.call_s)
            self.in_flight -= 1
            return [Unknown("server_error", "http 503") for _ in batch]
        self.in_flight += 1
        try:
            await asyncio.sleep(self.call_s)
        finally:
            self.in_flight -= 1
        return await super().send(operation, batch, deadline)


class Clock:
    ahead_us = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us


async def stage(rt: Runtime, count: int, first: int = 0) -> None:
    await intake.stage_records(rt, "orders", [{"id": f"k{n}"} for n in range(first, first + count)])


async def deliver(rt: Runtime) -> Progress:
    return await asyncio.wait_for(Delivery(rt, "erp", patience_s=60.0).run(), 120)


async def assert_conserved(rt: Runtime) -> None:
    for route in await audit(rt):
        assert route.faults == ()


async def test_fresh_delivery_has_the_whole_concurrency_at_once(database_url: str) -> None:
    erp = Watched()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, 200)
        await deliver(rt)
    assert erp.seen[:CEILING] == list(range(1, CEILING + 1))
    assert max(erp.seen) == CEILING


async def test_after_an_outage_the_first_calls_are_few_and_grow(database_url: str) -> None:
    erp = Watched(answer=lambda _: Unsent("refused"))
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, 600)
        assert (await deliver(rt)).ending == Ending.DOWN
        erp.seen.clear()
        erp.answer, erp.probe_outcome = lambda _: Accepted(), Accepted()
        running_delivery = asyncio.create_task(Delivery(rt, "erp", linger_s=60.0).run())
        async with asyncio.timeout(120):
            while len(erp.effects) < 600:
                await asyncio.sleep(0.01)
        running_delivery.cancel()
        await asyncio.gather(running_delivery, return_exceptions=True)
        await assert_conserved(rt)
    assert max(erp.seen[:2]) <= 2
    assert max(erp.seen[:6]) <= 4
    assert max(erp.seen[:14]) <= 8
    assert max(erp.seen) == CEILING


async def test_delivery_that_begins_while_an_outage_is_not_drained_begins_with_few(database_url: str) -> None:
    erp = Watched(answer=lambda _: Unsent("refused"))
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, 300)
        assert (await deliver(rt)).ending == Ending.DOWN
        erp.seen.clear()
        erp.answer = lambda _: Accepted()
        assert (await rt.store.force("erp", "closed", "it is back")).state is State.CLOSED
        assert (await deliver(rt)).ending == Ending.DRAINED
    assert max(erp.seen[:2]) <= 2
    assert max(erp.seen) > 4


async def test_throttled_system_gets_half_as_many_calls_once_its_pause_is_over(database_url: str) -> None:
    erp, throttled_at = Watched(), 0

    def answer(_: Outgoing) -> Outcome:
        nonlocal throttled_at
        if len(erp.effects) < 100 or throttled_at:
            return Accepted()
        throttled_at = len(erp.seen)
        return Throttled(0.2)

    erp.answer = answer
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, 400)
        assert (await deliver(rt)).ending == Ending.DRAINED
    again = erp.seen.index(1, throttled_at)  # all that was under way had ended
    assert 2 < max(erp.seen[again : again + CEILING]) <= CEILING / 2 + 2


async def test_system_that_is_overloaded_above_some_calls_is_driven_at_about_these(database_url: str) -> None:
    # Long calls, so that as many are under way as may be, however slow the hub's own work is.
    erp = Watched(capacity=4, call_s=0.05, probe_outcome=Accepted())
    system = {"resolve": "natural", "breaker": {"failures": 5, "open_for": "50ms", "max_open": "100ms"}}
    route = {"retry": {"base": "10ms", "cap": "50ms", "max_attempts": 50}}
    config = hub_config(systems={"erp": system}, routes={"orders": route})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, 500)
        lingering = asyncio.create_task(Delivery(rt, "erp", linger_s=120.0).run())
        async with asyncio.timeout(90):
            while len(erp.effects) < 500:
                await asyncio.sleep(0.01)
        lingering.cancel()
        await asyncio.gather(lingering, return_exceptions=True)
        await assert_conserved(rt)
    settled = erp.seen[150:-25]
    assert sum(calls > 2 * 4 for calls in settled) <= 0.05 * len(settled)
    mean = sum(settled) / len(settled)
    assert 0.4 * 4 <= mean <= 1.5 * 4
    assert len(erp.seen) <= 1.5 * 500


async def test_forecast_of_a_target_that_is_down_says_so_and_when_it_is_tried(database_url: str) -> None:
    erp = FakeSystem(answer=lambda _: Unsent("refused"))
    config = hub_config(systems={"erp": {"breaker": {"failures": 1, "open_for": "1h", "max_open": "2h"}}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, 5)
        assert str(await forecast(rt, "erp")).endswith("5 to go")
        await deliver(rt)
        found = await forecast(rt, "erp")
    assert (found.course, found.bound, found.to_go) == (Course.STOPPED, Bound.DOWN, 5)
    assert str(found).startswith("not moving: erp is down, next try ")
    assert found.next_try_us > found.now_us


async def test_forecast_of_a_drain_says_when_it_ends_and_how_fast_it_goes(database_url: str) -> None:
    erp, clock = Watched(), Clock()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, 1_000)
        clock.ahead_us = 7_200 * SECOND_US  # what was staged long ago is no arrival
        for step in range(6):
            await _some(rt, erp, 50)
            clock.ahead_us += 5 * SECOND_US
            if step == 2:
                await rt.store.compact()  # a pace is still to be read
        view = await overview(rt)
        (found,) = view.forecasts
        assert found.target == "erp"
        told, delivered = found.forecast, len(erp.effects)
        assert (told.course, told.to_go) == (Course.DRAINING, 1_000 - delivered)
        assert told.pace.gone is not None
        assert 0.3 * delivered / 30 <= told.pace.gone <= 1.2 * delivered / 30
        assert told.caught_up_us > told.now_us
        assert str(told).startswith("caught up ")
        await deliver(rt)
        assert str(await forecast(rt, "erp")) == "nothing waits"
        await assert_conserved(rt)


async def _some(rt: Runtime, erp: FakeSystem, at_least: int) -> None:
    """Deliver until so many more records are accepted, and what is under way then."""
    stop, before = asyncio.Event(), len(erp.effects)

    def answer(_: Outgoing) -> Outcome:
        if len(erp.effects) - before >= at_least - 1:
            stop.set()
        return Accepted()

    erp.answer = answer
    await asyncio.wait_for(Delivery(rt, "erp", stop=stop).run(), 60)


async def test_forecast_of_a_route_that_gets_more_than_goes_says_that_it_falls_behind(database_url: str) -> None:
    erp, clock = Watched(), Clock()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        for step in range(8):
            await stage(rt, 100, first=100 * step)
            await _some(rt, erp, 20)
            clock.ahead_us += 5 * SECOND_US
        told = await forecast(rt, "erp")
    assert told.course is Course.FALLING_BEHIND
    assert "/s come, " in str(told)


async def test_forecast_while_nothing_delivers_says_that_it_does_not_move(database_url: str) -> None:
    clock = Clock()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": FakeSystem()}, clock=clock) as rt:
        await stage(rt, 3)
        told = await forecast(rt, "erp")
    assert (told.course, told.bound) == (Course.STOPPED, Bound.IDLE)
    assert str(told).startswith("not moving: nothing has gone for 30 s")


async def test_looking_for_the_end_of_a_drain_takes_a_small_part_of_the_time_however_long_it_takes(
    database_url: str,
) -> None:
    """It has to look at all that waits where the oldest of it comes last, such as what has backed off."""
    looked_s = 0.3
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": FakeSystem()}) as rt:
        looks: list[float] = []

        async def is_undrained(system: str) -> bool:
            return True

        async def end_drain(system: str, routes: Sequence[str]) -> bool:
            looks.append(time.monotonic())
            await asyncio.sleep(looked_s)
            return False

        rt.store.is_undrained, rt.store.end_drain = is_undrained, end_drain  # type: ignore[method-assign]
        lingering = asyncio.create_task(Delivery(rt, "erp", linger_s=60.0).run())
        async with asyncio.timeout(50):
            while len(looks) < 2:
                await asyncio.sleep(0.01)
        lingering.cancel()
        await asyncio.gather(lingering, return_exceptions=True)
    assert looks[1] - looks[0] >= 5 * looked_s
