"""The board of `tideover status`: the answer in one line, then systems, routes and outages, then what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tideover.cli.gates import BAD, GOOD, WARY, colour, next_probe, reason, state
from tideover.cli.group_board import one_line
from tideover.cli.printing import NOTHING, amount, cell, line, moment, number, since, span, table
from tideover.config.units import format_duration
from tideover.model import REDIRECTED
from tideover.policy.breaker import Reason, State
from tideover.policy.forecast import Course

if TYPE_CHECKING:
    from tideover.config.models import Hub
    from tideover.hub.overview import OutageFigures, Overview, RouteFigures
    from tideover.hub.standing import GroupView
    from tideover.staging.systems import Gate

DIM = "dim"


def board(hub: Hub, view: Overview) -> Group:
    """The whole view."""
    title = line((f"{hub.name}", "bold"), (f"  {moment(view.now_us)} UTC", DIM))
    pieces: list[RenderableType] = [title, headline(view), Text(), systems_table(view), Text()]
    if view.groups:
        pieces += [*(one_line(group) for group in view.groups), Text()]
    pieces.append(routes_table(view))
    if waiting := forecasts(view):
        pieces += [Text(), *waiting]
    if view.outages:
        pieces += [Text(), line(("latest outages", "bold"), (", measured from the first failed call", DIM))]
        pieces.append(outages_table(hub, view))
    if hints := advice(hub, view):
        pieces += [Text(), *(line(("→ ", "cyan"), hint) for hint in hints)]
    return Group(*pieces)


def headline(view: Overview) -> Text:
    """How it is, in one line."""
    down = [name for name, gate in view.systems.items() if gate.state is not State.CLOSED]
    waiting = sum(r.status.waiting for r in view.routes)
    parked = sum(r.status.parked for r in view.routes)
    if down:
        verb = "is" if len(down) == 1 else "are"
        first = (f"{', '.join(down)} {verb} down", BAD)
    else:
        first = ("every system is up", "bold green")
    rest = f"; {amount(waiting, 'record waits', 'records wait')}, {number(parked)} parked"
    return line(first, (rest, WARY if waiting or parked else ""))


def systems_table(view: Overview) -> Table:
    """A row per system."""
    rows = table(
        ("system", "breaker", "since", "next probe", "reason"), right=("since", "next probe"), wide=("reason",)
    )
    for name, gate in view.systems.items():
        changed = view.since_us.get(name, 0)
        rows.add_row(
            line(("● ", colour(gate)), (name, "bold")),
            cell(state(gate), colour(gate)),
            span(since(view.now_us, changed)),
            next_probe(gate),
            cell(reason(gate)),
        )
    return rows


def routes_table(view: Overview) -> Table:
    """A row per route."""
    columns = ("route", "target", "accepted", "delivered", "waiting", "oldest", "parked", "RPO", "goal")
    rows = table(columns, right=columns[2:])
    for r in view.routes:
        status = r.status
        rows.add_row(
            cell(status.route, "bold"),
            cell(r.target),
            number(status.staged),
            number(status.delivered),
            cell(number(status.waiting), WARY if status.waiting else ""),
            span(r.oldest_s),
            cell(number(status.parked), BAD if status.parked else ""),
            _against(r.rpo_s, r.rpo_target_s),
            _goal(r.rpo_target_s),
        )
    return rows


def forecasts(view: Overview) -> list[Text]:
    """A line for each target that something waits for: when that will be delivered, and what it depends on."""
    styles = {Course.FALLING_BEHIND: WARY, Course.STOPPED: WARY}
    return [
        line((found.target, "bold"), ": ", (str(found.forecast), styles.get(found.forecast.course, "")))
        for found in view.forecasts
        if found.forecast.course is not Course.IDLE
    ]


def outages_table(hub: Hub, view: Overview) -> Table:
    """A row per outage."""
    columns = ("system", "reason", "began", "detected", "down", "backlog", "drained", "recovery", "RTO")
    rows = table(columns, right=columns[3:])
    for figures in view.outages:
        outage = figures.outage
        target = objective(hub, outage.system)
        rows.add_row(
            cell(outage.system, "bold"),
            cell(outage.reason),
            moment(outage.first_failure_us),
            span(figures.detect_s),
            span(figures.down_s) if outage.restored_us else cell("still", BAD),
            number(outage.backlog) if outage.restored_us else NOTHING,
            span(figures.drain_s),
            _recovery(figures, target),
            _goal(target),
        )
    return rows


def objective(hub: Hub, system: str) -> float | None:
    """The strictest recovery time objective among the routes that deliver to a system, and to nothing else: what a
    failover group is for goes on without it."""
    targets = [r.rto for r in hub.routes.values() if r.rto is not None and r.target.system == system]
    return min(targets, default=None)


def _recovery(figures: OutageFigures, target: float | None) -> Text:
    running = "" if figures.is_over else "+"
    shown = _against(figures.recovery_s, target)
    return Text.assemble(shown, running)


def _goal(target: float | None) -> str:
    return NOTHING if target is None else format_duration(target)


def _against(measured: float | None, target: float | None) -> Text:
    if measured is None or target is None:
        return cell(span(measured))
    return cell(span(measured), BAD if measured > target else GOOD)


def advice(hub: Hub, view: Overview) -> list[str]:
    """What a person could do now, most urgent first."""
    hints = [hint for name, gate in view.systems.items() if (hint := _advice_on_system(hub, name, gate))]
    hints += [hint for group in view.groups if (hint := _advice_on_group(group))]
    hints += [hint for r in view.routes if (hint := _advice_on_route(r))]
    return hints


def _advice_on_system(hub: Hub, name: str, gate: Gate) -> str:
    if gate.is_forced:
        return f"{name} is forced {gate.state.value}; hand it back: tideover breaker {name} auto --why ..."
    if gate.state is State.CLOSED:
        return ""
    if gate.reason == Reason.CREDENTIALS:
        return f"{name} refuses its credentials: mend block {hub.systems[name].block}; the next probe sees it"
    if gate.reason == Reason.CONTRACT and gate.detail.startswith(REDIRECTED):
        return f"{name} has moved: write its address into block {hub.systems[name].block}, or its path into hub.yaml"
    if gate.reason == Reason.CONTRACT:
        return f"{name} rejects every record alike: its contract changed, or our mapping; nothing is lost meanwhile"
    return ""


def _advice_on_group(group: GroupView) -> str:
    if group.pin is not None:
        return f"{group.name} is pinned to {group.pin.system}: tideover failover status {group.name}"
    if group.is_settled:
        return ""
    return f"more about {group.name}: tideover failover status {group.name}"


def _advice_on_route(figures: RouteFigures) -> str:
    status = figures.status
    if not status.parked:
        return ""
    held = f"; {amount(status.held_lanes, 'lane waits', 'lanes wait')} for it" if status.held_lanes else ""
    return f"look at what is parked: tideover parked --route {status.route}{held}"
