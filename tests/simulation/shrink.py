"""The least that still goes wrong: a scenario from which is left out whatever its failure does not need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from tests.simulation.plan import GROUP, Scenario

PARTS = ("outages", "freezes", "crashes", "acts", "faults", "arrivals")
Fails = Callable[[Scenario], bool]


def shrink(scenario: Scenario, fails: Fails, *, tries: int = 400) -> Scenario:
    """A smaller scenario of which `fails` is still true; at most `tries` are asked about.

    Whatever is left out changes what chance does to the rest, so a failure that needs luck may not get much smaller.
    """
    left = tries
    is_smaller = True
    while is_smaller and left > 0:
        is_smaller = False
        for candidate in _smaller(scenario):
            if left <= 0:
                break
            left -= 1
            if fails(candidate):
                scenario, is_smaller = candidate, True
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    """Candidates, those that leave out the most first."""
    yield from _fewer_routes(scenario)
    for part in PARTS:
        values: tuple[Any, ...] = getattr(scenario, part)
        size = len(values)
        while size:
            for start in range(0, len(values), size):
                yield replace(scenario, **{part: values[:start] + values[start + size :]})
            size //= 2
    yield from _fewer_processes(scenario)
    yield from _plainer(scenario)


def _fewer_routes(scenario: Scenario) -> Iterator[Scenario]:
    if len(scenario.routes) == 1:
        return
    for route in scenario.routes:
        routes = tuple(it for it in scenario.routes if it is not route)
        targets = {it.target for it in routes}
        grouped = scenario.grouped if GROUP in targets else ()
        names = {*grouped, *targets}
        yield replace(
            scenario,
            routes=routes,
            grouped=grouped,
            systems=tuple(it for it in scenario.systems if it.name in names),
            arrivals=tuple(it for it in scenario.arrivals if it.route != route.name),
            faults=tuple(it for it in scenario.faults if it.system in names),
            acts=tuple(it for it in scenario.acts if it.system in names or not it.system),
        )


def _fewer_processes(scenario: Scenario) -> Iterator[Scenario]:
    most = scenario.processes - 1
    if most:
        yield replace(
            scenario,
            processes=most,
            crashes=tuple(it for it in scenario.crashes if it.process < most),
            freezes=tuple(it for it in scenario.freezes if it.process < most),
        )


def _plainer(scenario: Scenario) -> Iterator[Scenario]:
    if scenario.shuffle:
        yield replace(scenario, shuffle=0.0)
    if scenario.live_share:
        yield replace(scenario, live_share=0)
    for at, plan in enumerate(scenario.systems):
        for wish in ({"batch": 1}, {"concurrency": 1}, {"in_flight": None}, {"rate": None}):
            plainer = replace(plan, **wish)  # type: ignore[arg-type]
            if plainer != plan:
                yield replace(scenario, systems=(*scenario.systems[:at], plainer, *scenario.systems[at + 1 :]))
