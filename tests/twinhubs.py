"""Hubs over twins: real HTTP on loopback, a real database, the shipped presets."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from sqlalchemy import make_url

from tideover.bootstrap import open_hub
from tideover.connectors.http.access import Access, ApiKey, Auth, Basic, Bearer, OAuth2ClientCredentials
from tideover.hub import intake, overview
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Progress
from tideover.hub.runtime import Runtime
from tideover.model import Staged
from tideover.policy.breaker import State
from tideover.staging.reports import RouteAudit
from tideover.twins import CREDENTIALS

BLOCKS = {
    "crm": "tideover-bearer/crm",
    "erp": "tideover-oauth2-client/erp",
    "marketing": "tideover-basic/marketing",
    "support": "tideover-api-key/support",
    "carrier-a": "tideover-api-key/carrier-a",
    "carrier-b": "tideover-basic/carrier-b",
}
BREAKER = {"failures": 3, "open_for": "100ms", "max_open": "200ms"}
# Systems answer, however slow the machine; those that a test lets hang are `HASTY`. `SHORT` is for short leases.
PATIENT: dict[str, Any] = {"timeouts": {"connect": "10s", "read": "20s", "total": "30s"}}
HASTY: dict[str, Any] = {"timeouts": {"connect": "3s", "read": "1s", "total": "3s"}}
SHORT: dict[str, Any] = {"timeouts": {"connect": "500ms", "read": "600ms", "total": "1s"}}
ORDERS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "orders"},
    "mapping": {"fields": {"external_id": "id", "customer": "customerId", "total": "total"}},
    "target": {"system": "erp", "operation": "create-order"},
    "key": "id",
    "retry": {"base": "20ms", "cap": "200ms"},
}


class TwinSecrets:
    """The twins' own credentials; `changed` stands for what a person has since saved in a block."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self.urls = dict(urls)
        self.changed: dict[str, Auth] = {}
        self.loads = 0

    async def access(self, system: str, block: str) -> Access:
        self.loads += 1
        return Access(self.urls[system], self.changed.get(system) or self._auth(system))

    def _auth(self, system: str) -> Auth:
        known = CREDENTIALS[system]
        secret = SecretStr(known.secret)
        match known.kind:
            case "bearer":
                return Bearer(secret)
            case "basic":
                return Basic(known.user, secret)
            case "api_key":
                return ApiKey(known.header, secret)
        return OAuth2ClientCredentials(f"{self.urls[system]}/oauth2/token", known.user, secret)

    async def keep_refresh_token(self, system: str, block: str, token: SecretStr) -> None:
        raise AssertionError("no twin rotates refresh tokens")

    async def staging_url(self, block: str) -> str:
        raise AssertionError("the tests' hub names its database itself")

    async def encryption_keys(self, block: str) -> tuple[str, dict[str, bytes]]:
        raise AssertionError("the tests' hub has no encryption")


SHIPMENTS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "orders"},
    "mapping": {"fields": {"external_shipment_id": "id", "total": "total"}},
    "target": {"group": "shipping", "operation": "create-shipment"},
    "key": "id",
    "retry": {"base": "20ms", "cap": "200ms"},
}
SHIPPING: dict[str, Any] = {
    "providers": [
        "carrier-a",
        {"system": "carrier-b", "mapping": {"fields": {"reference": "external_shipment_id", "total": "total"}}},
    ],
    "live_share": "0%",
    "failback": {"dwell": "200ms", "max_dwell": "2s", "canary": 2, "ramp": "200ms"},
}


def write_hub(
    folder: Path,
    url: str,
    routes: Mapping[str, Any],
    systems: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> Path:
    """A `hub.yaml` for twins; systems get their preset, patience and a quick breaker."""
    names = {route["source"]["system"] for route in routes.values()}
    names |= {route["target"]["system"] for route in routes.values() if "system" in route["target"]}
    for group in (groups or {}).values():
        names |= {p if isinstance(p, str) else p["system"] for p in group["providers"]}
    described = {
        name: {
            "preset": f"twin-{name}",
            "block": BLOCKS[name],
            **PATIENT,
            "breaker": BREAKER,
            **(systems or {}).get(name, {}),
        }
        for name in sorted(names)
    }
    staging = {"sqlite": make_url(url).database} if url.startswith("sqlite") else {"env": "TIDEOVER_TEST_URL"}
    file = folder / "hub.yaml"
    hub: dict[str, Any] = {"name": "test", "staging": staging, "systems": described, "routes": dict(routes)}
    if groups:
        hub["groups"] = dict(groups)
    file.write_text(json.dumps(hub, indent=1))  # JSON is YAML, and never has an alias
    return file


@asynccontextmanager
async def twin_hub(
    folder: Path,
    url: str,
    secrets: TwinSecrets,
    routes: Mapping[str, Any],
    systems: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> AsyncIterator[Runtime]:
    """A hub as `open_hub` makes it."""
    os.environ["TIDEOVER_TEST_URL"] = url
    async with open_hub(write_hub(folder, url, routes, systems, groups), secrets=secrets, migrate=True) as rt:
        yield rt


async def read(rt: Runtime, route: str = "orders") -> Staged:
    """What `sync` does before it delivers."""
    total = Staged()
    while True:
        extracted = await intake.extract(rt, route)
        total = intake.add(total, await intake.stage(rt, extracted))
        if extracted.is_last:
            return total


async def deliver(rt: Runtime, target: str = "erp", linger_s: float = 0.0) -> Progress:
    return await asyncio.wait_for(Delivery(rt, target, linger_s=linger_s).run(), 60)


async def deliver_until(
    rt: Runtime, condition: Callable[[], Awaitable[bool]], target: str = "erp", timeout_s: float = 90
) -> Progress:
    """A delivery that lingers until something is so: probes and retries take as long as the machine lets them."""
    stop = asyncio.Event()
    lingering = asyncio.create_task(Delivery(rt, target, linger_s=2 * timeout_s, stop=stop).run())
    try:
        async with asyncio.timeout(timeout_s):
            while not lingering.done() and not await condition():
                await asyncio.sleep(0.05)
    finally:
        stop.set()
        progress = await lingering
    assert await condition(), f"the delivery ended as {progress.ending}"
    return progress


def all_delivered(rt: Runtime, count: int, route: str = "orders") -> Callable[[], Awaitable[bool]]:
    """A condition: that many records of a route are delivered."""

    async def is_so() -> bool:
        return (await audited(rt, route)).delivered == count

    return is_so


def is_closed(rt: Runtime, system: str) -> Callable[[], Awaitable[bool]]:
    """A condition: the system may be called."""

    async def is_so() -> bool:
        return (await rt.store.gate(system)).state is State.CLOSED

    return is_so


async def audited(rt: Runtime, route: str = "orders") -> RouteAudit:
    """The route's books, which must balance."""
    found = {audit.route: audit for audit in await overview.audit(rt)}
    assert all(audit.faults == () for audit in found.values())
    return found[route]


async def until(condition: Callable[[], bool], timeout_s: float = 60) -> None:
    give_up = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up, "the condition never came true"
        await asyncio.sleep(0.01)
