"""A person's word on parked records, given while the hub is at work."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub.delivery import Delivery
from tideover.hub.intake import stage_records
from tideover.hub.replay import release, replay
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
