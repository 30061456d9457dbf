"""Backlogs: after an outage, at a provider with a limit, and of updates that overtook each other.

The provider is `bench.carriers`, in a process of its own: it sees each booking, and knows when and whether it had it
before.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from bench.carriers import PROVIDERS, Carriers, Seen, running_carriers
from bench.places import ROUTE, Place, fill, hub_config, record, running
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Ending, Progress
from tideover.hub.runtime import Runtime
from tideover.staging.stage import Batch

PROVIDER = PROVIDERS[0]
TARGET = "to-orders"
LIMIT = 500  # bookings a second
PATIENCE_S = 900.0


async def outage(place: Place) -> None:
    """Records are staged while the provider's port is closed and a delivery lingers; then it opens."""
    count = 20_000 if place.is_quick else 100_000
    async with running_carriers() as carriers:
        for kind in place.kinds:
            rates, first, gaps, calls, doubled = [], [], [], [], []
            for _ in range(1 if place.is_quick else place.rounds):
                opened_at, seen = await _after_outage(place, kind, carriers, count)
                assert seen.accepted_at is not None
                rates.append(count / (seen.last_at - opened_at))
                first.append((seen.accepted_at - opened_at) * 1000)
                gaps.append(seen.gap_s * 1000)
                calls.append(seen.calls / count)
                doubled.append(seen.doubled)
            figures, of = place.figures, f"{count:,} after an outage"
            figures.add("outage", kind, f"{of}: drained, from the port's opening", rates, "records/s")
            figures.add("outage", kind, f"{of}: until the first arrives", first, "ms")
            figures.add("outage", kind, f"{of}: longest pause between two", gaps, "ms")
            figures.ratio("outage", kind, f"{of}: calls a record", max(calls), at_most=1.05, samples=calls)
            figures.limit("outage", kind, f"{of}: arrived twice", max(doubled), "records", 0)


async def _after_outage(place: Place, kind: str, carriers: Carriers, count: int) -> tuple[float, Seen]:
    await carriers.begin()
    await carriers.turn(PROVIDER, "closed")
    config = hub_config({ROUTE: "one"}, has_probe=True)
    async with running(place, kind, config, carriers.urls[PROVIDER]) as rt, _lingering(rt) as run:
        await fill(rt.store, 0, count)
        gate = await rt.store.gate(TARGET)
        assert not gate.lets_through, "the breaker should have opened"
        await carriers.tell()
        opened_at = await carriers.turn(PROVIDER, "well")
        await run.delivered(count)
        return opened_at, (await carriers.tell())[PROVIDER]


async def limited(place: Place) -> None:
    """A backlog at a provider that takes so many a second: the hub is told of it by `limits.rate`, or only by 429s."""
    count = (6 if place.is_quick else 30) * LIMIT
    async with running_carriers() as carriers:
        for kind in place.kinds:
            for how, rate in (("told by `rate`", f"{LIMIT}/1s"), ("only refused", None)):
                shares, calls = [], []
                for _ in range(1 if place.is_quick else place.rounds):
                    seen = await _at_limit(place, kind, carriers, count, rate)
                    assert seen.accepted_at is not None
                    shares.append(count / (seen.last_at - seen.accepted_at) / LIMIT)
                    calls.append(seen.calls / count)
                of = f"provider limited to {LIMIT}/s, {how}"
                least, most = (0.95, 1.05) if rate else (None, None)
                share, figures = statistics.median(shares), place.figures
                figures.ratio("limited", kind, f"{of}: share of it", share, at_least=least, samples=shares)
                figures.ratio("limited", kind, f"{of}: calls a record", max(calls), at_most=most, samples=calls)


async def _at_limit(place: Place, kind: str, carriers: Carriers, count: int, rate: str | None) -> Seen:
    await carriers.begin()
    await carriers.turn(PROVIDER, f"limit:{LIMIT}")
    config = hub_config({ROUTE: "one"}, rate=rate, has_probe=True)
    async with running(place, kind, config, carriers.urls[PROVIDER]) as rt:
        await fill(rt.store, 0, count)
        await carriers.tell()
        async with _lingering(rt) as run:
            await run.delivered(count)
        return (await carriers.tell())[PROVIDER]


async def latest(place: Place) -> None:
    """Order `latest`: many updates of few keys drain as one call a key."""
    keys, versions = (5_000, 20) if place.is_quick else (50_000, 20)
    async with running_carriers() as carriers:
        for kind in place.kinds:
            staged, drained, calls = [], [], []
            for _ in range(1 if place.is_quick else place.rounds):
                await carriers.begin()
                config = hub_config({ROUTE: "one"}, order="latest")
                async with running(place, kind, config, carriers.urls[PROVIDER]) as rt:
                    staged.append(await _stage_versions(rt, keys, versions))
                    place.settle_down(rt.store)
                    began = time.perf_counter()
                    progress = await Delivery(rt, TARGET).run()
                    drained.append(keys * versions / (time.perf_counter() - began))
                    assert progress.ending is Ending.DRAINED, progress
                calls.append((await carriers.tell())[PROVIDER].calls / keys)
            figures, of = place.figures, f"latest, {keys * versions:,} updates of {keys:,} keys"
            figures.add("latest", kind, f"{of}: staged", staged, "records/s")
            figures.add("latest", kind, f"{of}: gone", drained, "records/s")
            figures.add("latest", kind, f"{of}: delivered", [d / versions for d in drained], "calls/s")
            figures.ratio("latest", kind, f"{of}: calls a key", max(calls), at_most=1.0, samples=calls)


async def _stage_versions(rt: Runtime, keys: int, versions: int) -> float:
    size = 1_000
    took_s = 0.0
    for version in range(versions):
        for start in range(0, keys, size):
            records = [record(f"k{key}", version) for key in range(start, start + size)]
            began = time.perf_counter()
            await rt.store.stage(Batch(ROUTE, "source", records))
            took_s += time.perf_counter() - began
    return keys * versions / took_s


@dataclass(frozen=True, slots=True)
class _Run:
    """A delivery that lingers."""

    progress: Progress
    task: asyncio.Task[Progress]

    async def delivered(self, count: int) -> None:
        """Wait until so many are; raises what ends the delivery before."""
        async with asyncio.timeout(PATIENCE_S):
            while self.progress.delivered < count:
                assert not self.task.done(), self.task.result()
                await asyncio.sleep(0.01)


@asynccontextmanager
async def _lingering(rt: Runtime) -> AsyncIterator[_Run]:
    stop = asyncio.Event()
    delivery = Delivery(rt, TARGET, linger_s=3600, stop=stop)
    task = asyncio.create_task(delivery.run())
    try:
        yield _Run(delivery.progress, task)
    finally:
        stop.set()
        await task
