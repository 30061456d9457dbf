"""`deliver/<target>`: what waits for a target goes out, and for a while whatever comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import State

from flows.board import publish
from flows.outcome import Counts, counts_of, state_of
from flows.visible import logger, show
from tasks import drain, hub
from tideover.hub.delivery import Progress
from tideover.hub.runtime import Runtime
from tideover.staging import reports

NOTE_EVERY_S = 10.0
PROGRESS_EVERY_S = 3.0


@flow(name="deliver", flow_run_name="deliver-{target}", persist_result=False, validate_parameters=True)
async def deliver(target: str, linger_s: float = 0.0) -> State[Counts]:
    """Deliver what waits for a target, in order, until it is drained or the target is down.

    Args:
        target: The system or failover group that routes deliver to.
        linger_s: For how many seconds to stay and deliver what is staged meanwhile. While the target is down, a
            lingering run finds out when it is back, and drains at once.
    """
    async with hub() as rt:
        before = await _waiting(rt, target)
        logger().info("%s records wait for %s", before, target)
        notes = _Notes(target)
        async with _progress_shown(rt, target, before):
            progress = await drain(target, linger_s, on_progress=notes)
        await publish(rt)
    state = state_of(counts_of(progress))
    logger().info("%s", state.message)
    return state


async def _waiting(rt: Runtime, target: str) -> int:
    routes = list(rt.routes_to(target))
    return await rt.store.report(lambda tx: reports.waiting(tx, routes))


class _Notes:
    """Says now and then in the run's log how far a delivery is, and at once when its system goes down or comes back."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._last = (time.monotonic(), 0, "")

    def __call__(self, progress: Progress) -> None:
        noted_at, delivered, state = self._last
        now = time.monotonic()
        gate = progress.gate
        seen = f"{gate.state.value} {gate.reason}".strip() if gate else ""
        is_due = now - noted_at >= NOTE_EVERY_S and progress.delivered != delivered
        if state and seen != state:
            logger().warning("%s: breaker is %s", progress.system, seen)
        elif is_due:
            logger().info("%s: %s delivered, %s parked", self._target, progress.delivered, progress.parked)
        elif state:
            return
        self._last = (now, progress.delivered, seen)


@asynccontextmanager
async def _progress_shown(rt: Runtime, target: str, before: int) -> AsyncIterator[None]:
    """Keep a progress artifact up to date: what share of what waited at the beginning has gone."""
    if not before:
        yield
        return
    showing = asyncio.create_task(_show_progress(rt, target, before))
    try:
        yield
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)


async def _show_progress(rt: Runtime, target: str, before: int) -> None:
    made: list[UUID] = []

    async def make() -> None:
        key = f"drain-{target}"
        made.append(await acreate_progress_artifact(progress=0.0, key=key, description=f"What waited for {target}"))

    await show(make())
    left = before
    while made and left:
        try:
            await asyncio.sleep(PROGRESS_EVERY_S)
        finally:  # also when the delivery is over: the last word is how it ended
            left = min(await _waiting(rt, target), before)
            await show(aupdate_progress_artifact(made[0], progress=100.0 * (before - left) / before))
