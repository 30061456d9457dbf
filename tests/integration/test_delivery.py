"""Delivering: what reaches a target, in which order, how often, and what happens when it can't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.errors import Refused
from tideover.hub import intake, overview
from tideover.hub.delivery import Delivery
from tideover.hub.probing import probe_system
from tideover.hub.progress import Ending, Progress
from tideover.hub.runtime import Runtime
from tideover.model import (
    CREDENTIALS,
    HUNG,
    SECOND_US,
    Accepted,
    Order,
    Outcome,
    Outgoing,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.breaker import State
from tideover.staging import reports
from tideover.staging.claiming import Claimed
from tideover.staging.parking import Selection
from tideover.staging.sealing import Sealed
from tideover.staging.settle import Settled, Settlement
from tideover.staging.wishes import Claim


class Clock:
    ahead_us = 0

    def __call__(self, now_us: int) -> int:
        return now_us + self.ahead_us


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def erp() -> FakeSystem:
    return FakeSystem()


@pytest.fixture
async def rt(database_url: str, erp: FakeSystem, clock: Clock) -> AsyncIterator[Runtime]:
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as runtime:
        yield runtime


async def stage(rt: Runtime, *keys: str, route: str = "orders") -> None:
    """Stage a record per key; a key that comes again is a new version."""
    await intake.stage_records(rt, route, [{"id": key, "n": number} for number, key in enumerate(keys)])


async def deliver(rt: Runtime, *, target: str = "erp", linger_s: float = 0.0) -> Progress:
    return await asyncio.wait_for(Delivery(rt, target, linger_s=linger_s).run(), 90)


async def until(condition: Callable[[], bool], timeout_s: float = 45) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "the condition never came true"
        await asyncio.sleep(0.005)


async def assert_conserved(rt: Runtime) -> reports.RouteAudit:
    for route in await overview.audit(rt):
        assert route.faults == ()
    return (await overview.audit(rt))[0]


async def test_deliver_sends_everything_once_and_in_lane_order(rt: Runtime, erp: FakeSystem) -> None:
    keys = [f"k{i % 20}" for i in range(200)]
    await stage(rt, *keys)
    progress = await deliver(rt)
    assert (progress.delivered, progress.ending) == (200, Ending.DRAINED)
    assert set(erp.count().values()) == {1}
    numbers: dict[str, list[bytes]] = {}
    for effect in erp.effects:
        numbers.setdefault(effect.key, []).append(effect.payload)
    assert all(seen == sorted(seen, key=lambda p: int(p.split(b'"n":')[1][:-1])) for seen in numbers.values())
    assert (await assert_conserved(rt)).delivered == 200


async def test_deliver_in_bulk_puts_one_record_of_a_lane_into_a_call(rt: Runtime, erp: FakeSystem) -> None:
    erp.size = 50
    await stage(rt, *(f"k{i % 100}" for i in range(300)))
    progress = await deliver(rt)
    assert progress.delivered == 300
    assert erp.calls < 30
    assert [erp.keys_in_order().count(f"k{i}") for i in range(100)] == [3] * 100


async def test_bulk_with_some_rejected_settles_each_by_itself(rt: Runtime, erp: FakeSystem) -> None:
    erp.size = 10
    erp.answer = lambda r: Rejected(f"BAD-{r.key}") if r.key in ("k3", "k7") else Accepted()
    await stage(rt, *(f"k{i}" for i in range(10)))
    progress = await deliver(rt)
    assert (progress.delivered, progress.parked) == (8, 2)
    parked = await rt.store.parked(Selection())
    assert sorted(p.key for p in parked) == ["k3", "k7"]
    assert (await assert_conserved(rt)).waiting == 0


async def test_f14_lost_answer_is_resent_under_the_same_key_and_takes_effect_once(rt: Runtime, erp: FakeSystem) -> None:
    erp.loses_answer = True
    await stage(rt, "a", "b")
    assert (await deliver(rt)).ending == Ending.DOWN
    assert set(erp.count().values()) == {1}
    erp.loses_answer = False
    await until_open_again(rt, erp)
    assert (await deliver(rt)).ending == Ending.DRAINED
    assert set(erp.count().values()) == {1}
    assert len(erp.effects) == 2
    await assert_conserved(rt)


async def until_open_again(rt: Runtime, erp: FakeSystem) -> None:
    """Give the system a probe that says it is well, so that the next delivery finds the way free."""
    erp.probe_outcome = Accepted()
    await asyncio.sleep(0.12)  # the breaker's longest open time in these tests


async def test_f14_system_that_is_only_looked_up_never_gets_it_twice(database_url: str, clock: Clock) -> None:
    erp = FakeSystem(honours_keys=False, loses_answer=True)
    config = hub_config(systems={"erp": {"resolve": "lookup"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, "a")
        await deliver(rt)
        erp.loses_answer = False
        await until_open_again(rt, erp)
        clock.ahead_us += SECOND_US
        progress = await deliver(rt)
        assert progress.ending == Ending.DRAINED
        assert len(erp.effects) == 1
        assert erp.look_ups >= 1
        [traced] = await overview.trace(rt, "a")
        assert traced.state == "delivered"
        assert [a.kind for a in traced.attempts][-1] == "look_up"


async def test_miss_of_a_look_up_is_believed_only_after_the_call_can_no_longer_arrive(
    database_url: str, clock: Clock
) -> None:
    erp = FakeSystem(honours_keys=False, answer=lambda _: Unknown("reset"))
    config = hub_config(systems={"erp": {"resolve": "lookup"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, "a")
        first = asyncio.create_task(Delivery(rt, "erp").run())
        await until(lambda: erp.look_ups >= 1)
        assert erp.calls == 1, "it was sent again although the first call may still arrive"
        erp.answer = lambda _: Accepted()
        clock.ahead_us += 3 * SECOND_US
        await asyncio.wait_for(first, 20)
        assert len(erp.effects) == 1


async def test_unknown_without_any_way_to_resolve_is_parked_not_sent_twice(database_url: str, clock: Clock) -> None:
    erp = FakeSystem(honours_keys=False, answer=lambda _: Unknown("reset"))
    config = hub_config(systems={"erp": {"resolve": "none"}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, "a")
        progress = await deliver(rt)
        assert (progress.parked, erp.calls) == (1, 1)
        [parked] = await rt.store.parked(Selection())
        assert (parked.code, parked.in_doubt) == ("unresolved", True)


async def test_f27_key_past_its_horizon_is_looked_up_instead_of_resent(database_url: str, clock: Clock) -> None:
    erp = FakeSystem(honours_keys=False, loses_answer=True)
    breaker = {"failures": 3, "open_for": "10m", "max_open": "10m", "successes": 2}
    config = hub_config(systems={"erp": {"resolve": "key", "key_horizon": "1h", "breaker": breaker}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, "a")
        await deliver(rt)
        erp.loses_answer = False
        erp.probe_outcome = Accepted()
        clock.ahead_us += 2 * 3600 * SECOND_US
        assert (await deliver(rt)).ending == Ending.DRAINED
        assert len(erp.effects) == 1


async def test_down_target_keeps_its_records_and_drains_when_it_is_back(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda _: Unsent("refused")
    erp.probe_outcome = Unsent("refused")
    await stage(rt, *(f"k{i}" for i in range(30)))
    progress = await deliver(rt)
    assert (progress.ending, progress.delivered) == (Ending.DOWN, 0)
    assert (await assert_conserved(rt)).waiting == 30
    stop = asyncio.Event()
    lingering = asyncio.create_task(Delivery(rt, "erp", linger_s=60, stop=stop).run())
    erp.answer = lambda _: Accepted()
    erp.probe_outcome = Accepted()
    await until(lambda: len(erp.effects) == 30, 45)
    view = await overview.overview(rt)
    assert view.systems["erp"].state is State.CLOSED
    stop.set()
    await lingering
    await deliver(rt)
    [outage] = (await overview.overview(rt)).outages
    assert outage.is_over
    assert outage.outage.reason == "unreachable"
    assert outage.outage.backlog == 30
    names = [e.event.name for e in reversed(await rt.store.recent_events())]
    assert names == ["tideover.system.down", "tideover.system.restored", "tideover.system.drained"]


async def test_system_without_probe_is_tried_with_one_real_record_at_a_time(
    database_url: str, erp: FakeSystem, clock: Clock
) -> None:
    erp.answer = lambda _: Unsent("refused")
    config = hub_config(systems={"erp": {"breaker": {"failures": 3, "open_for": "60s", "max_open": "60s"}}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, *(f"k{i}" for i in range(20)))
        await deliver(rt)
        calls = erp.calls
        clock.ahead_us += 120 * SECOND_US
        assert (await deliver(rt)).ending == Ending.DOWN
        assert erp.calls == calls + 1
        erp.answer = lambda _: Accepted()
        clock.ahead_us += 120 * SECOND_US
        assert (await deliver(rt)).ending == Ending.DRAINED
        assert len(erp.effects) == 20


async def test_f20_throttle_pauses_without_opening_and_loses_nothing(rt: Runtime, erp: FakeSystem) -> None:
    answers: list[Outcome] = [Throttled(0.3)]
    erp.answer = lambda _: answers.pop() if answers else Accepted()
    await stage(rt, *(f"k{i}" for i in range(10)))
    progress = await deliver(rt)
    assert (progress.delivered, progress.ending) == (10, Ending.DRAINED)
    assert (await overview.overview(rt)).outages == []


async def test_long_throttle_ends_the_run_and_keeps_the_records(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda _: Throttled(3600)
    await stage(rt, "a", "b")
    assert (await deliver(rt)).ending == Ending.PAUSED
    assert (await assert_conserved(rt)).waiting == 2


async def test_f23_refused_credential_parks_nothing_and_says_so(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda _: Unsent(CREDENTIALS, "401")
    await stage(rt, "a", "b", "c")
    progress = await deliver(rt)
    assert progress.ending == Ending.DOWN
    assert progress.gate is not None
    assert progress.gate.reason == "credentials"
    audit = await assert_conserved(rt)
    assert (audit.parked, audit.waiting) == (0, 3)


async def test_changed_contract_parks_nothing_and_drains_when_it_fits_again(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda _: Rejected("UNKNOWN_FIELD")
    erp.probe_outcome = Accepted()
    await stage(rt, *(f"k{i}" for i in range(40)))
    progress = await deliver(rt)
    assert progress.gate is not None
    assert progress.gate.reason == "contract"
    audit = await assert_conserved(rt)
    assert (audit.parked, audit.waiting) == (0, 40)
    await asyncio.sleep(0.12)
    assert (await deliver(rt)).ending == Ending.DOWN, "a probe that is well must not close a broken contract"
    erp.answer = lambda _: Accepted()
    await asyncio.sleep(0.12)
    assert (await deliver(rt)).ending == Ending.DRAINED
    assert len(erp.effects) == 40


async def test_f31_one_bad_record_is_parked_and_the_others_flow(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda r: Rejected("INVALID") if r.key == "bad" else Accepted()
    await stage(rt, "bad", *(f"k{i}" for i in range(30)), "bad")
    progress = await deliver(rt)
    assert (progress.delivered, progress.parked, progress.ending) == (30, 1, Ending.DRAINED)
    audit = await assert_conserved(rt)
    assert (audit.parked, audit.waiting) == (1, 1), "the next record of the parked one's lane must wait"


async def test_hung_call_opens_at_once_and_costs_one_timeout(database_url: str, clock: Clock) -> None:
    erp = FakeSystem(answer=lambda _: Unknown(HUNG))
    breaker = {"failures": 3, "open_for": "10m", "max_open": "10m"}  # so that no probe is among the calls
    config = hub_config(systems={"erp": {"breaker": breaker}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, *(f"k{i}" for i in range(100)))
        progress = await deliver(rt)
        assert progress.ending == Ending.DOWN
        assert erp.calls <= rt.system("erp").limits.concurrency
        assert progress.gate is not None
        assert (progress.gate.state, progress.gate.reason) == (State.OPEN, "hung")
        assert (await assert_conserved(rt)).waiting == 100


async def test_hanging_target_does_not_delay_another(database_url: str) -> None:
    hanging, well = FakeSystem(), FakeSystem()
    hanging.open.clear()
    config = hub_config(
        systems={"mail": {}},
        routes={"orders": {}, "mails": {"target": {"system": "mail", "operation": "take"}}},
    )
    fakes = {"crm": FakeSystem(), "erp": hanging, "mail": well}
    async with running(config, database_url, fakes) as rt:
        await stage(rt, *(f"k{i}" for i in range(50)))
        await stage(rt, *(f"k{i}" for i in range(50)), route="mails")
        stuck = asyncio.create_task(Delivery(rt, "erp").run())
        await until(lambda: hanging.in_flight > 0)
        assert (await deliver(rt, target="mail")).delivered == 50
        assert not stuck.done()
        hanging.open.set()
        await asyncio.wait_for(stuck, 20)


async def test_lingering_delivery_takes_what_is_staged_meanwhile(rt: Runtime, erp: FakeSystem) -> None:
    stop = asyncio.Event()
    lingering = asyncio.create_task(Delivery(rt, "erp", linger_s=60, stop=stop).run())
    await asyncio.sleep(0.5)
    await stage(rt, "late")
    await until(lambda: len(erp.effects) == 1, 30)
    stop.set()
    assert (await lingering).delivered == 1


async def test_cancelled_delivery_gives_its_leases_back(rt: Runtime, erp: FakeSystem) -> None:
    erp.open.clear()
    await stage(rt, *(f"k{i}" for i in range(100)))
    task = asyncio.create_task(Delivery(rt, "erp").run())
    await until(lambda: erp.in_flight > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    erp.open.set()
    progress = await deliver(rt)
    assert progress.ending == Ending.DRAINED
    assert set(erp.count().values()) == {1}
    assert len(erp.effects) == 100


@pytest.mark.parametrize("turns", range(6))
async def test_delivery_that_is_cancelled_as_its_claim_ends_gives_the_leases_back(
    rt: Runtime, monkeypatch: pytest.MonkeyPatch, database_url: str, turns: int
) -> None:
    """At each turn of the loop on which the claim's answer is on its way to who asked for it."""
    claim = rt.store.claim

    async def claim_and_cancel(wish: Claim) -> Claimed:
        claimed = await claim(wish)
        if claimed.leases:
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
        return claimed

    monkeypatch.setattr(rt.store, "claim", claim_and_cancel)
    await stage(rt, "a", "b")
    task = asyncio.create_task(Delivery(rt, "erp").run())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await sql(database_url, "select count(*) from lane where lease_until_us > 0") == [(0,)]


