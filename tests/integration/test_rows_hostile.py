"""Rows of the failure catalogue about hostile content and about the schema of another release: 57, 58 and 59."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.databases import sql
from tests.twinhubs import ORDERS, TwinSecrets, all_delivered, audited, deliver_until, read, twin_hub
from tideover.errors import SchemaMismatch
from tideover.hub import intake, overview
from tideover.staging.database import open_database
from tideover.staging.store import Store
from tideover.twins import TwinHost

TEMPLATES = ["{{ 7 * 7 }}", "{% for x in y %}", "#{7*7}", "%(x)s", "${jndi:ldap://x}", "$(id)", "`id`", "@", "!x"]
KEYS = [
    "'; drop table record; --",
    '"; drop table lane; --',
    ":route",
    "%s %(key)s",
    "$1",
    "?",
    "\\'",
    "../../etc/passwd",
    "a\tb\nc",
    "é\u202e\u0000x",
    "\U0001f4a3",
    "k" * 300,
]


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


@pytest.fixture
def secrets(twins: TwinHost) -> TwinSecrets:
    return TwinSecrets(twins.urls)


async def test_f57_value_that_looks_like_a_template_is_delivered_as_it_is(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        orders = [{"id": f"o-{n}", "customerId": text, "total": 5} for n, text in enumerate(TEMPLATES)]
        twins.upsert("orders", orders)
        await read(rt)
        await deliver_until(rt, all_delivered(rt, len(TEMPLATES)))
    assert sorted(e["payload"]["customer"] for e in twins.effects("erp")) == sorted(TEMPLATES)


async def test_f58_hostile_keys_and_values_change_no_statement(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        orders: list[dict[str, Any]] = [{"id": key, "customerId": key, "total": 5} for key in KEYS]
        staged = await intake.stage_records(rt, "orders", [*orders, {"id": "good", "customerId": "c", "total": 5}])
        assert staged.staged + staged.parked == len(KEYS) + 1
        await deliver_until(rt, all_delivered(rt, staged.staged))
        audit = await audited(rt)
        assert (audit.delivered, audit.waiting) == (staged.staged, 0)
        assert [t.key for t in await overview.trace(rt, KEYS[0])] == [KEYS[0]]
    delivered = {e["payload"]["customer"] for e in twins.effects("erp")}
    assert delivered <= {*KEYS, "c"}
    assert {"c", *KEYS[:4]} <= delivered


async def test_f59_worker_goes_on_while_a_newer_release_adds_to_the_schema(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    """What a release's first half may do: add columns, with a default or null, tables and indexes. Statements that
    were prepared before it still serve."""
    expand = [
        "alter table record add column added_later text",
        "alter table lane add column added_later integer not null default 7",
        "alter table system add column added_later integer",
        "create table added_later (id integer primary key, what text)",
        "create index added_later_key on record (key, seq)",
    ]
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        for number, statement in enumerate(["select 1", *expand]):
            await sql(database_url, statement)
            await twins.seed("orders", 20, start=1 + 20 * number)
            await read(rt)
            await deliver_until(rt, all_delivered(rt, 20 * (number + 1)))
        audit = await audited(rt)
        assert (audit.delivered, audit.waiting) == (120, 0)
    assert int(twins.ledger("erp")["duplicates"]) == 0


async def test_f59_worker_that_starts_on_the_schema_of_another_release_says_so_and_touches_nothing(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        await twins.seed("orders", 3)
        await read(rt)
        await sql(database_url, "update tideover_schema set version_num = '9999'")
        await deliver_until(rt, all_delivered(rt, 3))  # one that runs already goes on
    store = Store(open_database(database_url))
    try:
        with pytest.raises(SchemaMismatch, match="9999"):
            await store.check_schema()
        with pytest.raises(SchemaMismatch, match="9999"):
            await store.migrate()
    finally:
        await store.close()
