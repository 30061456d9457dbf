"""Finding out whether a system is back: what a probe's answer means for what waits, and who may probe meanwhile."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import pytest

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.probing import probe_system
from tideover.hub.progress import Ending
from tideover.hub.runtime import Runtime
from tideover.model import HUNG, SECOND_US, Accepted, Order, Outcome, Throttled, Unknown, Unsent
from tideover.policy.breaker import Result, State
from tideover.staging.wishes import Claim

LEASE_S = 32.0  # `timeouts.total` of these tests and the margin


class Clock:
    ahead_us = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


class Probed(FakeSystem):
    """Counts its probes."""

    probes = 0

    async def probe(self) -> Outcome:
        self.probes += 1
        return await super().probe()


@pytest.fixture
def erp() -> Probed:
    return Probed()


@pytest.fixture
async def rt(database_url: str, erp: Probed, clock: Clock) -> AsyncIterator[Runtime]:
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as runtime:
        yield runtime


async def down(rt: Runtime, erp: FakeSystem, clock: Clock, records: int = 5) -> None:
    """A system that is down with a backlog, and due to be probed."""
    erp.answer = lambda _: Unsent("refused")
    await intake.stage_records(rt, "orders", [{"id": f"k{number}"} for number in range(records)])
    assert (await Delivery(rt, "erp", patience_s=0).run()).ending == Ending.DOWN
    assert (await rt.store.gate("erp")).state is not State.CLOSED
    clock.ahead_us += SECOND_US
    erp.calls = 0


async def until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 45
    while not condition():
        assert time.monotonic() < give_up, "the condition never came true"
        await asyncio.sleep(0.005)


async def test_throttled_probe_lets_nothing_be_sent_before_the_pause_is_over(
    rt: Runtime, erp: Probed, clock: Clock
) -> None:
    erp.probe_outcome = Unsent("refused")
    await down(rt, erp, clock)
    erp.probe_outcome, erp.answer, erp.probes = Throttled(60), lambda _: Accepted(), 0
    progress = await Delivery(rt, "erp", linger_s=1).run()
    gate = await rt.store.gate("erp")
    assert (erp.probes, erp.calls, gate.is_paused) == (1, 0, True)
    assert gate.state is not State.CLOSED
    assert 50 < gate.wait_s <= 60
    assert progress.delivered == 0
    clock.ahead_us += 61 * SECOND_US
    erp.probe_outcome = Accepted()
    assert (await Delivery(rt, "erp").run()).delivered == 5


async def test_probe_by_hand_that_is_throttled_pauses_and_is_not_made_again(
    rt: Runtime, erp: Probed, clock: Clock
) -> None:
    erp.probe_outcome = Throttled(60)
    _, well = await probe_system(rt, "erp")
    assert (well.state, well.is_paused) == (State.CLOSED, True)
    clock.ahead_us += 61 * SECOND_US
    erp.probe_outcome = Unsent("refused")
    await down(rt, erp, clock)
    erp.probe_outcome, erp.probes = Throttled(60), 0
    _, gate = await probe_system(rt, "erp")
    assert (erp.probes, gate.is_paused) == (1, True)


async def test_record_that_probes_and_fails_leaves_the_gate_due_when_its_breaker_is(
    rt: Runtime, erp: Probed, clock: Clock
) -> None:
    """And not when the slot would have lapsed, which it was sent in."""
    await down(rt, erp, clock)
    progress = await Delivery(rt, "erp", patience_s=0).run()
    assert erp.calls == 1
    assert progress.gate is not None
    assert progress.gate.state is State.OPEN
    assert progress.gate.wait_s <= 0.1, "its breaker opens for a tenth of a second at most"


@pytest.mark.parametrize("method", ["take_probe", "release_probe"])
async def test_f30_cancelled_delivery_does_not_keep_the_probers_slot(
    rt: Runtime, erp: Probed, clock: Clock, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It is stopped while the answer to its taking the slot, or to its giving it back, is on its way."""
    await down(rt, erp, clock)
    real = getattr(rt.store, method)
    began = asyncio.Event()

    async def seen(*given: Any) -> Any:
        began.set()
        await asyncio.sleep(0.05)  # the way there
        found = await real(*given)
        await asyncio.sleep(0.05)  # and back
        return found

    for after_s in (0.0, 0.025, 0.075):
        clock.ahead_us += SECOND_US
        began.clear()
        monkeypatch.setattr(rt.store, method, seen)
        task = asyncio.create_task(Delivery(rt, "erp", linger_s=60).run())
        await asyncio.wait_for(began.wait(), 20)
        await asyncio.sleep(after_s)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        monkeypatch.setattr(rt.store, method, real)
        assert (await rt.store.gate("erp")).wait_s < 1


async def test_f30_probe_with_a_run_in_doubt_has_the_slot_for_as_long_as_its_lease(
    rt: Runtime, erp: Probed, clock: Clock
) -> None:
    """All of a run in doubt is sent by one lease, which lasts for many calls."""
    await intake.stage_records(rt, "orders", [{"id": "k", "n": number} for number in range(10)])
    await rt.store.claim(Claim("orders", {"erp": 10}, Order.BLOCK, 10, SECOND_US))  # a worker that vanishes
    await rt.store.tell("erp", Result("orders", 1, Unknown(HUNG)), rt.breaker_rule("erp", has_probe=False))
    clock.ahead_us += 60 * SECOND_US
    erp.open.clear()
    stop = asyncio.Event()
    run = asyncio.create_task(Delivery(rt, "erp", linger_s=60, stop=stop).run())
    await until(lambda: erp.in_flight == 1)
    clock.ahead_us += int((LEASE_S - 1) * SECOND_US)
    assert await rt.store.take_probe("erp", 10) is None
    clock.ahead_us -= int((LEASE_S - 1) * SECOND_US)
    erp.open.set()
    await until(lambda: len(erp.effects) == 10)
    stop.set()
    await run
    assert erp.most_in_flight == 1
