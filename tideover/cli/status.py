"""`tideover status`: what is down, what waits, since when, and how recovery compares with what was promised."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from tideover.cli.board import board
from tideover.cli.failover import as_json as group_as_json
from tideover.cli.frame import Cli
from tideover.cli.printing import console, line, seconds, since, stamp
from tideover.errors import HubUnavailable

if TYPE_CHECKING:
    from tideover.config.models import Hub
    from tideover.hub.forecasting import TargetForecast
    from tideover.hub.overview import OutageFigures, Overview, RouteFigures
    from tideover.hub.runtime import Runtime
    from tideover.staging.systems import Gate

OUTAGES = 10


async def status(
    cli: Cli,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on, and refresh until Ctrl-C.")] = False,
    interval: Annotated[float, typer.Option("--interval", min=0.2, help="With --watch: seconds between looks.")] = 2.0,
) -> None:
    """Show where everything stands.

    Systems with their breakers, routes with what waits, when that will be delivered, and the latest outages as
    measured, against the routes' objectives. Reads one snapshot of the hub's database; asks no system and no Prefect.

    JSON: hub, at, systems, groups (as of `tideover failover`), routes, forecasts (one per target) and outages;
    durations are in seconds (`_s`), paces in records per second, instants in UTC. With --watch, one document per line.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import overview

    async with open_hub(cli.hub_file, create=False) as rt:
        if watch:
            await _watch(cli, rt, interval)
            return
        view = await overview(rt, outages=OUTAGES)
        if cli.as_json:
            cli.write_json(as_json(rt.config, view))
        else:
            console().print(board(rt.config, view))


async def _watch(cli: Cli, rt: Runtime, interval: float) -> None:
    from tideover.hub.overview import overview

    out, last = console(), Group()
    # Redrawn in place on a terminal; anywhere else, one whole view after another.
    live = Live(console=out, auto_refresh=False, vertical_overflow="visible") if out.is_terminal else None
    if live and not cli.as_json:
        live.start()
    try:
        while True:
            shown: RenderableType
            try:
                view = await overview(rt, outages=OUTAGES)
                shown = last = board(rt.config, view)
                if cli.as_json:
                    cli.write_json(as_json(rt.config, view), indent=None)
            except HubUnavailable as error:
                shown = Group(line(("no answer: ", "bold red"), str(error), "; trying again"), Text(), last)
                if cli.as_json or live is None:
                    cli.note(("error: ", "bold red"), str(error))
            if live and not cli.as_json:
                live.update(shown, refresh=True)
            elif not cli.as_json:
                out.print(shown)
            await asyncio.sleep(interval)
    finally:
        if live and not cli.as_json:
            live.stop()


def as_json(hub: Hub, view: Overview) -> dict[str, object]:
    """The stable machine-readable form of a view."""
    return {
        "hub": hub.name,
        "at": stamp(view.now_us),
        "systems": [_system(view, name, gate) for name, gate in view.systems.items()],
        "groups": [group_as_json(group) for group in view.groups],
        "routes": [_route(found) for found in view.routes],
        "forecasts": [_forecast(f) for f in view.forecasts],
        "outages": [_outage(o) for o in view.outages],
    }


def _system(view: Overview, name: str, gate: Gate) -> dict[str, object]:
    return {
        "system": name,
        "breaker": gate.state.value,
        "reason": gate.reason,
        "detail": gate.detail,
        "is_forced": gate.is_forced,
        "is_paused": gate.is_paused,
        "pause": gate.pause,
        "since": stamp(view.since_us.get(name, 0)),
        "since_s": seconds(since(view.now_us, view.since_us.get(name, 0))),
        "next_change_s": seconds(gate.wait_s),
    }


def _route(found: RouteFigures) -> dict[str, object]:
    status = found.status
    return {
        "route": status.route,
        "target": found.target,
        "accepted": status.staged,
        "delivered": status.delivered,
        "superseded": status.superseded,
        "waiting": status.waiting,
        "parked": status.parked,
        "held_lanes": status.held_lanes,
        "oldest_s": seconds(found.oldest_s),
        "newest": stamp(status.newest_us),
        "rpo_s": seconds(found.rpo_s),
        "rpo_target_s": found.rpo_target_s,
        "rto_s": seconds(found.rto_s),
        "rto_target_s": found.rto_target_s,
    }


def _forecast(found: TargetForecast) -> dict[str, object]:
    forecast = found.forecast
    return {
        "target": found.target,
        "course": forecast.course.value,
        "to_go": forecast.to_go,
        "gone_per_s": None if forecast.pace.gone is None else round(forecast.pace.gone, 3),
        "come_per_s": round(forecast.pace.come, 3),
        "caught_up": stamp(forecast.caught_up_us),
        "next_try": stamp(forecast.next_try_us),
        "bound": forecast.bound.value,
        "why": forecast.why,
        "text": str(forecast),
    }


def _outage(figures: OutageFigures) -> dict[str, object]:
    outage = figures.outage
    return {
        "id": outage.id,
        "system": outage.system,
        "reason": outage.reason,
        "detail": outage.detail,
        "first_failure": stamp(outage.first_failure_us),
        "opened": stamp(outage.opened_us),
        "restored": stamp(outage.restored_us),
        "drained": stamp(outage.drained_us),
        "backlog": outage.backlog,
        "detect_s": seconds(figures.detect_s),
        "down_s": seconds(figures.down_s),
        "drain_s": seconds(figures.drain_s),
        "recovery_s": seconds(figures.recovery_s),
        "is_over": figures.is_over,
    }
