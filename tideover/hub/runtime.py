"""What every use-case needs: the configuration, the store, and one connector per system, made when asked for."""

from __future__ import annotations

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tideover.config.models import Group, Hub, Route, System
from tideover.connectors.port import Connector
from tideover.errors import Refused
from tideover.hub.mapping import Mapper
from tideover.model import Resolve
from tideover.policy.breaker import BreakerRule
from tideover.policy.quota import BudgetRule, LimitRule, RateRule
from tideover.policy.resolve import ResolveRule
from tideover.policy.retry import RetryRule
from tideover.policy.settlement import RouteRule
from tideover.staging.events import Recorded
from tideover.staging.store import Store

# How long a breaker stays open at most between two probes, where the system's settings don't say: a probe is cheap and
# finds a system that is back at once; a real record is somebody's order.
MAX_OPEN_WITH_PROBE_S = 5.0
MAX_OPEN_WITHOUT_PROBE_S = 300.0


class Connect(Protocol):
    """Makes the connector of a system; raises `AccessError` when its credentials can't be had."""

    def __call__(self, name: str, system: System) -> Awaitable[Connector]: ...


@dataclass
class Runtime:
    """One hub in one process. Time is a dependency: a simulator passes its own `monotonic` and `sleep`."""

    config: Hub
    store: Store
    connect: Connect
    folder: Path = field(default_factory=Path.cwd)  # the hub's file is there, and the mapping functions beside it
    announce: Callable[[Recorded], None] = lambda _: None
    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    _connectors: dict[str, Connector] = field(default_factory=dict)
    _opening: dict[str, asyncio.Lock] = field(default_factory=dict)

    async def connector(self, system: str) -> Connector:
        """The system's connector; the same one for all who ask."""
        async with self._opening.setdefault(system, asyncio.Lock()):
            if system not in self._connectors:
                self._connectors[system] = await self.connect(system, self.system(system))
            return self._connectors[system]

    def route(self, name: str) -> Route:
        """A route's configuration. Raises `Refused` naming the routes there are."""
        if name not in self.config.routes:
            raise Refused(f"there is no route {name!r}; the hub has {_listed(self.config.routes)}")
        return self.config.routes[name]

    def system(self, name: str) -> System:
        if name not in self.config.systems:
            raise Refused(f"there is no system {name!r}; the hub has {_listed(self.config.systems)}")
        return self.config.systems[name]

    def group(self, name: str) -> Group:
        """A failover group's configuration. Raises `Refused` naming the groups there are."""
        if name not in self.config.groups:
            raise Refused(f"there is no failover group {name!r}; the hub has {_listed(self.config.groups)}")
        return self.config.groups[name]

    def routes_to(self, target: str) -> dict[str, Route]:
        """The routes of a target. Raises `Refused` naming the targets there are."""
        routes = self.config.routes_to(target)
        if not routes:
            raise Refused(f"no route delivers to {target!r}; the hub's targets are {_listed(self.config.targets)}")
        return routes

    def routes_through(self, system: str) -> list[str]:
        """Names of the routes whose target has this system among its providers."""
        return [
            name for name, route in self.config.routes.items() if system in self.config.systems_of(route.target.name)
        ]

    def mapper(self, name: str) -> Mapper:
        """The route's mapping. Records are held to the smallest limit of the systems that may get them."""
        route = self.route(name)
        systems = self.config.systems_of(route.target.name)
        return Mapper(route, min(self.system(s).limits.record for s in systems), self.folder)

    def breaker_rule(self, system: str, *, has_probe: bool) -> BreakerRule:
        settings = self.system(system).breaker
        longest = settings.max_open
        if longest is None:
            longest = MAX_OPEN_WITH_PROBE_S if has_probe else MAX_OPEN_WITHOUT_PROBE_S
        return BreakerRule(
            failures=settings.failures,
            rejections=settings.rejections,
            open_for_s=min(settings.open_for, longest),
            max_open_s=longest,
            successes=settings.successes,
        )

    def limit_rule(self, system: str) -> LimitRule | None:
        """What all workers together may send to a system; None where nothing limits it."""
        limits = self.system(system).limits
        if limits.rate is None and limits.quota is None:
            return None
        rates = tuple(RateRule(rate.calls, rate.window_s) for rate in limits.rate or ())
        quota = limits.quota
        if quota is None:
            return LimitRule(rates)
        resets = datetime.time.fromisoformat(quota.resets)
        return LimitRule(rates, BudgetRule(quota.records, quota.per, resets, quota.timezone, quota.reserve))

    def limit_rules(self, systems: Iterable[str]) -> dict[str, LimitRule]:
        """Those of the systems that have any."""
        found = {name: self.limit_rule(name) for name in systems}
        return {name: rule for name, rule in found.items() if rule is not None}

    def route_rule(self, name: str) -> RouteRule:
        route = self.route(name)
        retry = route.retry
        rule = RetryRule(retry.max_attempts, retry.base, retry.cap, retry.max_age)
        return RouteRule(route.order, rule, has_alternatives=route.target.group is not None)

    def resolve_rule(self, name: str, system: str) -> ResolveRule:
        route, settings = self.route(name), self.system(system)
        operation = settings.rest.operations[route.target.operation]
        return ResolveRule(
            how=settings.resolve or Resolve.NONE,
            key_horizon_s=settings.key_horizon,
            has_lookup=operation.lookup is not None,
            settle_s=settings.timeouts.total,
            accepts_duplicates=route.accepts_duplicates,
        )

    async def announce_events(self) -> None:
        """Hand every event that nobody has announced yet to `announce`."""
        while recorded := await self.store.unannounced():
            for event in recorded:
                self.announce(event)
            await self.store.mark_announced([event.id for event in recorded])

    async def close(self) -> None:
        for connector in self._connectors.values():
            await connector.close()
        await self.store.close()


def _listed(names: object) -> str:
    return ", ".join(sorted(str(n) for n in names)) or "none"  # type: ignore[attr-defined]
