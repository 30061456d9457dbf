"""Deliveries within limits: quotas that run out, caps that workers share, and systems that say what is left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tests.twinhubs import TwinSecrets, audited, deliver, read, twin_hub
from tideover.cli.gates import reason, state
from tideover.errors import HubUnavailable
from tideover.hub import intake, overview, sharing
from tideover.hub.delivery import Delivery
from tideover.hub.probing import probe_system
from tideover.hub.progress import Ending, Progress
from tideover.hub.runtime import Runtime
from tideover.model import Accepted, Outcome, Outgoing, Unknown
from tideover.staging.claiming import Claimed
from tideover.staging.shares import Ask
from tideover.staging.wishes import Claim
from tideover.twins import TwinHost

TICKETS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "tickets"},
    "mapping": {"fields": {"external_id": "id", "subject": "subject"}},
    "target": {"system": "support", "operation": "upsert-ticket"},
    "key": "id",
    "order": "latest",
    "retry": {"base": "20ms", "cap": "200ms"},
}


def limited(**limits: Any) -> Any:
    return hub_config(systems={"erp": {"limits": limits}})


async def stage(rt: Runtime, *keys: str) -> None:
    await intake.stage_records(rt, "orders", [{"id": key, "n": number} for number, key in enumerate(keys)])


async def run(rt: Runtime, **options: Any) -> Progress:
    return await asyncio.wait_for(Delivery(rt, "erp", **options).run(), 60)


@pytest.fixture
def erp() -> FakeSystem:
    return FakeSystem()


async def test_slow_rate_never_lets_a_lease_expire_in_a_workers_hand(database_url: str, erp: FakeSystem) -> None:
    """Only what can be sent at once is claimed: nobody waits for quota with a lease that is running out."""
    loop = asyncio.get_running_loop()
    sent_at: list[float] = []

    def answer(_: Outgoing) -> Outcome:
        sent_at.append(loop.time())
        return Accepted()

    erp.answer = answer
    async with running(limited(rate=["5/1s", "300/1m"]), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, *(f"k{n % 8}" for n in range(24)))
        # A lease lasts 100 ms longer than a call may: far less than the quota for all of them takes.
        progress = await run(rt, lease_margin_s=0.1)
        assert (progress.delivered, progress.refused, progress.ending) == (24, 0, Ending.DRAINED)
        assert await sql(database_url, "select count(*) from attempt where kind = 'expired'") == [(0,)]
    assert erp.calls == 24
    assert all(b - a > 0.9 for a, b in zip(sent_at, sent_at[5:], strict=False)), "no six in a second"


async def test_used_up_quota_of_the_day_pauses_the_route_until_its_reset(database_url: str, erp: FakeSystem) -> None:
    config = limited(quota={"records": 5})
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, *(f"k{n}" for n in range(12)))
        progress = await run(rt)
        assert (progress.delivered, progress.ending, erp.calls) == (5, Ending.PAUSED, 5)
        assert progress.gate is not None
        assert progress.gate.pause.startswith("its quota of the day is used up until 00:00 UTC")
        view = await overview.overview(rt)
        assert state(view.systems["erp"]) == "paused"
        assert reason(view.systems["erp"]) == progress.gate.pause
        assert view.outages == []
        assert (await rt.store.audit(["orders"]))[0].waiting == 7


async def test_quota_that_is_used_up_for_long_is_asked_for_rarely_while_a_call_hangs(
    database_url: str, erp: FakeSystem
) -> None:
    async with running(limited(quota={"records": 1}), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        claim, claims = rt.store.claim, 0

        async def counted(wish: Claim) -> Claimed:
            nonlocal claims
            claims += 1
            return await claim(wish)

        rt.store.claim = counted  # type: ignore[method-assign]
        await stage(rt, "a", "b")
        erp.open.clear()
        delivery = asyncio.create_task(run(rt))
        await until(lambda: erp.in_flight == 1)
        before = claims
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(1.5)  # longer where the machine is slow
        assert claims - before < 25 / 1.5 * (loop.time() - began)
        erp.open.set()
        assert (await delivery).delivered == 1


async def test_quota_of_the_day_is_not_spent_on_what_was_given_back(database_url: str, erp: FakeSystem) -> None:
    erp.answer = lambda _: Unknown("server_error")
    config = limited(quota={"records": 40}, concurrency=2)
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, *(f"k{n}" for n in range(30)))
        assert (await run(rt)).ending == Ending.DOWN
        [(used,)] = await sql(database_url, "select used from quota")
        assert used == erp.calls + erp.look_ups < 20


async def test_probe_counts_as_a_call(database_url: str, erp: FakeSystem) -> None:
    erp.probe_outcome = Accepted()
    async with running(limited(quota={"records": 40}), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await probe_system(rt, "erp")
        assert await sql(database_url, "select used from quota") == [(1,)]


async def test_cap_of_calls_under_way_holds_for_all_workers_together(database_url: str, erp: FakeSystem) -> None:
    config = limited(in_flight=3, concurrency=8)
    fakes = {"crm": FakeSystem(), "erp": erp}
    async with running(config, database_url, fakes) as one, running(config, database_url, fakes) as two:
        await stage(one, *(f"k{n}" for n in range(400)))
        runs = [asyncio.create_task(run(rt, linger_s=1.0)) for rt in (one, two)]
        done = await asyncio.gather(*runs)
        assert sum(progress.delivered for progress in done) == 400
    assert 1 <= erp.most_in_flight <= 3
    assert await sql(database_url, "select count(*) from call_share") == [(0,)], "who ends gives its share up"


async def test_share_that_lapsed_begins_no_call_until_there_is_one_again(
    database_url: str, erp: FakeSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker with nothing to do gets the same share before and after: it must hear of it all the same."""
    monkeypatch.setattr(sharing, "TTL_S", 1.5)
    async with running(limited(in_flight=3), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        asked = Shares(rt)
        stop = asyncio.Event()
        delivery = asyncio.create_task(run(rt, linger_s=60.0, stop=stop))
        await until(lambda: asked.answered > 0)
        asked.is_away = True
        await until(lambda: asked.refused_for_s > 2 * sharing.TTL_S)
        await stage(rt, "a")
        await until(lambda: asked.refused_for_s > 3 * sharing.TTL_S)
        assert erp.calls == 0
        asked.is_away = False
        await until(lambda: erp.calls == 1)
        stop.set()
        assert (await delivery).delivered == 1


class Shares:
    """Asks for shares on their way to the store, which may not get there."""

    def __init__(self, rt: Runtime) -> None:
        self.is_away, self.answered = False, 0
        self._refused_at: list[float] = []
        self._share, rt.store.share = rt.store.share, self.share  # type: ignore[method-assign]

    async def share(self, ask: Ask) -> int:
        if self.is_away:
            self._refused_at.append(asyncio.get_running_loop().time())
            raise HubUnavailable("it does not answer")
        calls = await self._share(ask)
        self.answered += 1
        return calls

    @property
    def refused_for_s(self) -> float:
        return self._refused_at[-1] - self._refused_at[0] if self._refused_at else 0.0


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_delivery_pauses_by_itself_when_an_answer_said_that_nothing_is_left(
    database_url: str, erp: FakeSystem
) -> None:
    def answer(_: Outgoing) -> Outcome:
        erp.pause_s = 3600.0 if erp.calls >= 3 else 0.0
        return Accepted()

    erp.answer = answer
    async with running(limited(concurrency=1), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage(rt, *(f"k{n}" for n in range(9)))
        assert (await run(rt)).ending == Ending.PAUSED
        assert erp.calls == 3
        audit = (await rt.store.audit(["orders"]))[0]
        assert (audit.delivered, audit.waiting, audit.difference) == (3, 6, 0)


# --- in a vendor's manner -----------------------------------------------------------------------------------


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


async def test_vendor_that_says_what_is_left_never_has_to_refuse_a_call(
    tmp_path: Path, database_url: str, twins: TwinHost
) -> None:
    systems = {"support": {"limits": {"concurrency": 1}}}
    async with twin_hub(tmp_path, database_url, TwinSecrets(twins.urls), {"tickets": TICKETS}, systems) as rt:
        await twins.seed("tickets", 700)
        await read(rt, "tickets")
        twins.configure("support", rate_limit=2, rate_window_s=1.0)
        progress = await deliver(rt, "support", linger_s=30.0)
        assert (await audited(rt, "tickets")).delivered == progress.delivered == 700
        assert await sql(database_url, "select count(*) from attempt where outcome = 'throttled'") == [(0,)]
