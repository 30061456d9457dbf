"""The artifacts: what an operator sees in Prefect's UI. Their keys stay the same, so that each keeps its history."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from flows.visible import show
from tideover.config.units import format_duration
from tideover.hub.overview import Overview, RouteFigures, overview
from tideover.hub.runtime import Runtime
from tideover.hub.standing import GroupView, ProviderView, TurnView
from tideover.model import instant
from tideover.policy.failover import Phase

HEALTH = "tideover-health"
BACKLOG = "tideover-backlog"
TURNS = 5  # of each group, on the board


async def publish(rt: Runtime) -> None:
    """Bring the health board and the backlog table up to date."""
    view = await overview(rt)
    await show(acreate_markdown_artifact(key=HEALTH, markdown=health(view), description="Systems, outages, objectives"))
    await show(acreate_table_artifact(key=BACKLOG, table=backlog(view.routes), description="What waits, per route"))


def backlog(routes: Sequence[RouteFigures]) -> list[dict[str, Any]]:
    """A row per route."""
    return [
        {
            "route": r.status.route,
            "target": r.target,
            "waiting": r.status.waiting,
            "oldest": _seconds(r.oldest_s),
            "delivered": r.status.delivered,
            "parked": r.status.parked,
            "accepted": r.status.staged,
        }
        for r in routes
    ]


def card(rows: Mapping[str, object]) -> str:
    """Names and values, one pair a line, as Markdown."""
    return "\n".join(["| | |", "| --- | --- |", *(f"| {name} | {_cell(str(value))} |" for name, value in rows.items())])


def health(view: Overview) -> str:
    """The board, as Markdown."""
    systems = [
        f"| {name} | {'paused' if gate.is_paused else gate.state.value} | {gate.reason} "
        f"| {_cell(gate.pause or gate.detail)} |"
        for name, gate in view.systems.items()
    ]
    objectives = [
        f"| {r.status.route} | {_against(r.rto_s, r.rto_target_s)} | {_against(r.rpo_s, r.rpo_target_s)} |"
        for r in view.routes
    ]
    outages = [
        f"| {o.outage.system} | {o.outage.reason} | {instant(o.outage.opened_us):%Y-%m-%d %H:%M:%S} UTC "
        f"| {_seconds(o.detect_s)} | {_seconds(o.down_s)} | {o.outage.backlog} | {_seconds(o.drain_s)} |"
        for o in view.outages
    ]
    return "\n".join(
        [
            f"Seen at {instant(view.now_us):%Y-%m-%d %H:%M:%S} UTC.",
            "",
            "| system | breaker | reason | detail |",
            "| --- | --- | --- | --- |",
            *systems,
            "",
            "| target | what waits for it |",
            "| --- | --- |",
            *(f"| {found.target} | {_cell(str(found.forecast))} |" for found in view.forecasts),
            "",
            "| route | longest recovery / RTO | last complete reading / RPO |",
            "| --- | --- | --- |",
            *objectives,
            "",
            "| outage of | reason | since | detected in | down for | backlog | drained in |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(outages or ["| none | | | | | | |"]),
            *(line for group in view.groups for line in _group(group)),
        ]
    )


def _group(view: GroupView) -> list[str]:
    """A failover group: who gets what and why, what is in doubt, and what happened last."""
    why = f"{view.why} ({view.pin.why})" if view.pin is not None else view.why
    return [
        "",
        f"**{view.name}** goes to {view.serving or 'nobody'}: {_cell(why)}.",
        "",
        f"| provider of {view.name} | phase | share of traffic | relapses | in doubt | to reconcile |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_provider(provider) for provider in view.providers),
        "",
        f"| last turns of {view.name} | what | from | to | why | by | first record after the failure |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *([_turn(turn) for turn in view.turns[:TURNS]] or ["| none | | | | | | |"]),
    ]


def _provider(p: ProviderView) -> str:
    done = f" {p.trust.canaries} of {p.canaries}" if p.trust.phase is Phase.CANARY else ""
    cases = f"{p.open}, and {p.raised} for a person" if p.raised else str(p.open)
    return f"| {p.system} | {p.trust.phase.value}{done} | {p.share:.0%} | {p.trust.relapses} | {p.in_doubt} | {cases} |"


def _turn(view: TurnView) -> str:
    t = view.turn
    return (
        f"| {instant(t.at_us):%Y-%m-%d %H:%M:%S} UTC | {t.kind} | {t.before} | {t.after} "
        f"| {_cell(t.why)} | {_cell(t.author)} | {_seconds(view.served_s)} |"
    )


def _against(measured_s: float | None, target_s: float | None) -> str:
    target = format_duration(target_s) if target_s is not None else "none"
    missed = " **missed**" if measured_s is not None and target_s is not None and measured_s > target_s else ""
    return f"{_seconds(measured_s)} / {target}{missed}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
