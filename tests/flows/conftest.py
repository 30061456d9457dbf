"""A real Prefect server for the tests of what stands on Prefect: one per run, with a home and a database of its own."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE, temporary_settings

PATIENCE_S = 120.0
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def prefect_environment(home: Path) -> dict[str, str]:
    """This process's environment without any Prefect settings but those of a server that tells nobody of itself."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return inherited | {
        "PREFECT_HOME": str(home),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{home / 'prefect.db'}",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
        "DO_NOT_TRACK": "1",
    }


def await_health(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Return once the server answers. Raises `RuntimeError` with the end of its log if it dies, or takes too long."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and server.poll() is None:
        try:
            if httpx.get(f"{url}/health", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise RuntimeError(f"the Prefect server did not start:\n{log.read_text(errors='replace')[-4000:]}")


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def prefect_server(prefect_home: Path) -> Iterator[str]:
    """The API's URL of a server that was started for this run."""
    port, log = free_port(), prefect_home / "server.log"
    command = [sys.executable, "-m", "deployments.server", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=prefect_environment(prefect_home), cwd=ROOT
        )
    url = f"http://127.0.0.1:{port}/api"
    try:
        await_health(url, server, log)
        yield url
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait(15)


@pytest.fixture
def prefect_api(prefect_server: str, prefect_home: Path) -> Iterator[str]:
    """Prefect's client in this process speaks to the test's server, and never starts one of its own."""
    settings = {
        PREFECT_API_URL: prefect_server,
        PREFECT_HOME: prefect_home,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False,
    }
    with temporary_settings(settings):
        yield prefect_server


@pytest.fixture
async def prefect(prefect_api: str) -> AsyncIterator[PrefectClient]:
    """A client of a server that holds nothing of any hub, before and after."""
    async with get_client() as client:
        yield client
        for deployment in await client.read_deployments():
            await client.delete_deployment(deployment.id)
        for automation in await client.read_automations():
            await client.delete_automation(automation.id)
        with suppress(PrefectHTTPStatusError):  # the type is not known before the first deploy
            for document in await client.read_block_documents_by_type("tideover-applied"):
                await client.delete_block_document(document.id)


@pytest.fixture
async def prefect_raw(prefect_api: str) -> AsyncIterator[httpx.AsyncClient]:
    """Prefect's API without Prefect's client: what a browser would see, and write.

    Asked again, as Prefect's own client does, where its server says that its SQLite is busy.
    """
    async with httpx.AsyncClient(base_url=prefect_api, timeout=120, transport=Patient()) as client:
        yield client


class Patient(httpx.AsyncHTTPTransport):
    """A transport that takes "not now" for no answer."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        give_up = time.monotonic() + 60
        while True:
            response = await super().handle_async_request(request)
            if response.status_code not in (429, 500, 503) or time.monotonic() > give_up:
                return response
            await response.aclose()
            await asyncio.sleep(0.5)


@pytest.fixture
def prefect_env(prefect_api: str, prefect_home: Path) -> dict[str, str]:
    """The environment in which a child process speaks to the test's server."""
    return prefect_environment(prefect_home) | {"PREFECT_API_URL": prefect_api, "PYTHONPATH": str(ROOT)}


@pytest.fixture
def dead_api(prefect_home: Path) -> Iterator[str]:
    """Prefect's client in this process speaks to a port where nobody answers."""
    url = f"http://127.0.0.1:{free_port()}/api"
    with temporary_settings({PREFECT_API_URL: url, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: False}):
        yield url
