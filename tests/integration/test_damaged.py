"""Row 9 of the failure catalogue, and what else is stored that can't be read or must not be: one damaged row is that
record's affair alone."""

from __future__ import annotations

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tideover.hub.delivery import Delivery
from tideover.hub.intake import stage_records
from tideover.staging.parking import Selection
from tideover.staging.sealing import Sealed

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


async def overwrite(url: str, table: str, key: str, hexadecimal: str) -> None:
    """Other first bytes in a stored payload, as many as are given."""
    rest = f"substr(payload, {len(hexadecimal) // 2 + 1})"
    whole = f"{blob(url, hexadecimal)} || {rest}"
    whole = f"cast({whole} as blob)" if url.startswith("sqlite") else whole
    await sql(url, f"update {table} set payload = {whole} where key = '{key}'")


async def test_record_that_no_provider_takes_is_parked_sealed(database_url: str) -> None:
    async with running(SHIPPING, database_url, shipping(), sealer=SEALER) as rt:
        await stage_records(rt, "orders", [{"id": "x", "country": "US", "iban": "canary-4711"}])
        assert (await Delivery(rt, "shipping").run()).parked == 1
        [(code, stored)] = await sql(database_url, "select code, payload from parked")
        [parked] = await rt.store.parked(Selection())
        assert code == "no_provider"
        assert b"canary" not in bytes(stored)
        assert b"canary-4711" in await rt.store.parked_payload(parked.id)
