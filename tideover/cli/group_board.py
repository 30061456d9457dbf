"""How a failover group looks: one line of `tideover status`, and the whole of `tideover failover`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tideover.cli.gates import colour, reason, state
from tideover.cli.printing import NOTHING, amount, cell, line, moment, number, span, table
from tideover.model import instant
from tideover.policy.breaker import Reason, State
from tideover.policy.failover import Phase

if TYPE_CHECKING:
    from tideover.hub.standing import GroupView, ProviderView, TurnView

BAD, WARY, DIM = "bold red", "yellow", "dim"
_DAY_US = 86_400 * 1_000_000
_PHASES = {Phase.SERVING: "green", Phase.OUT: BAD}


def one_line(view: GroupView) -> Text:
    """`shipping: carrier-b (carrier-a out: hung, since 12:31), 3 in doubt at carrier-a`."""
    why = "" if view.why == "the preferred provider" else view.why
    since = f"since {_clock(view.since_us, view.now_us)}" if view.since_us and why else ""
    bracket = ", ".join(part for part in (why, since) if part)
    pieces: list[str | Text | tuple[object, str]] = [(view.name, "bold"), ": "]
    pieces.append((view.serving, "") if view.serving else ("nobody", BAD))
    if bracket:
        pieces.append((f" ({bracket})", WARY))
    for system, count in view.in_doubt.items():
        pieces.append((f", {number(count)} in doubt at {system}", WARY))
    if raised := sum(p.raised for p in view.providers):
        pieces.append((f", {number(raised)} to be reconciled by a person", BAD))
    return line(*pieces)


def _clock(us: int, now_us: int) -> str:
    """An instant of the last day to the minute, an older one with its date."""
    return f"{instant(us):%H:%M}" if now_us - us < _DAY_US else f"{instant(us):%Y-%m-%d %H:%M}"


def whole(view: GroupView, turns: int) -> Group:
    """Everything about one group."""
    pieces: list[RenderableType] = [_headline(view), providers_table(view)]
    if view.pin is not None:
        pin = view.pin
        pinned = f"pinned to {pin.system} by {pin.author} since {moment(pin.at_us)} UTC: {pin.why}"
        pieces += [Text(), line((pinned, WARY))]
    if cases := _cases(view):
        pieces += [Text(), cases]
    if view.turns:
        pieces += [Text(), line(("latest turns", "bold"), (", measured from the first failed call", DIM))]
        pieces.append(turns_table(view.turns[:turns]))
    if hints := advice(view):
        pieces += [Text(), *(line(("→ ", "cyan"), hint) for hint in hints)]
    return Group(*pieces)


def _headline(view: GroupView) -> Text:
    if not view.serving:
        told = line((view.name, "bold"), ": ", ("no provider can have new records; they wait", BAD))
    else:
        since = f", since {moment(view.since_us)} UTC" if view.since_us else ""
        told = line((view.name, "bold"), ": new records go to ", (view.serving, "bold"), f" ({view.why}{since})")
    if view.waiting:
        told.append(f"; {amount(view.waiting, 'record waits', 'records wait')}", WARY)
    return told


def providers_table(view: GroupView) -> Table:
    """A row per provider, in order of preference."""
    columns = ("provider", "breaker", "phase", "share", "relapses", "next", "in doubt", "reason")
    rows = table(columns, right=("share", "relapses", "in doubt"), wide=("reason",))
    for p in view.providers:
        live = "*" if p.is_live and view.pin is None else ""
        rows.add_row(
            line(("● ", colour(p.gate)), (p.system, "bold")),
            cell(state(p.gate), colour(p.gate)),
            cell(phase(p), _PHASES.get(p.trust.phase, WARY)),
            f"{percent(p.share)}{live}",
            number(p.trust.relapses) if p.trust.relapses else NOTHING,
            upcoming(p),
            cell(number(p.in_doubt), WARY if p.in_doubt else ""),
            cell(reason(p.gate)),
        )
    if any(p.is_live for p in view.providers) and view.pin is None:
        rows.caption = f"* {percent(view.live_share)} goes through each backup all the time (live_share)"
        rows.caption_justify, rows.caption_style = "left", DIM
    return rows


def phase(p: ProviderView) -> str:
    """A provider's phase, in words: `canary 1 of 3`, `ramp 35 %`."""
    if p.trust.phase is Phase.CANARY:
        return f"canary {p.trust.canaries} of {p.canaries}"
    if p.trust.phase is Phase.RAMP:
        return f"ramp {percent(p.ramp)}"
    return p.trust.phase.value


