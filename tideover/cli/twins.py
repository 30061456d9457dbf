"""`tideover twins`: simulated systems to try things on, with fault switches."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tideover.cli.frame import Cli
from tideover.cli.printing import cell, console, line, number, table
from tideover.errors import TideoverError
from tideover.model import JsonObject

if TYPE_CHECKING:
    from tideover.twins import TwinControl

PORT_BASE = 7500
COUNTS = ("received", "keys", "effects", "duplicates", "standing_duplicates", "voided")

ControlOption = Annotated[
    str,
    typer.Option("--control", metavar="URL", envvar="TIDEOVER_TWINS", help="Where the twins' control server listens."),
]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A twin, such as erp.")]
CONTROL = f"http://127.0.0.1:{PORT_BASE}"


def _duration(text: str) -> float:
    """Seconds, as `hub.yaml` writes durations."""
    from tideover.config.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} {error}") from None


def _setting(text: str) -> tuple[str, object]:
    """An option of a fault: a name and a JSON value, or a text where it is no JSON."""
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise typer.BadParameter(f"{text!r} is no NAME=VALUE, as in every=3")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def serve(
    cli: Cli,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where the twins keep what they remember.")
    ] = Path(".tideover/twins"),
    port_base: Annotated[
        int, typer.Option("--port-base", min=1, max=65_500, help="The control server's port; the twins' follow it.")
    ] = PORT_BASE,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="NAME", help="Only this twin; may be given again.")
    ] = None,
) -> None:
    """Run simulated systems in the foreground until Ctrl-C: a CRM, an ERP, marketing, support and two carriers.

    Each speaks HTTP with one vendor's manners on a port of its own, and remembers what it got. Break one from another
    terminal: `tideover twins fault erp hang --for 30s`. Ctrl-C is how they are meant to end, so they end with 0.

    JSON: one line per server, name and url.
    """
    from tideover.twins import serve as serve_twins
    from tideover.twins.serving import ports_from

    def announce(told: str) -> None:
        name, url = told.split()
        if cli.as_json:
            cli.write_json({"name": name, "url": url}, indent=None)
            return
        console().print(line((f"{name:<11}", "bold"), url))
        if name == "control":
            where = "" if port_base == PORT_BASE else f" --control {url}"
            cli.note(f"Ctrl-C ends them. In another terminal: tideover twins seed orders 100{where}")

    serve_twins(folder, ports_from(port_base), port_base, names=only, announce=announce)


async def fault(
    cli: Cli,
    name: NameArgument,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="What breaks; `tideover twins kinds` lists them.")],
    for_: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="It mends itself after this, as in 30s.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="How many calls it harms.")] = None,
    probability: Annotated[
        float | None, typer.Option("--probability", help="The share of calls that it harms.")
    ] = None,
    only: Annotated[str | None, typer.Option("--only", metavar="reads|writes", help="Which calls it harms.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An option of the kind, as in every=3; may be given again."),
    ] = None,
    control: ControlOption = CONTROL,
) -> None:
    """Break a twin, until it is cleared or for a while.

    JSON: the twin's status.
    """
    for_s = None if for_ is None else _duration(for_)
    given: JsonObject = {"for_s": for_s, "count": count, "probability": probability, "only": only}
    options = {key: value for key, value in given.items() if value is not None}
    options |= dict(_setting(text) for text in settings or ())
    async with _controlling(control) as twins:
        status = await twins.fault(name, kind, **options)
    _tell_status(cli, status)


async def clear(cli: Cli, name: NameArgument, control: ControlOption = CONTROL) -> None:
    """Mend a twin.

    JSON: the twin's status.
    """
    async with _controlling(control) as twins:
        status = await twins.clear(name)
    _tell_status(cli, status)


async def status(cli: Cli, control: ControlOption = CONTROL) -> None:
    """Show every twin: its address, its fault, what it got.

    JSON: twins [status].
    """
    async with _controlling(control) as twins:
        found = await twins.twins()
    if cli.as_json:
        cli.write_json({"twins": found})
        return
    columns = ("twin", "url", "state", "keys", "effects", "duplicates")
    rows = table((*columns, "fault"), right=columns[3:], wide=("fault",))
    for one in found:
        ledger = one["ledger"]
        counts = (number(ledger[count]) for count in columns[3:])
        is_up = one["state"] == "up"
        state = cell(one["state"], "green" if is_up else "bold red")
        rows.add_row(cell(one["name"], "bold"), one["url"], state, *counts, cell(_fault_text(one["fault"])))
    console().print(rows)


async def ledger(cli: Cli, name: NameArgument, control: ControlOption = CONTROL) -> None:
    """Show what arrived at a twin: what a hub claims to have delivered can be held against it.

    JSON: twin, received, keys, effects, duplicates, standing_duplicates, voided, objects.
    """
    async with _controlling(control) as twins:
        found = await twins.ledger(name)
    if cli.as_json:
        cli.write_json(found)
        return
    rows = table(("object", *(count.replace("_", " ") for count in COUNTS)))
    for column in rows.columns[1:]:
        column.justify = "right"
    objects: Mapping[str, Mapping[str, int]] = found["objects"]
    for object_name, counts in objects.items():
        rows.add_row(cell(object_name), *(number(counts[count]) for count in COUNTS))
    rows.add_row(cell("all", "bold"), *(cell(number(found[count]), "bold") for count in COUNTS))
    console().print(rows)


async def seed(
    cli: Cli,
    object_name: Annotated[str, typer.Argument(metavar="OBJECT", help="orders, contacts or tickets.")],
    count: Annotated[int, typer.Argument(metavar="COUNT", min=1, help="How many records.")],
    start: Annotated[int, typer.Option("--start", min=0, help="The first one's number.")] = 1,
    control: ControlOption = CONTROL,
) -> None:
    """Create sample records in the simulated CRM, or change those that have these numbers.

    JSON: object, records.
    """
    async with _controlling(control) as twins:
        records = await twins.seed(object_name, count, start)
    if cli.as_json:
        cli.write_json({"object": object_name, "records": records})
    else:
        console().print(line((f"{number(records)} {object_name} in the CRM", "green")))


def kinds(cli: Cli) -> None:
    """List what can be broken, and how.

    JSON: kinds [kind, what, options, twins (null: all)].
    """
    from tideover.twins import KINDS

    listed = [
        {
            "kind": name,
            "what": kind.what,
            "options": sorted(kind.options | kind.limits),
            "twins": None if kind.twins is None else sorted(kind.twins),
        }
        for name, kind in KINDS.items()
    ]
    if cli.as_json:
        cli.write_json({"kinds": listed})
        return
    rows = table(("kind", "what", "options"), wide=("what", "options"))
    for name, kind in KINDS.items():
        rows.add_row(cell(name, "bold"), kind.what, cell(", ".join(sorted(kind.options)), "dim"))
    console().print(rows)


@asynccontextmanager
async def _controlling(url: str) -> AsyncIterator[TwinControl]:
    """The control server at a URL. Its silence becomes a `TideoverError` that says how to start it."""
    import httpx

    from tideover.twins import TwinControl

    try:
        async with TwinControl(url) as control:
            yield control
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = type(error).__name__
        raise TideoverError(
            f"the twins' control server does not answer at {url} ({reason}); start it with `tideover twins`, or say "
            "where it is with --control"
        ) from error


def _tell_status(cli: Cli, status: JsonObject) -> None:
    if cli.as_json:
        cli.write_json(status)
        return
    told = _fault_text(status["fault"]) or "mended"
    colour = "green" if status["state"] == "up" else "bold red"
    console().print(line((status["name"], "bold"), " is ", (status["state"], colour), f": {told}"))


def _fault_text(fault: JsonObject | None) -> str:
    if fault is None:
        return ""
    hidden: Sequence[str] = ("kind", "harmed", "used_up")
    options = ", ".join(f"{name} {value}" for name, value in fault.items() if name not in hidden)
    return f"{fault['kind']}{f' ({options})' if options else ''}, {number(fault['harmed'])} calls harmed"
