"""What each release left behind, taken over by the present one: its database, and its workers' statements."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from tests.compatibility import snapshot
from tests.compatibility.portable import make_schema, put_rows, schema_of
from tests.compatibility.statements import Statement, read_statements
from tests.compatibility.tour import Guide, leave_rows, use_everything
from tests.databases import Postgres
from tests.fakes import FakeSystem
from tests.hubs import running
from tideover.config.models import Hub
from tideover.hub import overview
from tideover.hub.delivery import Delivery
from tideover.hub.replay import replay
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US, Order, Outgoing
from tideover.policy.settlement import LaneState
from tideover.staging import migrate
from tideover.staging.database import Database, open_database
from tideover.staging.parking import Selection
from tideover.staging.store import Store

RELEASES = sorted(
    (path.name for path in snapshot.RELEASES.iterdir() if path.is_dir()),
    key=lambda name: [int(part) for part in name.split(".")],
)
LATER_US = 4000 * SECOND_US  # when the new release begins: every lease and every pause of the old one is over
RUN = "run `make snapshot`, and look at what changed"


# --- the snapshots themselves ---------------------------------------------------------------------------------


async def test_snapshot_of_the_version_in_the_tree_is_what_the_tree_makes(tmp_path: Path, postgres: Postgres) -> None:
    version = snapshot.version()
    if snapshot.is_released(version):
        pytest.skip(f"{version} is released; what the tree makes belongs to the next version")
    made = await snapshot.contents(f"sqlite:///{tmp_path / 'hub.db'}", postgres.new_database())
    folder = snapshot.RELEASES / version
    assert folder.is_dir(), f"{version} has no snapshot yet: {RUN}"
    kept = {file.name: file.read_text() for file in folder.iterdir()}
    changed = sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))
    assert changed == [], f"releases/{version} is not what this tree makes: {RUN}"


def test_snapshots_are_what_they_were_when_they_were_written() -> None:
    found = {release: snapshot.checksum(snapshot.RELEASES / release) for release in RELEASES}
    assert found == snapshot.checksums(), "a release's snapshot was changed, or one is missing"


def test_write_of_a_released_version_refuses_and_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "ROOT", tmp_path)
    monkeypatch.setattr(snapshot, "RELEASES", tmp_path / "releases")
    monkeypatch.setattr(snapshot, "CHECKSUMS", tmp_path / "releases" / "checksums.txt")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    snapshot.write({"rows.json": "old"}, "1.0.0")
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.0.0] - 2027-01-15\n")
    with pytest.raises(SystemExit, match=r"1\.0\.0 is released.*raise the version"):
        snapshot.write({"rows.json": "new"}, "1.0.0")
    snapshot.write({"rows.json": "new"}, "1.1.0")
    assert (snapshot.RELEASES / "1.0.0" / "rows.json").read_text() == "old"
    assert snapshot.checksums().keys() == {"1.0.0", "1.1.0"}
    assert snapshot.checksums()["1.0.0"] == snapshot.checksum(snapshot.RELEASES / "1.0.0")


@pytest.mark.parametrize("release", RELEASES)
def test_rows_of_a_release_leave_no_table_empty(release: str) -> None:
    rows: dict[str, list[Any]] = json.loads(read(release, "rows.json"))
    assert [table for table, found in rows.items() if not found] == []


async def test_tour_uses_every_method_of_the_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used: set[str] = set()

    def noted(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **named: Any) -> Any:
            used.add(name)
            return method(*given, **named)

        return call

    methods = {name: method for name, method in inspect.getmembers(Store, inspect.isfunction) if name[0] != "_"}
    for name, method in methods.items():
        monkeypatch.setattr(Store, name, noted(name, method))
    guide = Guide(f"sqlite:///{tmp_path / 'hub.db'}")
    await guide.store.migrate()
    await leave_rows(guide)
    await use_everything(guide)
    await guide.store.close()
    assert methods.keys() - used == set()


# --- its database ---------------------------------------------------------------------------------------------


def read(release: str, name: str) -> str:
    return (snapshot.RELEASES / release / name).read_text()


def kind_of(url: str) -> str:
    return "sqlite" if url.startswith("sqlite") else "postgresql"


async def load(release: str, url: str) -> None:
    """A database as a release left it."""
    await make_schema(url, read(release, f"schema.{kind_of(url)}.sql"))
    rows = json.loads(read(release, "rows.json"))
    database = open_database(url)
    await database.upgrade(lambda conn: put_rows(conn, rows))
    await database.close()


class Inheritance:
    """A release's database, with the present engine at work on it and systems in memory."""

    def __init__(self, rt: Runtime, release: str, systems: dict[str, FakeSystem]) -> None:
        self.rt, self.systems = rt, systems
        self.facts: dict[str, Any] = json.loads(read(release, "facts.json"))
        self.rows: dict[str, list[dict[str, Any]]] = json.loads(read(release, "rows.json"))
        self.lanes = {lane["id"]: lane for lane in self.rows["lane"]}
        self.forced = {row["name"] for row in self.rows["system"] if json.loads(row["breaker"])["is_forced"]}

    def owed(self) -> set[str]:
        """The ids of the records that wait, or are parked and can be replayed as they are; without those of routes on
        which older versions give way."""
        waiting = {r["id"] for r in self.rows["record"] if r["lane"] in self.lanes and self._waits(r)}
        open_ = {p["record"] for p in self.rows["parked"] if not p["closed_us"] and not p["at_intake"]}
        return waiting | open_

    def _waits(self, record: Mapping[str, Any]) -> bool:
        lane = self.lanes[record["lane"]]
        is_latest = self.rt.config.routes[lane["route"]].order is Order.LATEST
        return bool(record["seq"] > lane["done_seq"] and not is_latest)

    def held(self) -> dict[str, int]:
        """What waits for a person, by route: behind a parked head, or for a system that was forced open."""
        found = Counter[str]()
        for lane in self.lanes.values():
            if lane["state"] == LaneState.HELD:
                found[lane["route"]] += lane["last_seq"] - lane["done_seq"] - 1
        for route, plan in self.rt.config.routes.items():
            if plan.target.name in self.forced:
                found[route] += self.facts["routes"][route]["waiting"]
        return dict(found)

    async def deliver(self) -> None:
        """Until nothing can go any more."""
        give_up = time.monotonic() + 90
        before = -1
        while (now := sum(system.calls + system.look_ups for system in self.systems.values())) != before:
            assert time.monotonic() < give_up, "it never ends"
            before = now
            for target in self.rt.config.targets:
                await asyncio.wait_for(Delivery(self.rt, target, linger_s=0.1).run(), 90)

    async def waiting(self) -> dict[str, int]:
        audits = await overview.audit(self.rt)
        assert all(audit.faults == () for audit in audits)
        return {audit.route: audit.waiting for audit in audits if audit.waiting}

    def effects(self) -> Counter[str]:
        """How often each record took effect, at all systems together."""
        return sum((system.count() for system in self.systems.values()), Counter())


