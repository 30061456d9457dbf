"""The whole house as it runs in production: deployments on a real server, a process worker, real HTTP. The ERP dies
and comes back; the worker is killed in the middle; nothing is lost, nothing done twice, and nobody has to act."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from prefect.client.orchestration import PrefectClient

from deployments.converge import converge
from tests.flows.conftest import ROOT
from tests.flows.live import Live, live_hub
from tests.twinhubs import TwinSecrets, audited
from tideover.bootstrap import open_hub
from tideover.config.loader import load_hub

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.timeout(400),
    pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
PATIENCE_S = 120.0
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class Worker:
    """A process worker in a session of its own, with everything that it starts."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "tideover", "--type", "process"]
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                command,
                stdout=out,
                stderr=out,
                env=environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
                cwd=ROOT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """kill -9, the worker and the runs under it alike: what a power cut does to a machine."""
        for child in _descendants(self.process.pid):
            with suppress(ProcessLookupError):  # it has ended since
                os.kill(child, signal.SIGKILL)
        self.process.kill()
        self.process.wait()


def _descendants(pid: int) -> list[int]:
    """The processes under one, deepest first."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (FileNotFoundError, ProcessLookupError):
                continue
    found = [pid]
    for one in found:
        found.extend(child for child, parent in parents.items() if parent == one)
    return found[:0:-1]


@contextmanager
def a_worker(environment: dict[str, str], log: Path) -> Iterator[Worker]:
    worker = Worker(environment, log)
    try:
        yield worker
    finally:
        worker.kill()


@asynccontextmanager
async def deployed(folder: Path, environment: dict[str, str]) -> AsyncIterator[Live]:
    async with live_hub(folder, f"sqlite:///{folder / 'hub.db'}") as live:
        environment["TIDEOVER_HUB"] = str(live.file)
        await converge(load_hub(live.file), live.file, ROOT)
        yield live


async def start(api: httpx.AsyncClient, deployment: str) -> str:
    """What `prefect deployment run` does."""
    found = (await api.get(f"/deployments/name/{deployment}")).json()
    made = await api.post(f"/deployments/{found['id']}/create_flow_run", json={})
    return str(made.json()["id"])


async def ended(api: httpx.AsyncClient, run: str) -> str:
    """The name of a run's final state."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            state = (await api.get(f"/flow_runs/{run}")).json().get("state") or {}
            if state.get("type") in FINAL:
                return str(state["name"])
            await asyncio.sleep(0.2)


async def eventually(is_so: Callable[[], bool | Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            answer = is_so()
            if answer if isinstance(answer, bool) else await answer:
                return
            await asyncio.sleep(0.1)


async def books(live: Live, route: str) -> Any:
    async with open_hub(live.file, secrets=TwinSecrets(live.twins.urls)) as rt:
        return await audited(rt, route)


async def all_delivered(live: Live, route: str, count: int) -> bool:
    return bool((await books(live, route)).delivered == count)


async def test_target_that_dies_and_returns_needs_nobody(
    tmp_path: Path, prefect: PrefectClient, prefect_raw: httpx.AsyncClient, prefect_env: dict[str, str]
) -> None:
    async with deployed(tmp_path, prefect_env) as live:
        with a_worker(prefect_env, tmp_path / "worker.log"):
            await live.twins.seed("orders", 60)
            assert await ended(prefect_raw, await start(prefect_raw, "sync/orders-to-erp")) == "Completed"
            assert live.holds("erp") == (60, 0)

            await live.twins.fault("erp", "down")
            await live.twins.seed("orders", 40, start=61)
            await live.twins.seed("tickets", 30)
            orders = await start(prefect_raw, "sync/orders-to-erp")
            tickets = await start(prefect_raw, "sync/tickets-to-support")
            assert await ended(prefect_raw, orders) == "Queued"
            assert await ended(prefect_raw, tickets) == "Completed"
            assert (await books(live, "orders-to-erp")).waiting == 40
            assert live.holds("support") == (30, 0)

            await live.twins.clear("erp")
            await eventually(lambda: live.holds("erp") == (100, 0))
            # Settled a moment after it was sent; a worker that is stopped before leaves that to the next.
            await eventually(lambda: all_delivered(live, "orders-to-erp", 100))
        audit = await books(live, "orders-to-erp")
        assert (audit.delivered, audit.waiting, audit.parked) == (100, 0, 0)


async def test_worker_killed_in_mid_delivery_loses_nothing_and_does_nothing_twice(
    tmp_path: Path, prefect: PrefectClient, prefect_raw: httpx.AsyncClient, prefect_env: dict[str, str]
) -> None:
    async with deployed(tmp_path, prefect_env) as live:
        await live.twins.seed("orders", 600)
        await live.twins.fault("erp", "slow", delay_s=0.05)
        with a_worker(prefect_env, tmp_path / "worker.log") as worker:
            await start(prefect_raw, "sync/orders-to-erp")
            await eventually(lambda: live.holds("erp")[0] > 50)
            worker.kill()
            at_the_kill = live.holds("erp")[0]
            assert at_the_kill < 600
        await live.twins.clear("erp")
        with a_worker(prefect_env, tmp_path / "worker.log"):
            await start(prefect_raw, "deliver/erp")
            await eventually(lambda: live.holds("erp") == (600, 0))

            async def is_settled() -> bool:
                return bool((await books(live, "orders-to-erp")).delivered == 600)

            await eventually(is_settled)
