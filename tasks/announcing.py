"""Handing the hub's events to Prefect from outside of a run, and knowing that they arrived."""

from __future__ import annotations

import asyncio
import logging

from prefect.events import Event, Resource
from prefect.events.clients import get_events_client
from prefect.settings import PREFECT_API_URL

from tasks.session import described
from tideover.errors import HubUnavailable
from tideover.hub.runtime import Runtime

WAIT_S = 10.0


async def announce_now(rt: Runtime) -> bool:
    """Emit every event that nobody has announced yet, each confirmed by the API before it is marked.

    False, and the rest is left for the next run, where no API is configured or it does not answer in time.
    """
    if not PREFECT_API_URL.value():  # else Prefect would start a server of its own
        return False
    logging.getLogger("prefect.events.clients").setLevel(logging.ERROR)  # its warning is what False says
    try:
        async with asyncio.timeout(WAIT_S), get_events_client(reconnection_attempts=0, checkpoint_every=1) as client:
            while recorded := await rt.store.unannounced():
                for event in recorded:
                    told = described(event)
                    await client.emit(Event(**{**told, "resource": Resource(told["resource"])}))
                    await rt.store.mark_announced([event.id])
    except HubUnavailable:
        raise
    except Exception:  # noqa: BLE001 - whatever kept them from arriving, they are kept
        return False
    return True
