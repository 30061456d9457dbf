"""Failover and failback as runs, on a real Prefect server: in the graph of a delivery when they happen and only then,
and as an operator starts them. Prefect only shows them: without it the records go the same way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.converge import converge
from flows.deliver import deliver
from flows.episodes import Companions
from flows.failback import failback
from flows.failover import failover
from flows.sync import read_all, sync
from tasks import drain, hub
from tests.flows.conftest import ROOT, free_port
from tests.flows.live import Live, artifact, artifact_with, shipping_hub
from tests.flows.test_worker import a_worker, ended
from tests.twinhubs import TwinSecrets, audited
from tideover.bootstrap import HUB_VARIABLE, open_hub
from tideover.config.loader import load_hub
from tideover.hub.overview import group_view
from tideover.hub.progress import Episode, EpisodeKind, Progress
from tideover.hub.standing import GroupView
from tideover.policy.failover import Phase

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.timeout(240),
    pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ROUTE = "orders-to-shipping"


@pytest.fixture
async def live(tmp_path: Path, prefect: PrefectClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    async with shipping_hub(tmp_path) as found:
        monkeypatch.setenv(HUB_VARIABLE, str(found.file))
        yield found


@pytest.fixture
def stop(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Ends the deliveries that linger, once a test has seen what it waited for."""
    event = asyncio.Event()
    monkeypatch.setattr("flows.deliver.drain", partial(drain, stop=event))
    return event


async def run(shipped: Any, **parameters: Any) -> State[Any]:
    state: State[Any] = await shipped(**parameters, return_state=True)
    return state


@flow(name="reading", persist_result=False)
async def reading() -> None:
    """Only reads and stages: nothing is delivered."""
    async with hub():
        await read_all(ROUTE)


async def standing(live: Live) -> GroupView:
    async with open_hub(live.file, secrets=TwinSecrets(live.twins.urls)) as rt:
        return await group_view(rt, "shipping")


async def deliver_until_back(live: Live) -> None:
    """Runs of `deliver` until carrier-a, which was out, may be called again."""
    async with asyncio.timeout(120):
        while (await standing(live)).providers[0].trust.phase is Phase.OUT:
            await run(deliver, target="shipping", linger_s=2.0)


async def conserved(live: Live, accepted: int) -> None:
    """Nothing lost, nothing shipped twice, and the books balance."""
    async with open_hub(live.file, secrets=TwinSecrets(live.twins.urls)) as rt:
        books = await audited(rt, ROUTE)
    assert (books.accepted, books.delivered) == (accepted, accepted)
    assert (len(live.shipped()), set(live.shipped().values())) == (accepted, {1})


async def children(api: httpx.AsyncClient, parent: object) -> list[tuple[str, str]]:
    """Name and state of the subflows of a run, oldest first."""
    wanted = {"flow_runs": {"parent_flow_run_id": {"any_": [str(parent)]}}, "sort": "START_TIME_ASC"}
    found = (await api.post("/flow_runs/filter", json=wanted)).json()
    return [(child["name"], child["state"]["name"]) for child in found]


async def begun_since(api: httpx.AsyncClient, began: str) -> str:
    """The id of the deliver run that began after an instant, once there is one."""
    states = {"type": {"any_": ["RUNNING"]}}
    wanted = {"flows": {"name": {"any_": ["deliver"]}}, "flow_runs": {"state": states, "start_time": {"after_": began}}}
    async with asyncio.timeout(120):
        while not (found := (await api.post("/flow_runs/filter", json=wanted)).json()):
            await asyncio.sleep(0.1)
    return str(found[0]["id"])


# --- in the graph of a delivery -----------------------------------------------------------------------------


