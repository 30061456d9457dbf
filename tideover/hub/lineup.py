"""Preparing a delivery: a line for each of the target's systems that can be called at all."""

from __future__ import annotations

from tideover.errors import AccessError
from tideover.hub.line import Line
from tideover.hub.progress import Progress
from tideover.hub.routing import shapes
from tideover.hub.terms import Terms
from tideover.model import CREDENTIALS, Unsent
from tideover.policy.breaker import Result
from tideover.staging.systems import Gate


async def line_up(terms: Terms, target: str, progress: Progress) -> dict[str, Line]:
    """The lines by system, and their gates noted in `progress`. A provider whose credentials can't be had is out, and
    the others go on. Raises `AccessError` where nobody is left, and `HubUnavailable`."""
    rt = terms.rt
    wanted = shapes(rt.config, target, rt.folder)
    lines: dict[str, Line] = {}
    refused: AccessError | None = None
    for system in rt.config.systems_of(target):
        try:
            connector = await rt.connector(system)
        except AccessError as error:
            refused = error
            if terms.group:
                progress.gates[system] = await _put_out(terms, system, error)
            continue
        gate, is_draining = await rt.store.gate(system), await rt.store.is_undrained(system)
        lines[system] = Line(terms, system, connector, gate, wanted.get(system), is_draining=is_draining)
        progress.gates[system] = gate
    if refused is not None and not lines:
        raise refused
    return lines


async def _put_out(terms: Terms, system: str, error: AccessError) -> Gate:
    """Let it count for the system's breaker, so that the group's policy knows; its gate after that."""
    rt = terms.rt
    rule = rt.breaker_rule(system, has_probe=rt.system(system).rest.probe is not None)
    return await rt.store.tell(system, Result("", 0, Unsent(CREDENTIALS, str(error))), rule)
