"""`tideover deploy` and `tideover blocks apply`: what the Prefect project around the hub does, called by name.

The engine imports no Prefect. The project's folders stand beside the hub's file, in the working directory, or in the
repository that tideover is run from; `tideover init` makes them.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer
from rich.text import Text

from tideover.cli.doctor import need_prefect
from tideover.cli.frame import Cli
from tideover.cli.printing import amount, busy, cell, console, line, table
from tideover.errors import NoDatabase, Refused, SchemaMismatch

FOLDERS = ("flows", "tasks", "blocks", "deployments")
_COLOURS = {"created": "green", "updated": "cyan", "kept": "yellow", "removed": "red", "unchanged": "dim"}


def find_project(hub_file: Path) -> Path:
    """The folder of the Prefect project. Raises `Refused` when it is nowhere near."""
    for folder in (hub_file.parent, Path.cwd(), Path(__file__).resolve().parents[2]):
        if all((folder / name / "__init__.py").is_file() for name in FOLDERS):
            return folder
    raise Refused(
        f"the Prefect project is not here: its folders {', '.join(FOLDERS)} are neither beside {hub_file.name} nor in "
        "the working directory; run this where they are, or make them with `tideover init`"
    )


def load(project: Path, module: str) -> ModuleType:
    """A module of the Prefect project. Raises `Refused` when one of another name's owner is in its place."""
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    found = importlib.import_module(module)
    if not Path(found.__file__ or "").resolve().is_relative_to(project.resolve()):
        raise Refused(f"the module {module} comes from {found.__file__}, not from {project}: is something in its way?")
    return found


async def deploy(
    cli: Cli,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Also set back what people changed in the UI.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Go on although records wait in routes that the file no longer has.")
    ] = False,
) -> None:
    """Make Prefect's work pool, deployments, schedules and automations equal to the hub's file.

    What a person changed in Prefect's UI is kept, and said so. Doing it again changes nothing. A route that still has
    records waiting can't be taken out: nobody would deliver them. One whose order is `none` keeps it while any wait.

    Every block that the file names must be of a type that fits; those that Prefect does not have yet are said.

    JSON: dry_run, server, changes [kind, name, what, fields], missing_blocks [block].
    """
    from tideover.config.loader import load_hub

    hub = load_hub(cli.hub_file)
    need_prefect(cli)
    project = find_project(cli.hub_file)
    declared = load(project, "blocks.declared")
    declared.check_types(hub, cli.hub_file)
    await _refuse_stranding(cli.hub_file, may_abandon=abandon)
    server = _need_server(cli)
    with busy("asking Prefect"):
        converge = load(project, "deployments.converge").converge
        changes = await converge(hub, cli.hub_file, project, overwrite=overwrite, dry_run=dry_run)
        missing: Sequence[str] = await declared.missing(hub)
    for block in missing:
        cli.note(
            ("warning: ", "bold yellow"),
            f"Prefect has no block {block}, and runs that need it will fail: describe it in a file, and give that to "
            "`tideover blocks apply`",
        )
    if cli.as_json:
        told = [{"kind": c.kind, "name": c.name, "what": c.what, "fields": list(c.fields)} for c in changes]
        cli.write_json({"dry_run": dry_run, "server": server, "changes": told, "missing_blocks": list(missing)})
        return
    rows = table(("", "object", "name", "fields"), wide=("fields",))
    for change in changes:
        rows.add_row(_what(change.what), change.kind, cell(change.name, "bold"), cell(", ".join(change.fields)))
    console().print(rows)
    _sum_up([c.what for c in changes], "object", dry_run=dry_run)
    if any(c.what == "kept" for c in changes):
        cli.note(("kept", "yellow"), ": a person changed these; --overwrite sets them back")


def _need_server(cli: Cli) -> str:
    """Prefect's API that everything here goes to, without credentials; people are told.

    Raises `Refused` where none is named: Prefect would start one that ends with this command, and forgets everything.
    """
    url: str | None = importlib.import_module("prefect.settings").PREFECT_API_URL.value()
    if not url:
        raise Refused(
            "no Prefect server is named, so there is nothing to write to: set PREFECT_API_URL, as in "
            "PREFECT_API_URL=http://127.0.0.1:4200/api, or choose a profile that has it with `prefect profile use`"
        )
    shown = re.sub(r"(?<=://)[^/@]*@", "", url)
    cli.note((f"Prefect's API is {shown}", "dim"))
    return shown


async def _refuse_stranding(hub_file: Path, *, may_abandon: bool) -> None:
    """Refuse a file under which records that wait would never be delivered, or in no order."""
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import abandoned, side_by_side

    try:
        async with open_hub(hub_file, create=False) as rt:
            waiting = {} if may_abandon else await abandoned(rt)
            unordered = await side_by_side(rt)
    except (SchemaMismatch, NoDatabase):
        return  # a new database: nothing waits
    if waiting:
        told = ", ".join(f"{route} ({count})" for route, count in waiting.items())
        raise Refused(
            f"records wait that this file would never deliver: {told}; put their routes and targets back until they "
            "are drained, or say --abandon"
        )
    if unordered:
        told = ", ".join(f"{route} ({count})" for route, count in unordered.items())
        raise Refused(
            f"records wait that were staged under `order: none`, side by side: {told}; newer versions could not be put "
            "behind them, so leave the order as it is until they are delivered"
        )


async def apply(
    cli: Cli,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file with the blocks, such as blocks.yaml.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be done.")] = False,
) -> None:
    """Make Prefect's blocks (addresses and secrets of systems) equal to a file; no secret is ever shown.

    JSON: dry_run, server, blocks [block, what].
    """
    need_prefect(cli)
    project = find_project(cli.hub_file)
    server = _need_server(cli)
    with busy("asking Prefect"):
        apply_blocks = load(project, "blocks.apply").apply_blocks
        applied: Sequence[Any] = await apply_blocks(file, dry_run=dry_run)  # Any: the project's own type
    if cli.as_json:
        told = [{"block": a.block, "what": a.what} for a in applied]
        cli.write_json({"dry_run": dry_run, "server": server, "blocks": told})
        return
    rows = table(("", "block"))
    for one in applied:
        rows.add_row(_what(one.what), cell(one.block, "bold"))
    console().print(rows)
    _sum_up([a.what for a in applied], "block", dry_run=dry_run)


def _what(what: str) -> Text:
    return cell(what, _COLOURS.get(what, ""))


def _sum_up(whats: Sequence[str], noun: str, *, dry_run: bool) -> None:
    touched = sum(what in ("created", "updated", "removed") for what in whats)
    if not touched:
        told = ("nothing to do", "green")
    elif dry_run:
        told = (f"{amount(touched, noun)} would change; nothing was written", "yellow")
    else:
        told = (f"{amount(touched, noun)} changed", "green")
    out = console()
    out.print()
    out.print(line(told))
