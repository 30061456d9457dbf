"""Hubs for tests: a configuration in a few words, a real database, systems in memory."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from tideover.config.models import Hub, System
from tideover.connectors.port import Connector
from tideover.hub.runtime import Runtime
from tideover.staging.database import Clock, open_database
from tideover.staging.sealing import Sealer
from tideover.staging.store import Store


def hub_config(
    *,
    systems: Mapping[str, Any] | None = None,
    routes: Mapping[str, Any] | None = None,
    groups: Mapping[str, Any] | None = None,
) -> Hub:
    """One route `orders` from `crm` to `erp`; what is given goes over it."""
    operation = {"path": "/things", "idempotency_header": "Idempotency-Key", "lookup": {"path": "/things/{key}"}}
    target = {
        "block": "tideover-open/x",
        "resolve": "key",
        "timeouts": {"connect": "1s", "read": "1s", "total": "2s"},
        "breaker": {"failures": 3, "rejections": 3, "open_for": "50ms", "max_open": "100ms", "successes": 2},
        "rest": {"operations": {"take": operation}, "streams": {"orders": {"path": "/orders"}}},
    }
    route = {
        "source": {"system": "crm", "stream": "orders"},
        "target": {"system": "erp", "operation": "take"},
        "key": "id",
        "retry": {"base": "10ms", "cap": "50ms", "max_attempts": 4},
    }
    names = {"crm", "erp", *(systems or {})}
    merged = {name: {**target, **(systems or {}).get(name, {})} for name in names}
    all_routes = {name: {**route, **given} for name, given in (routes or {"orders": {}}).items()}
    whole = {"name": "test", "systems": merged, "routes": all_routes, "groups": dict(groups or {})}
    return Hub.model_validate_json(json.dumps(whole))


@asynccontextmanager
async def running(
    config: Hub,
    url: str,
    connectors: Mapping[str, Connector],
    *,
    clock: Clock = lambda now_us: now_us,
    sealer: Sealer | None = None,
) -> AsyncIterator[Runtime]:
    """A runtime over a real database, with the connectors that its systems are reached by."""
    store = Store(open_database(url, clock), sealer)
    await store.migrate()

    async def connect(name: str, system: System) -> Connector:
        return connectors[name]

    rt = Runtime(config, store, connect)
    try:
        yield rt
    finally:
        await rt.close()
