"""Workers that die or freeze in the middle of delivering, while others go on."""

from __future__ import annotations

import sqlite3
from random import Random

from sqlalchemy import make_url

from tests.chaos.processes import WorkerProcess, eventually
from tests.chaos.scene import KILLS, SEED, TARGETS, Scene
from tests.databases import sql


async def test_f24_killed_workers_lose_nothing_and_do_nothing_twice(scene: Scene) -> None:
    dice = Random(SEED)
    for _ in range(2):
        await scene.start_worker()
    async with scene.feeding():
        for _ in range(KILLS):
            await scene.after_effects(dice.randint(10, 80))
            scene.kill(dice.choice(scene.workers))
            await scene.start_worker()
        await _kill_all_under_leases(scene)
        await scene.start_worker()
    await scene.prove()
    assert await scene.expired() > 0, "no worker was killed while it held a lease"


async def test_f12_f26_frozen_worker_is_taken_over_and_its_late_settle_is_refused(scene: Scene) -> None:
    frozen = await scene.start_worker()
    for target in TARGETS:  # so that calls are under way most of the time
        await scene.twins.control.fault(target, "slow", delay_s=0.2, only="writes")
    async with scene.feeding():
        await scene.after_effects(40)
        await _freeze_between_transactions(scene, frozen)
        for target in TARGETS:
            await scene.twins.control.clear(target)
        healthy = await scene.start_worker()
        await scene.after_effects(40)
    await scene.until_delivered()
    assert await scene.expired() > 0, "nothing was taken over"
    before = {name: await scene.twins.control.ledger(name) for name in TARGETS}
    frozen.thaw()

    async def is_refused() -> bool:
        return frozen.count("refused") > 0

    await eventually(is_refused, "the late settle is refused")
    after = {name: await scene.twins.control.ledger(name) for name in TARGETS}
    assert after == before, "it sent something after its lease was over"
    await scene.feed()  # and both go on
    await scene.prove()
    assert healthy.count("refused") == 0


async def _kill_all_under_leases(scene: Scene) -> None:
    """Kill every worker at one moment in which at least one of them holds leases, whatever the dice did before."""
    for target in TARGETS:  # so that calls are under way most of the time
        await scene.twins.control.fault(target, "slow", delay_s=0.2, only="writes")

    async def are_stopped_under_leases() -> bool:
        for worker in scene.workers:
            worker.freeze()
        if await _leased(scene) > 0:
            return True
        for worker in scene.workers:
            worker.thaw()
        return False

    await eventually(are_stopped_under_leases, "a worker is stopped while it holds leases")
    for worker in list(scene.workers):
        scene.kill(worker)
    for target in TARGETS:
        await scene.twins.control.clear(target)


async def _leased(scene: Scene) -> int:
    return await scene.number("select count(*) from lane where lease_until_us > 0")


async def _freeze_between_transactions(scene: Scene, worker: WorkerProcess) -> None:
    """Freeze it where it holds leases but no lock: a lock ends with its transaction, and that with its process or, on
    PostgreSQL, after `idle_in_transaction_session_timeout`. Of those the database takes care, not the hub."""

    async def is_frozen_well() -> bool:
        worker.freeze()
        if await _leased(scene) > 0 and not await _holds_a_lock(scene.url):
            return True
        worker.thaw()
        return False

    await eventually(is_frozen_well, "the worker is frozen while it holds leases and no lock")


async def _holds_a_lock(url: str) -> bool:
    """Whether anybody is in the middle of a transaction, of which a frozen worker would keep the locks."""
    if url.startswith("sqlite"):
        return not _can_write(url)
    rows = await sql(
        url,
        "select 1 from pg_stat_activity where application_name = 'tideover' and datname = current_database() "
        "and state <> 'idle'",
    )
    return bool(rows)


def _can_write(url: str) -> bool:
    """Whether nobody holds the file's write lock."""
    connection = sqlite3.connect(make_url(url).database or "", timeout=0.05, isolation_level=None)
    try:
        connection.execute("begin immediate")
        connection.execute("rollback")
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()
    return True
