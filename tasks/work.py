"""The public tasks: each one call into the engine, over a batch of records, never one per record.

They take and give names and counts. Records pass between `extract` and `stage` in memory only; nothing of them is
stored by Prefect (`NO_CACHE`, no persisted results).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.retries import DELAYS_S, JITTER, is_worth_another_try
from tasks.session import hub
from tideover.hub import intake, upkeep
from tideover.hub import replay as replaying
from tideover.hub.delivery import Delivery
from tideover.hub.intake import Extract
from tideover.hub.probing import probe_system
from tideover.hub.progress import Progress
from tideover.hub.replay import Replayed
from tideover.hub.routing import group_rule
from tideover.model import JsonObject, Outcome, Staged
from tideover.staging.parking import Selection
from tideover.staging.systems import Gate

_LOGGED_ROWS = 50_000
_options: dict[str, Any] = {
    "retries": len(DELAYS_S),
    "retry_delay_seconds": DELAYS_S,
    "retry_jitter_factor": JITTER,
    "retry_condition_fn": is_worth_another_try,
    "cache_policy": NO_CACHE,
    "persist_result": False,
}


@task(name="extract", task_run_name="extract-{route}", **_options)
async def extract(route: str, limit: int = intake.BATCH_RECORDS) -> Extract:
    """Read a route's source on from its cursor: whole pages, until `limit` records or the end of the listing."""
    async with hub() as rt:
        return await intake.extract(rt, route, limit=limit)


@task(name="stage", **_options)
async def stage(extracted: Extract) -> Staged:
    """Stage what was extracted and move the source's cursor, in one transaction."""
    async with hub() as rt:
        return await intake.stage(rt, extracted)


@task(name="stage-records", task_run_name="stage-{route}", **_options)
async def stage_records(route: str, records: Iterable[JsonObject]) -> Staged:
    """Stage records that come from somewhere else than the route's source, through the route's mapping."""
    async with hub() as rt:
        return await intake.stage_records(rt, route, list(records))


@task(name="drain", task_run_name="drain-{target}", **_options)
async def drain(
    target: str,
    linger_s: float = 0.0,
    on_progress: Callable[[Progress], None] = lambda _: None,
    stop: asyncio.Event | None = None,
) -> Progress:
    """Deliver what waits for a target, and for `linger_s` whatever comes."""
    async with hub() as rt:
        return await Delivery(rt, target, linger_s=linger_s, on_progress=on_progress, stop=stop).run()


@task(name="ask", task_run_name="ask-{system}", **_options)
async def ask(system: str) -> tuple[Outcome, Gate]:
    """Call a system's probe; the answer counts for its breaker."""
    async with hub() as rt:
        return await probe_system(rt, system)


@task(name="pin", task_run_name="pin-{group}-to-{system}", **_options)
async def pin(group: str, system: str, why: str, author: str) -> None:
    """Send everything of a failover group to one provider, what waits at once, until `unpin`."""
    async with hub() as rt:
        rt.group(group)
        await rt.store.pin(group, group_rule(rt.config, group), system, why=why, author=author)
        await rt.store.make_due(list(rt.config.routes_to(group)))


@task(name="unpin", task_run_name="unpin-{group}", **_options)
async def unpin(group: str, why: str, author: str) -> None:
    """Let a failover group decide by itself again, at once for what waits. Without a pin, only the latter."""
    async with hub() as rt:
        rt.group(group)
        await rt.store.unpin(group, group_rule(rt.config, group), why=why, author=author)
        await rt.store.make_due(list(rt.config.routes_to(group)))


@task(name="hurry", task_run_name="hurry-{system}", **_options)
async def hurry(group: str, system: str) -> None:
    """End the dwell of a provider that is well again; of any other it changes nothing."""
    async with hub() as rt:
        rt.group(group)
        if (await rt.store.gate(system)).lets_through:
            await rt.store.hurry(group, group_rule(rt.config, group), system)
            await rt.store.make_due(list(rt.config.routes_to(group)))


@task(name="replay-parked", **_options)
async def replay_parked(route: str | None = None, records: Sequence[str] = (), code: str | None = None) -> Replayed:
    """Put parked records back to waiting, each under its own idempotency key."""
    async with hub() as rt:
        if route is not None:
            rt.route(route)
        return await replaying.replay(rt, Selection(route=route, records=tuple(records), code=code))


@task(name="keep-house", **_options)
async def keep_house() -> dict[str, int]:
    """Remove what no retention asks for. Returns rows removed per route; long removals are logged as they go."""
    logged: dict[str, int] = {}

    def tell(route: str, rows: int) -> None:
        if rows - logged.get(route, 0) >= _LOGGED_ROWS:
            logged[route] = rows
            get_run_logger().info("%s: %d rows removed so far", route, rows)

    async with hub() as rt:
        return await upkeep.housekeeping(rt, tell)