async def test_delivery_that_is_stopped_while_it_settles_reports_all_that_it_delivered(
    rt: Runtime, erp: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, settle = asyncio.Event(), rt.store.settle

    async def settle_slowly(settlement: Settlement) -> Settled:
        settled = await settle(settlement)
        stop.set()
        await asyncio.sleep(0.2)  # written, and its caller does not know yet
        return settled

    monkeypatch.setattr(rt.store, "settle", settle_slowly)
    await stage(rt, *(f"k{i}" for i in range(300)))
    progress = await Delivery(rt, "erp", linger_s=60, stop=stop).run()
    assert progress.delivered == (await assert_conserved(rt)).delivered == len(erp.effects)


async def test_two_workers_share_a_target_and_send_nothing_twice(rt: Runtime, erp: FakeSystem) -> None:
    erp.honours_keys = False
    await stage(rt, *(f"k{i % 60}" for i in range(300)))
    await asyncio.gather(deliver(rt), deliver(rt))
    assert len(erp.effects) == 300
    assert set(erp.count().values()) == {1}
    await assert_conserved(rt)


async def test_f24_worker_that_vanished_between_send_and_settle_leaves_one_effect(
    rt: Runtime, erp: FakeSystem, clock: Clock
) -> None:
    await stage(rt, "a")
    [lease] = (await rt.store.claim(Claim("orders", {"erp": 10}, Order.BLOCK, 10, 10 * SECOND_US))).leases
    [record] = lease.records
    await erp.send("take", [Outgoing(record.id, record.key, record.payload)])  # and then the process is gone
    clock.ahead_us += 11 * SECOND_US
    assert (await deliver(rt)).ending == Ending.DRAINED
    assert list(erp.count().values()) == [1]
    [traced] = await overview.trace(rt, "a")
    assert [a.code for a in traced.attempts] == ["lease_expired", ""]


async def test_f9_payload_moved_to_another_record_is_parked_and_others_flow(database_url: str) -> None:
    erp = FakeSystem()
    sealer = Sealed("k1", {"k1": bytes(range(32))})
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, sealer=sealer) as rt:
        await stage(rt, "a", "b", "c")
        payload = "(select payload from record where key = 'b')"
        await sql(database_url, f"update record set payload = {payload} where key = 'a'")
        progress = await deliver(rt)
        assert (progress.delivered, progress.parked) == (2, 1)
        [parked] = await rt.store.parked(Selection())
        assert (parked.key, parked.code) == ("a", "corrupt")
        assert sorted(erp.keys_in_order()) == ["b", "c"]


