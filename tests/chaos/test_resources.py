"""What a machine can refuse: to keep what was written, to sync it, to give room, to open another file.

Rows 6, 7, 8 and 66 of the failure catalogue. What these tests can't do: cut the power. See `docs/failures.md`.
"""

from __future__ import annotations

import json
import os
import pwd
import resource
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.chaos.processes import Child, PostgresServer, WorkerProcess, eventually
from tests.chaos.report import injected
from tests.chaos.scene import Scene, open_scene
from tests.chaos.stager import PER_BATCH, batch
from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.errors import HubUnavailable
from tideover.hub import intake, overview
from tideover.hub.runtime import Runtime
from tideover.model import Staged

TABLESPACE_BYTES = 32_000_000  # an empty database of PostgreSQL takes 8 MB


def told(child: Child, what: str) -> list[int]:
    """Batches of which a stager has told that."""
    lines = [line for line in child.log.read_text().splitlines(keepends=True) if line.endswith("\n")]
    assert all(line.startswith("{") for line in lines), child.log.read_text()[-4000:]
    return [fact["batch"] for fact in map(json.loads, lines) if fact["what"] == what]


async def until_staged(child: Child, count: int) -> None:
    async def is_there() -> bool:
        return len(told(child, "staged")) >= count

    await eventually(is_there, f"{count} batches are acknowledged")


@asynccontextmanager
async def hub_on(url: str) -> AsyncIterator[Runtime]:
    async with running(hub_config(), url, {"crm": FakeSystem(), "erp": FakeSystem()}) as rt:
        yield rt


async def stage_again(rt: Runtime, number: int) -> Staged:
    return await intake.stage_records(rt, "orders", batch(number))


async def assert_all_there(url: str, acknowledged: list[int]) -> None:
    """Each acknowledged batch is wholly there, each other one wholly or not at all; and the books balance."""
    found = [key for (key,) in await sql(url, "select key from lane where route = 'orders'")]
    numbers = [int(key.partition("-")[0]) for key in found]
    assert set(acknowledged) <= set(numbers)
    assert {numbers.count(number) for number in set(numbers)} == {PER_BATCH}
    async with hub_on(url) as rt:
        for number in acknowledged[-3:]:
            assert (await stage_again(rt, number)).unchanged == PER_BATCH, "what is there is not staged again"
        assert [audit.faults for audit in await overview.audit(rt)] == [()]


@pytest.fixture
def own_url(server: PostgresServer) -> str:
    """An empty database on a server that may be stopped."""
    server.new_database("owned")
    return make_url(server.url).set(database="owned").render_as_string(hide_password=False)


# --- 6: the process, or the whole server, is gone between two instructions ------------------------------------


