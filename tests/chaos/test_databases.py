"""The database goes away, freezes or is full, and comes back: nothing is lost, and workers go on by themselves."""

from __future__ import annotations

import resource
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

from tests.chaos.processes import PostgresServer, WorkerProcess, eventually
from tests.chaos.report import injected
from tests.chaos.scene import MARGIN_S, Scene, open_scene

SOON_S = 20.0  # a database that is away must be told within, by the worker's own clock
DISK_BYTES = 6_000_000


@pytest.fixture
async def own(tmp_path: Path, server: PostgresServer) -> AsyncIterator[Scene]:
    """A scene on a server that may be stopped."""
    server.new_database("hub")
    url = make_url(server.url).set(database="hub").render_as_string(hide_password=False)
    async with open_scene(tmp_path, url) as opened:
        yield opened


def unavailable(worker: WorkerProcess) -> list[str]:
    """What it told of the database; the time each took is within bounds."""
    told = worker.told("unavailable")
    assert all(fact["after_s"] < SOON_S for fact in told), told
    return [fact["error"] for fact in told]


async def test_crashed_postgresql_stops_the_work_with_a_clear_word_and_loses_nothing(
    own: Scene, server: PostgresServer
) -> None:
    workers = [await own.start_worker() for _ in range(2)]
    async with own.feeding():
        await own.after_effects(60)
        server.stop("immediate")
        for worker in workers:
            await worker.until_told("unavailable")
        server.start()
        await own.after_effects(60)
    await own.prove()
    for worker in workers:
        assert all("the staging database can't be used" in error for error in unavailable(worker))


async def test_worker_that_starts_before_its_database_says_so_soon_and_works_once_it_is_there(
    own: Scene, server: PostgresServer
) -> None:
    server.stop("fast")
    try:
        worker = own.launch()
        await worker.until_told("unavailable")
        assert worker.told("ready") == []
        [first, *_] = unavailable(worker)
        assert "the staging database can't be used" in first
        assert "postgresql" not in first, "the URL, which may hold a password, was told"
    finally:
        server.start()
    await worker.until_told("ready")
    await own.feed()
    await own.prove()


async def test_frozen_postgresql_delays_and_loses_nothing_though_every_lease_runs_out(
    own: Scene, server: PostgresServer
) -> None:
    for _ in range(2):
        await own.start_worker()
    async with own.feeding():
        await own.after_effects(60)
        server.freeze()
        try:
            thaw_at = time.monotonic() + 2 * (1 + MARGIN_S)  # twice a lease: here, time itself is what is waited for

            async def is_time() -> bool:
                return time.monotonic() >= thaw_at

            await eventually(is_time, "every lease is over")
        finally:
            server.thaw()
        await own.after_effects(60)
    await own.prove()


async def _refuses_then_goes_on(scene: Scene, worker: WorkerProcess, make_room: Callable[[], object]) -> None:
    """Nothing can be written now: changes at the source must wait, and go through once there is room."""
    changes = scene.fed.next_round()
    staged = await scene.ledger("orders", "staged")
    await scene.twins.control.upsert("orders", changes)
    await worker.until_told("unavailable", more_than=2)
    assert await scene.ledger("orders", "staged") == staged
    make_room()
    await eventually(scene.is_staged, "what was refused is staged")
    await scene.feed()
    await scene.prove()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with little room."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("a small file system can't be mounted here: there is no `mount`")
    if mounted.returncode:
        pytest.skip(f"a small file system can't be mounted here: {mounted.stderr.strip() or 'not allowed'}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _fill_up(ballast: Path) -> None:
    injected("disk filled")
    with ballast.open("wb", buffering=0) as file, suppress(OSError):  # until no space is left
        while True:
            file.write(bytes(4096))


async def test_f8_full_disk_refuses_cleanly_and_goes_on_when_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    async with open_scene(tmp_path, f"sqlite:///{small_disk / 'hub.db'}") as scene:
        worker = await scene.start_worker()
        await scene.feed()
        await scene.until_delivered()
        ballast = small_disk / "ballast"
        _fill_up(ballast)
        await _refuses_then_goes_on(scene, worker, ballast.unlink)
        assert any("full" in error for error in unavailable(worker))


async def test_f8_file_that_may_not_grow_refuses_cleanly_and_goes_on_when_it_may(tmp_path: Path) -> None:
    """Portable to where nothing can be mounted: the process's own limit on the size of files, set from outside."""
    async with open_scene(tmp_path, f"sqlite:///{tmp_path / 'hub.db'}") as scene:
        worker = await scene.start_worker()
        await scene.feed()
        await scene.until_delivered()
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        injected("disk filled")
        resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (1024, hard))
        await _refuses_then_goes_on(
            scene, worker, lambda: resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard, hard))
        )
