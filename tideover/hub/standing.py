"""How a failover group stands: who gets what now and why, what each provider waits for on its way back, what is in
doubt where, and how long its failovers took. Looking changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tideover.model import SECOND_US
from tideover.policy.choice import Send, Want, choose
from tideover.policy.failover import (
    GroupRule,
    GroupState,
    Health,
    Phase,
    Pin,
    Trust,
    Turn,
    TurnKind,
    advance,
    dwell_s,
)
from tideover.policy.failover import share as trusted_share
from tideover.staging import groups, ledger, reconciliation, reports, systems
from tideover.staging.database import Transaction
from tideover.staging.groups import TurnRow
from tideover.staging.systems import Gate

DRAWS = 1000  # so many imagined records show how new ones are shared out, to a tenth of a percent
TURNS = 50  # among so many of the newest, recoveries are looked for


@dataclass(frozen=True, slots=True)
class ProviderView:
    """One provider of a group.

    `share`: of new records that every provider may have, the part that goes to it now, 0 to 1; `ramp`: the part that
    it is trusted with; `is_live`: whether it gets the group's live share while it is a backup; `next_phase` follows
    `trust.phase` in `next_s` seconds, None where that can't be told; `in_doubt`: records that only it can tell about;
    `open` and `raised`: records to be reconciled that it may have, and those of them that need a person.
    """

    system: str
    gate: Gate
    trust: Trust
    share: float
    ramp: float
    is_live: bool
    canaries: int
    next_phase: Phase | None
    next_s: float | None
    in_doubt: int
    open: int
    raised: int


@dataclass(frozen=True, slots=True)
class TurnView:
    """A turn, and how long after the first failure it came (`turned_s`), and the first record was accepted by the
    provider after it (`served_s`). None for what is not known, or did not happen yet."""

    turn: TurnRow
    turned_s: float | None
    served_s: float | None


@dataclass(frozen=True, slots=True)
class Recovery:
    """A flow's interruption by failovers: from the first failure until a provider accepted a record again. A failover
    that led nowhere belongs to the one after it. `served_us` is 0 while nobody has accepted anything."""

    failed_us: int
    served_us: int
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class GroupView:
    """A group at one moment. `serving`: where most new records go now, empty while they wait; `why` it is that one."""

    name: str
    serving: str
    why: str
    since_us: int
    pin: Pin | None
    providers: list[ProviderView]
    turns: list[TurnView]
    recoveries: list[Recovery]
    live_share: float
    waiting: int
    now_us: int

    @property
    def in_doubt(self) -> dict[str, int]:
        """How many records are in doubt, per provider that may have them."""
        return {p.system: p.in_doubt for p in self.providers if p.in_doubt}

    @property
    def is_settled(self) -> bool:
        """Whether every provider is trusted, nothing is pinned, in doubt or to be reconciled."""
        is_quiet = not any(p.in_doubt or p.open or p.raised for p in self.providers)
        return self.pin is None and not self.out and is_quiet

    @property
    def out(self) -> list[ProviderView]:
        """The providers that get nothing because they are not well, or are on their way back."""
        return [p for p in self.providers if p.trust.phase is not Phase.SERVING]


def look(tx: Transaction, name: str, rule: GroupRule, routes: Sequence[str], *, patience_s: float) -> GroupView:
    """A group as it is at this moment. `routes`: those that deliver to it; `patience_s`: for how long a pause of a
    provider is worth waiting for."""
    rows = systems.load_all(tx, rule.providers)
    health = {system: groups.health_of(row) for system, row in rows.items()}
    stored = groups.load(tx, name)
    state, fresh = advance(stored, rule, health, tx.now_us)
    turns = [*(_row(turn, tx.now_us) for turn in reversed(fresh)), *groups.turns(tx, name, TURNS)]
    shares = expected_shares(state, rule, health, tx.now_us, patience_s)
    doubts = reports.in_doubt(tx, routes)
    cases = {c.system: c for c in reconciliation.counts(tx) if c.group == name}
    serving = max(shares, key=lambda system: shares[system], default="")
    if state.serving in shares and shares[state.serving] > 0 and state.pin is None:
        serving = state.serving
    return GroupView(
        name=name,
        serving=serving,
        why=_why(state, rule, rows, serving),
        since_us=_since_us(state, turns, serving),
        pin=state.pin,
        providers=[
            _provider(
                state.trust(system),
                rule,
                rows[system],
                share=shares.get(system, 0.0),
                in_doubt=doubts.get(system, 0),
                case=cases.get(system),
                now_us=tx.now_us,
            )
            for system in rule.providers
        ],
        turns=[_figures(turn) for turn in turns],
        recoveries=recoveries(turns, is_pinned=_began_pinned(turns, state.pin)),
        live_share=rule.live_share,
        waiting=ledger.waiting(tx, routes),
        now_us=tx.now_us,
    )


def _row(turn: Turn, now_us: int) -> TurnRow:
    """What the next claim is going to write."""
    return TurnRow(turn.kind.value, turn.before, turn.after, turn.why, turn.author, turn.failed_us, now_us, 0)


def expected_shares(
    state: GroupState, rule: GroupRule, health: Mapping[str, Health], now_us: int, patience_s: float
) -> dict[str, float]:
    """How new records that every provider may have are shared out now, by the policy itself; providers that get none
    are not there, and what is missing from 1 waits. A canary is one record at a time, which is no share."""
    trusts = {
        name: replace(trust, canaries_out=rule.failback.canaries, canary_until_us=now_us + 1)
        if trust.phase is Phase.CANARY
        else trust
        for name, trust in state.trusts.items()
    }
    busy = replace(state, trusts=trusts)
    patience_us = now_us + int(patience_s * SECOND_US)
    counts: Counter[str] = Counter()
    for n in range(DRAWS):
        want = Want(rule.providers, (n + 0.5) / DRAWS, patience_us=patience_us)
        choice = choose(busy, rule, health, want, now_us)
        if isinstance(choice, Send):
            counts[choice.system] += 1
    return {name: count / DRAWS for name, count in counts.items()}


def _provider(
    trust: Trust,
    rule: GroupRule,
    row: systems.SystemRow,
    *,
    share: float,
    in_doubt: int,
    case: reconciliation.Count | None,
    now_us: int,
) -> ProviderView:
    next_phase, next_s = _next(trust, rule, now_us)
    return ProviderView(
        system=row.name,
        gate=row.gate(now_us),
        trust=trust,
        share=share,
        ramp=trusted_share(trust, rule.failback, now_us),
        is_live=row.name in rule.live and rule.live_share > 0,
        canaries=rule.failback.canaries,
        next_phase=next_phase,
        next_s=next_s,
        in_doubt=in_doubt,
        open=case.open if case else 0,
        raised=case.raised if case else 0,
    )


def _next(trust: Trust, rule: GroupRule, now_us: int) -> tuple[Phase | None, float | None]:
    age_s = (now_us - trust.since_us) / SECOND_US
    match trust.phase:
        case Phase.OUT:
            return Phase.DWELL, None
        case Phase.DWELL:
            return Phase.CANARY, max(dwell_s(rule.failback, trust.relapses) - age_s, 0.0)
        case Phase.CANARY:
            return Phase.RAMP, None
        case Phase.RAMP:
            return Phase.SERVING, max(rule.failback.ramp_s - age_s, 0.0)
    return None, None


def _why(state: GroupState, rule: GroupRule, rows: Mapping[str, systems.SystemRow], serving: str) -> str:
    """Why new records go where they go, in a few words."""
    if state.pin is not None:
        return f"pinned to {state.pin.system} by {state.pin.author}"
    passed = rule.providers[: rule.providers.index(serving)] if serving else rule.providers
    reasons = [f"{name} {_state_of(state.trust(name), rows[name])}" for name in passed]
    return "; ".join(reasons) or "the preferred provider"


def _state_of(trust: Trust, row: systems.SystemRow) -> str:
    match trust.phase:
        case Phase.OUT:
            return f"out: {row.breaker.reason}" if row.breaker.reason else "out"
        case Phase.SERVING:
            return "asked for a pause"
    return "on its way back"


def _since_us(state: GroupState, turns: Iterable[TurnRow], serving: str) -> int:
    """When new records began to go where they go now; 0 for always."""
    if state.pin is not None:
        return state.pin.at_us
    arrivals = (TurnKind.FAILOVER, TurnKind.FAILBACK, TurnKind.UNPIN)
    return next((t.at_us for t in turns if t.kind in arrivals and t.after == serving), 0)


def _figures(turn: TurnRow) -> TurnView:
    def after_s(us: int) -> float | None:
        return (us - turn.failed_us) / SECOND_US if us and turn.failed_us else None

    return TurnView(turn, after_s(turn.at_us), after_s(turn.served_us))


def recoveries(turns: Sequence[TurnRow], *, is_pinned: bool = False) -> list[Recovery]:
    """What these turns, newest first, say of interruptions; newest first. While there is a pin nothing is turned: then
    the outages of the pinned provider are what interrupts. `is_pinned`: whether there was one before all of them."""
    found: list[Recovery] = []
    failed_us, before, after = 0, "", ""
    for turn in reversed(turns):
        match turn.kind:
            case TurnKind.PIN | TurnKind.UNPIN:
                is_pinned = turn.kind == TurnKind.PIN
            case TurnKind.FAILBACK:
                failed_us = 0  # what no failover restored was restored by the preferred provider's return
            case TurnKind.FAILOVER if turn.served_us or not is_pinned:
                if not failed_us:
                    failed_us, before = turn.failed_us, turn.before
                after = turn.after
                if failed_us and turn.served_us:
                    found.append(Recovery(failed_us, turn.served_us, before, after))
                    failed_us = 0
    if failed_us:
        found.append(Recovery(failed_us, 0, before, after))
    return found[::-1]


def _began_pinned(turns: Sequence[TurnRow], pin: Pin | None) -> bool:
    """Whether there was a pin before these turns, newest first."""
    words = [t.kind for t in turns if t.kind in (TurnKind.PIN, TurnKind.UNPIN)]
    return words[-1] == TurnKind.UNPIN if words else pin is not None


def pinned_at(view: GroupView, us: int) -> str:
    """The provider that was pinned at an instant, as far as the view's turns tell; empty for none."""
    if view.pin is not None and view.pin.at_us <= us:
        return view.pin.system
    words = (t.turn for t in view.turns if t.turn.kind in (TurnKind.PIN, TurnKind.UNPIN))
    last = next((turn for turn in words if turn.at_us <= us), None)
    return last.after if last is not None and last.kind == TurnKind.PIN else ""