async def test_f51_lost_payload_key_stops_the_delivery_and_parks_nothing(database_url: str) -> None:
    erp = FakeSystem()
    fakes = {"crm": FakeSystem(), "erp": erp}
    async with running(hub_config(), database_url, fakes, sealer=Sealed("k1", {"k1": bytes(32)})) as rt:
        await stage(rt, "a")
    async with running(hub_config(), database_url, fakes, sealer=Sealed("k2", {"k2": bytes(32)})) as rt:
        with pytest.raises(Refused, match="k1"):
            await deliver(rt)
        assert erp.calls == 0
        audit = await assert_conserved(rt)
        assert (audit.parked, audit.waiting) == (0, 1)


async def test_f51_lost_payload_key_holds_up_no_record_that_another_key_opens(database_url: str, clock: Clock) -> None:
    erp = FakeSystem()
    fakes = {"crm": FakeSystem(), "erp": erp}
    first, second = {"k1": bytes(32)}, {"k2": bytes(32)}
    async with running(hub_config(), database_url, fakes, clock=clock, sealer=Sealed("k1", first)) as rt:
        await stage(rt, "old")
    async with running(hub_config(), database_url, fakes, clock=clock, sealer=Sealed("k2", second)) as rt:
        with pytest.raises(Refused, match="k1"):
            await deliver(rt)
        await stage(rt, "new")
        assert (await deliver(rt)).ending == Ending.WAITING
        assert erp.keys_in_order() == ["new"]
        [told] = [it.event for it in await rt.store.recent_events() if it.event.name == "tideover.record.unreadable"]
        assert told.detail == {"route": "orders", "encryption_key": "k1"}
    clock.ahead_us += 61 * SECOND_US
    async with running(hub_config(), database_url, fakes, clock=clock, sealer=Sealed("k2", first | second)) as rt:
        assert (await deliver(rt)).ending == Ending.DRAINED
        assert erp.keys_in_order() == ["new", "old"]


