"""The artifacts: what an operator sees in Prefect's UI. Their keys stay the same, so that each keeps its history."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefect.artifacts import acreate_markdown_artifact, acreate_table_artifact

from flows.visible import show
from tideover.config.units import format_duration
from tideover.hub.overview import Overview, RouteFigures, overview
from tideover.hub.runtime import Runtime
from tideover.model import instant

HEALTH = "tideover-health"
BACKLOG = "tideover-backlog"


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


def health(view: Overview) -> str:
    """The board, as Markdown."""
    systems = [
        f"| {name} | {'paused' if gate.is_paused else gate.state.value} | {gate.reason} | {_cell(gate.detail)} |"
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
            "| route | longest recovery / RTO | last complete reading / RPO |",
            "| --- | --- | --- |",
            *objectives,
            "",
            "| outage of | reason | since | detected in | down for | backlog | drained in |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *(outages or ["| none | | | | | | |"]),
        ]
    )


def _against(measured_s: float | None, target_s: float | None) -> str:
    target = format_duration(target_s) if target_s is not None else "none"
    missed = " **missed**" if measured_s is not None and target_s is not None and measured_s > target_s else ""
    return f"{_seconds(measured_s)} / {target}{missed}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f} s"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
