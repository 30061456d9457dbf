"""From a primary's failure to the first order that the backup confirms, beside a bare client that fails over in a loop.

Four failures, each from a fresh hub whose breakers are closed and whose delivery lingers, and in turn with the bare
client on the same two providers:

    refused, one order      the port is closed; one order is staged
    refused, under load     the port is closed and its connections dropped while a backlog drains
    hung                    bookings are neither done nor answered; a backlog is staged at once
    reset                   bookings are done, and the connection is dropped in the middle of the answer; an order comes
                            every 20 ms, as those that the primary may have are resolved there and only later ones go on

The time is from the beginning of the first call to the primary that failed, as its caller saw it, to the backup's first
booking, as the backup saw it; less the read timeout where a call hangs. The bare client has the connector's session
settings, knows no database, and resends at once what the primary may have done already: it is the floor, not a peer.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp

from bench.carriers import PROVIDERS, Carriers, Seen, running_carriers
from bench.figures import percentile
from bench.places import ROUTE, Place, fill, record
from tideover.config.models import Hub, System
from tideover.connectors.http.access import Access
from tideover.connectors.http.rest import HttpConnector
from tideover.connectors.http.wire import KEEPALIVE_S, SPARE_CONNECTIONS
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Progress
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US, Accepted, Outcome, Outgoing
from tideover.staging.database import open_database
from tideover.staging.stage import Batch
from tideover.staging.store import Store
from tideover.staging.systems import load

PRIMARY, BACKUP = PROVIDERS
GROUP = "shipping"
CONCURRENCY = 32
READ_S = 1.0
TRICKLE_S = 0.02
DWELL_S, OPEN_FOR_S = 0.5, 0.5
PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True)
class Case:
    """A way to fail. `staged`: how many orders wait when it begins, or come as a trickle where 0; `before`: after how
    many of them it begins. `timeout_s` is in each caller's time and taken off."""

    name: str
    mode: str
    staged: int
    before: int = 0
    timeout_s: float = 0.0
    is_whole: bool = False  # measured until everything is delivered as well


CASES = (
    Case("refused, one order", "closed", 1),
    Case("refused, under load", "closed", 2_000, before=300),
    Case("hung", "hang", 500, timeout_s=READ_S, is_whole=True),
    Case("reset", "reset", 0),
)


@dataclass(slots=True)
class Samples:
    """In ms, but `troubled`, which counts bookings that the primary spoilt."""

    first: list[float] = field(default_factory=list)
    whole: list[float] = field(default_factory=list)
    troubled: list[float] = field(default_factory=list)

    def add(self, case: Case, failed_at: float, seen: dict[str, Seen]) -> None:
        ended = time.monotonic()
        first_at = seen[BACKUP].accepted_at
        assert first_at is not None, "the backup got nothing"
        self.first.append((first_at - failed_at - case.timeout_s) * 1000)
        self.whole.append((ended - failed_at - case.timeout_s) * 1000)
        self.troubled.append(seen[PRIMARY].spoilt)


async def failover(place: Place) -> None:
    """Each failure on each database and by the bare client in turn; then the way back."""
    times = 5 if place.is_quick else 20
    async with running_carriers() as carriers:
        for case in CASES:
            bare = Samples()
            hubs = {kind: Samples() for kind in place.kinds}
            for _ in range(times):  # one of each in turn, so that a slow moment meets all
                await _through_client(carriers, case, bare)
                for kind in place.kinds:
                    await _through_hub(place, kind, carriers, case, hubs[kind])
            _show(place, case, bare, hubs)
        for kind in place.kinds:
            back = [await _way_back(place, kind, carriers) for _ in range(times)]
            _spread(place, kind, "back: from well again to the first canary, less the dwell", [b[0] for b in back])
            _spread(place, kind, "back: from the breaker's closing to it, less the dwell", [b[1] for b in back])


def _show(place: Place, case: Case, bare: Samples, hubs: dict[str, Samples]) -> None:
    figures = place.figures
    floor = _spread(place, "-", f"{case.name}: bare client", bare.first)
    for kind, samples in hubs.items():
        first = _spread(place, kind, f"{case.name}: first order", samples.first, at_most=1000)
        figures.ratio("failover", kind, f"{case.name}: first order against the bare client", first / floor)
        figures.add("failover", kind, f"{case.name}: first order less the bare client's", [first - floor], "ms")
    if case.mode == "closed":
        return
    figures.add("failover", "-", f"{case.name}: bookings spoilt, bare client", bare.troubled, "calls")
    for kind, samples in hubs.items():
        figures.add("failover", kind, f"{case.name}: bookings spoilt", samples.troubled, "calls")
    if case.is_whole:
        _spread(place, "-", f"{case.name}: {case.staged} delivered, bare client", bare.whole)
        for kind, samples in hubs.items():
            _spread(place, kind, f"{case.name}: {case.staged} delivered", samples.whole)


