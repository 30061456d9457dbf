"""What a hub does for itself once in a while."""

from __future__ import annotations

from collections.abc import Callable

from tideover.hub.reconciling import reconcile
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US


async def housekeeping(rt: Runtime, on_rows: Callable[[str, int], None] = lambda _route, _rows: None) -> dict[str, int]:
    """Ask about the records that may be at two providers, remove what no retention asks for, and announce what nobody
    announced. Returns rows removed, per route and for the books (`books`). `on_rows` hears, piece by piece, how many
    rows of a route went so far."""
    await reconcile(rt)
    removed = {
        name: await rt.store.purge(name, int(route.retention * SECOND_US), lambda rows, n=name: on_rows(n, rows))  # type: ignore[misc]
        for name, route in rt.config.routes.items()
    }
    longest = max(route.retention for route in rt.config.routes.values())
    removed["books"] = await rt.store.tidy(int(longest * SECOND_US))
    await rt.announce_events()
    return removed
