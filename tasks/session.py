"""The hub that a run works with: opened once per run, shared by its tasks and subflows, closed at its end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

from prefect.events import emit_event

from tideover.bootstrap import open_hub
from tideover.hub.runtime import Runtime
from tideover.model import instant
from tideover.staging.events import Recorded

_current: ContextVar[Runtime | None] = ContextVar("tideover_hub", default=None)


@asynccontextmanager
async def hub() -> AsyncIterator[Runtime]:
    """The hub of this run. Inside another `hub()` it is that one; a task outside of any opens one for itself.

    The hub's file is what `TIDEOVER_HUB` says, else `hub.yaml` in the working directory.
    """
    opened = _current.get()
    if opened is not None:
        yield opened
        return
    async with open_hub(announce=announce) as rt:
        token = _current.set(rt)
        try:
            yield rt
        finally:
            _current.reset(token)


def announce(recorded: Recorded) -> None:
    """Emit a hub's event as a Prefect event, so that automations can act on it."""
    emit_event(**described(recorded))


def described(recorded: Recorded) -> dict[str, Any]:
    """A hub's event in the words of a Prefect event."""
    event = recorded.event
    kind = event.name.split(".")[1]  # tideover.system.down is about a system
    return {
        "event": event.name,
        "id": recorded.identity,
        "occurred": instant(recorded.at_us),
        "resource": {
            "prefect.resource.id": f"tideover.{kind}.{event.subject}",
            "prefect.resource.name": event.subject,
            "tideover.kind": kind,
        },
        "payload": dict(event.detail),
    }
