"""Row 9 of the failure catalogue, and what else is stored that can't be read or must not be: one damaged row is that
record's affair alone."""

from __future__ import annotations

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub.delivery import Delivery
from tideover.hub.intake import stage_records
from tideover.hub.progress import Ending
from tideover.hub.replay import replay
from tideover.model import SECOND_US, Order, Rejected
from tideover.staging.parking import Selection
from tideover.staging.sealing import Sealed
from tideover.staging.wishes import Claim

UNKNOWN_KEY = "010162"  # as of a payload that was sealed with a key called b
SEALER = Sealed("a", {"a": b"1" * 32})
SHIPPING = hub_config(
    systems={"carrier-a": {}, "carrier-b": {}},
    groups={
        "shipping": {
            "providers": [
                {"system": "carrier-a", "when": "country == 'DE'"},
                {"system": "carrier-b", "when": "country == 'FR'"},
            ],
            "live_share": "0%",
        }
    },
    routes={"orders": {"target": {"group": "shipping", "operation": "take"}}},
)


def shipping() -> dict[str, FakeSystem]:
    return {name: FakeSystem() for name in ("crm", "erp", "carrier-a", "carrier-b")}


def blob(url: str, hexadecimal: str) -> str:
    """A literal of these bytes."""
    return f"x'{hexadecimal}'" if url.startswith("sqlite") else f"'\\x{hexadecimal}'::bytea"


async def overwrite(url: str, table: str, where: str, hexadecimal: str) -> None:
    """Other first bytes in a stored payload, as many as are given."""
    rest = f"substr(payload, {len(hexadecimal) // 2 + 1})"
    whole = f"{blob(url, hexadecimal)} || {rest}"
    whole = f"cast({whole} as blob)" if url.startswith("sqlite") else whole
    await sql(url, f"update {table} set payload = {whole} where {where}")


async def test_record_that_no_provider_takes_is_parked_sealed(database_url: str) -> None:
    async with running(SHIPPING, database_url, shipping(), sealer=SEALER) as rt:
        await stage_records(rt, "orders", [{"id": "x", "country": "US", "iban": "canary-4711"}])
        assert (await Delivery(rt, "shipping").run()).parked == 1
        [(code, stored)] = await sql(database_url, "select code, payload from parked")
        [parked] = await rt.store.parked(Selection())
        assert code == "no_provider"
        assert b"canary" not in bytes(stored)
        assert b"canary-4711" in await rt.store.parked_payload(parked.id)


async def test_f9_row_that_is_no_json_is_parked_although_its_provider_depends_on_what_it_says(
    database_url: str,
) -> None:
    systems = shipping()
    async with running(SHIPPING, database_url, systems) as rt:
        await stage_records(rt, "orders", [{"id": str(n), "country": "DE"} for n in range(20)])
        await sql(database_url, f"update record set payload = {blob(database_url, '7b7b')} where key = '7'")
        progress = await Delivery(rt, "shipping").run()
        [parked] = await rt.store.parked(Selection())
    assert (progress.ending, progress.delivered, len(systems["carrier-a"].effects)) == (Ending.DRAINED, 19, 19)
    assert (parked.key, parked.code) == ("7", "corrupt")


async def test_f9_row_that_is_no_json_behind_others_of_its_lane_is_parked_alone(database_url: str) -> None:
    systems = shipping()
    async with running(SHIPPING, database_url, systems) as rt:
        await stage_records(rt, "orders", [{"id": "k", "country": "DE", "n": n} for n in range(3)])
        await sql(database_url, f"update record set payload = {blob(database_url, '7b7b')} where seq = 2")
        progress = await Delivery(rt, "shipping").run()
        [parked] = await rt.store.parked(Selection())
        [audit] = await rt.store.audit(["orders"])
    assert (progress.delivered, parked.seq, parked.code) == (1, 2, "corrupt")
    assert (audit.waiting, audit.difference, audit.faults) == (1, 0, ())


async def test_f9_plain_row_that_seems_sealed_is_parked_and_the_others_flow(database_url: str) -> None:
    erp = FakeSystem()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}) as rt:
        await stage_records(
            rt, "orders", [{"id": str(n), "text": "so long that it could be a sealed one" * 9} for n in range(20)]
        )
        await overwrite(database_url, "record", "key = '7'", "01")
        progress = await Delivery(rt, "erp").run()
        [parked] = await rt.store.parked(Selection())
    assert (progress.ending, progress.delivered) == (Ending.DRAINED, 19)
    assert (parked.key, parked.code) == ("7", "corrupt")


