"""What a hub does for itself once in a while."""

from __future__ import annotations

from collections.abc import Callable

from tideover.hub.reconciling import reconcile
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US
from tideover.staging import reports


async def housekeeping(rt: Runtime, on_rows: Callable[[str, int], None] = lambda _route, _rows: None) -> dict[str, int]:
    """Ask about the records that may be at two providers, remove what no retention asks for, and announce what nobody
    announced. What routes left that are no longer in the configuration is kept for the longest retention of all.
    Returns rows removed, per route and for the books (`books`). `on_rows` hears, piece by piece, how many rows of a
    route went so far."""
    await reconcile(rt)
    longest = max(route.retention for route in rt.config.routes.values())
    gone = dict.fromkeys(await rt.store.report(reports.staged_routes), longest)
    kept_s = gone | {name: route.retention for name, route in rt.config.routes.items()}
    removed = {
        name: await rt.store.purge(name, int(kept * SECOND_US), lambda rows, n=name: on_rows(n, rows))  # type: ignore[misc]
        for name, kept in kept_s.items()
    }
    removed["books"] = await rt.store.tidy(int(longest * SECOND_US))
    await rt.announce_events()
    return removed
