"""`tideover parked`: what needs a person, and letting it go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from tideover.cli.announcing import announce
from tideover.cli.frame import Cli, confirm
from tideover.cli.printing import amount, cell, console, line, moment, number, span, stamp, table
from tideover.cli.selecting import CodeOption, KeyOption, RouteOption, YesOption, matching, require_all
from tideover.model import SECOND_US

if TYPE_CHECKING:
    from tideover.staging.parking import Parked

LIMIT = 50
RecordArgument = Annotated[str, typer.Argument(metavar="RECORD", help="The record's id.")]
RecordsArgument = Annotated[list[str], typer.Argument(metavar="RECORD...", help="The records' ids.")]


async def parked(
    cli: Cli,
    route: RouteOption = None,
    code: CodeOption = None,
    key: KeyOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the oldest first.")] = LIMIT,
) -> None:
    """List the records that need a person, oldest first; never their payloads.

    JSON: parked [record, route, key, system, code, detail, in_doubt, holds_lane, at_intake, staged, parked],
    is_complete.
    """
    from tideover.bootstrap import open_hub
    from tideover.staging.parking import Selection

    async with open_hub(cli.hub_file, create=False) as rt:
        found = await matching(rt, Selection(route=route, code=code, key=key), at_most=limit + 1)
        now_us = await rt.store.report(lambda tx: tx.now_us)
    listed = found[:limit]
    if cli.as_json:
        cli.write_json({"parked": [as_json(p) for p in listed], "is_complete": len(found) <= limit})
        return
    if not listed:
        console().print(line(("nothing is parked", "green")))
        return
    _show_list(listed, now_us)
    if len(found) > limit:
        cli.note(("there are more; see them with --limit", "yellow"))


async def show(
    cli: Cli,
    record: RecordArgument,
    payload: Annotated[
        bool, typer.Option("--payload", help="Also show the payload, which may hold personal data.")
    ] = False,
) -> None:
    """Show one parked record: why it is parked, and what to do.

    JSON: as in the list, and with --payload the payload.
    """
    from tideover.bootstrap import open_hub
    from tideover.staging.parking import Selection

    async with open_hub(cli.hub_file, create=False) as rt:
        found = await matching(rt, Selection(records=(record,)))
        require_all((record,), found)
        content = await rt.store.parked_payload(found[-1].id) if payload else None
    if cli.as_json:
        told = as_json(found[-1])
        cli.write_json(told if content is None else told | {"payload": orjson.loads(content)})
        return
    _show_one(found[-1])
    if content is not None:
        console().print()
        shown = orjson.dumps(orjson.loads(content), option=orjson.OPT_INDENT_2).decode()
        for text in shown.splitlines():
            console().print(line(text), soft_wrap=True)


async def release(cli: Cli, records: RecordsArgument, yes: YesOption = False) -> None:
    """Let lanes go on without these records, which a person settled elsewhere. They stay on the books as parked.

    JSON: released.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub import replay
    from tideover.staging.parking import Selection

    selection = Selection(records=tuple(records))
    async with open_hub(cli.hub_file, create=False) as rt:
        found = await matching(rt, selection)
        require_all(records, found)
        selection = replace(selection, until=found[-1].id)  # what is counted in the question, and no more
        question = f"Release {amount(len(found), 'record')}, never to be delivered by the hub?"
        confirm(cli, question, yes=yes)
        count = await replay.release(rt, selection)
        if cli.as_json:
            cli.write_json({"released": count})
        else:
            console().print(line((f"released {amount(count, 'record')}", "green")))
        await announce(cli, rt)


def as_json(p: Parked) -> dict[str, object]:
    """The stable machine-readable form of a parked record."""
    return {
        "record": p.record,
        "route": p.route,
        "key": p.key,
        "system": p.system,
        "code": p.code,
        "detail": p.detail,
        "in_doubt": p.in_doubt,
        "holds_lane": p.holds,
        "at_intake": p.at_intake,
        "staged": stamp(p.staged_us),
        "parked": stamp(p.parked_us),
    }


def _show_list(listed: Sequence[Parked], now_us: int) -> None:
    """A table per route, in the order of the oldest record of each: ids must fit on a screen whole, to be copied."""
    by_route: dict[str, list[Parked]] = {}
    for p in listed:
        by_route.setdefault(p.route, []).append(p)
    out = console()
    for at, (route, records) in enumerate(by_route.items()):
        if at:
            out.print()
        out.print(line((route, "bold"), f": {number(len(records))} parked"))
        rows = table(("record", "key", "age", "lane", "code", "detail"), right=("age",), wide=("key", "code", "detail"))
        for p in records:
            age = span(max(now_us - p.parked_us, 0) / SECOND_US)
            lane = cell("held" if p.holds else "", "bold red")
            rows.add_row(cell(p.record, "cyan"), cell(p.key, "bold"), age, lane, cell(p.code), cell(p.detail))
        out.print(rows)


def _show_one(p: Parked) -> None:
    rows = table(("", ""), wide=("",))
    rows.show_header = False
    origin = "its source" if p.at_intake else p.system
    for name, value in (
        ("record", p.record),
        ("route", p.route),
        ("key", p.key),
        ("system", origin),
        ("code", p.code),
        ("detail", p.detail),
        ("staged", f"{moment(p.staged_us)} UTC"),
        ("parked", f"{moment(p.parked_us)} UTC"),
        ("lane", "waits for it" if p.holds else "goes on without it"),
    ):
        rows.add_row(cell(name, "dim"), cell(value, "bold" if name in ("record", "code") else ""))
    out = console()
    out.print(rows)
    out.print()
    for hint in _ways_on(p):
        out.print(line(("→ ", "cyan"), hint), soft_wrap=True)


def _ways_on(p: Parked) -> list[str]:
    if p.at_intake:
        return [f"mend the mapping or the source, then: tideover replay {p.record}"]
    doubt = f"{p.system} may have it already: look there before you send it again"
    return [
        *([doubt] if p.in_doubt else []),
        f"send it again as it is: tideover replay {p.record}",
        f"send it corrected: tideover replay {p.record} --payload FILE.json",
        f"it was settled elsewhere: tideover parked release {p.record}",
    ]
