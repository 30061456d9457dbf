"""`tideover failover`: how the failover groups stand, and an operator's word over where their records go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from tideover.cli.announcing import announce
from tideover.cli.frame import Cli
from tideover.cli.group_board import unwell, whole
from tideover.cli.printing import amount, console, line, seconds, since, stamp
from tideover.cli.signing import AuthorOption, WhyOption, reason, signature
from tideover.errors import Refused

if TYPE_CHECKING:
    from tideover.hub.runtime import Runtime
    from tideover.hub.standing import GroupView, ProviderView, TurnView

TURNS = 10
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="One of the hub's failover groups.")]


async def failover(cli: Cli) -> None:
    """Show how the failover groups stand. The same as `failover status`.

    JSON: as of `failover status`.
    """
    await status(cli)


async def status(
    cli: Cli,
    group: Annotated[str | None, typer.Argument(metavar="[GROUP]", help="Only this group.", show_default=False)] = None,
) -> None:
    """Show where a group's records go now and why, its providers on their way back, and its latest turns.

    A provider's share is of new records that every provider may have. Reads one snapshot of the hub's database.

    JSON: groups [group, at, serving, why, since, pin, waiting, live_share, providers, turns].
    """
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import group_view

    async with open_hub(cli.hub_file, create=False) as rt:
        names = list(rt.config.groups) if group is None else [group]
        views = [await group_view(rt, name) for name in names]
    if cli.as_json:
        cli.write_json({"groups": [as_json(view) for view in views]})
        return
    out = console()
    if not views:
        out.print(line("this hub has no failover groups"))
    for at, view in enumerate(views):
        if at:
            out.print(Text())
        out.print(whole(view, TURNS))


async def pin(
    cli: Cli,
    group: GroupArgument,
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="One of the group's providers.")],
    why: WhyOption,
    author: AuthorOption = None,
) -> None:
    """Send everything of a group to one provider, until it is unpinned; what that one can't take waits.

    What may be at another provider already stays there until it is known.

    JSON: group, pin {system, why, author, since}, is_well, waiting.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import group_view
    from tideover.hub.routing import group_rule

    said, by = reason(why), signature(author)
    async with open_hub(cli.hub_file, create=False) as rt:
        rt.group(group)
        await rt.store.pin(group, group_rule(rt.config, group), system, why=said, author=by)
        await _stir(rt, group)
        view = await group_view(rt, group)
        provider = next(p for p in view.providers if p.system == system)
        if cli.as_json:
            told = {"group": group, "pin": _pin(view), "is_well": provider.gate.lets_through}
            cli.write_json({**told, "waiting": view.waiting})
        else:
            console().print(line((group, "bold"), " is pinned: everything goes to ", (system, "bold")), soft_wrap=True)
        if bad := unwell(provider):
            waiting = amount(view.waiting, "record waits", "records wait") if view.waiting else "what comes waits"
            cli.note(("warning: ", "bold yellow"), f"{system} is {bad}: nothing goes elsewhere meanwhile; {waiting}")
        await announce(cli, rt)


async def unpin(cli: Cli, group: GroupArgument, why: WhyOption, author: AuthorOption = None) -> None:
    """Let a group decide by itself again where its records go.

    JSON: group, unpinned, serving, why, waiting.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import group_view
    from tideover.hub.routing import group_rule

    said, by = reason(why), signature(author)
    async with open_hub(cli.hub_file, create=False) as rt:
        before = await group_view(rt, group)
        if before.pin is None:
            raise Refused(f"{group} is not pinned: it decides by itself already")
        await rt.store.unpin(group, group_rule(rt.config, group), why=said, author=by)
        await _stir(rt, group)
        view = await group_view(rt, group)
        if cli.as_json:
            told = {"group": group, "unpinned": before.pin.system, "serving": view.serving or None, "why": view.why}
            cli.write_json({**told, "waiting": view.waiting})
        else:
            goes = f"new records go to {view.serving}" if view.serving else "no provider can have new records now"
            console().print(line((group, "bold"), f" decides by itself again: {goes} ({view.why})"), soft_wrap=True)
        await announce(cli, rt)


async def _stir(rt: Runtime, group: str) -> None:
    """What backed off, because nobody could have it, has a new way."""
    await rt.store.make_due(list(rt.config.routes_to(group)))


def as_json(view: GroupView) -> dict[str, object]:
    """The stable machine-readable form of a group."""
    return {
        "group": view.name,
        "at": stamp(view.now_us),
        "serving": view.serving or None,
        "why": view.why,
        "since": stamp(view.since_us),
        "pin": _pin(view),
        "waiting": view.waiting,
        "live_share": view.live_share,
        "providers": [_provider(view, p) for p in view.providers],
        "turns": [_turn(t) for t in view.turns[:TURNS]],
    }


def _pin(view: GroupView) -> dict[str, object] | None:
    pin = view.pin
    if pin is None:
        return None
    return {"system": pin.system, "why": pin.why, "author": pin.author, "since": stamp(pin.at_us)}


def _provider(view: GroupView, p: ProviderView) -> dict[str, object]:
    return {
        "system": p.system,
        "breaker": p.gate.state.value,
        "reason": p.gate.reason,
        "detail": p.gate.detail,
        "is_forced": p.gate.is_forced,
        "is_paused": p.gate.is_paused,
        "next_change_s": seconds(p.gate.wait_s),
        "phase": p.trust.phase.value,
        "since": stamp(p.trust.since_us),
        "since_s": seconds(since(view.now_us, p.trust.since_us)),
        "share": p.share,
        "is_live": p.is_live,
        "relapses": p.trust.relapses,
        "canaries": p.trust.canaries,
        "next_phase": p.next_phase.value if p.next_phase else None,
        "next_phase_s": seconds(p.next_s),
        "in_doubt": p.in_doubt,
        "reconciling": p.open,
        "raised": p.raised,
    }


def _turn(figures: TurnView) -> dict[str, object]:
    turn = figures.turn
    return {
        "kind": turn.kind,
        "before": turn.before or None,
        "after": turn.after or None,
        "why": turn.why,
        "author": turn.author or None,
        "failed": stamp(turn.failed_us),
        "at": stamp(turn.at_us),
        "served": stamp(turn.served_us),
        "turned_s": seconds(figures.turned_s),
        "served_s": seconds(figures.served_s),
    }
