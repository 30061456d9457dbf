"""The claims that one system's line makes for itself: a record for its prober, lanes in doubt to ask about."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tideover.config.models import Route
from tideover.errors import HubUnavailable
from tideover.hub.routing import group_wish
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US, Lease
from tideover.policy.depth import DEPTH
from tideover.staging.wishes import Claim


class Claims:
    """Of one line. `lease_s`: how long its leases last."""

    def __init__(self, rt: Runtime, system: str, routes: Mapping[str, Route], lease_s: float) -> None:
        self._rt, self._system, self._routes, self.lease_s = rt, system, routes, lease_s
        self._claiming: set[asyncio.Future[Sequence[Lease]]] = set()

    async def for_probe(self, route: str) -> Sequence[Lease]:
        """One record, whatever the system's breaker says."""
        return await self._known(self._rt.store.claim_probe(self._wish(route, depth=1), self._system))

    async def in_doubt(self, route: str, lanes: int) -> Sequence[Lease]:
        """Lanes that are pinned to the system, only to ask about them."""
        return await self._known(self._rt.store.claim_doubted(self._wish(route), self._system, lanes))

    async def unknown(self) -> list[Lease]:
        """What claims got whose caller was cancelled; once nobody begins one any more."""
        ends = await asyncio.gather(*self._claiming, return_exceptions=True)
        return [lease for end in ends if not isinstance(end, BaseException) for lease in end]

    def _wish(self, route: str, depth: int = DEPTH) -> Claim:
        return Claim(
            route=route,
            rooms={self._system: 1},
            order=self._routes[route].order,
            depth=depth,
            lease_us=int(self.lease_s * SECOND_US),
            group=group_wish(self._rt.config, route),
        )

    async def _known(self, claim: Coroutine[Any, Any, Sequence[Lease]]) -> Sequence[Lease]:
        """A claim's answer. Shielded, and kept until its caller has it: of one that is cancelled before that, nobody
        would know which lanes it took."""
        claiming = asyncio.ensure_future(claim)
        self._claiming.add(claiming)
        with suppress(HubUnavailable):
            await asyncio.shield(claiming)
        self._claiming.discard(claiming)
        return claiming.result()
