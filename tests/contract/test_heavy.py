"""Large payloads: what one claim and one worker hold is bounded by what it weighs, and all of it is delivered."""

from __future__ import annotations

from typing import Any

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.line import HELD_BYTES
from tideover.hub.progress import Ending
from tideover.model import SECOND_US, Accepted, Lease, Order
from tideover.policy.breaker import BreakerRule
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import Attempt, Kind, LaneReport, RouteRule
from tideover.staging.claiming import Claimed
from tideover.staging.heads import MOST_BYTES
from tideover.staging.settle import Settled, Settlement
from tideover.staging.store import Store
from tideover.staging.wishes import Claim

KIB = 1024
WISH = Claim("orders", {"erp": 100}, Order.BLOCK, 10, 60 * SECOND_US, longest=100)
RULES = {"orders": RouteRule(Order.BLOCK, RetryRule(12, 1.0, 300.0, None))}


def weight(leases: list[Lease]) -> int:
    return sum(len(record.payload) for lease in leases for record in lease.records)


def heavy(key: str, number: int, size: int) -> dict[str, Any]:
    return {"id": key, "n": number, "pad": "x" * size}


async def claim(store: Store) -> list[Lease]:
    return list((await store.claim(WISH)).leases)


async def settle(store: Store, leases: list[Lease]) -> None:
    reports = [
        LaneReport(it.lane, it.token, [Attempt(r, Kind.SEND, Accepted(), 1, 1) for r in it.records]) for it in leases
    ]
    assert not (await store.settle(Settlement("erp", reports, RULES, BreakerRule()))).refused


async def test_claim_of_large_payloads_ends_at_their_weight_and_the_next_goes_on(database_url: str) -> None:
    size, count = 900 * KIB, 50
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": FakeSystem()}) as rt:
        await intake.stage_records(rt, "orders", [heavy(f"k{n}", n, size) for n in range(count - 10)])
        await intake.stage_records(rt, "orders", [heavy("hot", n, size) for n in range(10)])
        await intake.stage_records(rt, "orders", [heavy(f"small{n}", n, 100) for n in range(5)])
        seen: list[tuple[str, int]] = []
        while leases := await claim(rt.store):
            assert weight(leases) <= MOST_BYTES + 5 * KIB
            seen += [(record.key, record.seq) for lease in leases for record in lease.records]
            await settle(rt.store, leases)
        singles = [(f"k{n}", 1) for n in range(count - 10)] + [(f"small{n}", 1) for n in range(5)]
        assert sorted(seen) == sorted(singles + [("hot", n) for n in range(1, 11)])
        assert [seq for key, seq in seen if key == "hot"] == list(range(1, 11))


async def test_lane_in_doubt_is_claimed_as_a_whole_however_heavy(database_url: str) -> None:
    """Else what is left of it would no longer be known to be in doubt."""
    ahead_us = 0
    async with running(
        hub_config(), database_url, {"crm": FakeSystem(), "erp": FakeSystem()}, clock=lambda us: us + ahead_us
    ) as rt:
        await intake.stage_records(rt, "orders", [heavy("hot", n, 900 * KIB) for n in range(30)])
        [first] = await claim(rt.store)
        assert len(first.records) > 1
        ahead_us += WISH.lease_us + SECOND_US
        await intake.stage_records(rt, "orders", [heavy(f"k{n}", n, 900 * KIB) for n in range(20)])
        leases = await claim(rt.store)
        [again] = [lease for lease in leases if lease.lane == first.lane]
        assert [record.in_doubt for record in again.records] == [True] * len(first.records)


async def test_worker_holds_no_more_of_large_payloads_than_it_may(database_url: str) -> None:
    erp = FakeSystem()
    async with running(
        hub_config(systems={"erp": {"limits": {"concurrency": 4}}}), database_url, {"crm": FakeSystem(), "erp": erp}
    ) as rt:
        for start in range(0, 150, 50):
            await intake.stage_records(rt, "orders", [heavy(f"k{n}", n, 900 * KIB) for n in range(start, start + 50)])
        claim_, settle_ = rt.store.claim, rt.store.settle
        held = most = 0

        async def counted(wish: Claim) -> Claimed:
            nonlocal held, most
            claimed = await claim_(wish)
            held += weight(list(claimed.leases))
            most = max(most, held)
            return claimed

        async def settled(settlement: Settlement) -> Settled:
            nonlocal held
            done = await settle_(settlement)
            held -= sum(len(attempt.record.payload) for report in settlement.reports for attempt in report.attempts)
            return done

        rt.store.claim, rt.store.settle = counted, settled  # type: ignore[method-assign]
        progress = await Delivery(rt, "erp").run()
    assert (progress.delivered, progress.ending) == (150, Ending.DRAINED)
    assert most <= HELD_BYTES + MOST_BYTES
