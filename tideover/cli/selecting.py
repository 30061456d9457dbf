"""Which parked records an operator means, and asking before they are touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from tideover.errors import Refused

if TYPE_CHECKING:
    from tideover.hub.runtime import Runtime
    from tideover.staging.parking import Parked, Selection

PAGE = 500

RouteOption = Annotated[str | None, typer.Option("--route", help="Only of this route.", show_default=False)]
CodeOption = Annotated[str | None, typer.Option("--code", help="Only with this code.", show_default=False)]
KeyOption = Annotated[str | None, typer.Option("--key", help="Only of this business key.", show_default=False)]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


async def matching(rt: Runtime, selection: Selection, *, at_most: int | None = None) -> list[Parked]:
    """The parked records of a selection, oldest first. Raises `Refused` when its route is not the hub's."""
    if selection.route is not None:
        rt.route(selection.route)
    found: list[Parked] = []
    while at_most is None or len(found) < at_most:
        size = PAGE if at_most is None else min(PAGE, at_most - len(found))
        page = await rt.store.parked(replace(selection, limit=size))
        found += page
        if len(page) < size:
            break
        selection = replace(selection, after=page[-1].id)
    return found


def require_all(records: Sequence[str], found: Sequence[Parked]) -> None:
    """Raise `Refused` naming the records that were asked for and are not parked."""
    missing = sorted(set(records) - {p.record for p in found})
    if missing:
        raise Refused(
            f"no open parked record has the id {', '.join(missing)}; `tideover parked` lists them, and "
            "`tideover trace` tells what became of one"
        )
