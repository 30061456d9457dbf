"""The failure catalogue's rows in which failover and failback matter, over real carriers, HTTP and databases."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.twinhubs import (
    HASTY,
    SHIPMENTS,
    SHIPPING,
    TwinSecrets,
    all_delivered,
    audited,
    deliver,
    deliver_until,
    read,
    twin_hub,
    until,
)
from tideover.connectors.http.access import Access, ApiKey
from tideover.errors import AccessError
from tideover.hub import overview
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Progress
from tideover.hub.runtime import Runtime
from tideover.policy.failover import Phase, dwell_s
from tideover.staging.database import Database, Transaction
from tideover.staging.parking import Selection as ParkedSelection
from tideover.staging.reconciliation import Selection
from tideover.staging.reports import outages
from tideover.twins import TwinHost

T = TypeVar("T")
A, B = "carrier-a", "carrier-b"
CARRIERS = (A, B)
Open = Callable[..., AbstractAsyncContextManager[Runtime]]


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


@pytest.fixture
def open_hub(tmp_path: Path, database_url: str, twins: TwinHost) -> Open:
    """Opens the hub: one route `orders` to the group; what is given goes over route, group and systems."""

    def opened(
        route: Mapping[str, Any] | None = None,
        group: Mapping[str, Any] | None = None,
        secrets: TwinSecrets | None = None,
        **systems: Any,
    ) -> AbstractAsyncContextManager[Runtime]:
        return twin_hub(
            tmp_path,
            database_url,
            secrets or TwinSecrets(twins.urls),
            {"orders": {**SHIPMENTS, **(route or {})}},
            {name.replace("_", "-"): settings for name, settings in systems.items()},
            groups={"shipping": {**SHIPPING, **(group or {})}},
        )

    return opened


@asynccontextmanager
async def lingering(rt: Runtime) -> AsyncIterator[Progress]:
    """A delivery that stays while the block lasts. Its failure is the block's."""
    stop = asyncio.Event()
    delivery = Delivery(rt, "shipping", linger_s=120, stop=stop, lease_margin_s=3)
    task = asyncio.create_task(delivery.run())
    try:
        yield delivery.progress
    finally:
        stop.set()
        await task


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 90) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():
            await asyncio.sleep(0.05)


def standing(twins: TwinHost) -> Counter[str]:
    """How many parcels of each order stand, at both carriers together."""
    found = (e for name in CARRIERS for e in twins.effects(name, limit=10_000))
    return Counter(effect["key"] for effect in found if not effect["voided"])


def calls(twins: TwinHost, name: str) -> int:
    """How many calls got through to a carrier, whatever for."""
    return sum(count for kind, count in twins.status(name)["calls"].items() if kind != "harmed")


async def seed(rt: Runtime, twins: TwinHost, count: int, start: int = 1) -> None:
    await twins.seed("orders", count, start=start)
    await read(rt)


async def kinds(rt: Runtime) -> list[str]:
    return [turn.kind for turn in reversed(await rt.store.turns("shipping", 1000))]


async def no_case_is_open(rt: Runtime) -> bool:
    return await rt.store.cases(Selection()) == []


def once(count: int) -> Callable[[Counter[str]], bool]:
    return lambda counts: len(counts) == count and set(counts.values()) == {1}


# --- unknown outcomes ---------------------------------------------------------------------------------------