def upcoming(p: ProviderView) -> str:
    """What a provider waits for: `canary in 42.0 s`, `all of it in 20.0 s`, `probe due`."""
    if p.gate.state is not State.CLOSED:
        if p.gate.is_forced:
            return "an operator"
        return f"probe in {span(p.gate.wait_s)}" if p.gate.wait_s else "probe due"
    if p.gate.is_paused:
        return f"pause ends in {span(p.gate.wait_s)}"
    when = f"in {span(p.next_s)}" if p.next_s else "due"
    match p.next_phase:
        case Phase.CANARY:
            return f"canary {when}"
        case Phase.RAMP:
            return "a record for its canary"
        case Phase.SERVING:
            return f"full {when}"
    return NOTHING


def percent(share: float) -> str:
    """A share as people read it: `2 %`, `0.5 %`."""
    return f"{share * 100:.3g} %"


def _cases(view: GroupView) -> Text | None:
    parts = []
    for p in view.providers:
        if p.open:
            parts.append(f"{number(p.open)} may also be at {p.system}, which is asked about them")
        if p.raised:
            parts.append(f"{number(p.raised)} at {p.system} {'needs' if p.raised == 1 else 'need'} a person")
    return line(("to be reconciled: ", "bold"), ("; ".join(parts), WARY)) if parts else None


def turns_table(turns: Sequence[TurnView]) -> Table:
    """A row per turn, newest first."""
    columns = ("turn", "from", "to", "at", "turned", "first accepted", "why", "by")
    rows = table(columns, right=("turned", "first accepted"), wide=("why",))
    for figures in turns:
        turn = figures.turn
        rows.add_row(
            cell(turn.kind, "bold"),
            cell(turn.before or NOTHING),
            cell(turn.after or NOTHING),
            moment(turn.at_us),
            span(figures.turned_s),
            span(figures.served_s),
            cell(turn.why),
            cell(turn.author or NOTHING),
        )
    return rows


def advice(view: GroupView) -> list[str]:
    """What a person could do now, most urgent first."""
    hints = []
    if view.pin is not None:
        pinned = next((p for p in view.providers if p.system == view.pin.system), None)
        if pinned is not None and not pinned.gate.lets_through:
            hints.append(f"{pinned.system} is pinned and {unwell(pinned)}: everything waits for it")
        hints.append(f"let the group decide by itself again: tideover failover unpin {view.name} --why TEXT")
    elif not view.serving:
        hints.append("nothing is lost: the records go out by themselves as soon as a provider is well")
    for p in view.providers:
        if p.gate.is_forced:
            hints.append(f"{p.system} is forced {p.gate.state.value}: tideover breaker {p.system} auto --why TEXT")
        elif p.gate.state is not State.CLOSED and p.gate.reason == Reason.CREDENTIALS:
            hints.append(f"{p.system} refuses its credentials: mend its block; the next probe sees it")
    if any(p.raised for p in view.providers):
        hints.append("look at what needs a person: tideover reconciliation")
    if view.in_doubt and view.pin is None and (out := [p.system for p in view.out if p.in_doubt]):
        hints.append(f"what is in doubt at {', '.join(out)} is asked about there before it goes anywhere else")
    if any(p.trust.phase is Phase.DWELL for p in view.providers) and view.pin is None:
        hints.append(f"nothing to do; to skip the dwell: python -m prefect deployment run failback/{view.name}")
    return hints


def unwell(p: ProviderView) -> str:
    """Why a provider can't have records now: `out (hung)`, `paused for 30.0 s`; empty for one that can."""
    if p.gate.state is not State.CLOSED:
        return f"out ({reason(p.gate) or 'its breaker is open'})"
    return f"paused for {span(p.gate.wait_s)}" if p.gate.is_paused else ""
