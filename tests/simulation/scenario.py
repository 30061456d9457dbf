"""How a seed decides on a history: the systems, the routes, the traffic, and what goes wrong when."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tests.simulation.plan import (
    DAY_S,
    GROUP,
    START_US,
    Act,
    Arrival,
    Crash,
    Fault,
    Freeze,
    Outage,
    Quota,
    RoutePlan,
    Scenario,
    SystemPlan,
)
from tideover.model import SECOND_US, instant

KINDS = (
    "down", "down", "hang", "hang after", "hang late", "lose", "lose", "fail", "fail after", "throttle", "reject",
    "credentials", "slow", "poison",
)  # fmt: skip
PUT_OFF = "put off"  # it answers of some records, each time, that it has not done them and they may come again
TAKEN = ("lose", "lose", "hang after", "hang late", "fail after")  # it is done, and nobody hears of it
DEAF = ("down", "down", "hang", "fail", "lose")  # and cannot be asked
POINTS = ("before commit", "after commit", "before send", "after send", "answered", "any")


def scenario_of(seed: int, *, days: float | None = None) -> Scenario:
    """The scenario that a seed decides. `days`: how long it is, instead of some minutes."""
    luck = random.Random(f"scenario {seed}")
    horizon_s = days * DAY_S if days else 60.0 * luck.uniform(2, 10)
    drawing = _Drawing(luck, horizon_s, days)
    systems, grouped = _systems(luck)
    routes = _routes(luck, systems, grouped)
    processes = luck.choice([1, 2, 2, 3])
    faults = drawing.faults(systems, grouped)
    margin_s = luck.choice([3.0, 10.0, 30.0])
    scenario = Scenario(
        seed=seed,
        horizon_s=horizon_s,
        processes=processes,
        systems=systems,
        grouped=grouped,
        routes=routes,
        arrivals=drawing.arrivals(routes, faults),
        faults=faults,
        crashes=drawing.crashes(processes, faults),
        freezes=drawing.freezes(processes, faults, margin_s + max(plan.total_s for plan in systems)),
        outages=drawing.outages(faults),
        acts=drawing.acts(systems, grouped, faults),
        shuffle=luck.choice([0.0, 0.1, 0.5, 1.0]),
        every_s=1800.0 if days else luck.choice([10.0, 20.0, 60.0]),
        linger_s=luck.choice([0.0, 2.0, 5.0]) if not days else 0.0,
        margin_s=margin_s,
        live_share=luck.choice([0, 2, 20]),
    )
    return _with_extras(scenario)


def _with_extras(scenario: Scenario) -> Scenario:
    """What only some seeds get, by a luck of its own: all that the others draw stays as it is."""
    luck = random.Random(f"extras {scenario.seed}")
    systems, faults = list(scenario.systems), list(scenario.faults)
    if luck.random() < 0.15:
        at_s, until_s = (luck.uniform(0, scenario.horizon_s) for _ in range(2))
        alone = [system for system in systems if system.name not in scenario.grouped] or systems
        faults.append(
            Fault(min(at_s, until_s), max(at_s, until_s), luck.choice(alone).name, PUT_OFF, 1.0, answers_questions=True)
        )
    if luck.random() < 0.15:
        at = luck.randrange(len(systems))
        middle = instant(START_US + int(scenario.horizon_s * luck.uniform(0.3, 0.9) * SECOND_US))
        records = max(luck.choice([5, 12, 30]), len(scenario.arrivals) // 3)  # a backlog is over in some days
        quota = Quota(records, middle.time().replace(second=0, microsecond=0), luck.choice([0, 0.3]))
        systems[at] = replace(systems[at], quota=quota)
    return replace(scenario, systems=tuple(systems), faults=tuple(faults))


def _systems(luck: random.Random) -> tuple[tuple[SystemPlan, ...], tuple[str, ...]]:
    grouped = tuple(f"carrier-{letter}" for letter in "abc"[: luck.choice([2, 2, 3])]) if luck.random() < 0.7 else ()
    singles = ("erp", "shop")[: luck.choice([0, 0, 1] if grouped else [1, 1, 2])]
    return tuple(_plan(luck, name, is_single=name in singles) for name in (*grouped, *singles)), grouped


def _plan(luck: random.Random, name: str, *, is_single: bool) -> SystemPlan:
    others = ["lookup", "lookup", "none"]
    resolve = luck.choice(["natural", "key", *others] if is_single else ["key", "lookup", *others])
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
        rate=luck.choice([*[None] * 6, (12, 20), (30, 60)]),
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
            on_unknown=luck.choice(["hold", "reroute", "reroute"]),
            max_hold_s=luck.choice([10.0, 30.0]),
            max_attempts=luck.choice([4, 12, 50]),
            max_age_s=luck.choice([None, None, None, 300.0]),
            page=luck.choice([1, 3, 10]),
        )
        for name, target in names
    )


@dataclass(frozen=True, slots=True)
class _Drawing:
    """Draws what happens in a history of `horizon_s`."""

    luck: random.Random
    horizon_s: float
    days: float | None

    def _length_s(self, least: float, most: float) -> float:
        return math.exp(self.luck.uniform(math.log(least), math.log(most)))

    def _near(self, faults: Sequence[Fault]) -> float:
        """An instant, most often in a fault or soon after it, as often as not where it begins: elsewhere little goes
        wrong."""
        if not faults or self.luck.random() < 0.2:
            return self.luck.uniform(0, self.horizon_s * 0.95)
        fault = self.luck.choice(faults)
        if self.luck.random() < 0.5:
            return min(max(fault.at_s + self.luck.uniform(-3, 10), 0.0), self.horizon_s)
        return min(self.luck.uniform(max(fault.at_s - 5, 0), fault.until_s + 20), self.horizon_s)

    # --- what goes wrong ------------------------------------------------------------------------------------

    def faults(self, systems: Sequence[SystemPlan], grouped: Sequence[str]) -> tuple[Fault, ...]:
        """Single troubles, and stories that are worse than the sum of their parts."""
        found: list[Fault] = []
        for _ in range(self.luck.randint(1, 4) if self.days is None else round(self.days / 5) + 1):
            at_s = self.luck.uniform(0, self.horizon_s * 0.7)
            system = self.luck.choice(systems).name
            kinds: list[Callable[[float, str], Iterator[Fault]]] = [self._single, self._taken_and_deaf, self._relapses]
            found.extend(self.luck.choice(kinds)(at_s, system))
            if system in grouped and self.luck.random() < 0.3:  # and the backup as well
                other = self.luck.choice(grouped)
                found.extend(self._single(at_s + self.luck.uniform(-20, 60), other))
        return tuple(found)

    def _single(self, at_s: float, system: str) -> Iterator[Fault]:
        longest = self.horizon_s * 0.2 if self.days is None else 14_400.0
        yield self._fault(self.luck.choice(KINDS), at_s, self._length_s(2, longest), system)

    def _taken_and_deaf(self, at_s: float, system: str) -> Iterator[Fault]:
        """What it does no longer gets an answer, and then it can't even be asked, for longer than a route may wait."""
        first_s = self.luck.uniform(4, 30)
        yield Fault(at_s, at_s + first_s, system, self.luck.choice(TAKEN), 1.0, answers_questions=False)
        rest_s = self._length_s(20, 200)
        yield Fault(
            at_s + first_s, at_s + first_s + rest_s, system, self.luck.choice(DEAF), 1.0, answers_questions=False
        )

    def _relapses(self, at_s: float, system: str) -> Iterator[Fault]:
        """It comes back, and goes again."""
        for _ in range(self.luck.randint(2, 4)):
            length_s = self._length_s(3, 40)
            yield self._fault(self.luck.choice(KINDS), at_s, length_s, system)
            at_s += length_s + self.luck.uniform(3, 60)

    def _fault(self, kind: str, at_s: float, length_s: float, system: str) -> Fault:
        share = self.luck.choice([1.0, 1.0, 0.5, 0.2])
        return Fault(at_s, at_s + length_s, system, kind, share, self.luck.random() < 0.5)

    def crashes(self, processes: int, faults: Sequence[Fault]) -> tuple[Crash, ...]:
        """Deaths of workers."""
        return tuple(
            Crash(
                at_s=self._near(faults),
                process=self.luck.randrange(processes),
                point=self.luck.choice(POINTS),
                nth=self.luck.choice([1, 1, 2, 5]),
                down_s=self.luck.choice([0.5, 5.0, 60.0]),
            )
            for _ in range(self.luck.choice([0, 1, 2, 4]))
        )

    def freezes(self, processes: int, faults: Sequence[Fault], lease_s: float) -> tuple[Freeze, ...]:
        """Workers that stand still, some of them for longer than their leases."""
        found = []
        for _ in range(self.luck.choice([0, 0, 1, 2])):
            at_s = self._near(faults)
            found.append(Freeze(at_s, at_s + lease_s * self.luck.uniform(0.3, 2.5), self.luck.randrange(processes)))
        return tuple(found)

    def outages(self, faults: Sequence[Fault]) -> tuple[Outage, ...]:
        """Troubles of the database."""
        found = []
        for _ in range(self.luck.choice([0, 0, 1, 3])):
            at_s, share = self._near(faults), self.luck.choice([1.0, 0.3])
            kind = self.luck.choice(["away", "lost", "twice"])
            found.append(Outage(at_s, at_s + self.luck.uniform(0.5, 30.0), kind, share))
        return tuple(found)

    # --- what people do -------------------------------------------------------------------------------------

    def arrivals(self, routes: Sequence[RoutePlan], faults: Sequence[Fault]) -> tuple[Arrival, ...]:
        """Changes of business objects; one in seven comes a second time, or late."""
        luck = self.luck
        count = luck.randint(8, 60) if self.days is None else round(self.days * 10)
        keys = luck.choice([2, 5, 12])
        versions: dict[tuple[str, str], int] = {}
        found = []
        for at_s in sorted(self._near(faults) for _ in range(count)):
            route, key = luck.choice(routes).name, f"k{luck.randrange(keys)}"
            newest = versions.get((route, key), 0)
            version = luck.choice([newest, max(newest - 1, 1)]) if newest and luck.random() < 0.15 else newest + 1
            versions[route, key] = max(version, newest)
            found.append(Arrival(round(at_s, 3), route, key, version))
        return tuple(found)

    def acts(self, systems: Sequence[SystemPlan], grouped: Sequence[str], faults: Sequence[Fault]) -> tuple[Act, ...]:
        """Operators' words, and what takes them back."""
        found = []
        for _ in range(self.luck.choice([0, 1, 3])):
            at_s = self._near(faults)
            what = self.luck.choice(["pin", "open", "replay", "replay", "release", "hurry"])
            if what in ("pin", "hurry") and not grouped:
                continue
            system = self.luck.choice(grouped) if what in ("pin", "hurry") else self.luck.choice(systems).name
            found.append(Act(at_s, what, system))
            undo = {"pin": "unpin", "open": "auto"}.get(what)
            if undo:
                found.append(Act(at_s + self.luck.uniform(1, 120), undo, system))
        return tuple(found)
