"""What JSON has no word for, or a database no place: it is that record's fault alone, and the others go on."""

from __future__ import annotations

import json

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub.delivery import Delivery
from tideover.hub.intake import stage_records
from tideover.hub.replay import replay
from tideover.model import Accepted, Broken
from tideover.staging.parking import Selection
from tideover.staging.sealing import Sealed
from tideover.staging.stage import Batch

HALF_A_PAIR = '{"id": "2", "name": "\\ud83d"}'
BROKEN = [Broken(key, b'{"id":"%s"}' % key.encode(), "mapping", "") for key in ("k1", "k2")]


async def test_reference_that_no_database_keeps_holds_up_no_other_record(database_url: str) -> None:
    erp = FakeSystem(answer=lambda record: Accepted("x\x00y" if record.key == "7" else f"ref-{record.key}"))
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage_records(rt, "orders", [{"id": str(n)} for n in range(20)])
        progress = await Delivery(rt, "erp").run()
    assert (progress.delivered, len(erp.effects)) == (20, 20)
    found = await sql(database_url, "select reference from attempt")
    assert {row[0] for row in found} == {f"ref-{n}" for n in range(20) if n != 7} | {None}


async def test_record_that_is_no_json_is_parked_and_the_others_of_its_batch_are_staged(database_url: str) -> None:
    found = [{"id": "1"}, json.loads(HALF_A_PAIR), {"id": "3", "x": float("nan"), "y": 2**70}, {"id": "4"}]
    async with running(hub_config(), database_url, {}) as rt:
        staged = await stage_records(rt, "orders", found)
        parked = await rt.store.parked(Selection())
        shown = [json.loads(await rt.store.parked_payload(each.id)) for each in parked]
    assert (staged.staged, staged.parked) == (2, 2)
    assert shown == [{"id": "2", "name": "?"}, {"id": "3", "x": "nan", "y": str(2**70)}]


async def test_bulk_replay_passes_what_can_not_be_tried_and_says_why(database_url: str) -> None:
    async with running(hub_config(), database_url, {}) as rt:
        await rt.store.stage(Batch("gone", "crm", [], BROKEN[:1]))
        await rt.store.stage(Batch("orders", "crm", [], BROKEN))
        [of_gone] = await rt.store.parked(Selection(route="gone"))
        done = await replay(rt, Selection(code="mapping"))
        assert (done.replayed, done.still_broken) == (2, 1)
        assert of_gone.record in done.why
        assert "gone" in done.why
        assert [each.record for each in await rt.store.parked(Selection())] == [of_gone.record]


async def test_bulk_replay_passes_a_payload_that_was_altered(database_url: str) -> None:
    async with running(hub_config(), database_url, {}, sealer=Sealed("a", {"a": b"1" * 32})) as rt:
        await rt.store.stage(Batch("orders", "crm", [], BROKEN))
        await sql(
            database_url, "update parked set payload = (select payload from parked where key='k2') where key='k1'"
        )
        done = await replay(rt, Selection(code="mapping"))
        assert (done.replayed, done.still_broken) == (1, 1)
        assert [each.key for each in await rt.store.parked(Selection())] == ["k1"]


@pytest.mark.parametrize("key", ["\ud83d", "a\udc00b"])
async def test_key_that_is_no_text_is_parked(database_url: str, key: str) -> None:
    async with running(hub_config(), database_url, {}) as rt:
        staged = await stage_records(rt, "orders", [{"id": key}])
        [parked] = await rt.store.parked(Selection())
    assert (staged.staged, staged.parked, parked.key) == (0, 1, "")
    assert "surrogate" in parked.detail
