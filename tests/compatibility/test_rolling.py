"""An upgrade that rolls: the schema is expanded and contracted while workers of both releases deliver.

There is no next release yet, so it is rehearsed: `next/` holds its revisions, and its workers are this release's, made
for the second of them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from tests.chaos.processes import Child, WorkerProcess, eventually
from tests.chaos.scene import MARGIN_S, Fed, Scene, open_scene
from tests.compatibility.worker import NEXT
from tests.databases import Postgres, sql
from tideover.errors import HubUnavailable, SchemaMismatch
from tideover.model import NewRecord
from tideover.policy.failover import GroupRule
from tideover.staging import migrate
from tideover.staging.database import Database, open_database
from tideover.staging.stage import Batch
from tideover.staging.store import Store

EXPANDED, NEXT_HEAD, CONTRACTED = "9001", "9002", "9003"
SOME = 24  # effects


class NextWorker(WorkerProcess):
    """A worker of the next release."""

    def __init__(self, scene: Scene, folder: Path, name: str) -> None:
        arguments = (NEXT_HEAD, str(folder / "hub.yaml"), json.dumps(dict(scene.twins.urls)), "--margin-s")
        env = {"TIDEOVER_TEST_URL": scene.url}
        Child.__init__(
            self, "tests.compatibility.worker", *arguments, str(MARGIN_S), log=folder / f"{name}.log", env=env
        )
        scene.workers.append(self)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    it = open_database(database_url)
    yield it
    await it.close()


async def upgrade(database: Database, to: str) -> None:
    await database.upgrade(partial(migrate.upgrade, to=to, later=[NEXT]))


async def upgrade_at_last(database: Database, to: str) -> None:
    """As often as it takes: beside workers a migration may meet a deadlock, and nothing was changed then."""

    async def is_done() -> bool:
        with suppress(HubUnavailable):
            await upgrade(database, to)
        return to in await served(database)

    await eventually(is_done, f"the schema is at {to}")


async def served(database: Database) -> set[str]:
    return set(await database.read(lambda tx: migrate.served(tx.conn)))


async def retire(scene: Scene, worker: WorkerProcess) -> None:
    scene.workers.remove(worker)
    await worker.stop()
    assert worker.told("unavailable") == [], "the upgrade stopped it"


async def both(first: WorkerProcess, second: WorkerProcess) -> tuple[WorkerProcess, WorkerProcess]:
    """Two that start side by side."""
    for worker in (first, second):
        await worker.until_told("ready")
    return first, second


async def test_f59_workers_of_both_releases_deliver_while_the_schema_is_expanded_and_contracted(
    tmp_path: Path, database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_scene(tmp_path, database_url) as scene:
        scene.fed = Fed(hot=3, fresh=5)
        old, victim = await both(scene.launch(), scene.launch())
        async with scene.feeding():
            await scene.after_effects(SOME)
            await upgrade_at_last(database, EXPANDED)
            await scene.after_effects(SOME)
            await upgrade_at_last(database, NEXT_HEAD)
            scene.kill(victim)
            again, new = await both(scene.launch(), NextWorker(scene, tmp_path, "next-1"))
            await scene.after_effects(SOME)
            for worker in (old, again):
                await retire(scene, worker)
            await upgrade_at_last(database, CONTRACTED)
            await scene.after_effects(SOME)
            late = scene.launch()  # of the old release: it must not work any more
            await late.until_told("unavailable")
            await scene.after_effects(SOME)
        assert late.told("ready") == []
        assert CONTRACTED in late.told("unavailable")[0]["error"]
        scene.kill(late)
        monkeypatch.setattr(migrate, "HEAD", NEXT_HEAD)  # who proves it is of the next release, and starts only now
        await scene.prove()
        assert new.told("unavailable") == []


async def test_f59_expanded_schema_serves_the_revisions_before_it_and_a_contracted_one_only_the_last(
    database: Database,
) -> None:
    await upgrade(database, migrate.HEAD)
    assert await served(database) == {migrate.HEAD}
    await upgrade(database, EXPANDED)
    assert await served(database) == {migrate.HEAD, EXPANDED}
    await upgrade(database, NEXT_HEAD)
    assert await served(database) == {migrate.HEAD, EXPANDED, NEXT_HEAD}
    await upgrade(database, CONTRACTED)
    assert await served(database) == {NEXT_HEAD, CONTRACTED}


async def test_f59_migrate_of_an_older_release_changes_nothing_on_a_schema_that_serves_it(
    database: Database, database_url: str
) -> None:
    store = Store(database)
    await upgrade(database, NEXT_HEAD)
    await store.check_schema()
    await store.migrate()
    assert await sql(database_url, "select version_num from tideover_schema") == [(NEXT_HEAD,)]
    await upgrade(database, CONTRACTED)
    with pytest.raises(SchemaMismatch, match=f"revision {CONTRACTED}.*needs {migrate.HEAD}"):
        await store.check_schema()
    with pytest.raises(SchemaMismatch, match=f"revision {CONTRACTED}.*no longer serves"):
        await store.migrate()
    assert await sql(database_url, "select version_num from tideover_schema") == [(CONTRACTED,)]


async def test_f59_migrate_while_a_backup_holds_a_table_gives_up_and_what_waited_for_it_goes_on(
    postgres: Postgres,
) -> None:
    url = postgres.new_database()
    store = Store(open_database(url))
    await store.migrate()
    backup = await asyncpg.connect(url)
    async with backup.transaction():
        await backup.execute("lock table lane in access share mode")
        migration = asyncio.create_task(upgrade(store.database, EXPANDED))
        while not await sql(url, "select 1 from pg_locks where mode = 'AccessExclusiveLock' and not granted"):
            assert not migration.done()
        assert (await store.stage(Batch("orders", "crm", [NewRecord("a", b"{}")]))).staged == 1
        with pytest.raises(HubUnavailable, match="lock timeout"):
            await migration
    await backup.close()
    assert await served(store.database) == {migrate.HEAD}
    await upgrade(store.database, EXPANDED)
    assert await served(store.database) == {migrate.HEAD, EXPANDED}
    await store.close()


async def test_f59_fields_that_a_newer_release_added_to_a_state_are_not_read_and_stay_as_they_are(
    database: Database, database_url: str
) -> None:
    store, rule = Store(database), GroupRule(("carrier-a", "carrier-b"))
    await store.migrate()
    await store.force("carrier-a", "open", "a strike")
    await store.pin("shipping", rule, "carrier-b", why="a strike", author="ann")
    before = (await store.gate("carrier-a"), await store.group("shipping", rule))
    for table, column, last in (("system", "breaker", "}"), ("failover_group", "state", "}}")):
        [(stored,)] = await sql(database_url, f"select {column} from {table}")
        added = stored.removesuffix(last) + ',"added_later":[1]' + last
        added = added.replace('"phase"', '"added_later":null,"phase"')
        await sql(database_url, f"update {table} set {column} = '{added}'")
    assert (await store.gate("carrier-a"), await store.group("shipping", rule)) == before
    await store.force("carrier-a", "closed", "it is over")
    assert (await store.gate("carrier-a")).lets_through
    await store.hurry("shipping", rule, "carrier-a")
    [(breaker,)] = await sql(database_url, "select breaker from system")
    assert json.loads(str(breaker))["added_later"] == [1]
    [(state,)] = await sql(database_url, "select state from failover_group")
    assert json.loads(str(state))["pin"]["added_later"] == [1]
    assert json.loads(str(state))["trusts"]["carrier-a"]["added_later"] is None
    await store.unpin("shipping", rule, why="it is over", author="ann")
    [(state,)] = await sql(database_url, "select state from failover_group")
    assert json.loads(str(state))["pin"] is None
    assert json.loads(str(state))["trusts"]["carrier-a"]["added_later"] is None


def test_each_revision_says_whether_it_expands_or_contracts() -> None:
    kinds = {script.revision: script.module.kind for script in migrate._scripts([NEXT]).walk_revisions()}
    assert set(kinds.values()) <= {"expand", "contract"}
    assert migrate.HEAD in kinds
