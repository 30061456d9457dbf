"""`tideover audit`: the proof, from the tables, that nothing was lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tideover.cli.frame import Cli
from tideover.cli.printing import busy, cell, console, line, number, table
from tideover.cli.reconciliation import tell
from tideover.errors import CorruptPayload

if TYPE_CHECKING:
    from tideover.hub.runtime import Runtime
    from tideover.staging.reconciliation import Count
    from tideover.staging.reports import RouteAudit

FAULT = 7
COUNTS = ("accepted", "delivered", "parked", "superseded", "waiting", "difference")


@dataclass(frozen=True, slots=True)
class Reading:
    """What reading the parked payloads gave: how many could be read, and the ids of those that could not."""

    readable: int
    unreadable: tuple[str, ...]


async def audit(
    cli: Cli,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also read every parked payload: it must be replayable.")
    ] = False,
) -> int:
    """Prove that nothing was lost: accepted = delivered + parked + superseded + waiting.

    For each route that the configuration or the tables know, from one snapshot of the hub's database. The left side
    comes from the ledger, the right from the tables that hold the records. Ends with 7 when it does not fit.

    JSON: ok, routes [route, accepted, delivered, parked, superseded, waiting, difference, faults], total,
    reconciliation {open, raised}, and with --deep payloads {readable, unreadable [record]}.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub import overview

    with busy("auditing"):
        async with open_hub(cli.hub_file, create=False) as rt:
            audits = await overview.audit(rt)
            cases = await rt.store.count_cases()
            reading = await _read_parked(rt) if deep else None
    is_good = not any(a.faults or a.difference for a in audits) and not (reading and reading.unreadable)
    if cli.as_json:
        cli.write_json(_as_json(audits, cases, reading, is_good=is_good))
    else:
        _show(audits, cases, reading, is_good=is_good)
    return 0 if is_good else FAULT


async def _read_parked(rt: Runtime) -> Reading:
    from tideover.cli.selecting import matching
    from tideover.staging.parking import Selection

    readable, unreadable = 0, []
    for record in await matching(rt, Selection()):
        try:
            await rt.store.parked_payload(record.id)
            readable += 1
        except CorruptPayload:
            unreadable.append(record.record)
    return Reading(readable, tuple(unreadable))


def _total(audits: Sequence[RouteAudit]) -> dict[str, int]:
    return {name: sum(getattr(a, name) for a in audits) for name in COUNTS}


def _as_json(
    audits: Sequence[RouteAudit], cases: Sequence[Count], reading: Reading | None, *, is_good: bool
) -> dict[str, object]:
    routes = [
        {"route": a.route, **{name: getattr(a, name) for name in COUNTS}, "faults": list(a.faults)} for a in audits
    ]
    found: dict[str, object] = {"ok": is_good, "routes": routes, "total": _total(audits)}
    found["reconciliation"] = {"open": sum(c.open for c in cases), "raised": sum(c.raised for c in cases)}
    if reading is not None:
        found["payloads"] = {"readable": reading.readable, "unreadable": list(reading.unreadable)}
    return found


def _show(audits: Sequence[RouteAudit], cases: Sequence[Count], reading: Reading | None, *, is_good: bool) -> None:
    out = console()
    verdict = (
        ("the books balance: nothing was lost", "bold green") if is_good else ("the books do not balance", "bold red")
    )
    out.print(line(verdict))
    out.print(Text("accepted = delivered + parked + superseded + waiting", style="dim"))
    out.print()
    rows = table(("route", *COUNTS, ""), right=COUNTS)
    for a in audits:
        is_sound = not a.faults and not a.difference
        mark = cell("ok", "green") if is_sound else cell("FAULT", "bold red")
        rows.add_row(cell(a.route, "bold"), *(number(getattr(a, name)) for name in COUNTS), mark)
    rows.add_section()
    rows.add_row(cell("total", "bold"), *(cell(number(n), "bold") for n in _total(audits).values()), "")
    out.print(rows)
    for a in audits:
        for fault in a.faults:
            out.print(line(("fault: ", "bold red"), f"{a.route}: {fault}"), soft_wrap=True)
    if cases:
        # No fault: the books hold either way. But what may be at two providers is not the whole truth yet.
        out.print()
        out.print(line((tell(sum(c.open for c in cases), sum(c.raised for c in cases)), "yellow")))
    if reading is not None:
        _show_reading(reading)


def _show_reading(reading: Reading) -> None:
    out = console()
    out.print()
    out.print(line(f"{number(reading.readable)} parked payloads can be read and replayed"))
    for record in reading.unreadable:
        out.print(line(("fault: ", "bold red"), f"the payload of parked record {record} is not what was stored"))
