"""Where everything stands, for the person who answers for the continuity plan: what is down, what waits, since when,
and how long recovery took against what was promised."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tideover.hub import forecasting, standing
from tideover.hub.forecasting import TargetForecast
from tideover.hub.routing import group_rule
from tideover.hub.runtime import Runtime
from tideover.hub.standing import GroupView
from tideover.model import SECOND_US, Order
from tideover.policy.breaker import State
from tideover.staging import reports, systems
from tideover.staging.database import Transaction
from tideover.staging.reports import Outage, RouteAudit, RouteStatus, TracedRecord
from tideover.staging.systems import Gate


@dataclass(frozen=True, slots=True)
class OutageFigures:
    """An outage as measured, in seconds; None for what has not ended. `recovery_s` is what an RTO is held against:
    from the first failure to the last record of the backlog delivered, or until now."""

    outage: Outage
    detect_s: float
    down_s: float | None
    drain_s: float | None
    recovery_s: float
    is_over: bool


@dataclass(frozen=True, slots=True)
class RouteFigures:
    """A route's totals, its target's state, and its objectives against what was measured.

    `rto_s` is the longest recovery among the latest: of a system, from the first failure to the last record of the
    backlog; of a failover group, from the first failure to the first record that another provider accepted, as from
    then on records flow again. `rpo_s` is the age of the last complete reading of the source: what a loss of the source
    now would cost at most. None where nothing was ever measured or read.
    """

    status: RouteStatus
    target: str
    oldest_s: float | None
    rpo_s: float | None
    rpo_target_s: float | None
    rto_s: float | None
    rto_target_s: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """`since_us`: when each system's breaker came to the state it is in; 0 for one that never changed."""

    now_us: int
    routes: list[RouteFigures]
    systems: dict[str, Gate]
    outages: list[OutageFigures]
    since_us: dict[str, int] = field(default_factory=dict)
    groups: list[GroupView] = field(default_factory=list)
    forecasts: list[TargetForecast] = field(default_factory=list)

    def waiting(self, route: str) -> int:
        """How many records of a route wait."""
        return sum(r.status.waiting for r in self.routes if r.status.route == route)

    @property
    def reconciling(self) -> int:
        """How many records may be at two providers, and are not settled yet."""
        return sum(p.open + p.raised for group in self.groups for p in group.providers)


async def overview(rt: Runtime, *, outages: int = 10) -> Overview:
    """Everything at one moment, from one snapshot."""

    def work(tx: Transaction) -> Overview:
        figures = [_outage_figures(o, tx.now_us) for o in reports.outages(tx, outages)]
        statuses = reports.status(tx, list(rt.config.routes))
        views = {name: _look(rt, tx, name) for name in rt.config.groups}
        return Overview(
            now_us=tx.now_us,
            routes=[_route_figures(rt, s, figures, views, tx.now_us) for s in statuses],
            systems=forecasting.gates(rt, tx, list(rt.config.systems)),
            outages=figures,
            since_us={name: _changed_us(tx, name) for name in rt.config.systems},
            groups=list(views.values()),
            forecasts=forecasting.look(rt, tx),
        )

    return await rt.store.report(work)


async def group_view(rt: Runtime, name: str) -> GroupView:
    """One failover group at this moment. Raises `Refused` naming the groups there are."""
    rt.group(name)
    return await rt.store.report(lambda tx: _look(rt, tx, name))


def _look(rt: Runtime, tx: Transaction, name: str) -> GroupView:
    routes = rt.config.routes_to(name)
    objectives = [route.rto for route in routes.values() if route.rto is not None]
    patience_s = min(objectives, default=rt.config.groups[name].max_pause)
    return standing.look(tx, name, group_rule(rt.config, name), list(routes), patience_s=patience_s)


def _changed_us(tx: Transaction, system: str) -> int:
    breaker = systems.load(tx, system).breaker
    return breaker.closed_us if breaker.state is State.CLOSED else breaker.opened_us


def _outage_figures(outage: Outage, now_us: int) -> OutageFigures:
    end_us = outage.drained_us or now_us
    return OutageFigures(
        outage=outage,
        detect_s=(outage.opened_us - outage.first_failure_us) / SECOND_US,
        down_s=(outage.restored_us - outage.opened_us) / SECOND_US if outage.restored_us else None,
        drain_s=(outage.drained_us - outage.restored_us) / SECOND_US if outage.drained_us else None,
        recovery_s=(end_us - outage.first_failure_us) / SECOND_US,
        is_over=outage.drained_us > 0,
    )


def _route_figures(
    rt: Runtime, status: RouteStatus, outages: list[OutageFigures], views: Mapping[str, GroupView], now_us: int
) -> RouteFigures:
    route = rt.config.routes[status.route]
    view = views.get(route.target.name)
    if view is None:
        measured = [o.recovery_s for o in outages if o.outage.system == route.target.name]
    else:
        measured = _group_recoveries(status, view, outages)
    return RouteFigures(
        status=status,
        target=route.target.name,
        oldest_s=(now_us - status.oldest_us) / SECOND_US if status.oldest_us else None,
        rpo_s=(now_us - status.read_us) / SECOND_US if status.read_us else None,
        rpo_target_s=route.rpo,
        rto_s=max(measured, default=None),
        rto_target_s=route.rto,
    )


def _group_recoveries(status: RouteStatus, view: GroupView, outages: list[OutageFigures]) -> list[float]:
    """Seconds that a route to a group was interrupted, as measured. One that goes on counts from when something waits:
    where nothing came, nothing was interrupted."""
    found: list[float] = []
    for recovery in view.recoveries:
        if recovery.served_us:
            found.append((recovery.served_us - recovery.failed_us) / SECOND_US)
        elif status.waiting and status.oldest_us:
            found.append((view.now_us - max(recovery.failed_us, status.oldest_us)) / SECOND_US)
    found += [o.recovery_s for o in outages if standing.pinned_at(view, o.outage.opened_us) == o.outage.system]
    return found


async def audit(rt: Runtime) -> list[RouteAudit]:
    """Conservation per route, of every route that the configuration or the tables know."""
    return await rt.store.audit(list(rt.config.routes))


async def abandoned(rt: Runtime) -> dict[str, int]:
    """Routes where records wait that this configuration would never deliver, with their number: those of a route that
    it no longer has, and those that may have been sent to a system which is no longer their route's."""
    left = await rt.store.report(lambda tx: reports.abandoned(tx, list(rt.config.routes)))
    for name, route in rt.config.routes.items():
        systems = rt.config.systems_of(route.target.name)
        pinned = await rt.store.report(lambda tx, n=name, s=systems: reports.pinned_elsewhere(tx, n, s))  # type: ignore[misc]
        if pinned:
            left[name] = pinned
    return left


async def side_by_side(rt: Runtime) -> dict[str, int]:
    """Routes whose order was `none` and is no longer, while records wait of which nobody knows the order: newer
    versions of their keys can't be staged until these are delivered. With the number of them."""
    ordered = [name for name, route in rt.config.routes.items() if route.order is not Order.NONE]
    return await rt.store.report(lambda tx: reports.waiting_side_by_side(tx, ordered))


async def trace(rt: Runtime, key: str, route: str | None = None) -> list[TracedRecord]:
    """The story of a business key, or of one record by its id, oldest first."""
    routes = [route] if route else list(rt.config.routes)
    for name in routes:
        rt.route(name)
    return await rt.store.report(lambda tx: reports.trace(tx, routes, key))
