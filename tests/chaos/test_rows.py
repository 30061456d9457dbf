"""Rows of the failure catalogue for which a process has to die, or has to have a clock of its own: 28, 60, 64."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.chaos.processes import Child, WorkerProcess, eventually
from tests.chaos.report import injected
from tests.chaos.scene import Scene
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.errors import SchemaMismatch
from tideover.hub import intake, overview
from tideover.policy.breaker import State
from tideover.staging.database import open_database
from tideover.staging.store import Store

HOUR_S = 3600
# Shifts the wall clock of a Python process by what a file says at the moment. Python runs it at its start.
SITE = """
import os, pathlib, time
file, now, now_ns = pathlib.Path(os.environ["TIDEOVER_TEST_CLOCK"]), time.time, time.time_ns
time.time = lambda: now() + int(file.read_text() or 0)
time.time_ns = lambda: now_ns() + int(file.read_text() or 0) * 1_000_000_000
"""


async def test_f28_breaker_that_is_open_is_open_after_every_worker_was_killed(scene: Scene) -> None:
    worker = await scene.start_worker()
    await scene.feed()
    await scene.until_delivered()
    await scene.twins.control.fault("erp", "down")
    await scene.feed()

    async def is_open() -> bool:
        async with scene.hub() as rt:
            return (await rt.store.gate("erp")).state is not State.CLOSED

    await eventually(is_open, "the breaker opens")
    scene.kill(worker)
    tried = await tried_at_erp(scene)
    await scene.start_worker()
    await scene.feed()
    assert await is_open()
    assert await tried_at_erp(scene) == tried, "a record was sent through an open breaker"
    assert await scene.number("select count(*) from outage where system = 'erp'") == 1, "it is the same outage"
    await scene.twins.control.clear("erp")
    await scene.prove()


async def tried_at_erp(scene: Scene) -> int:
    return await scene.number("select count(*) from attempt where system = 'erp' and kind <> 'expired'")


@pytest.mark.parametrize("statement", ["create table lane", "create index outage_open", "insert into tideover_schema"])
async def test_f60_migration_that_was_killed_leaves_nothing_and_can_be_run_again(
    tmp_path: Path, database_url: str, statement: str
) -> None:
    child = Child("tests.chaos.migrator", database_url, statement, log=tmp_path / "migrator.log")

    async def has_ended() -> bool:
        return not child.is_alive

    injected("migration killed")
    await eventually(has_ended, "the migration is killed")
    assert child.log.read_text() == "", "it ended by itself"
    store = Store(open_database(database_url))
    try:
        with pytest.raises(SchemaMismatch):
            await store.check_schema()
    finally:
        await store.close()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": FakeSystem()}) as rt:
        assert (await intake.stage_records(rt, "orders", [{"id": "a"}])).staged == 1
        assert [audit.faults for audit in await overview.audit(rt)] == [()]


@pytest.fixture
def launch_with_clock(
    tmp_path: Path, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[WorkerProcess, Path]]:
    """Starts a worker whose wall clock is as many seconds ahead as is in the file."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)

    def launch(name: str) -> tuple[WorkerProcess, Path]:
        file = tmp_path / name
        if not file.exists():
            file.write_text("0")
        monkeypatch.setenv("PYTHONPATH", str(site))
        monkeypatch.setenv("TIDEOVER_TEST_CLOCK", str(file))
        worker = scene.launch()
        monkeypatch.undo()
        return worker, file

    return launch


async def test_f64_clocks_that_jump_by_an_hour_lose_nothing_and_do_nothing_twice(
    scene: Scene, launch_with_clock: Callable[[str], tuple[WorkerProcess, Path]]
) -> None:
    """On PostgreSQL the workers' clocks are two hours apart, and matter to nobody: the server's counts. On SQLite both
    are on one machine, whose clock is the database's."""
    names = ("clock", "clock") if scene.url.startswith("sqlite") else ("clock-1", "clock-2")
    (first, clock), (second, other_clock) = map(launch_with_clock, names)
    for worker in (first, second):
        await worker.until_told("ready")
    async with scene.feeding():
        for shift_s in (HOUR_S, 0, HOUR_S):
            await scene.after_effects(60)
            injected("clock jumped")
            other_clock.write_text(str(-shift_s))
            clock.write_text(str(shift_s))
        await scene.after_effects(60)
    ahead_s = await scene.number("select max(staged_us) from record") / 1_000_000 - time.time()
    assert (ahead_s > HOUR_S / 2) == scene.url.startswith("sqlite"), "it is the database's clock that counts"
    await scene.prove()
