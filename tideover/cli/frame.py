"""What all commands share: their common options, JSON or words, and how an error becomes a message and an exit code.

A command is a function `(cli: Cli, ...) -> int | None`, async or not; `framed` makes of it what Typer registers. Its
common options may stand before or after the command's name, and the nearer one counts.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tideover.cli.printing import console, line, plain
from tideover.errors import Refused, TideoverError

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "an error that is none of the following",
    2: "the configuration or the command line is wrong",
    3: "the hub's database can't be used",
    4: "a system's credentials are missing or refused",
    5: "a source can't be read",
    6: "refused: the request makes no sense now",
    7: "the audit found a fault",
    130: "interrupted",
}
INTERRUPTED = 130
_COMMON = "Common options"

HubOption = Annotated[
    Path | None,
    typer.Option(
        "--hub",
        metavar="FILE",
        help="The hub's file. Default: the variable TIDEOVER_HUB, else ./hub.yaml.",
        rich_help_panel=_COMMON,
        show_default=False,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Write JSON, and nothing else, to standard output.", rich_help_panel=_COMMON)
]
DebugOption = Annotated[
    bool, typer.Option("--debug", help="With an error, show where in the code it arose.", rich_help_panel=_COMMON)
]


@dataclass(frozen=True, slots=True)
class Cli:
    """What the common options say."""

    hub: Path | None = None
    as_json: bool = False
    debug: bool = False

    @property
    def hub_file(self) -> Path:
        """The hub's file, absolute; it may not be there."""
        from tideover.bootstrap import hub_file

        return hub_file(self.hub)

    def write_json(self, content: object, *, indent: int | None = 2) -> None:
        """Write one JSON document to standard output."""
        sys.stdout.write(json.dumps(content, indent=indent, ensure_ascii=False) + "\n")
        sys.stdout.flush()

    def note(self, *pieces: str | tuple[object, str]) -> None:
        """Tell people something that is not the command's result, on standard error."""
        console(stderr=True).print(line(*pieces), soft_wrap=True)


Command = Callable[..., Any]  # Any: a command returns an exit code, nothing, or an awaitable of either


def framed(function: Command) -> Callable[..., None]:
    """The command with the common options, to be registered with Typer."""

    def run(ctx: typer.Context, hub: Path | None, as_json: bool, debug: bool, **given: object) -> None:
        outer = ctx.obj if isinstance(ctx.obj, Cli) else Cli()
        ctx.obj = cli = Cli(hub or outer.hub, as_json or outer.as_json, debug or outer.debug)
        if ctx.invoked_subcommand is None and (code := _outcome(cli, function, given)):
            raise typer.Exit(code)

    parameters = _parameters(function)
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__, run.__doc__ = function.__name__, _help(function)
    return run


def _help(function: Command) -> str:
    """The docstring as Typer takes it: a line per paragraph, and no bracket that means a style."""
    paragraphs = (inspect.getdoc(function) or "").split("\n\n")
    return escape("\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs))


def _parameters(function: Command) -> list[inspect.Parameter]:
    """The function's own parameters after the context, then the common ones."""
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter("ctx", keyword, annotation=typer.Context),
        *(p.replace(kind=keyword) for p in own),
        inspect.Parameter("hub", keyword, annotation=HubOption, default=None),
        inspect.Parameter("as_json", keyword, annotation=JsonOption, default=False),
        inspect.Parameter("debug", keyword, annotation=DebugOption, default=False),
    ]


def _outcome(cli: Cli, function: Command, given: Mapping[str, object]) -> int:
    """Run a command to its exit code; every error becomes a message."""
    from tideover.cli.explaining import tell, tell_defect

    try:
        _refuse_undecodable(given)
        code = function(cli, **given)
        if inspect.iscoroutine(code):
            code = asyncio.run(code)
        return int(code or 0)
    except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
        raise  # Typer's own, and a reader of our output that has left
    except KeyboardInterrupt:
        cli.note("interrupted")
        return INTERRUPTED
    except TideoverError as error:
        return tell(cli, error)
    except Exception as error:  # noqa: BLE001 - the outermost loop: nobody else would say it in one line
        return tell_defect(cli, error)


def _refuse_undecodable(given: Mapping[str, object]) -> None:
    """Refuse bytes of the command line that are no text here: Python carries them on as halves of characters, which no
    database stores. A path may have them: it is bytes."""
    for name, value in given.items():
        texts = value if isinstance(value, list) else [value]
        if any(isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text) for text in texts):
            shown = name.strip("_").replace("_", " ")
            raise typer.BadParameter(f"the value of {shown} holds bytes that are no text; write it in UTF-8")


def confirm(cli: Cli, question: str, *, yes: bool) -> None:
    """Ask on a terminal, unless `yes`. Raises `Refused` when the answer is no, or when nobody is there to be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Refused(f"{question} There is no terminal to ask on: say so with --yes")
    if not typer.confirm(plain(question), default=False, err=True):
        raise Refused("nothing was changed")
