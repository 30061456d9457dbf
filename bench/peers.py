"""The place for other systems: each measures the same as ours, in the same run, on the same database server.

A peer is a coroutine like those of `bench.staging` and `bench.delivering`: it takes the `Place`, adds its figures under
the bench they belong to, with its own name in `what`, and the ratio to ours. To add one, write `bench/peer_NAME.py` and
list it in `PEERS`; its package belongs to no dependency group of the project, so import it inside and skip, saying so,
where it is not installed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from bench.places import Place

PEERS: dict[str, Callable[[Place], Awaitable[None]]] = {}
