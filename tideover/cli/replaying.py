"""`tideover replay`: parked records sent again, or corrected."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import orjson
import typer

from tideover.cli.frame import Cli, confirm
from tideover.cli.printing import amount, busy, console, line, number
from tideover.cli.selecting import CodeOption, RouteOption, YesOption, matching, require_all
from tideover.errors import Refused
from tideover.model import JsonObject

if TYPE_CHECKING:
    from tideover.hub.replay import Replayed

PAYLOAD_MAX_BYTES = 64 * 2**20  # far above what a record may be; a device or a pipe without an end stops here


async def replay(
    cli: Cli,
    records: Annotated[
        list[str] | None, typer.Argument(metavar="[RECORD]...", help="The records' ids.", show_default=False)
    ] = None,
    route: RouteOption = None,
    code: CodeOption = None,
    everything: Annotated[bool, typer.Option("--all", help="Every parked record of the hub.")] = False,
    payload: Annotated[
        Path | None,
        typer.Option(
            "--payload",
            metavar="FILE",
            help="For one record: what the target gets in its place, as a JSON object; - reads standard input.",
            show_default=False,
        ),
    ] = None,
    yes: YesOption = False,
) -> None:
    """Send parked records again, each under the idempotency key that it always had, so that twice does one thing.

    What was parked at intake is mapped anew. With --payload, a corrected record takes the parked one's place, under a
    key of its own. Delivery is the next run's: this only puts them back into their lanes.

    What was parked at intake, and a newer version of its key has passed, is sent only where its id is given.

    JSON: replayed, still_broken (records that today's mapping can't turn into anything either), left (others that stay
    parked); and those closed with nothing to send: unchanged (the newest of its key says the same), left_out (by
    today's mapping) and superseded (by a newer version).
    """
    if payload is not None:
        await _correct(cli, records or [], payload)
        return
    if not (records or route or code or everything):
        raise Refused("say what to replay: RECORD ids, --route, --code, or --all")
    if everything and (records or route or code):
        raise Refused("--all is every parked record; leave it out, or everything else")
    await _replay(cli, tuple(records or ()), route, code, yes=yes)


async def _replay(cli: Cli, records: tuple[str, ...], route: str | None, code: str | None, *, yes: bool) -> None:
    from tideover.bootstrap import open_hub
    from tideover.hub import replay as replaying
    from tideover.staging.parking import Selection

    selection = Selection(route=route, records=records, code=code)
    async with open_hub(cli.hub_file, create=False) as rt:
        found = await matching(rt, selection)
        require_all(records, found)
        if not found:
            raise Refused("nothing that fits is parked; `tideover parked` lists what is")
        selection = replace(selection, until=found[-1].id)  # what is counted in the question, and no more
        confirm(cli, f"Replay {amount(len(found), 'parked record')}?", yes=yes)
        # What a mapping prints is no part of our answer.
        with busy(f"replaying {amount(len(found), 'record')}"), redirect_stdout(sys.stderr):
            done = await replaying.replay(rt, selection)
    if cli.as_json:
        cli.write_json(done.counts)
        return
    console().print(line((told(done), "green")))
    if done.still_broken:
        cli.note((f"{amount(done.still_broken, 'record')} can still not be mapped, and stay parked", "yellow"))
    if done.left:
        cli.note((f"{amount(done.left, 'record was', 'records were')} left alone, and stay parked", "yellow"))
    if done.why:
        cli.note((done.why, "yellow"))


def told(done: Replayed) -> str:
    """`3 records wait to be delivered again, 50 unchanged`."""
    rest = {
        "unchanged": done.unchanged,
        "left out by the mapping": done.left_out,
        "superseded by newer versions": done.superseded,
    }
    waits = f"{amount(done.replayed, 'record waits', 'records wait')} to be delivered again"
    return ", ".join((waits, *(f"{number(count)} {what}" for what, count in rest.items() if count)))


async def _correct(cli: Cli, records: list[str], payload: Path) -> None:
    from tideover.bootstrap import open_hub
    from tideover.hub.replay import Replayed, correct

    if len(records) != 1:
        raise Refused("--payload corrects one record: name exactly one")
    corrected = _read_object(payload)
    async with open_hub(cli.hub_file, create=False) as rt:
        await correct(rt, records[0], corrected)
    if cli.as_json:
        cli.write_json(Replayed(1).counts)
    else:
        console().print(line((f"the corrected record waits in place of {records[0]}", "green")))


def _read_object(file: Path) -> JsonObject:
    """The JSON object in a file, or on standard input for `-`. Raises `Refused`, without quoting the content."""
    try:
        if str(file) == "-":
            raw = sys.stdin.buffer.read(PAYLOAD_MAX_BYTES + 1)
        else:
            with file.open("rb") as opened:
                raw = opened.read(PAYLOAD_MAX_BYTES + 1)
    except OSError as error:
        raise Refused(f"{file} can't be read: {error.strerror}") from error
    if len(raw) > PAYLOAD_MAX_BYTES:
        raise Refused(
            f"{file} is longer than {PAYLOAD_MAX_BYTES // 2**20} MiB: a record is one JSON object, and smaller"
        )
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise Refused(f"{file} is not JSON: line {error.lineno}, column {error.colno}") from None
    if not isinstance(found, dict):
        raise Refused(f"{file} holds no JSON object: a record is one")
    return found
