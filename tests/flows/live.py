"""A hub for flows: twins on real ports, blocks on the real Prefect server, a `hub.yaml` that the flows find."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from blocks.apply import apply_blocks
from tests.twinhubs import ORDERS, SHIPMENTS, SHIPPING, write_hub
from tideover.twins import CREDENTIALS, NAMES, TwinHost

TICKETS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "tickets"},
    "mapping": {"fields": {"external_id": "id", "subject": "subject"}},
    "target": {"system": "support", "operation": "upsert-ticket"},
    "key": "id",
}
ROUTES: dict[str, Any] = {"orders-to-erp": ORDERS, "tickets-to-support": TICKETS}
CARRIERS = ("carrier-a", "carrier-b")
# Nothing hangs in tests of flows, and Prefect's server shares the machine: a slow answer must not pass for none.
PATIENT: dict[str, Any] = {"timeouts": {"connect": "5s", "read": "8s", "total": "10s"}}


@dataclass
class Live:
    """What a test of flows works with. `file` is the hub's file."""

    twins: TwinHost
    file: Path

    def holds(self, name: str) -> tuple[int, int]:
        """Distinct business keys at a twin, and effects done twice."""
        ledger = self.twins.ledger(name)
        return int(ledger["keys"]), int(ledger["duplicates"])

    def shipped(self) -> dict[str, int]:
        """How many standing parcels each order has, at all carriers together."""
        counts: Counter[str] = Counter()
        for name in CARRIERS:
            counts.update(effect["key"] for effect in self.twins.effects(name) if not effect["voided"])
        return dict(counts)


async def artifact(api: httpx.AsyncClient, key: str) -> str:
    """What Prefect shows under a key now; nothing where there is no such artifact yet."""
    answer = await api.get(f"/artifacts/{key}/latest")
    assert answer.status_code in (200, 404), f"{key}: {answer.status_code}"
    return str(answer.json()["data"]) if answer.status_code == 200 else ""


async def artifact_with(api: httpx.AsyncClient, key: str, *parts: str) -> None:
    """Wait until an artifact says all this: a run that goes on brings its artifacts up to date now and then."""
    async with asyncio.timeout(120):
        shown = await artifact(api, key)
        while not all(part in shown for part in parts):
            await asyncio.sleep(0.2)
            shown = await artifact(api, key)


def blocks_for(urls: dict[str, str]) -> dict[str, Any]:
    """The content of a blocks file for twins at these addresses."""
    described: dict[str, Any] = {}
    for name, url in urls.items():
        known = CREDENTIALS[name]
        secret = {"literal": known.secret}
        match known.kind:
            case "bearer":
                described[f"tideover-bearer/{name}"] = {"base_url": url, "token": secret}
            case "basic":
                described[f"tideover-basic/{name}"] = {"base_url": url, "username": known.user, "password": secret}
            case "api_key":
                described[f"tideover-api-key/{name}"] = {"base_url": url, "header": known.header, "value": secret}
            case "oauth2":
                described[f"tideover-oauth2-client/{name}"] = {
                    "base_url": url,
                    "token_url": f"{url}/oauth2/token",
                    "client_id": known.user,
                    "client_secret": secret,
                }
    return {"blocks": described}


@asynccontextmanager
async def live_hub(
    folder: Path,
    database: str,
    systems: dict[str, Any] | None = None,
    routes: dict[str, Any] | None = None,
    groups: dict[str, Any] | None = None,
) -> AsyncIterator[Live]:
    """Twins, their blocks and a hub's file; Prefect's API must be set."""
    async with TwinHost(folder / "twins") as twins:
        blocks = folder / "blocks.yaml"
        blocks.write_text(json.dumps(blocks_for(twins.urls), indent=1))
        await apply_blocks(blocks)
        patient = {name: {**PATIENT, **(systems or {}).get(name, {})} for name in NAMES}
        yield Live(twins, write_hub(folder, database, routes or ROUTES, patient, groups))


@asynccontextmanager
async def shipping_hub(folder: Path) -> AsyncIterator[Live]:
    """A live hub with one route, to a failover group of two carriers; `orders-to-shipping`, `shipping`."""
    database = f"sqlite:///{folder / 'hub.db'}"
    routes, groups = {"orders-to-shipping": SHIPMENTS}, {"shipping": SHIPPING}
    async with live_hub(folder, database, routes=routes, groups=groups) as live:
        yield live
