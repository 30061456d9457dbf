"""What a simulated history is made of, as plain values that can be left out one by one.

Instants and durations are virtual seconds.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import time
from typing import Any

from tideover.config.models import Hub
from tideover.model import SECOND_US

TAKE = "take"
GROUP = "carriers"
SOURCE = "crm"
DAY_S = 86_400.0
START_US = 1_800_000_000 * SECOND_US  # a morning at eight, UTC


@dataclass(frozen=True, slots=True)
class Quota:
    """So many records a day, which begins at `resets` (UTC); `reserve`: the share that is kept for live traffic."""

    records: int
    resets: time
    reserve: float


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """A target and how it is described. `total_s`: the longest call; `horizon_s`: how long it remembers keys; `rate`:
    records, and the seconds in which no more of them may be sent; `in_flight`: calls at once, of all workers."""

    name: str
    resolve: str
    has_lookup: bool
    has_probe: bool
    has_void: bool
    total_s: float
    horizon_s: float
    concurrency: int
    batch: int
    failures: int
    in_flight: int | None
    rate: tuple[int, int] | None
    quota: Quota | None = None


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """`is_pushed`: its records come from clients that wait for an answer, not from the source's listing."""

    name: str
    target: str
    order: str
    is_pushed: bool
    accepts_duplicates: bool
    on_unknown: str
    max_hold_s: float
    max_attempts: int
    max_age_s: float | None
    page: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A business object changes."""

    at_s: float
    route: str
    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Fault:
    """A system's trouble from `at_s` to `until_s`, for a `share` of its calls. `kind` as in `scenario.KINDS`."""

    at_s: float
    until_s: float
    system: str
    kind: str
    share: float
    answers_questions: bool


@dataclass(frozen=True, slots=True)
class Crash:
    """From `at_s` on, the process dies when it meets `point` for the `nth` time; it is back after `down_s`."""

    at_s: float
    process: int
    point: str
    nth: int
    down_s: float


@dataclass(frozen=True, slots=True)
class Freeze:
    """The process stands still, and then goes on as if nothing had been."""

    at_s: float
    until_s: float
    process: int


@dataclass(frozen=True, slots=True)
class Outage:
    """The database is away; `kind` as in `disk.Trouble`."""

    at_s: float
    until_s: float
    kind: str
    share: float


@dataclass(frozen=True, slots=True)
class Act:
    """What a person does: `pin`, `unpin`, `open`, `auto`, `hurry`, `replay` or `release`. `system`: of which."""

    at_s: float
    what: str
    system: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One history's givens. What is drawn while it runs comes from `seed` as well."""

    seed: int
    horizon_s: float
    processes: int
    systems: tuple[SystemPlan, ...]
    grouped: tuple[str, ...]
    routes: tuple[RoutePlan, ...]
    arrivals: tuple[Arrival, ...]
    faults: tuple[Fault, ...] = ()
    crashes: tuple[Crash, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    outages: tuple[Outage, ...] = ()
    acts: tuple[Act, ...] = ()
    shuffle: float = 0.0
    every_s: float = 20.0
    linger_s: float = 0.0
    margin_s: float = 15.0
    live_share: int = 0

    def hub(self) -> Hub:
        """The configuration that the engine gets."""
        systems: dict[str, Any] = {plan.name: _system(plan) for plan in self.systems}
        systems[SOURCE] = {
            "block": "tideover-open/x",
            "rest": {"streams": {r.name: {"path": "/s"} for r in self.routes}},
        }
        groups = {}
        if self.grouped:
            failback = {"dwell": "20s", "max_dwell": "120s", "canary": 2, "ramp": "30s"}
            groups[GROUP] = {
                "providers": list(self.grouped),
                "live_share": f"{self.live_share}%",
                "max_pause": "30s",
                "failback": failback,
            }
        routes = {route.name: _route(route, is_group=route.target == GROUP) for route in self.routes}
        hub = {"name": "simulated", "systems": systems, "groups": groups, "routes": routes}
        return Hub.model_validate_json(json.dumps(hub))

    def system(self, name: str) -> SystemPlan:
        return next(plan for plan in self.systems if plan.name == name)


def _system(plan: SystemPlan) -> dict[str, Any]:
    operation: dict[str, Any] = {"path": "/things"}
    if plan.has_lookup:
        operation["lookup"] = {"path": "/things/{key}"}
    limits: dict[str, Any] = {"concurrency": plan.concurrency}
    if plan.in_flight:
        limits["in_flight"] = plan.in_flight
    if plan.rate:
        limits["rate"] = f"{plan.rate[0]}/{plan.rate[1]}s"
    if plan.quota:
        records, resets, reserve = plan.quota.records, f"{plan.quota.resets:%H:%M}", f"{plan.quota.reserve:.0%}"
        limits["quota"] = {"records": records, "resets": resets, "reserve": reserve}
    return {
        "block": "tideover-open/x",
        "resolve": plan.resolve,
        "key_horizon": f"{plan.horizon_s}s",
        "timeouts": {"connect": "1s", "read": "1s", "total": f"{plan.total_s}s"},
        "breaker": {"failures": plan.failures, "rejections": 3, "open_for": "5s", "max_open": "40s"},
        "limits": limits,
        "rest": {"operations": {TAKE: operation}},
    }


def _route(plan: RoutePlan, *, is_group: bool) -> dict[str, Any]:
    retry: dict[str, Any] = {"base": "1s", "cap": "30s", "max_attempts": plan.max_attempts}
    if plan.max_age_s:
        retry["max_age"] = f"{plan.max_age_s}s"
    route: dict[str, Any] = {
        "source": {"system": SOURCE, "stream": plan.name},
        "target": {"group" if is_group else "system": plan.target, "operation": TAKE},
        "key": "id",
        "order": plan.order,
        "retry": retry,
        "accepts_duplicates": plan.accepts_duplicates,
    }
    return route | ({"on_unknown": plan.on_unknown, "max_hold": f"{plan.max_hold_s}s"} if is_group else {})
