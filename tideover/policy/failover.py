"""Which provider of a failover group gets a record, and how trust in a provider that failed comes back.

             its breaker opens (from any phase: a relapse doubles the next dwell)
    SERVING ───────────────────────────▶ OUT
       ▲                                  │ its breaker closes
       │ the ramp is over                 ▼
      RAMP ◀── `canaries` good ── CANARY ◀── `dwell` has passed ── DWELL
                                     └── a bad canary: a relapse ──▲

A provider in DWELL, CANARY or RAMP is well, but not trusted yet: it gets its canary, its share of the ramp, and,
rather than letting a record wait, everything that no trusted provider can take. Two rules keep a group from flapping:
each relapse doubles the dwell up to a cap, and only as long a time of good service as that cap forgets relapses.

Nothing here reads a clock or a table. Who gets a record is decided in `choice`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tideover.model import SECOND_US

_FIRST_SHARE = 0.1  # where the ramp begins


class Phase(enum.StrEnum):
    SERVING = "serving"
    OUT = "out"
    DWELL = "dwell"
    CANARY = "canary"
    RAMP = "ramp"


class TurnKind(enum.StrEnum):
    """What can happen to a group."""

    FAILOVER = "failover"  # another provider than before is the first choice, as that one went out
    CANARY = "canary"  # a provider is about to come back
    FAILBACK = "failback"  # a provider is trusted again
    RELAPSE = "relapse"  # a provider failed on its way back
    PIN = "pin"
    UNPIN = "unpin"


@dataclass(frozen=True, slots=True)
class FailbackRule:
    dwell_s: float = 60.0
    max_dwell_s: float = 3600.0
    canaries: int = 3
    ramp_s: float = 60.0


@dataclass(frozen=True, slots=True)
class GroupRule:
    """A group's configuration. `providers` in order of preference; `live`: the backups that get `live_share` each."""

    providers: tuple[str, ...]
    live: tuple[str, ...] = ()
    live_share: float = 0.0
    failback: FailbackRule = FailbackRule()


@dataclass(frozen=True, slots=True)
class Trust:
    """How far one provider is trusted. `canaries`: good ones so far; `canaries_out`: those under way, whose leases end
    at `canary_until_us` at the latest."""

    phase: Phase = Phase.SERVING
    since_us: int = 0
    relapses: int = 0
    canaries: int = 0
    canaries_out: int = 0
    canary_until_us: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """An operator's word: everything goes to this provider, and what it can't take waits."""

    system: str
    why: str
    author: str
    at_us: int


@dataclass(frozen=True, slots=True)
class GroupState:
    """What the database holds of a group. `serving`: the first choice as last seen; empty while all are out."""

    trusts: Mapping[str, Trust] = field(default_factory=dict)
    serving: str | None = None
    pin: Pin | None = None

    def trust(self, system: str) -> Trust:
        return self.trusts.get(system, Trust())


@dataclass(frozen=True, slots=True)
class Health:
    """One provider's breaker and pause, as its row has them. `failed_us`: the first failure of its last outage."""

    is_open: bool = False
    failed_us: int = 0
    opened_us: int = 0
    closed_us: int = 0
    paused_until_us: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """Something that happened to a group; `before` and `after` are providers, empty for none."""

    kind: TurnKind
    before: str
    after: str
    why: str
    author: str = ""
    failed_us: int = 0  # of a failover: when the provider before was first met failing


def dwell_s(rule: FailbackRule, relapses: int) -> float:
    """How long a provider must be well before its canary: doubled by each relapse, up to the cap."""
    return min(rule.max_dwell_s, rule.dwell_s * float(2 ** min(relapses, 30)))


def share(trust: Trust, rule: FailbackRule, now_us: int) -> float:
    """The share of the records that a provider is trusted with: 0 to 1."""
    if trust.phase is Phase.SERVING:
        return 1.0
    if trust.phase is not Phase.RAMP:
        return 0.0
    if rule.ramp_s <= 0:
        return 1.0
    return min(1.0, _FIRST_SHARE + (1.0 - _FIRST_SHARE) * (now_us - trust.since_us) / SECOND_US / rule.ramp_s)


# --- how trust moves ----------------------------------------------------------------------------------------


def advance(
    state: GroupState, rule: GroupRule, health: Mapping[str, Health], now_us: int
) -> tuple[GroupState, Sequence[Turn]]:
    """The group as its providers' breakers and the time make it, and what happened on the way."""
    turns: list[Turn] = []
    trusts: dict[str, Trust] = {}
    for name in rule.providers:
        trust = state.trusts.get(name) or _first_met(health[name])
        while (moved := _moved(trust, rule.failback, health[name], now_us)) != trust:
            turns += _told(name, trust, moved, health[name])
            trust = moved
        trusts[name] = trust
    before = rule.providers[0] if state.serving is None else state.serving
    serving = _first_choice(trusts, rule)
    is_overtaken = before in trusts and not _has_failed(state.trust(before), trusts[before])
    turns += _turned(before, serving, trusts, rule, health, is_overtaken=is_overtaken)
    return GroupState(trusts, serving, state.pin), turns


def _first_met(health: Health) -> Trust:
    """A provider that is new to the group: what it went through before is no outage of the group's."""
    return Trust() if health.is_open else Trust(since_us=health.closed_us)


