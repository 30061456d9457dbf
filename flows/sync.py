"""`sync/<route>`: read what changed at the source, stage it, deliver it."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State

from flows.board import card
from flows.deliver import deliver
from flows.outcome import Counts, counts_of, state_of
from flows.visible import logger, or_directly, show
from tasks import drain, extract, hub, stage
from tideover.errors import Overtaken
from tideover.hub.intake import add
from tideover.model import Staged

TIMES_OVERTAKEN = 5


@flow(name="sync", flow_run_name="sync-{route}", persist_result=False)
async def sync(route: str) -> State[Counts]:
    """Read a route's source on from its cursor to its end, stage what changed, and deliver it.

    Args:
        route: A route of the hub.
    """
    async with hub() as rt:
        target = rt.route(route).target.name
        staged, read = await read_all(route)
        logger().info(
            "%s: %s read, %s staged, %s unchanged, %s parked at intake",
            route, read, staged.staged, staged.unchanged, staged.parked,
        )  # fmt: skip
        counts = await deliver_visibly(target)
        counts |= {"route": route, "read": read, "staged": staged.staged, "unchanged": staged.unchanged}
        table = card(_rows(counts))
        await show(acreate_markdown_artifact(key=f"sync-{route}", markdown=table, description=f"One run of {route}"))
        await rt.announce_events()
    return state_of(counts, parked_at_intake=staged.parked)


async def read_all(route: str) -> tuple[Staged, int]:
    """Extract and stage until the listing's end. Two runs of one route at once are safe: the one that is overtaken
    reads on from where the other is."""
    total, read, overtaken = Staged(), 0, 0
    while True:
        extracted = await extract(route)
        try:
            total = add(total, await stage(extracted))
        except Overtaken:
            overtaken += 1
            if overtaken > TIMES_OVERTAKEN:
                raise
            logger().info("%s: another run has read on meanwhile; reading from there", route)
            continue
        read += extracted.read
        if extracted.is_last:
            return total, read


async def deliver_visibly(target: str) -> Counts:
    """Deliver as a subflow, which the run's graph shows; without one where Prefect's API is away."""
    return await or_directly(lambda: _by_subflow(target), lambda: _directly(target))


async def _by_subflow(target: str) -> Counts:
    state: State[Any] = await deliver(target, return_state=True)
    return dict(await state.aresult())


async def _directly(target: str) -> Counts:
    return counts_of(await drain.fn(target))


def _rows(counts: Counts) -> Counts:
    """The counts with those of each provider on one line."""
    shares = ", ".join(f"{system} {count}" for system, count in counts["by_system"].items())
    return {**counts, "by_system": shares or "–"}
