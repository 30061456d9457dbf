"""What a delivery tells about itself: counts, gates, and the failovers and failbacks that it took part in."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from tideover.hub.runs import Run
from tideover.model import Lease
from tideover.policy.failover import GroupRule, GroupState, Phase
from tideover.staging.claiming import Claimed
from tideover.staging.systems import Gate

REOPEN_S = 30.0  # a failover that goes on within this time is the same


class Ending(enum.StrEnum):
    """Why a delivery ended."""

    DRAINED = "drained"  # nothing waits
    DOWN = "down"  # a breaker is open; what waits for its system is kept
    PAUSED = "paused"  # the system asked for a pause; what waits is kept
    WAITING = "waiting"  # what waits is to be tried later, or another worker has it
    STOPPED = "stopped"  # the caller asked


class EpisodeKind(enum.StrEnum):
    FAILOVER = "failover"  # records went to a provider because a preferred one could not have them
    FAILBACK = "failback"  # a provider that had been out got records again


@dataclass(slots=True)
class Episode:
    """A failover or failback, as one delivery sees it. `delivered`: records that `after` accepted meanwhile, the first
    of them at `served_at` (monotonic; 0 before that); `has_served`: that is written down."""

    kind: EpisodeKind
    before: str
    after: str
    why: str
    delivered: int = 0
    is_over: bool = False
    over_at: float = 0.0  # monotonic
    served_at: float = 0.0
    has_served: bool = False


@dataclass(slots=True)
class Progress:
    """What a delivery did so far. `gates`: the last known state of each system; `by_system`: what each accepted;
    `failed_over`: how many records went to a backup because a preferred provider could not have them."""

    target: str
    systems: list[str]
    delivered: int = 0
    parked: int = 0
    refused: int = 0
    failed_over: int = 0
    by_system: dict[str, int] = field(default_factory=dict)
    gates: dict[str, Gate] = field(default_factory=dict)
    state: GroupState | None = None
    episodes: list[Episode] = field(default_factory=list)
    ending: Ending | None = None

    @property
    def system(self) -> str:
        """The system that explains how it went: the first that may not be called, else the preferred one."""
        shut = [name for name in self.systems if name in self.gates and not self.gates[name].lets_through]
        return shut[0] if shut else self.systems[0]

    @property
    def gate(self) -> Gate | None:
        return self.gates.get(self.system)

    def accepted(self, system: str, run: Run) -> None:
        """Count a run's accepted records."""
        self.by_system[system] = self.by_system.get(system, 0) + run.at
        is_backup = run.held.lease.is_backup
        if is_backup:
            self.failed_over += run.at
        if not self.episodes:
            return
        for kind in EpisodeKind:
            alike = [e for e in self.episodes if e.kind is kind and e.after == system]
            # What was claimed in a failover belongs to it, also when that is over by the time it is accepted.
            if alike and (is_backup if kind is EpisodeKind.FAILOVER else not alike[-1].is_over):
                alike[-1].delivered += run.at
                alike[-1].served_at = alike[-1].served_at or run.first_accepted_at


class Episodes:
    """Begins and ends a delivery's episodes from what its claims gave."""

    def __init__(self, progress: Progress, rule: GroupRule | None) -> None:
        self._progress, self._rule = progress, rule
        self._now = 0.0

    def note(self, claimed: Claimed, now: float) -> None:
        """What a claim gave away, and how the group stood. `now` is monotonic."""
        self._now = now
        state, rule = claimed.state, self._rule
        if state is None or rule is None:
            return
        self._progress.state = state
        self._close(state)
        for lease in claimed.leases:
            if lease.is_backup:
                self._begin_failover(lease.system, rule, claimed)
            if self._is_failback(lease, state, rule):
                self._begin(EpisodeKind.FAILBACK, state.serving or "", lease.system, "it was well for its dwell")

    def first_served(self) -> list[Episode]:
        """Failovers whose provider accepted its first record, which is not written down yet."""
        fresh = [e for e in self._progress.episodes if e.kind is EpisodeKind.FAILOVER and e.delivered]
        return [e for e in fresh if not e.has_served]

    def end(self) -> None:
        """The delivery is over."""
        for episode in self._progress.episodes:
            episode.is_over = True

    @staticmethod
    def _is_failback(lease: Lease, state: GroupState, rule: GroupRule) -> bool:
        """Whether a lease brings a provider back that is preferred to the one that serves."""
        is_returning = lease.is_canary or state.trust(lease.system).phase is Phase.RAMP
        before = rule.providers.index(state.serving) if state.serving in rule.providers else len(rule.providers)
        return is_returning and rule.providers.index(lease.system) < before

    def _begin_failover(self, system: str, rule: GroupRule, claimed: Claimed) -> None:
        preferred = rule.providers[0]
        gate = claimed.gates.get(preferred)
        why = "could not be reached"
        if claimed.state is not None and claimed.state.pin is not None:
            why = f"pinned: {claimed.state.pin.why}"
        elif gate is not None and not gate.lets_through:
            why = "asked for a pause" if gate.is_paused else gate.reason
        elif claimed.state is not None and claimed.state.trust(preferred).phase is not Phase.SERVING:
            why = "on its way back"
        self._begin(EpisodeKind.FAILOVER, preferred, system, why)

    def _begin(self, kind: EpisodeKind, before: str, after: str, why: str) -> None:
        alike = [e for e in self._progress.episodes if e.kind is kind and e.after == after]
        if alike and (not alike[-1].is_over or self._now - alike[-1].over_at < REOPEN_S):
            alike[-1].is_over = False
        else:
            self._progress.episodes.append(Episode(kind, before, after, why))

    def _close(self, state: GroupState) -> None:
        for episode in self._progress.episodes:
            if episode.kind is EpisodeKind.FAILOVER:
                has_ended = (state.pin.system if state.pin else state.serving) == episode.before
            else:
                has_ended = state.trust(episode.after).phase in (Phase.SERVING, Phase.OUT, Phase.DWELL)
            if has_ended and not episode.is_over:
                episode.is_over, episode.over_at = True, self._now
