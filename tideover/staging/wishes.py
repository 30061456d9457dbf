"""What a claim asks for, besides what the tables say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tideover.model import Order
from tideover.policy.failover import GroupRule
from tideover.policy.quota import LimitRule

Mark = tuple[int, int, int]  # priority, due_us and id of a lane: a place in the order of a route's waiting lanes
# The providers that take a record, by its payload, in order of preference. Raises `CorruptPayload` where it is no JSON.
Eligible = Callable[[bytes], Sequence[str]]


@dataclass(frozen=True, slots=True)
class GroupWish:
    """What a claim for a failover group needs to know besides the tables.

    `eligible` is None where every provider takes every record. `rto_s` is the route's, None without one.
    `reroute_after_s`: the route's `max_hold` with `on_unknown: reroute`, else None.
    """

    name: str
    rule: GroupRule
    eligible: Eligible | None = None
    rto_s: float | None = None
    max_pause_s: float = 60.0
    reroute_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker asks for: lanes of a route, up to `depth` records of each, for `lease_us`; up to `longest` where
    there is room for more lanes than are due.

    `rooms`: how many lanes each of the target's systems may get; one that must get none is not there. `limits`: of
    those systems that have any. `after`: where the last claim stopped looking.
    """

    route: str
    rooms: Mapping[str, int]
    order: Order
    depth: int
    lease_us: int
    limits: Mapping[str, LimitRule] = field(default_factory=dict)
    group: GroupWish | None = None
    after: Mark | None = None
    longest: int = 0
