"""`tideover breaker`: an operator's word over a system's circuit breaker, for the whole cluster."""

from __future__ import annotations

import enum
from typing import Annotated

import typer

from tideover.cli.frame import Cli
from tideover.cli.printing import amount, console, line
from tideover.errors import Refused


class Word(enum.StrEnum):
    """What an operator may say."""

    OPEN = "open"
    CLOSE = "close"
    AUTO = "auto"


_FORCED = {Word.OPEN: "open", Word.CLOSE: "closed", Word.AUTO: "auto"}
_MEANS = {
    Word.OPEN: "is forced open: nothing is sent to it, what comes waits, until you close it or hand it back",
    Word.CLOSE: "is forced closed: it is called whatever happens, until you open it or hand it back",
    Word.AUTO: "is the hub's again: closed, and opened by what happens",
}


async def breaker(
    cli: Cli,
    system: Annotated[str, typer.Argument(metavar="SYSTEM", help="One of the hub's systems.")],
    word: Annotated[Word, typer.Argument(metavar="open|close|auto", help="What to do with its breaker.")],
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for those who read it later.")],
) -> None:
    """Force a system's breaker open or closed for all workers, or hand it back to the hub (auto).

    JSON: system, breaker, is_forced, reason, detail, waiting.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import overview
    from tideover.policy.breaker import State

    if not why.strip():
        raise Refused("--why needs a reason")
    async with open_hub(cli.hub_file) as rt:
        rt.system(system)
        before = await rt.store.gate(system)
        gate = await rt.store.force(system, _FORCED[word], why.strip())
        routes = rt.routes_through(system)
        if before.state is not State.CLOSED and gate.state is State.CLOSED:
            await rt.store.hasten(system, routes)
        view = await overview(rt)
    waiting = sum(r.status.waiting for r in view.routes if r.status.route in routes)
    if cli.as_json:
        told = {"system": system, "breaker": gate.state.value, "is_forced": gate.is_forced, "reason": gate.reason}
        cli.write_json({**told, "detail": gate.detail, "waiting": waiting})
        return
    console().print(line((system, "bold"), f" {_MEANS[word]}"), soft_wrap=True)
    if waiting:
        console().print(line((f"{amount(waiting, 'record waits', 'records wait')} for it", "yellow")))