async def test_delivery_that_fails_over_has_the_subflow_in_its_graph_and_ends_failed_over(
    live: Live, prefect_raw: httpx.AsyncClient
) -> None:
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 30)
    await run(reading)
    state = await run(deliver, target="shipping")
    assert (state.type, state.name) == (StateType.COMPLETED, "FailedOver")
    assert state.message == "30 delivered to shipping (carrier-b 30); 30 of them in place of a preferred provider"
    assert await children(prefect_raw, state.state_details.flow_run_id) == [("failover-shipping", "FailedOver")]
    told = await artifact(prefect_raw, "failover-shipping")
    for row in ("| from | carrier-a |", "| to | carrier-b |", "| why | unreachable |", "in doubt at carrier-a | 0 |"):
        assert row in told
    assert "from the failure to that record | –" not in told
    await conserved(live, 30)


async def test_delivery_without_a_failover_has_no_subflow(live: Live, prefect_raw: httpx.AsyncClient) -> None:
    await live.twins.seed("orders", 30)
    await run(reading)
    state = await run(deliver, target="shipping")
    assert state.name == "Completed"
    assert await children(prefect_raw, state.state_details.flow_run_id) == []


async def test_sync_shows_a_failover_in_its_delivery_and_ends_failed_over(
    live: Live, prefect_raw: httpx.AsyncClient
) -> None:
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 10)
    state = await run(sync, route=ROUTE)
    assert state.name == "FailedOver"
    counts = await state.aresult()
    assert (counts["by_system"], counts["failed_over"]) == ({"carrier-b": 10}, 10)
    assert "| by_system | carrier-b 10 |" in await artifact(prefect_raw, f"sync-{ROUTE}")


async def test_delivery_that_fails_over_and_parks_ends_parked_and_says_both(live: Live) -> None:
    for name in ("weightKg", "weight_kg"):  # in the route's mapping, then in that of carrier-b
        live.file.write_text(live.file.read_text().replace('"total": "total"', f'"weight_kg": "{name}"', 1))
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 9)
    live.twins.upsert("orders", [{"id": "o-1", "customerId": "c", "weightKg": -5}])
    state = await run(sync, route=ROUTE)
    assert state.name == "Parked"
    assert "9 of them in place of a preferred provider; 1 parked" in (state.message or "")


async def test_lingering_delivery_shows_failover_and_failback_while_they_happen(
    live: Live, prefect: PrefectClient, prefect_raw: httpx.AsyncClient, stop: asyncio.Event
) -> None:
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 10)
    await run(reading)
    began = datetime.now(UTC).isoformat()
    lingering = asyncio.create_task(run(deliver, target="shipping", linger_s=600.0))
    run_id = await begun_since(prefect_raw, began)
    async with asyncio.timeout(150):
        while ("failover-shipping", "FailedOver") not in await children(prefect_raw, run_id):
            await asyncio.sleep(0.2)
        await live.twins.clear("carrier-a")
        start = 11
        while ("failback-shipping", "FailedBack") not in await children(prefect_raw, run_id):
            await live.twins.seed("orders", 3, start=start)
            await run(reading)
            start += 3
        turned = "| failover | carrier-a | carrier-b | unreachable |"
        await artifact_with(prefect_raw, "tideover-health", "**shipping** goes to", turned)
        while (await standing(live)).waiting:
            await asyncio.sleep(0.1)
        assert not lingering.done()
    told = await artifact(prefect_raw, "failback-shipping")
    assert "| provider | carrier-a |" in told
    assert "| ended | FailedBack |" in told
    assert "| share reached | 100% |" in told
    assert (await standing(live)).providers[0].trust.phase is Phase.SERVING
    stop.set()
    state = await lingering
    assert state.name == "FailedOver"
    await conserved(live, start - 1)


async def test_delivery_that_ends_while_the_provider_comes_back_says_failing_back(
    tmp_path: Path, live: Live, prefect_raw: httpx.AsyncClient
) -> None:
    slow = live.file.read_text().replace('"ramp": "200ms"', '"ramp": "10m"')
    live.file.write_text(slow)
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 5)
    await run(sync, route=ROUTE)
    await live.twins.clear("carrier-a")
    await deliver_until_back(live)
    await live.twins.seed("orders", 40, start=6)
    await run(reading)
    state = await run(deliver, target="shipping", linger_s=2.0)
    assert ("failback-shipping", "FailingBack") in await children(prefect_raw, state.state_details.flow_run_id)
    shown = await artifact(prefect_raw, "failback-shipping")
    assert "| phases | canary" in shown or "| phases | ramp" in shown


