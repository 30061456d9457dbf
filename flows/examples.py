"""A flow of one's own, over the same public tasks as the shipped ones. See `docs/own-flow.md`."""

from __future__ import annotations

from contextlib import suppress

from prefect import flow

from tasks import drain, extract, hub, stage
from tideover.errors import Overtaken


@flow(name="orders-now", persist_result=False)
async def orders_now(route: str = "orders-to-erp", target: str = "erp") -> int:
    """Read one route to its end and deliver at once; returns how many records reached the target."""
    async with hub():
        is_last = False
        while not is_last:
            extracted = await extract(route)
            with suppress(Overtaken):  # another run of the route was faster: read on from where it is
                await stage(extracted)
                is_last = extracted.is_last
        return (await drain(target)).delivered
