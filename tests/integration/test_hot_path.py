"""What a record costs on its way out: a share of a batch, and nothing of its own but its call."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.staging.database import Database, Work

RECORDS = 1_000


class Counted:
    """A database that counts its transactions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.transactions = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, work: Work[Any]) -> Any:
        self.transactions += 1
        return await self._database.write(work)

    async def read(self, work: Work[Any]) -> Any:
        self.transactions += 1
        return await self._database.read(work)


async def test_thousand_records_take_few_transactions_and_no_word_of_the_log_each(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    erp = FakeSystem()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        rt.store.database = counted = Counted(rt.store.database)  # type: ignore[assignment]
        with caplog.at_level(logging.DEBUG, logger="tideover"):
            await intake.stage_records(rt, "orders", [{"id": f"k{n}"} for n in range(RECORDS)])
            staging = counted.transactions
            progress = await asyncio.wait_for(Delivery(rt, "erp").run(), 90)
    assert (progress.delivered, erp.calls) == (RECORDS, RECORDS)
    assert staging == 1
    assert counted.transactions < RECORDS / 5
    assert len([line for line in caplog.records if line.name.startswith("tideover")]) < RECORDS / 50
