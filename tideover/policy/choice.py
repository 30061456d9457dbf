"""Which provider of a failover group gets a record: the most preferred of those that may have it and can.

`unsent` records may go anywhere at once. A record whose outcome is unknown never comes here: it is pinned to its
provider until that is resolved, or until its route's `max_hold` sends it elsewhere, and then that provider is shunned.
The draw comes from the record's id, so that the same record is always treated alike.

| the provider | is it chosen |
| --- | --- |
| not eligible, or shunned | never |
| not the pinned one, while there is a pin | never |
| its breaker is open | never |
| it asked for a pause that ends within the record's patience | yes, and the record waits for it |
| it asked for a longer pause | never |
| trusted, by its phase or by its share of the ramp | in the order of preference |
| well, but not trusted yet | only where no trusted one can have the record |
| could not be reached with this very record just now | only where no other can have it |
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tideover.policy.failover import GroupRule, GroupState, Health, distance, may_have_canary, share


@dataclass(frozen=True, slots=True)
class Want:
    """What one record asks for.

    `eligible`: the providers that may have it, in order of preference; `shunned`: those that may have it already;
    `avoid`: the one that could not be reached with it just now; `patience_us`: the instant until which a provider that
    asked for a pause is worth waiting for; `draw`: its place in [0, 1) for live share and ramp.
    """

    eligible: Sequence[str]
    draw: float = 0.0
    shunned: Collection[str] = ()
    avoid: str = ""
    patience_us: int = 0


@dataclass(frozen=True, slots=True)
class Send:
    """`is_backup`: a provider that is preferred for this record could not have it."""

    system: str
    is_backup: bool = False
    is_canary: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """No provider can have it now. `until_us`: when one may, as far as is known; 0 when that can't be told."""

    until_us: int = 0


Choice = Send | Wait


def draw_of(record_id: str) -> float:
    """A record's draw, in [0, 1): the same for each of its attempts."""
    return int(record_id[:8], 16) / 2**32


def choose(state: GroupState, rule: GroupRule, health: Mapping[str, Health], want: Want, now_us: int) -> Choice:
    """The provider that gets a record now, if one can."""
    may = [name for name in want.eligible if name not in want.shunned]
    allowed = may if state.pin is None else [name for name in may if name == state.pin.system]
    patience_us = max(now_us, want.patience_us)
    able = [name for name in allowed if not health[name].is_open and health[name].paused_until_us <= patience_us]
    if not able:
        return _wait(allowed, health, now_us)
    first, is_canary = _first(state, rule, able, want, now_us)
    if first == may[0] and state.pin is None:
        live = _live(state, rule, [name for name in able if health[name].paused_until_us <= now_us], want, now_us)
        if live is not None:
            return live
    if health[first].paused_until_us > now_us:
        return Wait(health[first].paused_until_us)
    return Send(first, is_backup=first != may[0], is_canary=is_canary)


def _wait(may: Sequence[str], health: Mapping[str, Health], now_us: int) -> Wait:
    pauses = [health[name].paused_until_us for name in may if not health[name].is_open]
    return Wait(min((until for until in pauses if until > now_us), default=0))


def _live(state: GroupState, rule: GroupRule, able: Sequence[str], want: Want, now_us: int) -> Send | None:
    """The backup that gets this record although a better one is well, so that its way is known to work. One that is on
    its way back gets its canary and its ramp from this share."""
    if not rule.live or rule.live_share <= 0:
        return None
    place = (1.0 - want.draw) / rule.live_share  # the last draws, so that they don't fall into a ramp's first shares
    if place > len(rule.live):
        return None
    name = rule.live[min(int(place), len(rule.live) - 1)]
    trust = state.trust(name)
    is_canary = may_have_canary(trust, rule.failback, now_us)
    within = place - int(place)  # its draw within this share
    if name not in able or name == want.avoid or not (is_canary or within < share(trust, rule.failback, now_us)):
        return None
    return Send(name, is_canary=is_canary)


def _first(state: GroupState, rule: GroupRule, able: Sequence[str], want: Want, now_us: int) -> tuple[str, bool]:
    """The best of those that can have it, and whether it is a canary. What could not be reached just now comes last,
    what is not trusted before it; among those, the one that is furthest on its way back."""
    canaries = {
        name for name in able if state.pin is None and may_have_canary(state.trust(name), rule.failback, now_us)
    }

    def rank(at: int) -> tuple[bool, bool, int, int, int]:
        name = able[at]
        trust = state.trust(name)
        is_trusted = state.pin is not None or name in canaries or want.draw < share(trust, rule.failback, now_us)
        way_back = (0, 0) if is_trusted else distance(trust)
        return name == want.avoid, not is_trusted, *way_back, at

    first = able[min(range(len(able)), key=rank)]
    return first, first in canaries
