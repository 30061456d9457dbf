"""What a run is, on a real Prefect server: its state, its subflows and tasks, its artifacts and events; and what
never gets into Prefect."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.deliver import deliver
from flows.examples import orders_now
from flows.housekeeping import housekeeping
from flows.probe import probe
from flows.replay import replay
from flows.sync import deliver_visibly, read_all, sync
from tasks import hub
from tests.flows.conftest import free_port
from tests.flows.live import Live, artifact, artifact_with, live_hub
from tideover.bootstrap import HUB_VARIABLE, open_hub

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.timeout(240),
    # Prefect's own clients keep their connections to its server until the process ends.
    pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
CANARY = "canary-5d1c-payload"


@pytest.fixture
async def live(tmp_path: Path, prefect: PrefectClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Live]:
    async with live_hub(tmp_path, f"sqlite:///{tmp_path / 'hub.db'}") as found:
        monkeypatch.setenv(HUB_VARIABLE, str(found.file))
        yield found


@pytest.fixture
async def live_anywhere(
    tmp_path: Path, prefect: PrefectClient, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> AsyncIterator[Live]:
    """As `live`, on each kind of database."""
    monkeypatch.setenv("TIDEOVER_TEST_URL", database_url)
    async with live_hub(tmp_path, database_url) as found:
        async with open_hub(found.file, migrate=True):
            pass
        monkeypatch.setenv(HUB_VARIABLE, str(found.file))
        yield found


async def run(shipped: Any, **parameters: Any) -> State[Any]:
    state: State[Any] = await shipped(**parameters, return_state=True)
    return state


async def deliver_until_there(live: Live, target: str, count: int) -> State[Any]:
    """Runs of `deliver` until the target has so many records and its answers came, and the last one's state."""
    async with asyncio.timeout(120):
        while True:
            state = await run(deliver, target=target, linger_s=2.0)
            if live.holds(target)[0] >= count and state.name != "Queued":
                return state


async def test_sync_ends_completed_with_its_counts(live: Live, prefect: PrefectClient) -> None:
    await live.twins.seed("orders", 40)
    state = await run(sync, route="orders-to-erp")
    assert (state.type, state.name) == (StateType.COMPLETED, "Completed")
    counts = await state.aresult()
    assert (counts["read"], counts["staged"], counts["delivered"]) == (40, 40, 40)
    assert live.holds("erp") == (40, 0)


async def test_sync_while_the_target_is_down_ends_queued_and_the_next_drains(live: Live) -> None:
    await live.twins.seed("orders", 25)
    await live.twins.fault("erp", "down")
    state = await run(sync, route="orders-to-erp")
    assert (state.type, state.name) == (StateType.COMPLETED, "Queued")
    assert "unreachable" in (state.message or "")
    await live.twins.clear("erp")
    after = await deliver_until_there(live, "erp", 25)
    assert after.name == "Completed"
    assert live.holds("erp") == (25, 0)


async def test_sync_with_a_bad_record_ends_parked_and_replay_sends_it_again(live: Live) -> None:
    live.twins.upsert("orders", [{"id": "o-1", "customerId": "c", "total": -5}])
    assert (await run(sync, route="orders-to-erp")).name == "Parked"
    state = await run(replay, route="orders-to-erp")
    assert (await state.aresult())["replayed"] == 1
    assert (await run(deliver, target="erp")).name == "Parked"


async def test_sync_that_can_not_read_its_source_fails_and_says_why(live: Live) -> None:
    await live.twins.fault("crm", "malformed")
    state = await run(sync, route="orders-to-erp")
    assert state.type is StateType.FAILED
    assert "crm/orders" in (state.message or "")


async def test_sync_of_an_unknown_route_names_those_there_are(live: Live) -> None:
    state = await run(sync, route="no-such-route")
    assert state.type is StateType.FAILED
    assert "orders-to-erp" in (state.message or "")


async def test_sync_with_a_missing_block_says_which_and_what_to_do(live: Live, prefect: PrefectClient) -> None:
    document = await prefect.read_block_document_by_name("crm", "tideover-bearer")
    await prefect.delete_block_document(document.id)
    state = await run(sync, route="orders-to-erp")
    assert state.type is StateType.FAILED
    assert "tideover-bearer/crm" in (state.message or "")
    assert "blocks apply" in (state.message or "")


