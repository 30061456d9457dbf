"""When what waits for a target will be delivered: the facts from one snapshot, for `policy.forecast` to judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tideover.config.models import System
from tideover.config.units import Rate
from tideover.hub.runtime import Runtime
from tideover.policy import forecast as policy
from tideover.policy.breaker import State
from tideover.policy.forecast import Calls, Forecast, Limit, Way
from tideover.staging import ledger, pace, quotas, reports, systems
from tideover.staging.database import Transaction
from tideover.staging.systems import Gate

_UNITS = {1: "second", 60: "minute", 3_600: "hour", 86_400: "day"}


@dataclass(frozen=True, slots=True)
class TargetForecast:
    target: str
    forecast: Forecast


def look(rt: Runtime, tx: Transaction) -> list[TargetForecast]:
    """A forecast for each target, in the order of the configuration."""
    calls = pace.calls(tx)
    return [TargetForecast(target, _of_target(rt, tx, target, calls)) for target in rt.config.targets]


async def forecast(rt: Runtime, target: str) -> Forecast:
    """A target's forecast at this moment. Raises `Refused` naming the targets there are."""
    rt.routes_to(target)
    return await rt.store.report(lambda tx: _of_target(rt, tx, target, pace.calls(tx)))


def _of_target(rt: Runtime, tx: Transaction, target: str, calls: Mapping[str, Calls]) -> Forecast:
    routes = list(rt.config.routes_to(target))
    to_go = ledger.waiting(tx, routes)
    names = rt.config.systems_of(target)
    ways = [_way(name, rt.system(name), gate, calls.get(name)) for name, gate in gates(rt, tx, names).items()]
    # Of a group, some provider may have gone on all the time.
    since_us = systems.load(tx, names[0]).breaker.closed_us if len(names) == 1 else 0
    pace_now = policy.pace(pace.samples(tx, routes), pace.come_in_an_hour(tx, routes), tx.now_us, since_us)
    return policy.forecast(to_go, pace_now, ways, tx.now_us)


def gates(rt: Runtime, tx: Transaction, names: Sequence[str]) -> dict[str, Gate]:
    """These systems' gates, as people should see them: with what is used up of their quotas."""
    found = reports.gates(tx, names)
    return found | quotas.shut(found, quotas.used_up(tx, rt.limit_rules(names)), tx.now_us)


def _way(system: str, settings: System, gate: Gate, calls: Calls | None) -> Way:
    limits = settings.limits
    return Way(
        system=system,
        is_down=gate.state is not State.CLOSED,
        is_paused=gate.is_paused,
        is_forced=gate.is_forced,
        wait_s=gate.wait_s,
        pause=gate.pause,
        at_once=limits.concurrency if limits.in_flight is None else min(limits.concurrency, limits.in_flight),
        limit=min((_limit(rate) for rate in limits.rate or ()), key=lambda limit: limit.per_s, default=None),
        calls=calls,
    )


def _limit(rate: Rate) -> Limit:
    unit = _UNITS.get(int(rate.window_s))
    window = f"a {unit}" if unit else f"in {rate.window_s:g} s"
    return Limit(rate.calls / rate.window_s, f"{policy.rounded(rate.calls)} {window}".replace("a hour", "an hour"))
