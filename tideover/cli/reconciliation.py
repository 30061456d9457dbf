"""`tideover reconciliation`: records that may be at two providers, and settling what the hub could not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tideover.cli.announcing import announce
from tideover.cli.frame import Cli
from tideover.cli.printing import amount, cell, console, line, number, span, stamp, table
from tideover.cli.selecting import KeyOption, RouteOption
from tideover.cli.signing import AuthorOption, reason, signature
from tideover.errors import Refused
from tideover.model import SECOND_US

if TYPE_CHECKING:
    from tideover.staging.reconciliation import Listed

LIMIT = 50
_STATES = {"raised": "bold red", "voiding": "yellow", "open": "yellow"}


async def reconciliation(
    cli: Cli,
    route: RouteOption = None,
    key: KeyOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many, the most urgent first.")] = LIMIT,
) -> None:
    """List the records that were sent to another provider while nobody could tell whether the first one has them.

    Those that need a person come first: both providers have them, or one of them can't be asked.

    JSON: reconciliation [id, record, route, group, key, may_be_at, reference_there, has_it, reference_here, since,
    state, detail], is_complete.
    """
    from tideover.bootstrap import open_hub
    from tideover.staging.reconciliation import Selection

    async with open_hub(cli.hub_file, create=False) as rt:
        if route is not None:
            rt.route(route)
        found = await rt.store.cases(Selection(route=route, key=key, limit=limit + 1))
        now_us = await rt.store.report(lambda tx: tx.now_us)
    listed = found[:limit]
    if cli.as_json:
        cli.write_json({"reconciliation": [as_json(c) for c in listed], "is_complete": len(found) <= limit})
        return
    if not listed:
        console().print(line(("nothing is to be reconciled", "green")))
        return
    _show(listed, now_us)
    if len(found) > limit:
        cli.note(("there are more; see them with --limit", "yellow"))


async def settle(
    cli: Cli,
    record: Annotated[str, typer.Argument(metavar="ID", help="The record's id.")],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="What was done, for those who read it later.")],
    author: AuthorOption = None,
    system: Annotated[
        str | None,
        typer.Option("--system", help="Where it may be, if it may be at several.", show_default=False),
    ] = None,
) -> None:
    """Say that a person settled where a record is: what is at that provider was cancelled, or never was there.

    The hub asks that provider about it no more. A record that still waits is delivered as any other, perhaps there.

    JSON: settled, record, system, why, author, has_it.
    """
    from tideover.bootstrap import open_hub
    from tideover.staging.reconciliation import Selection

    said, by = reason(why), signature(author)
    async with open_hub(cli.hub_file, create=False) as rt:
        case = _the_one(record, await rt.store.cases(Selection(record=record, system=system)))
        if not await rt.store.settle_case_by_person(case.id, said, by):
            raise Refused(f"record {record} was settled by somebody else meanwhile")
        _tell_settled(cli, case, said, by)
        await announce(cli, rt)


def _tell_settled(cli: Cli, case: Listed, why: str, by: str) -> None:
    record = case.record
    if cli.as_json:
        told = {"settled": True, "record": record, "system": case.system, "why": why, "author": by}
        cli.write_json({**told, "has_it": case.other_system or None})
        return
    console().print(line((f"settled: {record} at {case.system}", "green")), soft_wrap=True)
    if not case.other_system:
        cli.note(("nobody is known to have it: where it still waits, the hub delivers it", "yellow"))


def _the_one(record: str, found: Sequence[Listed]) -> Listed:
    if not found:
        raise Refused(f"record {record} is not to be reconciled; `tideover reconciliation` lists what is")
    if len(found) > 1:
        raise Refused(f"record {record} may be at {' and '.join(c.system for c in found)}: name one with --system")
    return found[0]


def as_json(case: Listed) -> dict[str, object]:
    """The stable machine-readable form of a case."""
    return {
        "id": case.id,
        "record": case.record,
        "route": case.route,
        "group": case.group,
        "key": case.key,
        "may_be_at": case.system,
        "reference_there": case.reference,
        "has_it": case.other_system or None,
        "reference_here": case.other_reference,
        "since": stamp(case.doubted_us),
        "state": case.state.value,
        "detail": case.detail,
    }


def _show(listed: Sequence[Listed], now_us: int) -> None:
    """A table per route, the one with the most urgent case first, as ids must fit on a screen whole to be copied; each
    provider with its reference. Then why each of those needs a person."""
    raised = [c for c in listed if c.state == "raised"]
    by_route: dict[str, list[Listed]] = {}
    for c in listed:
        by_route.setdefault(c.route, []).append(c)
    out = console()
    out.print(line(tell(len(listed) - len(raised), len(raised))))
    for route, cases in by_route.items():
        out.print()
        out.print(line((route, "bold")))
        columns = ("record", "key", "may be at", "has it", "since", "state")
        rows = table(columns, right=("since",), wide=("key", "may be at", "has it"))
        for c in cases:
            age = span(max(now_us - c.doubted_us, 0) / SECOND_US)
            there, here = _holder(c.system, c.reference), _holder(c.other_system or "nobody", c.other_reference)
            state = cell(c.state.value, _STATES[c.state.value])
            rows.add_row(cell(c.record, "cyan"), cell(c.key, "bold"), there, here, age, state)
        out.print(rows)
    if not raised:
        return
    out.print()
    for c in raised:
        out.print(line((f"{c.record}: ", "cyan"), c.detail), soft_wrap=True)
    hint = "look at both, undo what is too many, then: tideover reconciliation settle ID --why TEXT"
    out.print(line(("→ ", "cyan"), hint), soft_wrap=True)


def _holder(system: str, reference: str | None) -> Text:
    return line(system, (f" {reference}" if reference else "", "dim"))


def tell(open_: int, raised: int) -> str:
    """How many there are, in words: `2 records are being reconciled; 1 needs a person`."""
    being = amount(open_, "record is", "records are") + " being reconciled"
    return f"{being}; {number(raised)} {'needs' if raised == 1 else 'need'} a person"
