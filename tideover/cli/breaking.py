"""`tideover breaker`: an operator's word over a system's circuit breaker, for the whole cluster."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

from tideover.cli.announcing import announce
from tideover.cli.frame import Cli
from tideover.cli.printing import amount, console, line
from tideover.cli.signing import WhyOption, reason

if TYPE_CHECKING:
    from tideover.staging.systems import Gate


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
    why: WhyOption,
) -> None:
    """Force a system's breaker open or closed for all workers, or hand it back to the hub (auto).

    JSON: system, breaker, is_forced, reason, detail, waiting.
    """
    from tideover.bootstrap import open_hub
    from tideover.hub.overview import overview
    from tideover.policy.breaker import State

    said = reason(why)
    async with open_hub(cli.hub_file, create=False) as rt:
        rt.system(system)
        before = await rt.store.gate(system)
        gate = await rt.store.force(system, _FORCED[word], said)
        routes = rt.routes_through(system)
        if before.state is not State.CLOSED and gate.state is State.CLOSED:
            await rt.store.hasten(system, routes)
        view = await overview(rt)
        _tell(cli, system, word, gate, sum(view.waiting(route) for route in routes))
        await announce(cli, rt)


def _tell(cli: Cli, system: str, word: Word, gate: Gate, waiting: int) -> None:
    if cli.as_json:
        told = {"system": system, "breaker": gate.state.value, "is_forced": gate.is_forced, "reason": gate.reason}
        cli.write_json({**told, "detail": gate.detail, "waiting": waiting})
        return
    console().print(line((system, "bold"), f" {_MEANS[word]}"), soft_wrap=True)
    if waiting:
        console().print(line((f"{amount(waiting, 'record waits', 'records wait')} for it", "yellow")))
