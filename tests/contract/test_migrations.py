"""The schema's migrations, on both databases: what they make, when they are run again, and when they are killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import asyncpg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Identity, event, inspect, text

from tests.databases import Postgres, sql
from tideover.errors import HubUnavailable, SchemaMismatch
from tideover.model import NewRecord
from tideover.staging import migrate, schema
from tideover.staging.database import Database, open_database
from tideover.staging.stage import Batch
from tideover.staging.store import Store


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    it = open_database(database_url)
    yield it
    await it.close()


@pytest.fixture
def store(database: Database) -> Store:
    return Store(database)


async def look(database: Database, found: Callable[[Connection], object]) -> list[object]:
    """What a function of a connection gives."""
    kept: list[object] = []
    await database.upgrade(lambda conn: kept.append(found(conn)))
    return kept


async def tables(database: Database) -> set[str]:
    [names] = await look(database, lambda conn: set(inspect(conn).get_table_names()))
    assert isinstance(names, set)
    return names


def differences(conn: Connection) -> list[object]:
    """What Alembic would still change: tables, columns, nullability, types, defaults and indexes.

    SQLite has no identity columns: its integer keys number themselves, so the metadata's `Identity` can't be seen.
    """
    options = {"version_table": migrate.VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    found = compare_metadata(MigrationContext.configure(conn, opts=options), schema.metadata)
    if conn.dialect.name != "sqlite":
        return list(found)
    return [change for change in found if not _is_unseen_identity(change)]


def _is_unseen_identity(change: object) -> bool:
    match change:
        case [("modify_default", None, _, "id", _, None, Identity())]:
            return True
    return False


async def test_migrated_schema_compared_by_alembic_has_no_differences(store: Store) -> None:
    await store.migrate()
    assert await look(store.database, differences) == [[]]


async def test_comparison_when_something_does_differ_sees_it(store: Store, database_url: str) -> None:
    await store.migrate()
    await sql(database_url, "drop index parked_lane")
    await sql(database_url, "alter table outage add column stray bigint")
    [found] = await look(store.database, differences)
    assert {change[0] for change in found} == {"add_index", "remove_column"}  # type: ignore[attr-defined]


_CATALOGUE = {
    # Quotes and white space aside, the very statements: with the indexes' conditions, which Alembic does not compare.
    "sqlite": "select type, name, tbl_name, sql from sqlite_master where name <> 'tideover_schema' order by 1, 2",
    "postgresql": (
        "select 'column', table_name || '.' || column_name, data_type || ' ' || is_nullable || ' ' || is_identity, "
        "column_default from information_schema.columns where table_schema = 'public' "
        "and table_name <> 'tideover_schema' union all "
        "select 'index', indexname, tablename, indexdef from pg_indexes where schemaname = 'public' "
        "and tablename <> 'tideover_schema' order by 1, 2"
    ),
}


async def catalogue(url: str) -> list[tuple[str, ...]]:
    statement = _CATALOGUE["sqlite" if url.startswith("sqlite") else "postgresql"]
    rows = await sql(url, statement)
    texts = [tuple(" ".join(str(value).replace('"', "").split()) for value in row) for row in rows]
    return [row for row in texts if "tideover_schema" not in row]


@pytest.fixture
def other_url(request: pytest.FixtureRequest, database_url: str, tmp_path: Path) -> str:
    """Another empty database of the same kind."""
    if database_url.startswith("sqlite"):
        return f"sqlite:///{tmp_path / 'other.db'}"
    server = request.getfixturevalue("postgres")
    url: str = server.new_database()
    return url


async def test_migrated_schema_in_the_databases_own_catalogue_is_that_of_the_metadata(
    store: Store, database_url: str, other_url: str
) -> None:
    await store.migrate()
    other = open_database(other_url)
    await other.upgrade(schema.metadata.create_all)
    await other.close()
    found = await catalogue(database_url)
    assert found == await catalogue(other_url)
    assert len(found) > 2 * len(schema.metadata.tables)


async def test_migrate_again_with_records_in_it_changes_nothing(store: Store, database_url: str) -> None:
    await store.migrate()
    await store.stage(Batch("orders", "crm", [NewRecord("a", b"{}")]))
    before = await catalogue(database_url)
    await store.migrate()
    assert await catalogue(database_url) == before
    assert await sql(database_url, "select count(*) from record") == [(1,)]
    await store.check_schema()


async def test_migrate_at_the_same_time_makes_one_schema(database_url: str) -> None:
    stores = [Store(open_database(database_url)) for _ in range(4)]
    await asyncio.gather(*(store.migrate() for store in stores))
    for store in stores:
        await store.check_schema()
        await store.close()
    assert await sql(database_url, "select count(*) from tideover_schema") == [(1,)]


async def test_migrate_of_a_schema_that_is_there_writes_nothing(
    store: Store, database_url: str, tmp_path: Path
) -> None:
    """A SQLite file is migrated each time that it is opened, also to look at it while the disk is full."""
    await store.migrate()
    if not database_url.startswith("sqlite"):
        before = await sql(database_url, "select xmin, revision from served_revision")
        await store.migrate()
        assert await sql(database_url, "select xmin, revision from served_revision") == before
        return
    before_bytes = log_size(database_url)
    await store.migrate()
    assert log_size(database_url) == before_bytes > 0


def log_size(url: str) -> int:
    """Of a SQLite file's write-ahead log, in bytes."""
    return Path(f"{url.removeprefix('sqlite:///')}-wal").stat().st_size


