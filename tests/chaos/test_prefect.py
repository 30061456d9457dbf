"""Prefect's server is killed and stays away, in the middle of a run: delivery goes on.

Nothing of Prefect's runs in the test's own process: its clients there serve one server until the process ends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chaos.processes import eventually
from tests.chaos.report import injected, proved
from tests.chaos.scene import SECONDS
from tests.flows.conftest import ROOT, await_health, free_port, prefect_environment
from tests.flows.live import NAMES, ROUTES, blocks_for
from tests.twinhubs import SHORT, TwinSecrets, write_hub
from tideover.bootstrap import HUB_VARIABLE, open_hub
from tideover.hub import intake
from tideover.hub.runtime import Runtime
from tideover.twins import TwinHost

pytestmark = [pytest.mark.prefect, pytest.mark.timeout(300 + SECONDS)]
ROUNDS, AWAY_S = 5, max(SECONDS, 3.0)


class Server:
    """A Prefect server that comes back on its port, with what it had written."""

    def __init__(self, home: Path) -> None:
        self._home, self._port = home, free_port()
        self.url = f"http://127.0.0.1:{self._port}/api"

    def start(self) -> None:
        command = [sys.executable, "-m", "deployments.server", "--host", "127.0.0.1", "--port", str(self._port)]
        log = self._home / "server.log"
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                command, stdout=out, stderr=subprocess.STDOUT, env=prefect_environment(self._home), cwd=ROOT
            )
        await_health(self.url, self._process, log)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    async def is_told_completed(self) -> bool:
        async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
            try:
                answer = await client.post("/flow_runs/filter", json={})
            except httpx.TransportError:
                return False
        if answer.status_code in (429, 500, 503):  # its SQLite is busy
            return False
        return [run["state_type"] for run in answer.json()] == ["COMPLETED"]

    def environment(self, hub_file: Path) -> dict[str, str]:
        """Of a process that speaks to it about a hub."""
        return prefect_environment(self._home) | {"PREFECT_API_URL": self.url, HUB_VARIABLE: str(hub_file)}

    def apply_blocks(self, hub_file: Path, urls: dict[str, str]) -> None:
        blocks = self._home / "blocks.yaml"
        blocks.write_text(json.dumps(blocks_for(urls)))
        command = [sys.executable, "-m", "tideover.cli", "blocks", "apply", str(blocks)]
        done = subprocess.run(command, env=self.environment(hub_file), cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    home = tmp_path / "prefect"
    home.mkdir()
    server = Server(home)
    server.start()
    try:
        yield server
    finally:
        server.kill()


class Run:
    """A lingering `deliver` in a process of its own."""

    def __init__(self, server: Server, folder: Path, hub_file: Path, linger_s: float) -> None:
        code = f"import asyncio; from flows.deliver import deliver; asyncio.run(deliver('erp', linger_s={linger_s}))"
        env = server.environment(hub_file)
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
    file = write_hub(tmp_path, database, ROUTES, dict.fromkeys(NAMES, SHORT))
    async with (
        TwinHost(tmp_path / "twins") as twins,
        open_hub(file, secrets=TwinSecrets(twins.urls), migrate=True) as rt,
    ):
        await asyncio.to_thread(server.apply_blocks, file, twins.urls)
        run = Run(server, tmp_path, file, AWAY_S + 30)
        try:
            await _deliver_without_prefect(twins, rt, server)
            await asyncio.to_thread(server.start)
            await eventually(run.has_ended, "the run ends", AWAY_S + 120)
            run.assert_ended_well()
        finally:
            run.end()
        await eventually(server.is_told_completed, "the server knows that the run is completed")
        keys, doubled = _held(twins)
        await proved(database, {"orders": 20 * ROUNDS}, {"orders": keys + doubled})
        assert (keys, doubled) == (20 * ROUNDS, 0)


def _held(twins: TwinHost) -> tuple[int, int]:
    """Distinct orders at the ERP, and those done twice."""
    ledger = twins.ledger("erp")
    return int(ledger["keys"]), int(ledger["duplicates"])


async def _deliver_without_prefect(twins: TwinHost, rt: Runtime, server: Server) -> None:
    """The first orders are delivered with Prefect's server, the others while it is dead."""
    for number in range(ROUNDS):
        if number == 1:
            injected("Prefect's server killed")
            await asyncio.to_thread(server.kill)
        if number:
            await asyncio.sleep(AWAY_S / (ROUNDS - 1))
        await twins.seed("orders", 20, start=1 + 20 * number)
        await intake.stage(rt, await intake.extract(rt, "orders-to-erp"))

        async def are_there(wanted: int = 20 * (number + 1)) -> bool:
            return _held(twins) == (wanted, 0)

        await eventually(are_there, f"round {number} is delivered")
