"""A person's word on parked records, given while the hub is at work."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.config.models import Hub
from tideover.hub.delivery import Delivery
from tideover.hub.intake import stage_records
from tideover.hub.replay import Replayed, correct, release, replay
from tideover.hub.runtime import Runtime
from tideover.model import Outcome, Outgoing, Rejected
from tideover.staging.parking import Selection

CALM = hub_config(systems={"erp": {"breaker": {"failures": 1000, "rejections": 1000}}})


def no(_: Outgoing) -> Outcome:
    return Rejected("INVALID")


async def park(rt: Runtime, *keys: str) -> list[str]:
    """Stage and deliver them to a system that takes none; the keys of all that is parked then."""
    await stage_records(rt, "orders", [{"id": key} for key in keys])
    await Delivery(rt, "erp").run()
    return [each.key for each in await rt.store.parked(Selection())]


def interrupted(method: Callable[..., Awaitable[int]], event: Callable[[], Awaitable[Any]]) -> Any:
    """A method of the store after each call of which something happens; for a command that would call it for ever."""
    calls = 0

    async def call(*given: Any, **named: Any) -> int:
        nonlocal calls
        calls += 1
        assert calls < 10, "it does not end"
        done = await method(*given, **named)
        await event()
        return done

    return call


async def test_release_lets_nothing_go_that_is_parked_while_it_runs(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(CALM, database_url, {"crm": FakeSystem(), "erp": FakeSystem(answer=no)}) as rt:
        await park(rt, "k1", "k2", "k3")
        late = iter("abcdefghijk")
        monkeypatch.setattr(rt.store, "release", interrupted(rt.store.release, lambda: park(rt, next(late))))
        assert await release(rt, Selection(limit=2)) == 3
        assert [each.key for each in await rt.store.parked(Selection())] == ["a", "b"]


async def test_bulk_replay_at_a_system_that_rejects_again_ends(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    erp = FakeSystem(answer=no)
    async with running(CALM, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await park(rt, "k1", "k2", "k3")
        monkeypatch.setattr(rt.store, "replay", interrupted(rt.store.replay, lambda: Delivery(rt, "erp").run()))
        calls = erp.calls
        assert (await replay(rt, Selection(limit=2))).replayed == 3
        assert erp.calls - calls == 3
        assert len(await rt.store.parked(Selection())) == 3


# --- parked at intake -------------------------------------------------------------------------------------------

FIELDS = {"id": "id", "n": "n", "sku": "sku"}


def mapping(order: str, *required: str) -> Hub:
    return hub_config(routes={"orders": {"order": order, "mapping": {"fields": FIELDS, "required": list(required)}}})


async def pass_by(url: str, order: str, erp: FakeSystem, *versions: dict[str, object]) -> None:
    """Versions of key `k` come one after another: those without a `sku` can't be mapped, and the others are sent."""
    async with running(mapping(order, "sku"), url, {"crm": FakeSystem(), "erp": erp}) as rt:
        for n, version in enumerate(versions):
            await stage_records(rt, "orders", [{"id": "k", "n": n, **version}])
            await Delivery(rt, "erp").run()


def sent(erp: FakeSystem) -> list[int]:
    """The number of each version of `k`, as they arrived."""
    return [json.loads(effect.payload)["n"] for effect in erp.effects]


