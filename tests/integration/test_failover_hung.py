"""What hung at a provider whose probe says that it is well: it is asked about, goes to another, and hangs no second
time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import text

from tests.twinhubs import HASTY, SHIPMENTS, SHIPPING, TwinSecrets, audited, read, twin_hub, until
from tideover.hub.asking import ASK_LANES
from tideover.hub.delivery import Delivery
from tideover.hub.runtime import Runtime
from tideover.model import Order
from tideover.staging.database import Transaction
from tideover.staging.wishes import Claim
from tideover.twins import TwinHost


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


@pytest.fixture
async def rt(tmp_path: Path, database_url: str, twins: TwinHost) -> AsyncIterator[Runtime]:
    group = {**SHIPPING, "failback": {**SHIPPING["failback"], "dwell": "60s", "max_dwell": "60s"}}
    routes = {"orders": SHIPMENTS}
    secrets, systems = TwinSecrets(twins.urls), {"carrier-a": HASTY}
    async with twin_hub(tmp_path, database_url, secrets, routes, systems, groups={"shipping": group}) as hub:
        yield hub


def _hung_twice(tx: Transaction) -> int:
    return len(
        tx.conn.execute(
            text(
                "select lane from attempt where system = 'carrier-a' and kind = 'send' and outcome = 'unknown' "
                "group by lane having count(*) > 1"
            )
        ).all()
    )


async def test_hung_calls_when_the_probe_is_well_go_to_the_backup_without_hanging_again(
    rt: Runtime, twins: TwinHost
) -> None:
    await twins.fault("carrier-a", "hang", only="writes")
    await twins.seed("orders", 60)
    await read(rt)
    delivery = Delivery(rt, "shipping", linger_s=60)
    task = asyncio.create_task(delivery.run())
    try:
        await until(lambda: task.done() or delivery.progress.delivered == 60)
        assert delivery.progress.by_system == {"carrier-b": 60}
        assert await rt.store.report(_hung_twice) == 0
        assert (await audited(rt)).delivered == 60
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_asking_about_lanes_in_doubt_when_there_are_none_gives_none(rt: Runtime) -> None:
    wish = Claim(route="orders", rooms={"carrier-a": 1}, order=Order.BLOCK, depth=10, lease_us=1_000_000)
    assert await rt.store.claim_doubted(wish, "carrier-a", ASK_LANES) == []