def _spread(place: Place, kind: str, what: str, samples: Sequence[float], at_most: float | None = None) -> float:
    """Median, 90th percentile and the worst; the last is held against the target. Returns the median."""
    figures = place.figures
    median = figures.add("failover", kind, f"{what}, p50", samples, "ms")
    figures.add("failover", kind, f"{what}, p90", [percentile(samples, 0.9)], "ms")
    if at_most is None:
        figures.add("failover", kind, f"{what}, max", [max(samples)], "ms")
    else:
        figures.limit("failover", kind, f"{what}, max", max(samples), "ms", at_most)
    return median


# --- the bare client ----------------------------------------------------------------------------------------


class Client:
    """Asks the primary, and the backup when that fails; a primary that failed once is not asked again."""

    def __init__(self, urls: dict[str, str], session: aiohttp.ClientSession) -> None:
        self._urls, self._session = urls, session
        self.failed_at: float | None = None
        self.delivered = 0

    async def deliver(self, order: Outgoing) -> None:
        if self.failed_at is None:
            began = time.monotonic()
            try:
                await self._book(PRIMARY, order)
            except (aiohttp.ClientError, OSError):
                self.failed_at = self.failed_at or began
            else:
                return
        await self._book(BACKUP, order)

    async def _book(self, provider: str, order: Outgoing) -> None:
        headers = {"content-type": "application/json"}
        async with self._session.post(f"{self._urls[provider]}/one", data=order.payload, headers=headers) as answer:
            json.loads(await answer.read())
        self.delivered += 1


@asynccontextmanager
async def _client(urls: dict[str, str]) -> AsyncIterator[Client]:
    connections = aiohttp.TCPConnector(limit=CONCURRENCY + SPARE_CONNECTIONS, keepalive_timeout=KEEPALIVE_S)
    parts = aiohttp.ClientTimeout(total=None, sock_connect=1.0, sock_read=READ_S)
    async with aiohttp.ClientSession(
        connector=connections, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False, timeout=parts
    ) as session:
        yield Client(urls, session)


async def _through_client(carriers: Carriers, case: Case, into: Samples) -> None:
    await carriers.begin()
    async with _client(carriers.urls) as client:
        await client.deliver(next(_orders("w", 1)))
        if not case.before:
            await _break(carriers, case)
        waiting = _orders("k", case.staged or 1)
        work = asyncio.gather(*(_work(client, waiting) for _ in range(CONCURRENCY)))
        if case.before:
            await _until(lambda: client.delivered > case.before)
            await _break(carriers, case)
        await work
        assert client.failed_at is not None
        into.add(case, client.failed_at, await carriers.tell())


async def _work(client: Client, waiting: Iterator[Outgoing]) -> None:
    for order in waiting:
        await client.deliver(order)


def _orders(prefix: str, count: int) -> Iterator[Outgoing]:
    for number in range(count):
        fresh = record(f"{prefix}{number}", number)
        yield Outgoing(f"{number:032x}", fresh.key, fresh.payload)


# --- the hub ------------------------------------------------------------------------------------------------


class Watched(HttpConnector):
    """The connector, and when its first call failed."""

    failed_at: float | None = None
    has_accepted = False

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        began = time.monotonic()
        outcomes = await super().send(operation, batch, deadline)
        if isinstance(outcomes[0], Accepted):
            self.has_accepted = True
        elif self.failed_at is None:
            self.failed_at = began
        return outcomes


@dataclass(slots=True)
class Running:
    """A hub with a lingering delivery that has delivered one order to the primary."""

    rt: Runtime
    progress: Progress
    connectors: dict[str, Watched]


async def _through_hub(place: Place, kind: str, carriers: Carriers, case: Case, into: Samples) -> None:
    await carriers.begin()
    async with _running(place, kind, carriers.urls) as run:
        delivered = 1
        if not case.before:
            await _break(carriers, case)
        if case.staged:
            await fill(run.rt.store, 0, case.staged)
            delivered += case.staged
            if case.before:
                await _until(lambda: run.progress.delivered > case.before)
                await _break(carriers, case)
        else:
            delivered += await _trickle(run.rt, lambda: run.connectors[BACKUP].has_accepted)
        if case.before:
            # A booking that was under way when the port closed may have lost its answer: its route holds it until the
            # primary can be asked, which here it never can.
            await _until(lambda: run.connectors[BACKUP].has_accepted)
        else:
            await _until(lambda: run.progress.delivered == delivered)
        failed_at = run.connectors[PRIMARY].failed_at
        assert failed_at is not None
        into.add(case, failed_at, await carriers.tell())


