"""Twins: executable simulators of vendors, with durable memory, a ledger of effects and fault switches.

Each twin is an HTTP server on a port of its own with one vendor's manners: its authentication, its error shapes,
its way of throttling, its idea of idempotency. A control server beside them breaks and mends them, and tells from
the *other* side what arrived: what was lost, what was done twice, and in which order.

    async with TwinHost(folder) as host:
        await host.seed("orders", 100)
        await host.fault("erp", "commit_then_hang", count=1)
        ...
        assert host.ledger("erp")["duplicates"] == 0

`serve` runs them until a signal; `TwinControl` speaks to the control server of twins in another process. Twins are
for tests, drills and demonstrations: their credentials are public and their control server asks for none, so they
listen on the loopback address unless told otherwise.
"""

from tideover.twins.access import CREDENTIALS, Credential
from tideover.twins.client import TwinControl
from tideover.twins.faults import KINDS
from tideover.twins.host import NAMES, TwinHost
from tideover.twins.ledger import payload_hash
from tideover.twins.refusal import TwinRefused
from tideover.twins.serving import DEFAULT_CONTROL_PORT, DEFAULT_PORTS, serve

__all__ = [
    "CREDENTIALS",
    "DEFAULT_CONTROL_PORT",
    "DEFAULT_PORTS",
    "KINDS",
    "NAMES",
    "Credential",
    "TwinControl",
    "TwinHost",
    "TwinRefused",
    "payload_hash",
    "serve",
]
