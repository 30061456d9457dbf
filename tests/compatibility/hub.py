"""The hub whose database a snapshot is: a route of each kind, and the state that it is left in by `tour`."""

from __future__ import annotations

from typing import Any

A, B = "carrier-a", "carrier-b"
GROUP = "shipping"
SYSTEMS = ("crm", "erp", "mailer", "desk", "finance", "warehouse", A, B)
SHUT = {"finance": "it refused its credentials", "warehouse": "an operator forced it open"}


def _system() -> dict[str, Any]:
    take = {
        "path": "/things",
        "idempotency_header": "Idempotency-Key",
        "lookup": {"path": "/things/{key}"},
        "void": {"path": "/things/{reference}"},
    }
    return {
        "block": "tideover-open/x",
        "resolve": "lookup",
        "timeouts": {"connect": "100ms", "read": "200ms", "total": "300ms"},
        "breaker": {"failures": 3, "rejections": 3, "open_for": "50ms", "max_open": "100ms", "successes": 2},
        "rest": {"operations": {"take": take}, "streams": {"orders": {"path": "/orders"}}},
    }


def _route(target: dict[str, str], order: str) -> dict[str, Any]:
    return {
        "source": {"system": "crm", "stream": "orders"},
        "target": {**target, "operation": "take"},
        "key": "id",
        "order": order,
        "retry": {"base": "10ms", "cap": "50ms", "max_attempts": 4},
    }


ROUTES: dict[str, tuple[dict[str, str], str]] = {
    "orders": ({"system": "erp"}, "block"),
    "contacts": ({"system": "mailer"}, "latest"),
    "calls": ({"system": "desk"}, "skip"),
    "readings": ({"system": "desk"}, "none"),
    "invoices": ({"system": "finance"}, "block"),
    "stock": ({"system": "warehouse"}, "block"),
    "parcels": ({"group": GROUP}, "block"),
}

CONFIG: dict[str, Any] = {
    "name": "snapshot",
    "systems": {name: _system() for name in SYSTEMS}
    | {"erp": {**_system(), "limits": {"rate": "1000/1s", "quota": {"records": 5000, "per": "day"}}}},
    "groups": {GROUP: {"providers": [A, B], "live_share": "0%", "failback": {"dwell": "1s"}}},
    "routes": {name: _route(target, order) for name, (target, order) in ROUTES.items()},
}
