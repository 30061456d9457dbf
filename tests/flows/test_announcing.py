"""What an operator does on the command line reaches Prefect at once, and nothing is lost while it is away."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.announcing import announce_now
from tests.clihubs import make_hub
from tests.flows.conftest import free_port
from tideover.bootstrap import open_hub

ROOT = Path(__file__).parents[2]
NAMES = ["tideover.system.down", "tideover.system.restored"]


async def made(tmp_path: Path) -> Path:
    """The file of a hub whose database is there."""
    file = make_hub(tmp_path).file
    async with open_hub(file):
        return file


def breaker(file: Path, word: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """`tideover breaker crm <word>` in a process of its own."""
    command = [sys.executable, "-m", "tideover.cli", "--hub", str(file), "breaker", "crm", word, "--why", "test"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90, check=False)


async def test_forced_breaker_reaches_prefect_without_a_run(
    tmp_path: Path, prefect_env: dict[str, str], prefect_raw: httpx.AsyncClient
) -> None:
    file = await made(tmp_path)
    for word in ("open", "auto"):
        ran = await asyncio.to_thread(breaker, file, word, prefect_env)
        assert (ran.returncode, ran.stderr) == (0, "")
    async with open_hub(file) as rt:
        assert await rt.store.unannounced() == []
    wanted = {"filter": {"event": {"name": NAMES}, "resource": {"id": ["tideover.system.crm"]}}}

    async def seen() -> set[str]:
        answer = await prefect_raw.post("/events/filter", json=wanted)
        return {event["event"] for event in answer.json()["events"]}

    async with asyncio.timeout(120):
        while await seen() != set(NAMES):
            await asyncio.sleep(0.3)


async def test_event_stays_in_the_outbox_while_prefect_is_away(tmp_path: Path) -> None:
    file = await made(tmp_path)
    nowhere = {"PREFECT_API_URL": f"http://127.0.0.1:{free_port()}/api", "PREFECT_HOME": str(tmp_path)}
    ran = await asyncio.to_thread(breaker, file, "open", {**os.environ, **nowhere})
    assert ran.returncode == 0
    assert ran.stderr == "Prefect does not answer: it is told by the next run\n"
    async with open_hub(file) as rt:
        assert [e.event.name for e in await rt.store.unannounced()] == ["tideover.system.down"]


async def test_announcing_without_an_api_starts_no_server(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    async with open_hub(hub.file) as rt:
        await rt.store.force("crm", "open", "test")
        with temporary_settings(restore_defaults={PREFECT_API_URL}):
            assert await announce_now(rt) is False
        assert len(await rt.store.unannounced()) == 1
