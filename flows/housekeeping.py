"""`housekeeping/hub`: keeps the staging database small and the board fresh."""

from __future__ import annotations

from prefect import flow

from flows.board import publish
from flows.visible import logger
from tasks import hub, keep_house


@flow(name="housekeeping", persist_result=False)
async def housekeeping() -> dict[str, int]:
    """Remove delivered records and attempts past their route's retention. What waits or is parked stays."""
    async with hub() as rt:
        removed = await keep_house()
        await publish(rt)
    logger().info("rows removed: %s", ", ".join(f"{name} {count}" for name, count in removed.items()))
    return removed