async def test_migration_whose_statement_takes_too_long_changes_nothing(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers wait for what it has locked."""
    monkeypatch.setattr(migrate, "STATEMENT_TIMEOUT_S", 1)
    database = open_database(postgres.new_database())

    def slow(conn: Connection) -> None:
        migrate.upgrade(conn)
        conn.execute(text("select pg_sleep(60)"))

    with pytest.raises(HubUnavailable, match="statement timeout"):
        await database.upgrade(slow)
    assert await tables(database) == set()
    await database.close()


async def test_vacuum_may_take_longer_than_a_statement_of_a_worker(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.new_database()
    patient = open_database(url)
    await patient.upgrade(migrate.upgrade)
    await patient.close()
    monkeypatch.setattr("tideover.staging.database.COMMAND_TIMEOUT_S", 1.0)
    database = open_database(url)
    other = await asyncpg.connect(url)
    async with other.transaction():
        await other.execute("lock table lane in share update exclusive mode")
        vacuuming = asyncio.create_task(database.vacuum("lane"))
        with pytest.raises(HubUnavailable):
            await database.write(lambda tx: tx.conn.execute(text("select pg_sleep(2)")))
        assert not vacuuming.done()
    await vacuuming
    await other.close()
    await database.close()


class Killed(Exception):
    """The migrating process is gone."""


def killed_at(statement: str) -> Callable[[Connection], None]:
    """An upgrade that is cut off before the first statement that begins so."""

    def upgrade(conn: Connection) -> None:
        @event.listens_for(conn, "before_cursor_execute")
        def _kill(_conn: object, _cursor: object, text: str, *_rest: object) -> None:
            if " ".join(text.split()).lower().startswith(statement):
                raise Killed

        migrate.upgrade(conn)

    return upgrade


@pytest.mark.parametrize(
    "statement",
    ["create table lane", "create table attempt", "create index outage_open", "insert into tideover_schema"],
)
async def test_f60_migrate_when_cut_off_in_the_middle_leaves_nothing_and_can_be_run_again(
    store: Store, statement: str
) -> None:
    with pytest.raises(Killed):
        await store.database.upgrade(killed_at(statement))
    assert await tables(store.database) == set()
    with pytest.raises(SchemaMismatch):
        await store.check_schema()
    await store.migrate()
    await store.check_schema()
    assert await look(store.database, differences) == [[]]


async def test_check_schema_when_there_is_none_names_the_command(store: Store) -> None:
    with pytest.raises(SchemaMismatch, match=r"no schema.*needs 0001.*`tideover migrate`"):
        await store.check_schema()
    assert await tables(store.database) == set()


async def test_check_schema_when_it_is_of_another_revision_names_both_and_the_command(
    store: Store, database_url: str
) -> None:
    await store.migrate()
    await sql(database_url, "update tideover_schema set version_num = '0000'")
    with pytest.raises(SchemaMismatch, match=r"revision 0000.*needs 0001.*`tideover migrate`"):
        await store.check_schema()


async def test_migrate_when_the_schema_is_of_a_newer_release_refuses_and_changes_nothing(
    store: Store, database_url: str
) -> None:
    await store.migrate()
    await sql(database_url, "update tideover_schema set version_num = '9999'")
    with pytest.raises(SchemaMismatch, match=r"revision 9999.*newer"):
        await store.migrate()
    assert await sql(database_url, "select version_num from tideover_schema") == [("9999",)]


async def test_head_of_the_scripts_is_the_revision_that_this_release_needs() -> None:
    assert migrate._scripts().get_heads() == [migrate.HEAD]