async def _way_back(place: Place, kind: str, carriers: Carriers) -> tuple[float, float]:
    """From when the port is open again, and from when the breaker knows it, to the first canary; in ms."""
    await carriers.begin()
    async with _running(place, kind, carriers.urls, is_brief=True) as run:
        await carriers.turn(PRIMARY, "closed")
        first = await _trickle(run.rt, lambda: not run.progress.gates[PRIMARY].lets_through)
        await _until(lambda: run.progress.delivered == first + 1)
        await carriers.tell()
        well_at = await carriers.turn(PRIMARY, "well")
        run.connectors[PRIMARY].has_accepted = False
        await _trickle(run.rt, lambda: run.connectors[PRIMARY].has_accepted, start=first)
        canary_at = (await carriers.tell())[PRIMARY].accepted_at
        assert canary_at is not None
        closed_us = await run.rt.store.report(lambda tx: load(tx, PRIMARY).breaker.closed_us)
        closed_at = closed_us / SECOND_US - time.time() + time.monotonic()
        return (canary_at - well_at - DWELL_S) * 1000, (canary_at - closed_at - DWELL_S) * 1000


async def _trickle(rt: Runtime, is_enough: Callable[[], bool], start: int = 0) -> int:
    """Stage an order at a time until it is enough; returns how many."""
    number = start
    until = time.monotonic() + PATIENCE_S
    while not is_enough():
        assert time.monotonic() < until, "too long"
        await rt.store.stage(Batch(ROUTE, "source", [record(f"k{number}", number)]))
        number += 1
        await asyncio.sleep(TRICKLE_S)
    return number - start


@asynccontextmanager
async def _running(place: Place, kind: str, urls: dict[str, str], *, is_brief: bool = False) -> AsyncIterator[Running]:
    store = Store(open_database(place.new_url(kind)))
    await store.migrate()
    config, connectors = _config(is_brief=is_brief), {}

    async def connect(name: str, system: System) -> Watched:
        connectors[name] = Watched(name, system.rest, Access(urls[name]), system.timeouts, system.limits)
        return connectors[name]

    rt, stop = Runtime(config, store, connect), asyncio.Event()
    delivery = Delivery(rt, GROUP, linger_s=3600, stop=stop)
    task = asyncio.create_task(delivery.run())
    try:
        await store.stage(Batch(ROUTE, "source", [record("w0", 0)]))
        await _until(lambda: delivery.progress.delivered == 1 or task.done())
        yield Running(rt, delivery.progress, connectors)
    finally:
        stop.set()
        await task
        await rt.close()


def _config(*, is_brief: bool) -> Hub:
    """`is_brief`: breakers and dwells as short as the way back is measured with, instead of the defaults."""
    operation = {"path": "/one", "lookup": {"path": "/find/{key}", "found": "found"}}
    system = {
        "block": "tideover-open/x",
        "resolve": "lookup",
        "timeouts": {"connect": "1s", "read": f"{READ_S}s", "total": f"{2 * READ_S}s"},
        "limits": {"concurrency": CONCURRENCY},
        "breaker": {"open_for": f"{OPEN_FOR_S}s", "max_open": f"{OPEN_FOR_S}s"} if is_brief else {},
        "rest": {
            "operations": {"one": operation},
            "streams": {"all": {"path": "/all"}},
            "probe": {"path": "/health"},
        },
    }
    failback = {"dwell": f"{DWELL_S}s", "canary": 1, "ramp": "0s"} if is_brief else {}
    group = {"providers": list(PROVIDERS), "live_share": "0%", "failback": failback}
    source, target = {"system": "source", "stream": "all"}, {"group": GROUP, "operation": "one"}
    route = {"source": source, "target": target, "key": "id"}
    systems = dict.fromkeys(("source", *PROVIDERS), system)
    described = {"name": "bench", "systems": systems, "groups": {GROUP: group}, "routes": {ROUTE: route}}
    return Hub.model_validate_json(json.dumps(described))


# --- the failure ----------------------------------------------------------------------------------------------


async def _break(carriers: Carriers, case: Case) -> None:
    """From here on the primary fails; what was seen before does not count."""
    await carriers.tell()
    await carriers.turn(PRIMARY, case.mode)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for sets no event
            await asyncio.sleep(0.002)