@pytest.mark.parametrize("target", ["erp", "shipping"])
async def test_f9_row_that_names_an_unknown_key_waits_for_it_and_the_others_flow(
    database_url: str, target: str
) -> None:
    """It may be sound, and its key the one that is missing: so it is not parked."""
    systems = shipping()
    config = SHIPPING if target == "shipping" else hub_config()
    async with running(config, database_url, systems, sealer=SEALER) as rt:
        await stage_records(rt, "orders", [{"id": str(n), "country": "DE"} for n in range(20)])
        await overwrite(database_url, "record", "key = '7'", UNKNOWN_KEY)
        for _ in range(2):
            progress = await Delivery(rt, target, patience_s=0).run()
        assert progress.ending == Ending.WAITING
        assert sum(len(system.effects) for system in systems.values()) == 19
        [audit] = await rt.store.audit(["orders"])
        assert (audit.parked, audit.waiting, audit.faults) == (0, 1, ())
        told = [it.event for it in await rt.store.recent_events() if it.event.name == "tideover.record.unreadable"]
        assert [event.detail for event in told] == [{"route": "orders", "encryption_key": "b"}]


async def test_records_before_one_that_names_an_unknown_key_are_delivered(database_url: str) -> None:
    erp = FakeSystem()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, sealer=SEALER) as rt:
        await stage_records(rt, "orders", [{"id": "k", "n": n} for n in range(4)])
        [(sound,)] = await sql(database_url, "select payload from record where seq = 3")
        await overwrite(database_url, "record", "seq = 3", UNKNOWN_KEY)
        assert (await Delivery(rt, "erp", patience_s=0).run()).ending == Ending.WAITING
        assert len(erp.effects) == 2
        await sql(database_url, f"update record set payload = {blob(database_url, bytes(sound).hex())} where seq = 3")
        await rt.store.make_due(["orders"])
        assert (await Delivery(rt, "erp").run()).ending == Ending.DRAINED
        assert [b'"n":%d' % n in effect.payload for n, effect in enumerate(erp.effects)] == [True] * 4


async def test_record_in_doubt_that_names_an_unknown_key_stays_in_doubt(database_url: str) -> None:
    """Neither asked about nor sent: also what stands before it in its lane waits, as a doubt is settled as a whole."""
    erp = FakeSystem()
    async with running(hub_config(), database_url, {"crm": FakeSystem(), "erp": erp}, sealer=SEALER) as rt:
        await stage_records(rt, "orders", [{"id": "k", "n": n} for n in range(3)])
        await sql(database_url, "update lane set in_doubt = 2, doubted_us = 1, system = 'erp'")
        await overwrite(database_url, "record", "seq = 2", UNKNOWN_KEY)
        await stage_records(rt, "orders", [{"id": "other"}])
        assert (await Delivery(rt, "erp", patience_s=0).run()).ending == Ending.WAITING
        assert erp.keys_in_order() == ["other"]
        assert await sql(database_url, "select in_doubt, done_seq from lane where key = 'k'") == [(2, 0)]
        await rt.store.make_due(["orders"])
        wish = Claim("orders", {"erp": 10}, Order.BLOCK, 10, SECOND_US)
        assert await rt.store.claim_doubted(wish, "erp", 10) == []
        assert await sql(database_url, "select in_doubt, lease_until_us from lane where key = 'k'") == [(2, 0)]


async def test_bulk_replay_passes_a_row_that_names_an_unknown_key_and_says_so(database_url: str) -> None:
    config = hub_config(
        systems={"erp": {"breaker": {"failures": 100, "rejections": 100}}}, routes={"orders": {"order": "skip"}}
    )
    erp = FakeSystem(answer=lambda record: Rejected(f"no-{record.key}"))
    async with running(config, database_url, {"crm": FakeSystem(), "erp": erp}, sealer=SEALER) as rt:
        await stage_records(rt, "orders", [{"id": str(n)} for n in range(5)])
        assert (await Delivery(rt, "erp").run()).parked == 5
        await overwrite(database_url, "parked", "key = '2'", UNKNOWN_KEY)
        done = await replay(rt, Selection())
        assert (done.replayed, done.left) == (4, 1)
        assert "'b'" in done.why
        assert [each.key for each in await rt.store.parked(Selection())] == ["2"]
