"""A hub for flows: twins on real ports, blocks on the real Prefect server, a `hub.yaml` that the flows find."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blocks.apply import apply_blocks
from tests.twinhubs import ORDERS, write_hub
from tideover.twins import CREDENTIALS, TwinHost

TICKETS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "tickets"},
    "mapping": {"fields": {"external_id": "id", "subject": "subject"}},
    "target": {"system": "support", "operation": "upsert-ticket"},
    "key": "id",
}
ROUTES: dict[str, Any] = {"orders-to-erp": ORDERS, "tickets-to-support": TICKETS}


@dataclass
class Live:
    """What a test of flows works with. `file` is the hub's file."""

    twins: TwinHost
    file: Path

    def holds(self, name: str) -> tuple[int, int]:
        """Distinct business keys at a twin, and effects done twice."""
        ledger = self.twins.ledger(name)
        return int(ledger["keys"]), int(ledger["duplicates"])


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
async def live_hub(folder: Path, database: str, systems: dict[str, Any] | None = None) -> AsyncIterator[Live]:
    """Twins, their blocks and a hub's file; Prefect's API must be set."""
    async with TwinHost(folder / "twins") as twins:
        blocks = folder / "blocks.yaml"
        blocks.write_text(json.dumps(blocks_for(twins.urls), indent=1))
        await apply_blocks(blocks)
        yield Live(twins, write_hub(folder, database, ROUTES, systems))
