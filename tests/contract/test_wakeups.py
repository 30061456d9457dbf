"""Hearing that records were staged: at once, across processes on PostgreSQL, and again after the connection broke."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.databases import Postgres, sql
from tideover.model import NewRecord
from tideover.staging.database import open_database
from tideover.staging.stage import Batch
from tideover.staging.store import Store

PATIENCE_S = 60


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[Store]:
    opened = Store(open_database(database_url))
    await opened.migrate()
    yield opened
    await opened.close()


async def stage(store: Store, key: str, route: str = "orders") -> None:
    await store.stage(Batch(route, "crm", [NewRecord(key, b"{}")]))


async def heard(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), PATIENCE_S)
    event.clear()


async def listening(store: Store, *routes: str) -> list[asyncio.Event]:
    """An event for each route that is set when records of it are staged, from now on."""
    events = [asyncio.Event() for _ in routes]
    for route, event in zip(routes, events, strict=True):
        store.on_staged([route], event.set)
    if store.database.dialect.name == "postgresql":
        await heard(events[0])  # whoever begins to listen is woken once, for what nobody told him
    for event in events:
        event.clear()
    return events


async def test_stage_in_the_same_process_wakes_the_route_and_no_other(store: Store) -> None:
    orders, contacts = await listening(store, "orders", "contacts")
    await stage(store, "a")
    await heard(orders)
    assert not contacts.is_set()


async def test_make_due_wakes(store: Store) -> None:
    [woken] = await listening(store, "orders")
    await store.make_due(["orders"])
    await heard(woken)


async def test_stage_after_the_subscription_ended_wakes_nobody(store: Store) -> None:
    woken = asyncio.Event()
    end = store.on_staged(["orders"], woken.set)
    end()
    await stage(store, "a")
    assert not woken.is_set()


async def test_stage_by_another_process_on_postgresql_wakes_and_again_after_the_connection_broke(
    postgres: Postgres,
) -> None:
    url = postgres.new_database()
    here, elsewhere = Store(open_database(url)), Store(open_database(url))
    await here.migrate()
    woken = asyncio.Event()
    here.on_staged(["orders"], woken.set)
    await heard(woken)  # it listens
    await stage(elsewhere, "a")
    await heard(woken)
    await sql(url, "select pg_terminate_backend(pid) from pg_stat_activity where query ilike 'listen%'")
    await heard(woken)  # it listens again
    await stage(elsewhere, "b")
    await heard(woken)
    await here.close()
    await elsewhere.close()