@asynccontextmanager
async def inherited(release: str, url: str) -> AsyncIterator[Inheritance]:
    began_us, then_us = time.time_ns() // 1000, int(json.loads(read(release, "facts.json"))["now_us"])
    await load(release, url)
    config = Hub.model_validate_json(read(release, "hub.json"))
    systems = {name: FakeSystem() for name in config.systems}

    def clock(now_us: int) -> int:
        return then_us + LATER_US + now_us - began_us

    async with running(config, url, systems, clock=clock) as rt:
        yield Inheritance(rt, release, systems)


@pytest.mark.parametrize("release", RELEASES)
async def test_schema_of_a_release_made_from_its_snapshot_states_the_same(release: str, database_url: str) -> None:
    stored = read(release, f"schema.{kind_of(database_url)}.sql")
    await make_schema(database_url, stored)
    assert await schema_of(database_url) == stored


@pytest.mark.parametrize("release", RELEASES)
async def test_f59_database_of_a_release_migrates_and_says_the_same(release: str, database_url: str) -> None:
    async with inherited(release, database_url) as it:
        await it.rt.store.check_schema()
        found = await snapshot.facts_of(it.rt.store, it.rt.config)
        assert found == {name: it.facts[name] for name in found}
        assert found["faults"] == {}


@pytest.mark.parametrize("release", RELEASES)
async def test_f59_database_of_a_release_is_delivered_by_the_present_one_exactly_once(
    release: str, database_url: str
) -> None:
    async with inherited(release, database_url) as it:
        [lost] = [record for record in it.rows["record"] if record["key"] == "lost"]
        it.systems["erp"].effects.append(Outgoing(lost["id"], "lost", b""))  # its worker sent it, and vanished
        before = {audit.route: audit for audit in await overview.audit(it.rt)}
        await it.deliver()
        assert await it.waiting() == it.held()
        for system in it.forced:
            await it.rt.store.force(system, "auto", "done")
        assert (await replay(it.rt, Selection())).still_broken == 0
        await it.deliver()
        assert await it.waiting() == {}
        effects = it.effects()
        assert set(effects.values()) == {1}
        assert it.owed() <= effects.keys()
        after = {audit.route: audit for audit in await overview.audit(it.rt)}
        assert {route: audit.accepted for route, audit in after.items()} == {
            route: audit.accepted for route, audit in before.items()
        }
        delivered = sum(after[route].delivered - before[route].delivered for route in after)
        assert delivered == len(effects)
        for group, (pinned, *_) in it.facts["pins"].items():
            others = set(it.rt.config.groups[group].systems) - {pinned}
            assert [it.systems[name].effects for name in others] == [[]] * len(others), "the pin was forgotten"