async def test_provider_that_fails_on_its_way_back_is_shown_as_relapsed(
    live: Live, prefect_raw: httpx.AsyncClient, stop: asyncio.Event
) -> None:
    live.file.write_text(live.file.read_text().replace('"ramp": "200ms"', '"ramp": "10m"'))
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 5)
    await run(sync, route=ROUTE)
    await live.twins.clear("carrier-a")
    began = datetime.now(UTC).isoformat()
    lingering = asyncio.create_task(run(deliver, target="shipping", linger_s=600.0))
    run_id = await begun_since(prefect_raw, began)
    start = 6
    async with asyncio.timeout(150):
        while (view := await standing(live)).providers[0].trust.phase is not Phase.RAMP:
            await live.twins.seed("orders", 2, start=start)
            await run(reading)
            start += 2
        assert view.providers[0].trust.relapses == 0
        while ("failback-shipping", "Running") not in await children(prefect_raw, run_id):
            await asyncio.sleep(0.1)
        await live.twins.fault("carrier-a", "down")
        while (await standing(live)).providers[0].trust.phase is not Phase.OUT:
            await live.twins.seed("orders", 10, start=start)
            await run(reading)
            start += 10
        while ("failback-shipping", "Relapsed") not in await children(prefect_raw, run_id):
            await asyncio.sleep(0.1)
        while (await standing(live)).waiting:
            await asyncio.sleep(0.1)
    stop.set()
    await lingering
    assert "ramp" in await artifact(prefect_raw, "failback-shipping")
    await conserved(live, start - 1)


@flow(name="failover", persist_result=False)
async def broken(group: str) -> None:
    raise ValueError(group)


class Raises:
    """A subflow that can't even begin."""

    async def __call__(self, group: str, *, return_state: bool) -> None:
        raise LookupError(group)


@flow(name="accompanied", persist_result=False)
async def accompanied_by(subflow: str) -> str:
    """A delivery that is over, with one failover that nobody has shown yet."""
    async with hub() as rt:
        episode = Episode(EpisodeKind.FAILOVER, "carrier-a", "carrier-b", "unreachable")
        progress = Progress("shipping", ["carrier-a", "carrier-b"], episodes=[episode])
        companions = Companions(rt, {EpisodeKind.FAILOVER: broken if subflow == "broken" else Raises()})
        await companions.end(progress)
        await companions.leave()
    return "went on"


@pytest.mark.parametrize("subflow", ["broken", "raises"])
async def test_subflow_that_fails_does_not_fail_its_delivery(live: Live, subflow: str) -> None:
    assert await accompanied_by(subflow) == "went on"


@flow(name="prefect-away-from-a-failover", persist_result=False)
async def prefect_away(dead_api: str) -> dict[str, Any]:
    """A delivery whose server vanishes before its group fails over."""
    async with hub():
        await read_all(ROUTE)
        with temporary_settings({PREFECT_API_URL: dead_api}):
            state = await deliver.fn("shipping", linger_s=3.0)
            return {"name": state.name, **(await state.aresult())}


async def test_f67_failover_goes_on_while_prefects_api_is_down(live: Live) -> None:
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 30)
    counts = await prefect_away(f"http://127.0.0.1:{free_port()}/api")
    assert (counts["name"], counts["by_system"]) == ("FailedOver", {"carrier-b": 30})
    await conserved(live, 30)


# --- as an operator starts them -----------------------------------------------------------------------------


