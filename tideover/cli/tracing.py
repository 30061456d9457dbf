"""`tideover trace`: the story of one business key, or of one record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from tideover.cli.frame import Cli
from tideover.cli.parked import as_json as parked_as_json
from tideover.cli.printing import amount, cell, console, line, moment, seconds, span, stamp, table
from tideover.cli.selecting import matching
from tideover.errors import Refused
from tideover.model import SECOND_US, instant

if TYPE_CHECKING:
    from tideover.hub.runtime import Runtime
    from tideover.staging.parking import Parked
    from tideover.staging.reports import TracedRecord

_STATES = {"delivered": "green", "waiting": "yellow", "in flight": "cyan", "in doubt": "bold yellow"}
_OUTCOMES = {"accepted": "green", "found": "green", "rejected": "bold red", "missing": "dim"}
# What is part of the story but no call, so that it has no outcome of its own.
_MARKS = {
    "rerouted": ("may go elsewhere", "bold yellow"),
    "raised": ("needs a person", "bold red"),
    "by_person": ("settled by a person", "green"),
}


async def trace(
    cli: Cli,
    key: Annotated[str, typer.Argument(metavar="KEY", help="A business key, or the id of a record.")],
    route: Annotated[
        str | None, typer.Option("--route", help="Only on this route. Default: on all.", show_default=False)
    ] = None,
) -> None:
    """Tell what happened to a record: every version of its key, everything that was tried, and where it stands.

    JSON: key, records [record, route, key, version, state, staged, parent, attempts [system, kind, outcome, code,
    detail, reference, began, took_s]], parked [as `tideover parked`].
    """
    from tideover.bootstrap import open_hub
    from tideover.hub import overview

    async with open_hub(cli.hub_file, create=False) as rt:
        records = await overview.trace(rt, key, route)
        parked = await _parked(rt, key, route)
        if not records and not parked:
            raise Refused(_unknown(key, route, list(rt.config.routes)))
    if cli.as_json:
        told = [_as_json(r) for r in records]
        cli.write_json({"key": key, "records": told, "parked": [parked_as_json(p) for p in parked]})
    else:
        _show(records, parked)


async def _parked(rt: Runtime, key: str, route: str | None) -> list[Parked]:
    """What of it is parked now; a record that was parked at intake has no other trace."""
    from tideover.staging.parking import Selection

    by_key = await matching(rt, Selection(route=route, key=key))
    return by_key or await matching(rt, Selection(route=route, records=(key,)))


def _unknown(key: str, route: str | None, routes: Sequence[str]) -> str:
    where = f"route {route}" if route else f"any of {amount(len(routes), 'route')}"
    return (
        f"nothing is known of {key!r} on {where}: keys are matched whole and exactly, and what was delivered is kept "
        "as long as its route's retention says"
    )


def _as_json(r: TracedRecord) -> dict[str, object]:
    return {
        "record": r.record,
        "route": r.route,
        "key": r.key,
        "version": r.seq,
        "state": r.state,
        "staged": stamp(r.staged_us),
        "parent": r.parent,
        "attempts": [
            {
                "system": a.system,
                "kind": a.kind,
                "outcome": a.outcome,
                "code": a.code,
                "detail": a.detail,
                "reference": a.reference,
                "began": stamp(a.began_us),
                "took_s": seconds(a.took_us / SECOND_US),
            }
            for a in r.attempts
        ],
    }


def _show(records: Sequence[TracedRecord], parked: Sequence[Parked]) -> None:
    out = console()
    by_record = {(p.route, p.record): p for p in parked}
    for at, r in enumerate(records):
        if at:
            out.print()
        out.print(
            line((r.key, "bold"), f" on {r.route}, version {r.seq}: ", (r.state, _STATES.get(r.state, "bold red"))),
            soft_wrap=True,
        )
        out.print(line((f"record {r.record}", "cyan")), soft_wrap=True)
        if r.parent:
            out.print(line((f"a correction of {r.parent}", "dim")), soft_wrap=True)
        out.print(_timeline(r, by_record.pop((r.route, r.record), None)))
    for p in by_record.values():
        if records:
            out.print()
        out.print(
            line((p.key or "(no key)", "bold"), f" on {p.route}: ", ("parked at intake", "bold red")), soft_wrap=True
        )
        out.print(line((f"record {p.record}", "cyan")), soft_wrap=True)
        rows = _rows()
        _add_parked(rows, p, p.parked_us)
        out.print(rows)


def _rows() -> Table:
    rows = table(("time (UTC)", "after", "what", "system", "took", "detail"), right=("after", "took"), wide=("detail",))
    rows.show_header = True
    return rows


def _timeline(r: TracedRecord, parked: Parked | None) -> Table:
    rows = _rows()
    rows.add_row(moment(r.staged_us), "", cell("staged", "dim"), "", "", "")
    for a in r.attempts:
        rows.add_row(
            _clock(a.began_us, r.staged_us),
            f"+{span(max(a.began_us - r.staged_us, 0) / SECOND_US)}",
            _what(a),
            cell(a.system),
            "" if a.kind in _MARKS else span(a.took_us / SECOND_US),
            cell(_detail(a)),
        )
    if parked is not None:
        _add_parked(rows, parked, r.staged_us)
    return rows


def _what(attempt: Any) -> Text:  # Any: as in `_detail`
    if attempt.kind in _MARKS:
        return line(_MARKS[attempt.kind])
    kind = (attempt.kind.replace("_", "-"), "dim")
    return line(kind, " ", (attempt.outcome, _OUTCOMES.get(attempt.outcome, "yellow")))


def _add_parked(rows: Table, p: Parked, from_us: int) -> None:
    after = f"+{span(max(p.parked_us - from_us, 0) / SECOND_US)}" if p.parked_us != from_us else ""
    detail = ": ".join(part for part in (p.code, p.detail) if part)
    rows.add_row(_clock(p.parked_us, from_us), after, cell("parked", "bold red"), cell(p.system), "", cell(detail))


def _clock(us: int, from_us: int) -> str:
    """An instant; only its time where it is on the day on which the story began."""
    is_same_day = instant(us).date() == instant(from_us).date() and us != from_us
    return f"{'':11}{instant(us):%H:%M:%S}" if is_same_day else moment(us)


def _detail(attempt: Any) -> str:  # Any: a row of the attempts, as the store's reports give it
    if attempt.reference:
        return f"reference {attempt.reference}"
    return ": ".join(part for part in (attempt.code, attempt.detail) if part)