async def test_system_without_probe_is_restored_by_the_last_record_that_waited(rt: Runtime, erp: FakeSystem) -> None:
    erp.answer = lambda _: Unknown(HUNG)
    await stage(rt, "only")
    assert (await deliver(rt)).ending == Ending.DOWN
    erp.answer = lambda _: Accepted()
    await asyncio.sleep(0.12)
    assert (await deliver(rt)).ending == Ending.DRAINED
    view = await overview.overview(rt)
    assert view.systems["erp"].state is State.CLOSED
    assert view.outages[0].is_over


async def test_probe_of_a_system_that_has_none_is_refused_and_counts_for_nothing(rt: Runtime) -> None:
    with pytest.raises(Refused, match=r"rest\.probe"):
        await probe_system(rt, "erp")
    assert (await rt.store.gate("erp")).lets_through


async def test_f14_replayed_record_in_doubt_is_looked_up_before_it_is_sent_again(
    database_url: str, clock: Clock
) -> None:
    erp = FakeSystem(honours_keys=False, answer=lambda _: Unknown("server_error"))
    config = hub_config(systems={"erp": {"resolve": "lookup", "breaker": {"failures": 1000}}})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, clock=clock) as rt:
        await stage(rt, "a")
        erp.effects.append(Outgoing((await overview.trace(rt, "a"))[0].record, "a", b""))  # it was processed
        erp.look_ups = 0
        row = "update lane set in_doubt = 1, attempts = 3, system = 'erp' where key = 'a'"
        await sql(database_url, row)
        clock.ahead_us += 5 * SECOND_US
        assert (await deliver(rt)).ending == Ending.DRAINED
        assert (erp.calls, erp.look_ups) == (0, 1)
