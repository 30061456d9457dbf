"""`tideover check`: everything that is wrong with a hub's file, and what the hub understood of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tideover.cli.explaining import as_json, show_problems
from tideover.cli.frame import Cli
from tideover.cli.printing import amount, cell, console, line, table
from tideover.errors import Problem

if TYPE_CHECKING:
    from pathlib import Path

    from tideover.config.models import Hub, Route


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found. `hub` is None where it can't be used at all."""

    problems: list[Problem]
    warnings: list[Problem]
    hub: Hub | None


def check(
    cli: Cli,
    schema: Annotated[bool, typer.Option("--schema", help="Write the JSON Schema of hub.yaml instead.")] = False,
) -> int:
    """Check the hub's file, and say what it means.

    Every mistake with its line, what to do about it, and warnings; mapping functions are imported. Nothing else is
    touched: no database, no system, no Prefect.

    JSON: ok, file, problems and warnings [file, line, column, key, what, mend], hub {name, systems, routes, targets}.
    """
    if schema:
        from tideover.config.schema import json_schema

        cli.write_json(json_schema())
        return 0
    file = cli.hub_file
    found = look(file)
    shown = file if cli.hub is None else cli.hub
    if cli.as_json:
        cli.write_json(_as_json(file, found))
    show_problems(cli, found.warnings, "warning")
    show_problems(cli, found.problems, "error")
    if found.problems:
        cli.note((f"{shown} has {amount(len(found.problems), 'problem')}", "bold red"))
        return 2
    if not cli.as_json and found.hub:
        _show(found.hub, len(found.warnings))
    return 0


def look(file: Path) -> Findings:
    """Load a hub's file, and if it is sound import its mapping functions."""
    from tideover.config.functions import check_functions
    from tideover.config.loader import check_hub

    report = check_hub(file)
    problems = report.problems or (check_functions(report.hub, file) if report.hub else [])
    return Findings(problems, report.warnings, report.hub)


def _as_json(file: Path, found: Findings) -> dict[str, object]:
    return {
        "ok": not found.problems,
        "file": str(file),
        "problems": [as_json(p) for p in found.problems],
        "warnings": [as_json(p) for p in found.warnings],
        "hub": _summary(found.hub) if found.hub else None,
    }


def _summary(hub: Hub) -> dict[str, object]:
    return {"name": hub.name, "systems": list(hub.systems), "routes": list(hub.routes), "targets": hub.targets}


def _show(hub: Hub, warnings: int) -> None:
    out = console()
    doubts = f", with {amount(warnings, 'warning')}" if warnings else ""
    out.print(line((f"hub {hub.name} is sound", "bold green"), doubts), soft_wrap=True)
    rows = table(("route", "from", "to", "order", "schedule", "RTO", "RPO"), wide=("from", "to"))
    for name, route in hub.routes.items():
        target = f"{route.target.name} / {route.target.operation}"
        source = f"{route.source.system} / {route.source.stream}"
        rows.add_row(cell(name, "bold"), source, target, route.order.value, _schedule(route), *_objectives(route))
    out.print()
    out.print(rows)


def _schedule(route: Route) -> str:
    from tideover.config.models import Cron
    from tideover.config.units import format_duration

    if route.schedule is None:
        return "by hand"
    if isinstance(route.schedule, Cron):
        return f"{route.schedule.cron} {route.schedule.timezone}"
    return f"every {format_duration(route.schedule.every)}"


def _objectives(route: Route) -> tuple[str, str]:
    from tideover.config.units import format_duration

    rto, rpo = (format_duration(value) if value is not None else "–" for value in (route.rto, route.rpo))
    return rto, rpo
