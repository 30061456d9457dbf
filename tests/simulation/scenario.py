"""What a simulated history is made of, as plain values that can be left out one by one; and how a seed decides on it.

Instants and durations are virtual seconds.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tideover.config.models import Hub

TAKE = "take"
GROUP = "carriers"
SOURCE = "crm"
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True)
class SystemPlan:
    """A target and how it is described. `total_s`: the longest call; `horizon_s`: how long it remembers keys."""

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
    """A system's trouble from `at_s` to `until_s`, for a `share` of its calls. `kind` as in `systems.KINDS`."""

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
    """What a person does: `pin`, `unpin`, `open`, `auto`, `hurry`, `replay` or `release`; of `system`, if that matters."""

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
    limits = {"concurrency": plan.concurrency} | ({"in_flight": plan.in_flight} if plan.in_flight else {})
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


# --- from a seed --------------------------------------------------------------------------------------------


def scenario_of(seed: int, *, days: float | None = None) -> Scenario:
    """The scenario that a seed decides. `days`: how long it is, instead of minutes to hours."""
    luck = random.Random(f"scenario {seed}")
    systems, grouped = _systems(luck)
    routes = _routes(luck, systems, grouped)
    horizon_s = days * DAY_S if days else 60.0 * math.exp(luck.uniform(math.log(3), math.log(40)))
    processes = luck.choice([1, 2, 2, 3])
    faults = _faults(luck, systems, horizon_s, days)
    margin_s = luck.choice([3.0, 10.0, 30.0])
    return Scenario(
        seed=seed,
        horizon_s=horizon_s,
        processes=processes,
        systems=systems,
        grouped=grouped,
        routes=routes,
        arrivals=_arrivals(luck, routes, faults, horizon_s, days),
        faults=faults,
        crashes=_crashes(luck, processes, faults, horizon_s),
        freezes=_freezes(luck, processes, faults, horizon_s, margin_s + max(plan.total_s for plan in systems)),
        outages=_outages(luck, horizon_s),
        acts=_acts(luck, systems, grouped, horizon_s),
        shuffle=luck.choice([0.0, 0.1, 0.5, 1.0]),
        every_s=600.0 if days else luck.choice([10.0, 20.0, 60.0]),
        linger_s=luck.choice([2.0, 5.0]) if any(route.on_unknown == "reroute" for route in routes) else 0.0,
        margin_s=margin_s,
        live_share=luck.choice([0, 2, 20]),
    )


def _systems(luck: random.Random) -> tuple[tuple[SystemPlan, ...], tuple[str, ...]]:
    grouped = tuple(f"carrier-{letter}" for letter in "abc"[: luck.choice([2, 2, 3])]) if luck.random() < 0.6 else ()
    singles = ("erp", "shop")[: luck.choice([0, 1, 1] if grouped else [1, 1, 2])]
    return tuple(_plan(luck, name, is_single=name in singles) for name in (*grouped, *singles)), grouped


def _plan(luck: random.Random, name: str, *, is_single: bool) -> SystemPlan:
    kinds = (
        ["natural", "key", "lookup", "lookup", "none"] if is_single else ["key", "lookup", "lookup", "lookup", "none"]
    )
    resolve = luck.choice(kinds)
    return SystemPlan(
        name=name,
        resolve=resolve,
        has_lookup=resolve == "lookup" or (resolve == "key" and luck.random() < 0.6),
        has_probe=luck.random() < 0.6,
        has_void=luck.random() < 0.7,
        total_s=luck.choice([3.0, 6.0, 12.0]),
        horizon_s=luck.choice([60.0, 3600.0, DAY_S]),
        concurrency=luck.choice([1, 2, 3]),
        batch=luck.choice([1, 1, 3]),
        failures=luck.choice([2, 4]),
        in_flight=luck.choice([None, None, 2]),
    )


def _routes(luck: random.Random, systems: Sequence[SystemPlan], grouped: Sequence[str]) -> tuple[RoutePlan, ...]:
    targets = ([GROUP] if grouped else []) + [plan.name for plan in systems if plan.name not in grouped]
    names = [(f"{target}-{n}", target) for target in targets for n in range(1, luck.choice([1, 1, 2]) + 1)]
    return tuple(
        RoutePlan(
            name=name,
            target=target,
            order=luck.choice(["block", "block", "skip", "latest", "latest", "none"]),
            is_pushed=luck.random() < 0.4,
            accepts_duplicates=luck.random() < 0.1,
            on_unknown=luck.choice(["hold", "reroute"]),
            max_hold_s=luck.choice([15.0, 60.0]),
            max_attempts=luck.choice([4, 12, 50]),
            max_age_s=luck.choice([None, None, None, 300.0]),
            page=luck.choice([1, 3, 10]),
        )
        for name, target in names
    )


