"""Failover and failback of a group of carriers: real HTTP, a real database, the shipped presets. No order is shipped
twice, none is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.twinhubs import HASTY, SHIPMENTS, SHIPPING, TwinSecrets, audited, deliver, read, twin_hub, until
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Ending, EpisodeKind, Progress
from tideover.hub.runtime import Runtime
from tideover.policy.failover import Phase
from tideover.twins import TwinHost

CARRIERS = ("carrier-a", "carrier-b")


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


@pytest.fixture
async def rt(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, twins: TwinHost
) -> AsyncIterator[Runtime]:
    """A hub over two carriers; its parameter says how patient it is with the first."""
    systems = {"carrier-a": getattr(request, "param", {})}
    routes, groups = {"orders": SHIPMENTS}, {"shipping": SHIPPING}
    async with twin_hub(tmp_path, database_url, TwinSecrets(twins.urls), routes, systems, groups) as hub:
        yield hub


async def shipped(twins: TwinHost) -> Counter[str]:
    """How many standing parcels each order has, at all carriers together."""
    counts: Counter[str] = Counter()
    for name in CARRIERS:
        for effect in twins.effects(name):
            if not effect["voided"]:
                counts[effect["key"]] += 1
    return counts


class Lingering:
    """A delivery that stays."""

    def __init__(self, rt: Runtime) -> None:
        self.stop = asyncio.Event()
        self.delivery = Delivery(rt, "shipping", linger_s=60, stop=self.stop)
        self.progress: Progress = self.delivery.progress

    async def __aenter__(self) -> Lingering:
        self._task = asyncio.create_task(self.delivery.run())
        return self

    async def __aexit__(self, *_: Any) -> None:
        self.stop.set()
        await self._task


async def test_well_providers_when_there_is_no_live_share_the_preferred_gets_all(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 50)
    await read(rt)
    progress = await deliver(rt, "shipping")
    assert (progress.ending, progress.by_system, progress.failed_over) == (Ending.DRAINED, {"carrier-a": 50}, 0)
    counts = await shipped(twins)
    assert (len(counts), set(counts.values())) == (50, {1})


async def test_preferred_refuses_when_a_backup_is_well_goes_there_at_once(rt: Runtime, twins: TwinHost) -> None:
    await twins.fault("carrier-a", "down")
    await twins.seed("orders", 50)
    await read(rt)
    progress = await deliver(rt, "shipping")
    assert progress.ending == Ending.DRAINED
    assert (progress.by_system, progress.failed_over) == ({"carrier-b": 50}, 50)
    [episode] = progress.episodes
    assert (episode.kind, episode.before, episode.after, episode.delivered) == (
        EpisodeKind.FAILOVER, "carrier-a", "carrier-b", 50,
    )  # fmt: skip
    assert set((await shipped(twins)).values()) == {1}
    assert (await audited(rt)).delivered == 50


@pytest.mark.parametrize("rt", [HASTY], indirect=True)
async def test_commit_then_hang_when_the_carrier_can_be_asked_ships_each_order_once(
    rt: Runtime, twins: TwinHost
) -> None:
    await twins.fault("carrier-a", "commit_then_hang", only="writes")
    await twins.seed("orders", 60)
    await read(rt)
    async with Lingering(rt) as run:
        await until(lambda: run.progress.delivered == 60)
    counts = await shipped(twins)
    assert (len(counts), set(counts.values())) == (60, {1})
    assert run.progress.by_system["carrier-b"] > 30
    assert run.progress.by_system["carrier-a"] <= 16  # one timeout for the worker, not one for each record
    assert (await audited(rt)).delivered == 60


def _serves(progress: Progress, system: str) -> bool:
    return progress.state is not None and progress.state.trust(system).phase is Phase.SERVING


async def test_preferred_when_it_is_well_again_gets_its_canary_its_ramp_and_then_everything(
    rt: Runtime, twins: TwinHost
) -> None:
    await twins.fault("carrier-a", "down")
    await twins.seed("orders", 20)
    await read(rt)
    async with Lingering(rt) as run:
        await until(lambda: run.progress.delivered == 20)
        await twins.clear("carrier-a")
        start = 21
        while not _serves(run.progress, "carrier-a") or start < 30:
            await twins.seed("orders", 5, start=start)
            await read(rt)
            start += 5
            await until(lambda wanted=start - 1: run.progress.delivered == wanted)  # type: ignore[misc]
            await asyncio.sleep(0.02)
        before = run.progress.by_system["carrier-b"]
        await twins.seed("orders", 10, start=start)
        await read(rt)
        await until(lambda: run.progress.delivered == start + 9)
        assert run.progress.by_system["carrier-b"] == before
    assert {e.kind for e in run.progress.episodes} == {EpisodeKind.FAILOVER, EpisodeKind.FAILBACK}
    kinds = [turn.kind for turn in reversed(await rt.store.turns("shipping"))]
    assert kinds == ["failover", "canary", "failback"]
    counts = await shipped(twins)
    assert (len(counts), set(counts.values())) == (start + 9, {1})