@pytest.mark.parametrize("order", ["block", "skip"])
async def test_replay_of_what_a_newer_version_passed_at_intake_waits_until_it_is_named(
    database_url: str, order: str
) -> None:
    erp = FakeSystem()
    await pass_by(database_url, order, erp, {}, {"sku": "s"})
    async with running(mapping(order), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        [parked] = await rt.store.parked(Selection())
        done = await replay(rt, Selection(route="orders"))
        assert (done.replayed, done.still_broken, done.left) == (0, 0, 1)
        assert parked.record in done.why
        await Delivery(rt, "erp").run()
        assert sent(erp) == [1]
        assert (await replay(rt, Selection(records=(parked.record,)))).replayed == 1
        await Delivery(rt, "erp").run()
        assert sent(erp) == [1, 0]
        [audit] = await rt.store.audit(["orders"])
        assert (audit.delivered, audit.parked, audit.difference, audit.faults) == (2, 0, 0, ())


async def test_replay_of_what_a_newer_version_passed_at_intake_is_superseded_under_latest(database_url: str) -> None:
    erp = FakeSystem()
    await pass_by(database_url, "latest", erp, {}, {"sku": "s"})
    async with running(mapping("latest"), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        [parked] = await rt.store.parked(Selection())
        done = await replay(rt, Selection(records=(parked.record,)))
        assert done == Replayed(superseded=1)
        await Delivery(rt, "erp").run()
        assert sent(erp) == [1]
        [audit] = await rt.store.audit(["orders"])
        assert (audit.accepted, audit.delivered, audit.superseded, audit.parked) == (2, 1, 1, 0)
        assert (audit.difference, audit.faults) == (0, ())


async def test_replay_of_what_was_delivered_unchanged_before_counts_what_waits_alone(database_url: str) -> None:
    erp, crm = FakeSystem(), FakeSystem()
    records = [{"id": f"k{n}", "n": n} for n in range(5)]
    async with running(mapping("block"), database_url, {"crm": crm, "erp": erp}) as rt:
        await stage_records(rt, "orders", records[:3])
        await Delivery(rt, "erp").run()
    async with running(mapping("block", "sku"), database_url, {"crm": crm, "erp": erp}) as rt:
        await stage_records(rt, "orders", records)
        assert len(await rt.store.parked(Selection())) == 5
    async with running(mapping("block"), database_url, {"crm": crm, "erp": erp}) as rt:
        assert await replay(rt, Selection()) == Replayed(2, unchanged=3)
        await Delivery(rt, "erp").run()
        assert sorted(sent(erp)) == [0, 1, 2, 3, 4]
        [audit] = await rt.store.audit(["orders"])
        assert (audit.delivered, audit.parked, audit.difference, audit.faults) == (5, 0, 0, ())


@pytest.mark.parametrize("order", ["block", "latest"])
async def test_replay_of_all_that_was_parked_at_intake_keeps_the_order_in_which_it_came(
    database_url: str, order: str
) -> None:
    """A version that is replayed is no newer than it was."""
    erp = FakeSystem()
    await pass_by(database_url, order, erp, {"sku": "s"}, {}, {"x": 1}, {"x": 2})
    async with running(mapping(order), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        done = await replay(rt, Selection())
        assert (done.replayed, done.left) == (3, 0)
        await Delivery(rt, "erp").run()
        assert sent(erp) == ([0, 1, 2, 3] if order == "block" else [0, 3])


async def test_replay_of_what_came_in_the_batch_of_a_sound_version_waits_until_it_is_named(database_url: str) -> None:
    """Nobody knows any more which of the two came first."""
    erp = FakeSystem()
    async with running(mapping("latest", "sku"), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage_records(rt, "orders", [{"id": "k", "n": 0}, {"id": "k", "n": 1, "sku": "s"}])
    async with running(mapping("latest"), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        assert (await replay(rt, Selection())).left == 1
        [parked] = await rt.store.parked(Selection())
        assert (await replay(rt, Selection(records=(parked.record,)))).replayed == 1


async def test_correction_of_what_a_newer_version_passed_at_intake_is_sent(database_url: str) -> None:
    erp = FakeSystem()
    await pass_by(database_url, "latest", erp, {}, {"sku": "s"})
    async with running(mapping("latest"), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        [parked] = await rt.store.parked(Selection())
        await correct(rt, parked.record, {"id": "k", "n": 9})
        await Delivery(rt, "erp").run()
        assert sent(erp) == [1, 9]