async def test_f14_hung_carrier_that_can_not_be_asked_keeps_what_it_may_have_and_the_rest_goes_on(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub(carrier_a=HASTY) as rt:
        await twins.fault(A, "commit_then_hang")
        await seed(rt, twins, 40)
        async with lingering(rt) as progress:
            await until(lambda: progress.by_system.get(B, 0) > 0 and (A in progress.gates))
            await eventually(lambda: _is_only_held(rt, progress))
            held = 40 - progress.delivered
            assert 0 < held <= 16
            assert progress.by_system == {B: 40 - held}
            await twins.clear(A)
            await until(lambda: progress.delivered == 40)
        assert progress.by_system[A] == held  # found by asking: nothing was sent again
        assert once(40)(standing(twins))
        assert (await audited(rt)).delivered == 40


async def _is_only_held(rt: Runtime, progress: Progress) -> bool:
    """Whether everything that waits is pinned to a carrier that can't be asked."""
    outlook = await rt.store.outlook(["orders"], [B])
    return outlook.due_us is None and outlook.is_pinned and progress.delivered > 0


@pytest.mark.parametrize("on_unknown", ["hold", "reroute"])
async def test_f15_request_that_is_accepted_after_our_timeout_stands_once(
    open_hub: Open, twins: TwinHost, on_unknown: str
) -> None:
    """The carrier was frozen: when it thaws, it works off what had piled up."""
    async with open_hub({"on_unknown": on_unknown, "max_hold": "1500ms"}, carrier_a=HASTY) as rt:
        await twins.fault(A, "hang", late=True)
        await seed(rt, twins, 30)
        async with lingering(rt) as progress:
            if on_unknown == "reroute":
                await until(lambda: progress.delivered == 30)
                assert progress.by_system == {B: 30}
            else:
                await until(lambda: progress.by_system.get(B, 0) > 10)
                await eventually(lambda: _is_only_held(rt, progress))
            await twins.clear(A)
            await until(lambda: progress.delivered == 30)
            await eventually(lambda: no_case_is_open(rt))
        assert once(30)(standing(twins))
        assert (await audited(rt)).delivered == 30


async def test_f32_rerouted_orders_are_found_and_voided_once_the_carrier_can_be_asked(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub({"on_unknown": "reroute", "max_hold": "1s"}, carrier_a=HASTY) as rt:
        await twins.fault(A, "commit_then_hang")
        await seed(rt, twins, 40)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered == 40)
            assert progress.by_system == {B: 40}
            cases = await rt.store.cases(Selection())
            assert 0 < len(cases) <= 16
            twice = {key for key, count in standing(twins).items() if count == 2}
            assert twice == {case.key for case in cases}
            await twins.clear(A)
            await eventually(lambda: no_case_is_open(rt))
        assert once(40)(standing(twins))
        assert twins.ledger(A)["voided"] == len(cases)
        assert twins.ledger(B)["voided"] == 0
        assert (await audited(rt)).delivered == 40


async def test_f32_rerouted_orders_that_never_arrived_are_closed_without_a_void(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub({"on_unknown": "reroute", "max_hold": "1s"}, carrier_a=HASTY) as rt:
        await twins.fault(A, "hang")
        await seed(rt, twins, 20)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered == 20)
            assert not await no_case_is_open(rt)
            await twins.clear(A)
            await eventually(lambda: no_case_is_open(rt))
        assert once(20)(standing(twins))
        assert twins.ledger(A)["received"] == 0


async def test_f32_both_carriers_lose_the_answers_and_each_order_stands_once_in_the_end(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub({"on_unknown": "reroute", "max_hold": "1s"}, carrier_a=HASTY, carrier_b=HASTY) as rt:
        for name in CARRIERS:
            await twins.fault(name, "commit_then_hang")
        await seed(rt, twins, 20)
        async with lingering(rt) as progress:
            await eventually(lambda: _are_both_out(rt))
            await twins.clear(B)
            await until(lambda: progress.delivered == 20)
            await twins.clear(A)
            await eventually(lambda: no_case_is_open(rt))
        assert once(20)(standing(twins))
        assert (await audited(rt)).delivered == 20


async def _are_both_out(rt: Runtime) -> bool:
    return all([not (await rt.store.gate(name)).lets_through for name in CARRIERS])


# --- outages ------------------------------------------------------------------------------------------------


class Counting:
    """A database that counts the transactions that write."""

    def __init__(self, database: Database) -> None:
        self._database, self.writes = database, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)

    async def write(self, work: Callable[[Transaction], T]) -> T:
        self.writes += 1
        return await self._database.write(work)


async def test_f33_both_carriers_down_wait_without_spinning_and_drain_when_they_are_back(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub(carrier_a=HASTY, carrier_b=HASTY) as rt:
        for name in CARRIERS:
            await twins.fault(name, "unavailable_503", retry_after_s=None)
        await seed(rt, twins, 200)
        async with lingering(rt) as progress:
            await eventually(lambda: _are_both_out(rt))
            await asyncio.sleep(0.5)  # what was under way ends
            rt.store.database = counting = Counting(rt.store.database)
            before, turns = {name: calls(twins, name) for name in CARRIERS}, len(await kinds(rt))
            began = time.monotonic()
            await asyncio.sleep(2)  # time itself is what is measured
            # One probe for each time that a breaker is half open (every 160 ms here), and a question now and then.
            watched_s = time.monotonic() - began
            assert all(calls(twins, name) - before[name] <= watched_s / 0.16 + 16 for name in CARRIERS)
            assert counting.writes <= 75 * watched_s
            assert len(await kinds(rt)) == turns
            assert progress.delivered == 0
            for name in CARRIERS:
                await twins.clear(name)
            await until(lambda: progress.delivered == 200)
        assert once(200)(standing(twins))
        found = await rt.store.report(lambda tx: outages(tx, 100))
        assert {outage.system for outage in found} == set(CARRIERS)
        assert (await audited(rt)).delivered == 200


async def test_f33_backup_goes_down_while_it_serves_and_the_first_that_is_back_takes_everything(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub() as rt:
        await twins.fault(A, "down")
        await seed(rt, twins, 20)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered == 20)
            await twins.fault(B, "down")
            await seed(rt, twins, 20, start=21)
            await eventually(lambda: _are_both_out(rt))
            await twins.clear(A)
            await until(lambda: progress.delivered == 40)
            assert progress.by_system == {A: 20, B: 20}
        assert once(40)(standing(twins))


async def test_f34_backup_of_lower_capacity_gets_the_urgent_first_and_never_more_than_its_limit(
    open_hub: Open, twins: TwinHost
) -> None:
    route = {
        "mapping": {"fields": {"external_shipment_id": "id", "total": "total", "urgency": "urgency"}},
        "priority": "urgency",
    }
    provider = {"system": B, "mapping": {"fields": {"reference": "external_shipment_id", "urgency": "urgency"}}}
    async with open_hub(
        route, {"providers": [A, provider]}, carrier_b={"limits": {"rate": "20/1s", "concurrency": 2}}
    ) as rt:
        await twins.fault(A, "down")
        twins.upsert("orders", [{"id": f"o-{n:03}", "total": 1, "urgency": 5 - n % 5} for n in range(100)])
        await read(rt)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered == 100)
        effects = twins.effects(B, limit=1000)
        at = [datetime.fromisoformat(effect["at"]).timestamp() for effect in effects]
        fullest = max(sum(begin <= other < begin + 0.95 for other in at) for begin in at)
        assert fullest <= 20
        classes = [effect["payload"]["urgency"] for effect in effects]
        # In order of urgency but for what was in the hand already when it came to the fore.
        late = sum(classes[n] < max(classes[:n], default=0) for n in range(len(classes)))
        assert late <= 4
        assert (await audited(rt)).delivered == 100


async def test_f34_limit_holds_although_the_backup_was_frozen_while_its_quota_went_on(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub(carrier_b={"limits": {"rate": "10/1s"}}) as rt:
        await twins.fault(A, "down")
        await twins.fault(B, "hang", late=True, for_s=4)
        await seed(rt, twins, 70)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered == 70)
        at = [datetime.fromisoformat(effect["at"]).timestamp() for effect in twins.effects(B, limit=1000)]
        quick = sorted(at)[16:]  # but for those that were sent before, and held
        fullest = max(sum(begin <= other < begin + 0.95 for other in quick) for begin in quick)
        assert fullest <= 10


async def test_f35_f36_versions_of_a_key_stay_in_order_across_failover_and_failback(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub() as rt:
        rounds = 0

        async def feed(count: int) -> None:
            nonlocal rounds
            for _ in range(count):
                rounds += 1
                twins.upsert("orders", [{"id": f"o-{n}", "total": rounds} for n in range(10)])
                await read(rt)

        async with lingering(rt) as progress:
            await feed(5)
            for _ in range(2):
                await until(lambda: progress.delivered == 10 * rounds)  # what is under way would be held for carrier-a
                await twins.fault(A, "down")
                await feed(8)
                await until(lambda: progress.delivered == 10 * rounds)
                await twins.clear(A)
                give_up = rounds + 400
                while progress.state is None or progress.state.trust(A).phase is not Phase.SERVING:
                    await feed(1)
                    assert rounds < give_up, "it never came back"
            await feed(5)
            await until(lambda: progress.delivered == 10 * rounds)
        seen: dict[str, list[tuple[str, int]]] = defaultdict(list)
        for name in CARRIERS:
            for effect in twins.effects(name, limit=10_000):
                seen[effect["key"]].append((effect["at"], effect["payload"]["total"]))
        for key, effects in seen.items():
            totals = [total for _, total in sorted(effects)]
            assert totals == list(range(1, rounds + 1)), key
        assert "failback" in await kinds(rt)
        assert progress.by_system[B] > 0
        assert (await audited(rt)).delivered == 10 * rounds


async def test_f37_backup_that_rejects_the_shape_parks_the_record_with_all_it_had(
    open_hub: Open, twins: TwinHost
) -> None:
    fields = {"external_shipment_id": "id", "total": "total", "weight": "weight"}
    provider = {"system": B, "mapping": {"fields": {"reference": "external_shipment_id", "weight_kg": "weight"}}}
    async with open_hub({"mapping": {"fields": fields}}, {"providers": [A, provider]}) as rt:
        orders = [{"id": f"o-{n}", "total": n, "weight": 0 if n == 3 else 1} for n in range(10)]
        await twins.fault(A, "down")
        twins.upsert("orders", orders)
        await read(rt)
        progress = await deliver(rt, "shipping")
        assert (progress.delivered, progress.parked) == (9, 1)
        [parked] = await rt.store.parked(ParkedSelection())
        assert (parked.key, parked.system, parked.code) == ("o-3", B, "SHIPMENT.INVALID_PARAMS")
        payload = await rt.store.parked_payload(parked.id)
        assert b'"external_shipment_id":"o-3"' in payload  # as staged, so that the other carrier may have it too
        assert b'"weight":0' in payload
        shipped = {effect["key"]: effect["payload"] for effect in twins.effects(B)}
        assert shipped["o-1"] == {"reference": "o-1", "weight_kg": 1}
        await twins.clear(A)
        await rt.store.pin("shipping", *_pin(rt), why="the other one takes it", author="ops")
        assert await rt.store.replay([parked.id]) == 1
        async with lingering(rt) as later:
            await until(lambda: later.delivered == 1)
        assert later.by_system == {A: 1}
        assert (await audited(rt)).delivered == 10


def _pin(rt: Runtime) -> tuple[Any, str]:
    from tideover.hub.routing import group_rule

    return group_rule(rt.config, "shipping"), A


async def test_f37_record_that_no_provider_takes_is_parked_and_the_others_go_on(
    open_hub: Open, twins: TwinHost
) -> None:
    providers = [{"system": A, "when": "total < `100`"}, {**SHIPPING["providers"][1], "when": "total < `1000`"}]
    async with open_hub(group={"providers": providers}) as rt:
        twins.upsert("orders", [{"id": f"o-{total}", "total": total} for total in (1, 99, 100, 999, 1000)])
        await read(rt)
        progress = await deliver(rt, "shipping")
        assert (progress.by_system, progress.parked, progress.failed_over) == ({A: 2, B: 2}, 1, 0)
        [parked] = await rt.store.parked(ParkedSelection())
        assert (parked.key, parked.code) == ("o-1000", "no_provider")
        assert twins.ledger(A)["keys"] == twins.ledger(B)["keys"] == 2


async def test_f29_flapping_carrier_gets_its_records_back_ever_later(open_hub: Open, twins: TwinHost) -> None:
    """Down for a moment whenever it was well for a moment: the turns stay few, and the dwell doubles."""
    async with open_hub() as rt, asyncio.timeout(120):
        number = flaps = relapses = 0
        rule = _pin(rt)[0]
        async with lingering(rt) as progress:
            while flaps < 12 or relapses < 2:
                flaps += 1
                await twins.fault(A, "down", for_s=0.15)
                until_s = asyncio.get_running_loop().time() + 0.6
                while asyncio.get_running_loop().time() < until_s:
                    await seed(rt, twins, 3, start=number + 1)
                    number += 3
                    await asyncio.sleep(0.03)
                relapses = (await rt.store.group("shipping", rule)).trust(A).relapses
            await until(lambda: progress.delivered == number)
        assert dwell_s(rule.failback, relapses) >= 4 * rule.failback.dwell_s
        told = Counter(await kinds(rt))
        assert told["canary"] <= flaps / 2, "it came back as often as it went"
        assert told["failover"] <= flaps / 2
        assert once(number)(standing(twins))


# --- throttles and credentials ------------------------------------------------------------------------------


async def test_f20_throttle_that_is_longer_than_the_rto_goes_to_the_backup_at_once(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub({"rto": "10m"}) as rt:
        await twins.fault(A, "throttle_429", retry_after_s=3600)
        await seed(rt, twins, 30)
        async with asyncio.timeout(120):
            async with lingering(rt) as progress:
                await until(lambda: progress.delivered == 30, 100)
        assert progress.by_system == {B: 30}
        assert (await rt.store.gate(A)).is_paused
        assert calls(twins, A) <= 16  # those that were under way when it said so
        assert await rt.store.report(lambda tx: outages(tx, 10)) == []


async def test_f20_throttle_of_a_second_is_waited_for(open_hub: Open, twins: TwinHost) -> None:
    async with open_hub({"rto": "10m"}) as rt:
        await twins.fault(A, "throttle_429", retry_after_s=1, count=1)
        await seed(rt, twins, 30)
        progress = await deliver_until(rt, all_delivered(rt, 30), "shipping")
        assert progress.by_system == {A: 30}
        assert await kinds(rt) == []


async def test_f23_refused_credential_of_the_preferred_parks_nothing_and_the_backup_goes_on(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub() as rt:
        await twins.fault(A, "unauthorized_401")
        await seed(rt, twins, 30)
        progress = await deliver(rt, "shipping")
        assert (progress.by_system, progress.parked) == ({B: 30}, 0)
        assert (await rt.store.gate(A)).reason == "credentials"
        assert (await audited(rt)).delivered == 30


class Missing(TwinSecrets):
    """The block of one carrier can't be read."""

    def __init__(self, urls: Mapping[str, str], *missing: str) -> None:
        super().__init__(urls)
        self.missing = set(missing)

    async def access(self, system: str, block: str) -> Access:
        if system in self.missing:
            raise AccessError(system, f"there is no block {block}")
        return await super().access(system, block)


@pytest.mark.parametrize(("missing", "serving"), [(A, B), (B, A)])
async def test_f49_credential_that_can_not_be_loaded_puts_one_carrier_out_and_the_other_goes_on(
    open_hub: Open, twins: TwinHost, missing: str, serving: str
) -> None:
    secrets = Missing(twins.urls, missing)
    async with open_hub(secrets=secrets) as rt:
        await seed(rt, twins, 20)
        progress = await deliver(rt, "shipping")
        assert (progress.by_system, progress.parked) == ({serving: 20}, 0)
        gate = await rt.store.gate(missing)
        assert (gate.reason, gate.lets_through) == ("credentials", False)
        secrets.missing.clear()
        async with lingering(rt):
            await eventually(lambda: _is_open(rt, missing))


async def _is_open(rt: Runtime, system: str) -> bool:
    return (await rt.store.gate(system)).lets_through


async def test_f49_no_carrier_whose_credentials_can_be_loaded_is_an_error_and_parks_nothing(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub(secrets=Missing(twins.urls, A, B)) as rt:
        await seed(rt, twins, 5)
        with pytest.raises(AccessError):
            await deliver(rt, "shipping")
        assert (await audited(rt)).waiting == 5


async def test_f49_rotated_credential_of_the_preferred_is_taken_up_and_it_gets_its_records_back(
    open_hub: Open, twins: TwinHost
) -> None:
    from pydantic import SecretStr

    secrets = TwinSecrets(twins.urls)
    secrets.changed[A] = ApiKey("API-Key", SecretStr("old"))
    async with open_hub(secrets=secrets) as rt:
        await seed(rt, twins, 10)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered == 10)
            assert progress.by_system == {B: 10}
            del secrets.changed[A]
            number = 10
            while progress.by_system.get(A, 0) < 20:
                await seed(rt, twins, 5, start=number + 1)
                number += 5
                assert number < 1000
                await until(lambda number=number: progress.delivered == number)  # type: ignore[misc]
        assert once(number)(standing(twins))


# --- drain --------------------------------------------------------------------------------------------------


async def test_f38_drain_after_both_were_down_costs_hardly_more_than_a_call_a_record(
    open_hub: Open, twins: TwinHost
) -> None:
    async with open_hub() as rt:
        for name in CARRIERS:
            await twins.fault(name, "down")
        await seed(rt, twins, 600)
        async with lingering(rt) as progress:
            await eventually(lambda: _are_both_out(rt))
            for name in CARRIERS:
                await twins.clear(name)
            await until(lambda: progress.delivered == 600)
        sent = sum(twins.status(name)["calls"].get("business", 0) for name in CARRIERS)
        assert sent <= 1.05 * 600
        assert once(600)(standing(twins))


async def test_f39_fresh_orders_come_through_while_a_backlog_drains_through_a_slow_backup(
    open_hub: Open, twins: TwinHost
) -> None:
    route = {
        "mapping": {"fields": {"external_shipment_id": "id", "urgency": "urgency"}},
        "priority": "urgency",
    }
    provider = {"system": B, "mapping": {"fields": {"reference": "external_shipment_id"}}}
    async with open_hub(route, {"providers": [A, provider]}, carrier_b={"limits": {"rate": "20/1s"}}) as rt:
        await twins.fault(A, "down")
        twins.upsert("orders", [{"id": f"old-{n:03}", "urgency": 4} for n in range(150)])
        await read(rt)
        async with lingering(rt) as progress:
            await until(lambda: progress.delivered > 20)
            twins.upsert("orders", [{"id": f"fresh-{n}", "urgency": 1} for n in range(5)])
            await read(rt)
            await until(lambda: sum(key.startswith("fresh") for key in standing(twins)) == 5)
            assert progress.delivered < 150
        assert await overview.audit(rt)