async def test_failover_by_an_operator_pins_the_next_provider_and_failback_removes_the_pin(live: Live) -> None:
    await live.twins.seed("orders", 20)
    await run(reading)
    state = await run(failover, group="shipping", why="maintenance")
    assert (state.type, state.name) == (StateType.COMPLETED, "FailedOver")
    assert (await state.aresult())["by_system"] == {"carrier-b": 20}
    pin = (await standing(live)).pin
    assert pin is not None
    assert (pin.system, pin.why, pin.author) == ("carrier-b", "maintenance", "prefect")
    back = await run(failback, group="shipping")
    assert back.name == "FailedBack"
    assert (await standing(live)).pin is None
    await live.twins.seed("orders", 10, start=21)
    await run(sync, route=ROUTE)
    assert live.holds("carrier-a")[0] == 10
    await conserved(live, 30)


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"group": "no-such-group"}, "the hub has shipping"),
        ({"group": "shipping", "to": "no-such-carrier"}, "it has carrier-a, carrier-b"),
    ],
)
async def test_failover_to_what_there_is_not_is_refused(live: Live, parameters: dict[str, str], said: str) -> None:
    state = await run(failover, **parameters)
    assert state.type is StateType.FAILED
    assert said in (state.message or "")


async def test_failover_to_a_provider_that_is_down_is_refused_unless_forced(live: Live) -> None:
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 5)
    await run(sync, route=ROUTE)
    for parameters in ({"to": "carrier-a"}, {}):  # carrier-b is the first choice now, and nobody comes after it
        refused = await run(failover, group="shipping", **parameters)
        assert refused.type is StateType.FAILED
        assert "carrier-a is unreachable" in (refused.message or "") or "no provider after" in (refused.message or "")
    assert (await standing(live)).pin is None
    await live.twins.seed("orders", 5, start=6)
    await run(reading)
    forced = await run(failover, group="shipping", to="carrier-a", force=True)
    assert forced.name == "FailedOver"
    assert "carrier-a is unreachable, the rest is kept" in (forced.message or "")
    assert (await standing(live)).waiting == 5
    back = await run(failback, group="shipping")
    assert back.name == "Queued"
    assert "carrier-a is still down: unreachable" in (back.message or "")
    assert (await standing(live)).pin is None
    await conserved(live, 10)


async def test_failback_when_the_provider_is_well_ends_its_dwell_and_begins_with_a_canary(live: Live) -> None:
    live.file.write_text(live.file.read_text().replace('"dwell": "200ms"', '"dwell": "1h"').replace('"2s"', '"2h"'))
    await live.twins.fault("carrier-a", "down")
    await live.twins.seed("orders", 5)
    await run(sync, route=ROUTE)
    await live.twins.clear("carrier-a")
    await deliver_until_back(live)
    assert (await standing(live)).providers[0].trust.phase is Phase.DWELL
    state = await run(failback, group="shipping", why="carrier-a says that it is well")
    assert state.name == "FailingBack"
    assert "its canary is next, 0 of 2 done" in (state.message or "")
    await live.twins.seed("orders", 10, start=6)
    await run(sync, route=ROUTE)
    assert live.holds("carrier-a")[0] >= 1
    await conserved(live, 15)


async def test_failover_and_failback_as_deployments_by_a_worker(
    tmp_path: Path, prefect: PrefectClient, prefect_raw: httpx.AsyncClient, prefect_env: dict[str, str]
) -> None:
    async def start(deployment: str, **parameters: str) -> str:
        found = (await prefect_raw.get(f"/deployments/name/{deployment}")).json()
        body = {"parameters": parameters}
        made = await prefect_raw.post(f"/deployments/{found['id']}/create_flow_run", json=body)
        return str(made.json()["id"])

    async with shipping_hub(tmp_path) as live:
        prefect_env["TIDEOVER_HUB"] = str(live.file)
        await converge(load_hub(live.file), live.file, ROOT)
        with a_worker(prefect_env, tmp_path / "worker.log"):
            await live.twins.seed("orders", 20)
            turned = await start("failover/shipping", to="carrier-b", why="maintenance")
            assert await ended(prefect_raw, turned) == "FailedOver"
            assert await ended(prefect_raw, await start(f"sync/{ROUTE}")) == "FailedOver"
            assert (live.holds("carrier-a")[0], live.holds("carrier-b")[0]) == (0, 20)
            assert await ended(prefect_raw, await start("failback/shipping")) == "FailedBack"
        await conserved(live, 20)