# --- its workers ----------------------------------------------------------------------------------------------


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """An empty one with the present schema."""
    it = open_database(database_url)
    await it.upgrade(migrate.upgrade)
    yield it
    await it.close()


def statements_of(release: str, kind: str) -> list[Statement]:
    return read_statements(read(release, f"statements.{kind}.json"))


async def refused(database: Database, statements: list[Statement]) -> dict[str, str]:
    """Those that the database does not take with their parameters, and what it says. Nothing of them is kept."""
    found: dict[str, str] = {}

    def run(conn: Connection) -> None:
        for said in statements:
            savepoint = conn.begin_nested()
            try:
                conn.exec_driver_sql(said.text, tuple(said.parameters))
            except DBAPIError as error:
                found[said.text] = str(error.orig)
            savepoint.rollback()

    await database.upgrade(run)
    return found


@pytest.mark.parametrize("release", RELEASES)
async def test_f59_statements_of_a_release_that_is_served_are_taken_by_the_present_schema(
    release: str, database: Database
) -> None:
    served: list[frozenset[str]] = []
    await database.upgrade(lambda conn: served.append(migrate.served(conn)))
    if json.loads(read(release, "facts.json"))["revision"] not in served[0]:
        assert release not in RELEASES[-2:], f"workers of {release}, the release before, have to be served"
        pytest.skip(f"workers of {release} are not served any more")
    statements = statements_of(release, database.dialect.name)
    assert len(statements) > 100
    assert await refused(database, statements) == {}


BREAKING = {
    "a column is gone": "alter table outage drop column detail",
    "a column needs a value": "alter table event add column needed text not null default '' check (needed <> '')",
    "a table is gone": "drop table turn",
    "a column has another name": "alter table lane rename column born_us to first_us",
}


@pytest.mark.parametrize("what", BREAKING)
async def test_statements_when_a_schema_breaks_them_are_refused(what: str, database: Database) -> None:
    release = RELEASES[-1]
    await database.upgrade(lambda conn: conn.execute(text(BREAKING[what])) and None)
    assert await refused(database, statements_of(release, database.dialect.name)) != {}
