"""`deliver/<target>`: what waits for a target goes out, and for a while whatever comes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from contextlib import suppress
from uuid import UUID

from prefect import flow
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.client.schemas.objects import State

from flows.board import publish
from flows.episodes import Companions
from flows.failback import failback
from flows.failover import failover
from flows.outcome import Counts, counts_of, state_of
from flows.visible import logger, show
from tasks import drain, hub
from tideover.errors import HubUnavailable
from tideover.hub.forecasting import forecast
from tideover.hub.progress import EpisodeKind, Progress
from tideover.hub.runtime import Runtime
from tideover.policy.forecast import Course, Forecast
from tideover.staging import ledger

NOTE_EVERY_S = 10.0
FORECAST_EVERY_S = 30.0
SHOW_EVERY_S = 3.0


@flow(name="deliver", flow_run_name="deliver-{target}", persist_result=False, validate_parameters=True)
async def deliver(target: str, linger_s: float = 0.0) -> State[Counts]:
    """Deliver what waits for a target, in order, until it is drained or the target is down.

    Where the target is a failover group, the run's graph shows a failover and a failback when it happens, as the
    subflow `failover` or `failback`, which begins and ends with it.

    Args:
        target: The system or failover group that routes deliver to.
        linger_s: For how many seconds to stay and deliver what is staged meanwhile. While the target is down, a
            lingering run finds out when it is back, and drains at once.
    """
    async with hub() as rt:
        routes = list(rt.routes_to(target))
        before = await rt.store.report(lambda tx: ledger.waiting(tx, routes))
        logger().info("%s records wait for %s", before, target)
        screen = _Screen(rt, target, before)
        progress = await screen.while_running(drain(target, linger_s, on_progress=screen.note))
        await rt.store.compact()  # each settlement added a line; sums must stay cheap
        await publish(rt)
    state = state_of(counts_of(progress))
    logger().info("%s", state.message)
    return state


class _Screen:
    """Keeps what people see of a delivery up to date: its log, a progress artifact, a subflow for each failover and
    failback, and the board when a system goes down, comes back or is drained. None of it can hold up or fail the
    delivery."""

    def __init__(self, rt: Runtime, target: str, before: int) -> None:
        self._rt, self._target, self._before = rt, target, before
        self._noted = (time.monotonic(), 0)
        self._breaker = self._standing = ""
        self._shown = ("", "", before == 0)
        self._companions = Companions(rt, {EpisodeKind.FAILOVER: failover, EpisodeKind.FAILBACK: failback})
        self._bar: UUID | None = None
        self._left, self._course = before, Course.UNKNOWN
        self._foretold_at = time.monotonic()

    async def while_running(self, delivery: Awaitable[Progress]) -> Progress:
        """Show until the delivery ends, and once more how it ended."""
        showing = asyncio.create_task(self._keep_showing())
        try:
            progress = await delivery
            await self._companions.end(progress)
            return progress
        finally:
            await self._companions.leave()
            showing.cancel()
            await asyncio.gather(showing, return_exceptions=True)
            with suppress(HubUnavailable):
                await self._move_bar()

    def note(self, progress: Progress) -> None:
        """Say in the run's log how far it is, now and then, and at once when the breaker changes; show what begins."""
        self._companions.note(progress)
        self._standing = _standing(progress)
        noted_at, delivered = self._noted
        gate = progress.gate
        seen = f"{gate.state.value} {gate.reason}".strip() if gate else ""
        if self._breaker and seen != self._breaker:
            logger().warning("%s: breaker is %s", progress.system, seen)
        elif time.monotonic() - noted_at >= NOTE_EVERY_S and progress.delivered != delivered:
            logger().info("%s: %s delivered, %s parked", self._target, progress.delivered, progress.parked)
            self._noted = (time.monotonic(), progress.delivered)
        self._breaker = seen

    async def _keep_showing(self) -> None:
        while True:
            with suppress(HubUnavailable):
                await self._move_bar()
                now = (self._breaker, self._standing, self._left == 0)
                if now != self._shown:
                    await publish(self._rt)
                self._shown = now
            await asyncio.sleep(SHOW_EVERY_S)

    async def _move_bar(self) -> None:
        """Look when what waits will be delivered, and tell it. A bar for what waited at the beginning; none when
        nothing did."""
        outlook = await forecast(self._rt, self._target)
        self._foretell(outlook)
        has_changed = (outlook.to_go, outlook.course) != (self._left, self._course)
        self._left, self._course = outlook.to_go, outlook.course
        if not self._before:
            return
        share = 100.0 * max(self._before - self._left, 0) / self._before
        told = f"What waits for {self._target}: {outlook}"
        if self._bar is None:
            self._bar = await show(
                acreate_progress_artifact(progress=share, key=f"drain-{self._target}", description=told)
            )
        elif has_changed:
            await show(aupdate_progress_artifact(self._bar, progress=share, description=told))

    def _foretell(self, outlook: Forecast) -> None:
        """Say it in the run's log, now and then while something waits."""
        if outlook.to_go and time.monotonic() - self._foretold_at >= FORECAST_EVERY_S:
            logger().info("%s: %s", self._target, outlook)
            self._foretold_at = time.monotonic()


def _standing(progress: Progress) -> str:
    """How the target's group stands, if it is one, in a text that changes when that does."""
    state = progress.state
    if state is None:
        return ""
    phases = [f"{system} {trust.phase.value}" for system, trust in sorted(state.trusts.items())]
    return ", ".join([f"{state.serving} serves", f"{state.pin.system if state.pin else 'nothing'} pinned", *phases])