def _moved(trust: Trust, rule: FailbackRule, health: Health, now_us: int) -> Trust:
    """One step further, or the same."""
    missed_outage = health.opened_us > trust.since_us and trust.phase is not Phase.OUT
    if (health.is_open and trust.phase is not Phase.OUT) or missed_outage:
        went_out_us = health.opened_us or now_us
        return Trust(Phase.OUT, went_out_us, _relapses(trust, rule, went_out_us))
    if health.is_open:
        return trust
    age_us = now_us - trust.since_us
    match trust.phase:
        case Phase.OUT:
            return replace(trust, phase=Phase.DWELL, since_us=max(health.closed_us, trust.since_us))
        case Phase.DWELL if age_us >= dwell_s(rule, trust.relapses) * SECOND_US:
            return replace(trust, phase=Phase.CANARY, since_us=now_us, canaries=0, canaries_out=0, canary_until_us=0)
        case Phase.CANARY if trust.canaries >= rule.canaries:
            return replace(trust, phase=Phase.RAMP, since_us=now_us, canaries_out=0, canary_until_us=0)
        case Phase.RAMP if age_us >= rule.ramp_s * SECOND_US:
            return replace(trust, phase=Phase.SERVING, since_us=now_us)
    return trust


def _relapses(trust: Trust, rule: FailbackRule, went_out_us: int) -> int:
    """A provider that went out on its way back, or before it had served as long as the longest dwell, relapsed."""
    if trust.phase is not Phase.SERVING:
        return trust.relapses + 1
    has_been_out = trust.since_us > 0
    served_us = went_out_us - trust.since_us
    return trust.relapses + 1 if has_been_out and served_us < rule.max_dwell_s * SECOND_US else 0


def _told(name: str, before: Trust, after: Trust, health: Health) -> list[Turn]:
    if after.phase is Phase.CANARY:
        return [Turn(TurnKind.CANARY, "", name, "it was well for its dwell")]
    if after.phase is Phase.OUT and before.phase not in (Phase.SERVING, Phase.OUT):
        return [Turn(TurnKind.RELAPSE, name, "", health.reason or "its breaker opened")]
    return []


def _has_failed(before: Trust, after: Trust) -> bool:
    """Whether a provider went out. Else another one overtook it on the way back."""
    return before.phase is Phase.SERVING or after.relapses > before.relapses


def _first_choice(trusts: Mapping[str, Trust], rule: GroupRule) -> str:
    """Where most records go: the most preferred of the trusted; else the one that is furthest on its way back."""
    trusted = [name for name in rule.providers if trusts[name].phase is Phase.SERVING]
    if trusted:
        return trusted[0]
    returning = [name for name in rule.providers if trusts[name].phase is not Phase.OUT]
    return min(returning, key=lambda name: distance(trusts[name]), default="")


_WAY_BACK = (Phase.SERVING, Phase.RAMP, Phase.CANARY, Phase.DWELL, Phase.OUT)


def distance(trust: Trust) -> tuple[int, int]:
    """How far a provider is from being trusted; smaller is nearer."""
    return _WAY_BACK.index(trust.phase), trust.since_us


def _turned(
    before: str,
    after: str,
    trusts: Mapping[str, Trust],
    rule: GroupRule,
    health: Mapping[str, Health],
    *,
    is_overtaken: bool,
) -> list[Turn]:
    if before == after:
        return []
    rank = {name: n for n, name in enumerate(rule.providers)}
    if after and rank[after] < rank.get(before, len(rank)) and trusts[after].phase is Phase.SERVING:
        return [Turn(TurnKind.FAILBACK, before, after, "its ramp is over")]
    if is_overtaken:
        return [Turn(TurnKind.FAILOVER, before, after, "it is further on its way back")]
    gone = health.get(before, Health())
    why = gone.reason or "its breaker opened" if before else "the first provider that is well again"
    failed_us = gone.failed_us if before else 0
    return [Turn(TurnKind.FAILOVER, before, after, why, failed_us=failed_us)]


def may_have_canary(trust: Trust, rule: FailbackRule, now_us: int) -> bool:
    """Whether a provider on its way back gets one more record now. What a worker took and never reported is over with
    its lease."""
    out = trust.canaries_out if trust.canary_until_us > now_us else 0
    return trust.phase is Phase.CANARY and trust.canaries + out < rule.canaries


def canary_began(state: GroupState, system: str, until_us: int, now_us: int) -> GroupState:
    """Somebody has one of the provider's canaries, for the time of a lease."""
    trust = state.trust(system)
    out = trust.canaries_out if trust.canary_until_us > now_us else 0
    until_us = max(until_us, trust.canary_until_us)
    return _with(state, system, replace(trust, canaries_out=out + 1, canary_until_us=until_us))


def canary_ended(
    state: GroupState, system: str, is_good: bool | None, now_us: int
) -> tuple[GroupState, Sequence[Turn]]:
    """A canary's outcome; None: it says nothing about the provider."""
    trust = state.trust(system)
    if trust.phase is not Phase.CANARY:
        return state, ()
    out = max(trust.canaries_out - 1, 0)
    freed = replace(trust, canaries_out=out, canary_until_us=trust.canary_until_us if out else 0)
    if is_good is None:
        return _with(state, system, freed), ()
    if is_good:
        return _with(state, system, replace(freed, canaries=trust.canaries + 1)), ()
    back = Trust(Phase.DWELL, now_us, trust.relapses + 1)
    return _with(state, system, back), (Turn(TurnKind.RELAPSE, system, "", "its canary failed"),)


def hurried(state: GroupState, system: str, now_us: int) -> GroupState:
    """An operator ends a provider's dwell: its canary is next."""
    trust = state.trust(system)
    if trust.phase is not Phase.DWELL:
        return state
    return _with(
        state,
        system,
        replace(trust, phase=Phase.CANARY, since_us=now_us, canaries=0, canaries_out=0, canary_until_us=0),
    )


def _with(state: GroupState, system: str, trust: Trust) -> GroupState:
    return replace(state, trusts={**state.trusts, system: trust})
