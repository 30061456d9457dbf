"""Delivery over real HTTP to a sink in another process, beside bare loops over the same connector and client."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import httpx
import orjson

from bench.figures import percentile
from bench.places import Place, fill, http_connector, hub_config, record, running
from bench.sink import running_sink
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Ending
from tideover.hub.runtime import Runtime
from tideover.model import Accepted, Outgoing
from tideover.staging.stage import Batch

CONCURRENCY = 32
BULK_RATE, BULK_SHARE = 25_000, 0.5  # records a second, or of the bare bulk loop: one of them is enough


async def deliver(place: Place) -> None:
    """One POST a record, and a hundred records a POST."""
    for operation, size, count in (("one", 1, 4_000), ("bulk", 100, 20_000)):
        total = count if place.is_quick else 4 * count
        batches = list(batches_of(total, size))
        with running_sink() as url:
            client, connector = [], []
            runs: dict[str, list[float]] = {kind: [] for kind in place.kinds}
            for _ in range(place.rounds):  # one of each in turn, so that a slow moment meets all
                client.append(total / await through_client(url, operation, batches))
                connector.append(total / await _through_connector(url, operation, batches))
                for kind in place.kinds:
                    runs[kind].append(total / await _through_hub(place, kind, url, operation, total))
        name = "one POST a record" if size == 1 else f"bulk of {size}"
        figures = place.figures
        bare = figures.add("deliver", "-", f"{name}: bare aiohttp", client, "records/s")
        same = figures.add("deliver", "-", f"{name}: bare loop over the connector", connector, "records/s")
        for kind in place.kinds:
            hub = figures.add("deliver", kind, f"{name}: Delivery", runs[kind], "records/s")
            least = 0.7 if size == 1 else None
            figures.ratio("deliver", kind, f"{name}: Delivery against bare aiohttp", hub / bare, at_least=least)
            if size > 1:
                what = f"{name}: Delivery against {BULK_RATE:,}/s, or {BULK_SHARE:g} of bare aiohttp"
                nearer = max(hub / BULK_RATE, hub / bare / BULK_SHARE)
                figures.ratio("deliver", kind, what, nearer, at_least=1.0)
            figures.ratio("deliver", kind, f"{name}: Delivery against the bare connector", hub / same)


def batches_of(total: int, size: int) -> Iterator[list[Outgoing]]:
    """Records, so many to a call."""
    for start in range(0, total, size):
        records = [record(f"k{number}", number) for number in range(start, start + size)]
        yield [Outgoing(f"{start + at:032x}", r.key, r.payload) for at, r in enumerate(records)]


async def through_client(url: str, operation: str, batches: Sequence[list[Outgoing]]) -> float:
    """The seconds that a bare aiohttp loop takes."""
    connections = aiohttp.TCPConnector(limit=CONCURRENCY)
    async with aiohttp.ClientSession(connector=connections, cookie_jar=aiohttp.DummyCookieJar()) as session:

        async def send(batch: list[Outgoing]) -> None:
            body = b"[" + b",".join(r.payload for r in batch) + b"]" if operation == "bulk" else batch[0].payload
            headers = {"content-type": "application/json", "idempotency-key": batch[0].id}
            async with session.post(f"{url}/{operation}", data=body, headers=headers) as answer:
                orjson.loads(await answer.read())

        return await _timed(batches, send)


async def _through_connector(url: str, operation: str, batches: Sequence[list[Outgoing]]) -> float:
    config = hub_config({"orders": operation}, concurrency=CONCURRENCY)
    connector = http_connector("to-orders", config.systems["to-orders"], url)

    async def send(batch: list[Outgoing]) -> None:
        assert all(isinstance(o, Accepted) for o in await connector.send(operation, batch))

    try:
        return await _timed(batches, send)
    finally:
        await connector.close()


async def _timed(batches: Sequence[list[Outgoing]], send: Callable[[list[Outgoing]], Awaitable[None]]) -> float:
    waiting = iter(batches)

    async def work() -> None:
        for batch in waiting:
            await send(batch)

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
    return time.perf_counter() - began


async def _through_hub(place: Place, kind: str, url: str, operation: str, total: int) -> float:
    config = hub_config({"orders": operation}, concurrency=CONCURRENCY)
    async with running(place, kind, config, url) as rt:
        await fill(rt.store, 0, total)
        began = time.perf_counter()
        progress = await Delivery(rt, "to-orders").run()
        took = time.perf_counter() - began
        assert (progress.delivered, progress.ending) == (total, Ending.DRAINED), progress
        return took


async def latency(place: Place) -> None:
    """From the call that stages a record to its arrival at the sink: a lingering delivery under light load."""
    count = 150 if place.is_quick else 600
    for kind, limit in (("postgresql", 15.0), ("sqlite", 50.0)):
        if kind not in place.kinds:
            continue
        with running_sink() as url:
            async with (
                running(place, kind, hub_config({"orders": "one"}), url) as rt,
                _lingering(rt, "to-orders"),
            ):
                ages = await _ages(rt, url, count)
        figures = place.figures
        figures.limit("latency", kind, "staged to delivered, p50", percentile(ages, 0.5), "ms", limit)
        if kind == "postgresql":
            figures.limit("latency", kind, "staged to delivered, p99", percentile(ages, 0.99), "ms", 60.0)
        else:
            figures.add("latency", kind, "staged to delivered, p99", [percentile(ages, 0.99)], "ms")


async def isolation(place: Place) -> None:
    """Latency of one target while another one hangs with a backlog, against the same without."""
    count = 150 if place.is_quick else 400
    for kind in place.kinds:
        alone: list[float] = []
        beside: list[float] = []
        with running_sink() as url:
            for _ in range(place.rounds):
                for is_hanging, into in ((False, alone), (True, beside)):
                    config = hub_config({"orders": "one", "stuck": "hang"}, total_s=1)
                    async with running(place, kind, config, url) as rt, _lingering(rt, "to-orders"):
                        if not is_hanging:
                            into.append(percentile(await _ages(rt, url, count), 0.99))
                            continue
                        await fill(rt.store, 0, 2_000, route="stuck")
                        async with _lingering(rt, "to-stuck"):
                            into.append(percentile(await _ages(rt, url, count), 0.99))
        figures = place.figures
        without = figures.add("isolation", kind, "p99 with every target well", alone, "ms")
        hanging = figures.add("isolation", kind, "p99 beside a hanging target", beside, "ms")
        figures.ratio("isolation", kind, "beside a hanging target against without", hanging / without, at_most=1.1)


@asynccontextmanager
async def _lingering(rt: Runtime, target: str) -> Any:
    stop = asyncio.Event()
    task = asyncio.create_task(Delivery(rt, target, linger_s=3600, stop=stop).run())
    try:
        yield
    finally:
        stop.set()
        await task


async def _ages(rt: Runtime, url: str, count: int) -> list[float]:
    """The ages at arrival of single records that are staged every 20 ms, after some to warm up."""
    warm_up = 20
    async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
        await http.get("/ages")
        for number in range(count + warm_up):
            fresh = record(f"k{number}", number, at=time.monotonic_ns())
            await rt.store.stage(Batch("orders", "source", [fresh]))
            await asyncio.sleep(0.02)
        ages: list[float] = []
        until = time.monotonic() + 10
        while len(ages) < count + warm_up and time.monotonic() < until:
            ages += (await http.get("/ages")).json()
    assert len(ages) == count + warm_up, f"{len(ages)} of {count + warm_up} records arrived"
    return ages[warm_up:]