def _near(luck: random.Random, faults: Sequence[Fault], horizon_s: float) -> float:
    """An instant, most often in a fault or soon after it: elsewhere little goes wrong."""
    if faults and luck.random() < 0.75:
        fault = luck.choice(faults)
        return min(luck.uniform(max(fault.at_s - 5, 0), fault.until_s + 20), horizon_s)
    return luck.uniform(0, horizon_s * 0.95)


def _arrivals(
    luck: random.Random, routes: Sequence[RoutePlan], faults: Sequence[Fault], horizon_s: float, days: float | None
) -> tuple[Arrival, ...]:
    count = luck.randint(8, 60) if days is None else round(days * 10)
    keys = luck.choice([2, 5, 12])
    versions: dict[tuple[str, str], int] = {}
    found = []
    for at_s in sorted(_near(luck, faults, horizon_s) for _ in range(count)):
        route, key = luck.choice(routes).name, f"k{luck.randrange(keys)}"
        newest = versions.get((route, key), 0)
        version = luck.choice([newest, max(newest - 1, 1)]) if newest and luck.random() < 0.15 else newest + 1
        versions[route, key] = max(version, newest)
        found.append(Arrival(round(at_s, 3), route, key, version))
    return tuple(found)


KINDS = (
    "down", "down", "hang", "hang after", "hang late", "lose", "lose", "fail", "fail after", "throttle", "reject",
    "credentials", "slow", "poison",
)  # fmt: skip


def _faults(
    luck: random.Random, systems: Sequence[SystemPlan], horizon_s: float, days: float | None
) -> tuple[Fault, ...]:
    found = []
    for _ in range(luck.randint(1, 6) if days is None else round(days / 3) + 1):
        at_s = luck.uniform(0, horizon_s * 0.8)
        longest = min(horizon_s * 0.2, 600.0 if days is None else 14_400.0)
        length_s = math.exp(luck.uniform(math.log(2), math.log(longest)))
        share = luck.choice([1.0, 1.0, 0.5, 0.2])
        system = luck.choice(systems).name
        found.append(Fault(at_s, at_s + length_s, system, luck.choice(KINDS), share, luck.random() < 0.5))
    return tuple(found)


POINTS = ("before commit", "after commit", "before send", "after send", "answered", "any")


def _crashes(luck: random.Random, processes: int, faults: Sequence[Fault], horizon_s: float) -> tuple[Crash, ...]:
    return tuple(
        Crash(
            _near(luck, faults, horizon_s), luck.randrange(processes), luck.choice(POINTS), luck.choice([1, 1, 2, 5]),
            luck.choice([0.5, 5.0, 60.0]),
        )
        for _ in range(luck.choice([0, 1, 2, 4]))
    )  # fmt: skip


def _freezes(
    luck: random.Random, processes: int, faults: Sequence[Fault], horizon_s: float, lease_s: float
) -> tuple[Freeze, ...]:
    found = []
    for _ in range(luck.choice([0, 0, 1, 2])):
        at_s = _near(luck, faults, horizon_s)
        found.append(Freeze(at_s, at_s + lease_s * luck.uniform(0.3, 2.5), luck.randrange(processes)))
    return tuple(found)


def _outages(luck: random.Random, horizon_s: float) -> tuple[Outage, ...]:
    found = []
    for _ in range(luck.choice([0, 0, 1, 3])):
        at_s = luck.uniform(0, horizon_s * 0.9)
        share = luck.choice([1.0, 0.3])
        found.append(Outage(at_s, at_s + luck.uniform(0.5, 30.0), luck.choice(["away", "lost", "twice"]), share))
    return tuple(found)


def _acts(
    luck: random.Random, systems: Sequence[SystemPlan], grouped: Sequence[str], horizon_s: float
) -> tuple[Act, ...]:
    found = []
    for _ in range(luck.choice([0, 1, 3])):
        at_s = luck.uniform(0, horizon_s * 0.9)
        what = luck.choice(["pin", "open", "replay", "replay", "release", "hurry"])
        if what in ("pin", "hurry") and not grouped:
            continue
        system = luck.choice(grouped) if what in ("pin", "hurry") else luck.choice(systems).name
        found.append(Act(at_s, what, system))
        undo = {"pin": "unpin", "open": "auto"}.get(what)
        if undo:
            found.append(Act(at_s + luck.uniform(1, horizon_s * 0.1), undo, system))
    return tuple(found)
