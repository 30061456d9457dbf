"""What all lines of a delivery have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tideover.config.models import Route
from tideover.hub.runtime import Runtime
from tideover.hub.settler import Counts


@dataclass(frozen=True, slots=True)
class Terms:
    """`stirred` is set whenever something changed that is worth a look; `may_resend` is False of a provider that has
    yet to prove itself."""

    rt: Runtime
    routes: Mapping[str, Route]
    group: str  # the failover group; empty where the target is a single system
    lease_margin_s: float
    is_stopped: Callable[[], bool]
    counts: Counts
    stirred: asyncio.Event
    may_resend: Callable[[str], bool]
