"""Housekeeping of a whole hub: what it removes, of which routes."""

from __future__ import annotations

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub.delivery import Delivery
from tideover.hub.intake import stage_records
from tideover.hub.upkeep import housekeeping
from tideover.model import SECOND_US

DAY_US = 86_400 * SECOND_US
BOTH = {"orders": {"retention": "10d"}, "customers": {"retention": "40d"}}


async def test_housekeeping_removes_what_a_removed_route_left_after_the_longest_retention(database_url: str) -> None:
    ahead_us = 0
    fakes = {"crm": FakeSystem(), "erp": FakeSystem()}

    def clock(now_us: int) -> int:
        return now_us + ahead_us

    async def keys() -> set[object]:
        return {row[0] for row in await sql(database_url, "select key from record")}

    gone = hub_config(routes={**BOTH, "gone": {"retention": "1d"}})
    async with running(gone, database_url, fakes, clock=clock) as rt:
        for route in gone.routes:
            await stage_records(rt, route, [{"id": f"of {route}"}])
        await Delivery(rt, "erp").run()
    async with running(hub_config(routes=BOTH), database_url, fakes, clock=clock) as rt:
        ahead_us = 20 * DAY_US
        await housekeeping(rt)
        assert await keys() == {"of customers", "of gone"}
        ahead_us = 41 * DAY_US
        removed = await housekeeping(rt)
        assert await keys() == set()
        assert removed["gone"] == 3  # a record, an attempt, a lane
