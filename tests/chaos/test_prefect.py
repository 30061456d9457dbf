"""Prefect's server is killed and stays away, in the middle of a run: delivery goes on."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

from tests.chaos.processes import eventually
from tests.chaos.report import injected, proved
from tests.chaos.scene import SECONDS
from tests.flows.conftest import ROOT, await_health, free_port, prefect_environment
from tests.flows.live import Live, live_hub
from tideover.bootstrap import HUB_VARIABLE, open_hub
from tideover.hub import intake
from tideover.hub.runtime import Runtime

pytestmark = [
    pytest.mark.prefect,
    pytest.mark.timeout(300 + SECONDS),
    pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ROUNDS, AWAY_S = 5, max(SECONDS, 3.0)


class Server:
    """A Prefect server that comes back on its port, with what it had written."""

    def __init__(self, home: Path) -> None:
        self._home, self._port = home, free_port()
        self.url = f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(self._port)]
        log = self._home / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=prefect_environment(self._home), cwd=self._home
            )
        await_health(self.url, self._process, log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    home = tmp_path / "prefect"
    home.mkdir()
    server = Server(home)
    server.start()
    settings = {PREFECT_API_URL: server.url, PREFECT_HOME: home, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}
    try:
        with temporary_settings(settings):
            yield server
    finally:
        server.kill()


class Run:
    """A lingering `deliver` in a process of its own."""

    def __init__(self, server: Server, folder: Path, hub_file: Path, linger_s: float) -> None:
        code = f"import asyncio; from flows.deliver import deliver; asyncio.run(deliver('erp', linger_s={linger_s}))"
        env = prefect_environment(folder) | {"PREFECT_API_URL": server.url, HUB_VARIABLE: str(hub_file)}
        self.log = folder / "run.log"
        with self.log.open("wb") as out:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], stdout=out, stderr=subprocess.STDOUT, env=env, cwd=ROOT
            )

    async def has_ended(self) -> bool:
        return self._process.poll() is not None

    def assert_ended_well(self) -> None:
        assert self._process.returncode == 0, self.log.read_text(errors="replace")[-4000:]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


async def test_f67_delivery_goes_on_while_prefects_server_is_dead_and_the_run_ends_once_it_is_back(
    tmp_path: Path, server: Server
) -> None:
    database = f"sqlite:///{tmp_path / 'hub.db'}"
    async with live_hub(tmp_path, database) as live, open_hub(live.file) as rt:
        run = Run(server, tmp_path, live.file, AWAY_S + 30)
        try:
            await _deliver_without_prefect(live, rt, server)
            await asyncio.to_thread(server.start)
            await eventually(run.has_ended, "the run ends", AWAY_S + 120)
            run.assert_ended_well()
        finally:
            run.end()
        await eventually(_is_told_completed, "the server knows that the run is completed")
        keys, doubled = live.holds("erp")
        await proved(database, {"orders": 20 * ROUNDS}, {"orders": keys + doubled})
        assert (keys, doubled) == (20 * ROUNDS, 0)


async def _deliver_without_prefect(live: Live, rt: Runtime, server: Server) -> None:
    """The first orders are delivered with Prefect's server, the others while it is dead."""
    for number in range(ROUNDS):
        if number == 1:
            injected("Prefect's server killed")
            await asyncio.to_thread(server.kill)
        if number:
            await asyncio.sleep(AWAY_S / (ROUNDS - 1))
        await live.twins.seed("orders", 20, start=1 + 20 * number)
        await intake.stage(rt, await intake.extract(rt, "orders-to-erp"))

        async def are_there(wanted: int = 20 * (number + 1)) -> bool:
            return live.holds("erp") == (wanted, 0)

        await eventually(are_there, f"round {number} is delivered")


async def _is_told_completed() -> bool:
    async with get_client() as client:
        runs = await client.read_flow_runs()
    return [run.state.type for run in runs if run.state is not None] == [StateType.COMPLETED]