async def test_graph_of_a_sync_has_a_subflow_and_no_task_per_record(
    live: Live, prefect: PrefectClient, prefect_raw: httpx.AsyncClient
) -> None:
    await live.twins.seed("orders", 150)
    state = await run(sync, route="orders-to-erp")
    run_id = str(state.state_details.flow_run_id)
    tasks = await _eventually(prefect_raw, "/task_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}}, 3)
    names = sorted(task["name"].partition("-")[0] for task in tasks)
    assert names == ["deliver", "extract", "stage"]
    [child] = (
        await prefect_raw.post("/flow_runs/filter", json={"flow_runs": {"parent_flow_run_id": {"any_": [run_id]}}})
    ).json()
    assert child["name"] == "deliver-erp"


async def test_artifacts_show_health_backlog_and_the_run(live: Live, prefect_raw: httpx.AsyncClient) -> None:
    await live.twins.seed("orders", 5)
    await live.twins.fault("erp", "down")
    await run(sync, route="orders-to-erp")
    board = await artifact(prefect_raw, "tideover-health")
    assert "| erp | open | unreachable |" in board
    assert "| erp | not moving: erp is down, next try " in board
    assert '"waiting": 5' in await artifact(prefect_raw, "tideover-backlog")
    assert await artifact(prefect_raw, "sync-orders-to-erp")


async def test_outage_is_announced_as_events(live: Live, prefect_raw: httpx.AsyncClient) -> None:
    await live.twins.seed("orders", 5)
    await live.twins.fault("erp", "down")
    await run(sync, route="orders-to-erp")
    await live.twins.clear("erp")
    await deliver_until_there(live, "erp", 5)
    names = ["tideover.system.down", "tideover.system.restored", "tideover.system.drained"]
    wanted = {"filter": {"event": {"name": names}, "resource": {"id": ["tideover.system.erp"]}}}

    async def seen() -> set[str]:
        answer = await prefect_raw.post("/events/filter", json=wanted)
        return {event["event"] for event in answer.json()["events"]}

    async with asyncio.timeout(120):
        while await seen() != set(names):
            await asyncio.sleep(0.3)


async def test_lingering_run_tells_of_an_outage_and_its_end_while_it_is_still_alive(
    live: Live, prefect_raw: httpx.AsyncClient
) -> None:
    await live.twins.seed("orders", 20)
    await live.twins.fault("erp", "down")
    await run(sync, route="orders-to-erp")
    lingering = asyncio.create_task(run(deliver, target="erp", linger_s=600.0))

    await live.twins.clear("erp")
    await artifact_with(prefect_raw, "tideover-health", "| erp | closed |")
    async with asyncio.timeout(120):
        while float(await artifact(prefect_raw, "drain-erp") or 0) < 100:
            await asyncio.sleep(0.3)
    await artifact_with(prefect_raw, "tideover-backlog", '"waiting": 0')
    assert not lingering.done()
    lingering.cancel()
    await asyncio.gather(lingering, return_exceptions=True)


async def test_f50_no_payload_and_no_secret_gets_into_prefect(live_anywhere: Live, prefect_home: Path) -> None:
    live_anywhere.twins.upsert("orders", [{"id": "o-1", "customerId": CANARY, "total": 5}])
    live_anywhere.twins.upsert("orders", [{"id": "o-2", "customerId": CANARY, "total": -5}])
    await live_anywhere.twins.fault("erp", "error_500", count=1)
    await run(sync, route="orders-to-erp")
    await deliver_until_there(live_anywhere, "erp", 1)
    assert live_anywhere.holds("erp")[0] == 1
    database = sqlite3.connect(f"file:{prefect_home / 'prefect.db'}?mode=ro", uri=True)
    try:
        text = "\n".join(database.iterdump())
    finally:
        database.close()
    assert "sync-orders-to-erp" in text, "the search must be able to find something"
    for secret in (CANARY, "twin-erp-secret", "twin-crm-token"):
        assert secret not in text


@flow(name="prefect-away", persist_result=False)
async def prefect_away(dead_api: str) -> int:
    """A sync whose server vanishes between staging and delivering."""
    async with hub():
        await read_all("orders-to-erp")
        with temporary_settings({PREFECT_API_URL: dead_api}):
            return int((await deliver_visibly("erp"))["delivered"])


async def test_f67_delivery_goes_on_while_prefects_api_is_down(live_anywhere: Live) -> None:
    await live_anywhere.twins.seed("orders", 30)
    assert await prefect_away(f"http://127.0.0.1:{free_port()}/api") == 30
    assert live_anywhere.holds("erp") == (30, 0)


async def test_own_flow_over_the_public_tasks_delivers(live: Live) -> None:
    await live.twins.seed("orders", 12)
    assert await orders_now() == 12


async def test_probe_says_how_a_system_is_and_counts_a_failure(live: Live) -> None:
    well = await run(probe, system="support")
    assert well.name == "Completed"
    await live.twins.fault("support", "hang")
    ill = await run(probe, system="support")
    assert (await ill.aresult())["breaker"] == "open"


async def test_housekeeping_removes_nothing_that_is_young(live: Live) -> None:
    await live.twins.seed("orders", 3)
    await run(sync, route="orders-to-erp")
    removed = await housekeeping()
    assert removed["orders-to-erp"] == 0
    assert (await run(sync, route="orders-to-erp")).name == "Completed"
    assert live.holds("erp") == (3, 0)


async def test_replay_without_a_choice_is_refused(live: Live) -> None:
    state = await run(replay)
    assert state.type is StateType.FAILED
    assert "everything" in (state.message or "")


async def _eventually(api: httpx.AsyncClient, path: str, wanted: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a filter finds, once it finds enough: task runs reach the server by events, seconds later."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(120):
        while len(found) < count:
            found = (await api.post(path, json=wanted)).json()
            await asyncio.sleep(0.2)
    return found
