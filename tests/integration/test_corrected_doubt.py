"""A correction in the place of a record that is in doubt, with others behind it that are in doubt as well."""

from __future__ import annotations

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake, replay
from tideover.hub.delivery import Delivery
from tideover.model import SECOND_US, Accepted, LookUp, Order, Outcome, Outgoing, Unknown
from tideover.staging.parking import Selection
from tideover.staging.wishes import Claim

LEASE_US = 5 * SECOND_US


class Forgetful(FakeSystem):
    """Knows what it has by our reference, but for a while will not say; does a thing again that it is sent again."""

    is_silent = True

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        return Unknown("lookup_rejected") if self.is_silent else await super().look_up(operation, record)


async def test_correction_whose_answer_is_lost_leaves_those_behind_it_in_doubt(database_url: str) -> None:
    """That it is not there says nothing of them: they may have been sent before it was made."""
    erp, ahead_us = Forgetful(honours_keys=False), 0
    lost: list[str] = []

    def answer(record: Outgoing) -> Outcome:
        if b'"v":11' in record.payload and not lost:
            lost.append(record.id)
            return Unknown("reset")
        return Accepted()

    erp.answer = answer
    config = hub_config(systems={"erp": {"resolve": "lookup"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=lambda us: us + ahead_us) as rt:
        await intake.stage_records(rt, "orders", [{"id": "k", "v": 1}, {"id": "k", "v": 2}])
        [lease] = (await rt.store.claim(Claim("orders", {"erp": 10}, Order.BLOCK, 10, LEASE_US))).leases
        erp.effects += [Outgoing(record.id, record.key, record.payload) for record in lease.records]
        ahead_us += 2 * LEASE_US  # the worker that sent both is dead
        await Delivery(rt, "erp", linger_s=2).run()
        [parked] = await rt.store.parked(Selection())
        await replay.correct(rt, parked.record, {"id": "k", "v": 11})
        erp.is_silent = False
        for _ in range(3):
            ahead_us += 2 * LEASE_US
            await Delivery(rt, "erp", linger_s=1).run()
    assert lost, "the correction was never sent"
    effects = [record.payload for record in erp.effects]
    assert [b'"v":2' in payload for payload in effects].count(True) == 1, effects
    assert [b'"v":11' in payload for payload in effects].count(True) == 1, effects
