"""A target that is faster than the hub's database: what is sent and not settled must not grow with the backlog."""

from __future__ import annotations

import asyncio

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.line import HAND_LANES, UNSETTLED_LANES
from tideover.hub.progress import Ending
from tideover.hub.settler import BATCH
from tideover.staging.claiming import Claimed
from tideover.staging.settle import Settled, Settlement
from tideover.staging.wishes import Claim

RECORDS = 12_000


async def test_calls_that_are_faster_than_settlements_leave_a_bounded_number_unsettled(database_url: str) -> None:
    """Else it would hold ever more in memory, longer than its leases last: then sent again, by itself or by others."""
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": FakeSystem(size=100)}) as rt:
        for first in range(0, RECORDS, 1_000):
            await intake.stage_records(rt, "orders", [{"id": f"k{n}"} for n in range(first, first + 1_000)])
        claim, settle = rt.store.claim, rt.store.settle
        held = most = 0

        async def counted(wish: Claim) -> Claimed:
            nonlocal held, most
            claimed = await claim(wish)
            held += len(claimed.leases)
            most = max(most, held)
            return claimed

        async def slow(settlement: Settlement) -> Settled:
            nonlocal held
            settled = await settle(settlement)
            await asyncio.sleep(0.1)
            held -= len(settlement.reports)
            return settled

        rt.store.claim, rt.store.settle = counted, slow  # type: ignore[method-assign]
        progress = await asyncio.wait_for(Delivery(rt, "erp").run(), 150)
        assert (progress.delivered, progress.ending) == (RECORDS, Ending.DRAINED)
    # What waits to be settled, and a hand and a claim that were full when that was not yet too much.
    assert most <= UNSETTLED_LANES + BATCH + 2 * HAND_LANES