async def test_f6_killed_process_leaves_everything_in_the_file_that_it_acknowledged(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    acknowledged: list[int] = []
    for run in range(3):
        child = Child("tests.chaos.stager", url, log=tmp_path / f"stager-{run}.log")
        await until_staged(child, 20)
        injected("process killed")
        child.kill()
        acknowledged += told(child, "staged")
        await assert_all_there(url, acknowledged)


async def test_f6_killed_server_has_everything_that_it_acknowledged_once_it_is_back(
    tmp_path: Path, server: PostgresServer, own_url: str
) -> None:
    child = Child("tests.chaos.stager", own_url, log=tmp_path / "stager.log")
    try:
        await until_staged(child, 20)
        server.kill()

        async def is_refused() -> bool:
            return told(child, "refused") != []

        await eventually(is_refused, "the stager is refused")
    finally:
        child.kill()
        server.start()
    await assert_all_there(own_url, told(child, "staged"))


# --- 7: fsync fails -------------------------------------------------------------------------------------------


async def test_f7_batch_that_the_file_could_not_sync_is_not_acknowledged(tmp_path: Path) -> None:
    """That it is refused shows at once that every acknowledgement waits for a sync, which a power cut asks for."""
    url = f"sqlite:///{tmp_path / 'hub.db'}"
    child = Child("tests.chaos.stager", url, "--deny-sync-after", "5", log=tmp_path / "stager.log")
    try:
        injected("fsync fails")

        async def has_ended() -> bool:
            return not child.is_alive

        await eventually(has_ended, "the stager ends")
    finally:
        child.kill()
    if "NotImplementedError" in child.log.read_text():
        pytest.skip("no system call can be made to fail here")
    assert (told(child, "staged"), told(child, "refused")) == ([0, 1, 2, 3, 4], [5])
    await assert_all_there(url, told(child, "staged"))
    async with hub_on(url) as rt:
        await stage_again(rt, 5)
    await assert_all_there(url, [0, 1, 2, 3, 4, 5])


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder in which any user may write: PostgreSQL does not run as root."""
    with tempfile.TemporaryDirectory(prefix="tideover-log-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


async def test_f7_batch_that_the_server_could_not_sync_is_not_acknowledged(
    open_folder: Path, server: PostgresServer, own_url: str
) -> None:
    async with hub_on(own_url) as rt:
        await stage_again(rt, 0)
    log = open_folder / "server.log"
    injected("fsync fails")
    try:
        server.restart_without_sync(log)
        with pytest.raises(HubUnavailable):
            async with hub_on(own_url) as rt:
                await stage_again(rt, 1)
        assert "could not fdatasync" in log.read_text()
    except NotImplementedError as error:
        pytest.skip(str(error))
    finally:
        server.kill()
        server.start()
    await assert_all_there(own_url, [0])
    async with hub_on(own_url) as rt:
        await stage_again(rt, 1)
    await assert_all_there(own_url, [0, 1])


# --- 8: no room -----------------------------------------------------------------------------------------------


@pytest.fixture
def small_tablespace(server: PostgresServer) -> Iterator[Path]:
    """A file system of its own with little room, and the database `small` in it."""
    folder = Path(tempfile.mkdtemp(prefix="tideover-tablespace-"))
    owner = pwd.getpwnam(server.system_user).pw_uid if server.system_user else os.getuid()
    options = f"size={TABLESPACE_BYTES},uid={owner},mode=0700"
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        folder.rmdir()
        pytest.skip("a small file system can't be mounted here")
    try:
        server.run(f"create tablespace small location '{folder}'")
        server.run("create database small tablespace small")
        yield folder
    finally:
        server.run("drop database if exists small with (force)")
        server.run("drop tablespace if exists small")
        subprocess.run(["umount", str(folder)], check=True)
        folder.rmdir()


async def test_f8_full_tablespace_refuses_cleanly_and_goes_on_when_there_is_room(
    tmp_path: Path, server: PostgresServer, small_tablespace: Path
) -> None:
    url = make_url(server.url).set(database="small").render_as_string(hide_password=False)
    async with open_scene(tmp_path, url) as scene:
        worker = await scene.start_worker()
        await scene.feed()
        await scene.until_delivered()
        ballast = small_tablespace / "ballast"
        injected("disk filled")
        with ballast.open("wb", buffering=0) as file, suppress(OSError):  # until no space is left
            while True:
                file.write(bytes(4096))
        await feed_until_full(scene, worker)
        ballast.unlink()
        await eventually(scene.is_staged, "what was refused is staged")
        await scene.feed()
        await scene.prove()


async def feed_until_full(scene: Scene, worker: WorkerProcess) -> None:
    """Round after round: what PostgreSQL has of free room in its pages is used up before it asks for more."""
    scene.fed.fresh = 200

    async def is_settled() -> bool:
        return await scene.is_staged() or is_full(worker)

    while not is_full(worker):
        await scene.twins.control.upsert("orders", scene.fed.next_round())
        await eventually(is_settled, "a round is staged or refused")
    scene.fed.fresh = 14


def is_full(worker: WorkerProcess) -> bool:
    assert worker.is_alive, worker.log.read_text()[-4000:]
    return any(fact["where"] == "read" and "DiskFull" in fact["error"] for fact in worker.told("unavailable"))


# --- 66: no descriptors ---------------------------------------------------------------------------------------


async def test_f66_worker_without_descriptors_keeps_everything_and_goes_on_once_it_has_some(scene: Scene) -> None:
    worker = await scene.start_worker()
    await scene.feed()
    await scene.until_delivered()
    soft, hard = resource.prlimit(worker.pid, resource.RLIMIT_NOFILE)
    scene.twins.kill()  # every connection ends: only a new one leads to a system
    injected("no descriptors")
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (0, hard))
    await scene.twins.start()
    changes = scene.fed.next_round()
    await scene.twins.control.upsert("orders", changes)
    await worker.until_told("source", more_than=2)
    assert worker.is_alive
    resource.prlimit(worker.pid, resource.RLIMIT_NOFILE, (soft, hard))
    await eventually(scene.is_staged, "what could not be read is staged")
    await scene.feed()
    await scene.prove()
