"""A failover or failback in a delivery's graph: a subflow that begins with it, accompanies it, and ends with it.

    engine (decides, delivers) ──▶ Progress.episodes ──▶ Companions ──▶ subflow `failover` or `failback`

The engine never waits for any of this, and nothing that fails here reaches it. Parameters are stored by Prefect, so the
subflow is given only the group's name; the episode itself reaches it beside them, by a context variable.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

from flows.visible import logger, or_directly
from tideover.hub.progress import Episode, EpisodeKind, Progress
from tideover.hub.runtime import Runtime
from tideover.model import SECOND_US
from tideover.policy.failover import Trust

LOOK_S = 0.2
WAIT_AT_THE_END_S = 30.0  # for subflows to say how it ended, once the delivery is over
LEAVE_WITHIN_S = 5.0  # where the delivery failed or was stopped

Subflow = Any  # a flow; the overloads of Prefect's own type fit none that is passed on

_accompanied: ContextVar[Live | None] = ContextVar("tideover_episode", default=None)


@dataclass(slots=True)
class Live:
    """An episode that a delivery under way takes part in, for the subflow that accompanies it."""

    rt: Runtime
    progress: Progress
    episode: Episode
    ended: asyncio.Event  # the delivery is over
    began_us: int = field(default_factory=lambda: int(time.time() * SECOND_US))
    seen: list[tuple[Trust, float]] = field(default_factory=list)  # the provider's trust as it changed; monotonic

    @property
    def group(self) -> str:
        return self.progress.target

    @property
    def trust(self) -> Trust:
        """How far the episode's provider is trusted, as the delivery saw it the last time."""
        state = self.progress.state
        return state.trust(self.episode.after) if state is not None else Trust()

    def look(self) -> None:
        """Note how far the provider is trusted now, if that changed. Also before the subflow has begun."""
        if not self.seen or self.seen[-1][0].phase is not self.trust.phase:
            self.seen.append((self.trust, time.monotonic()))

    async def until(self, is_so: Callable[[], bool], at_most_s: float = float("inf")) -> None:
        """Return when something is so, when the delivery is over, or when the time is up."""
        give_up = time.monotonic() + at_most_s
        while not is_so() and not self.ended.is_set() and time.monotonic() < give_up:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.ended.wait(), LOOK_S)


def accompanied() -> Live | None:
    """The episode that this run accompanies; None where a person or an automation started it."""
    return _accompanied.get()


class Companions:
    """Starts a subflow for each episode of a delivery, and a further one for each further attempt to come back."""

    def __init__(self, rt: Runtime, subflows: Mapping[EpisodeKind, Subflow]) -> None:
        self._rt, self._subflows = rt, subflows
        self._context = copy_context()  # of the run: subflows belong to it, not to its task
        self._ended = asyncio.Event()
        self._begun: list[tuple[Live, asyncio.Task[None]]] = []

    def note(self, progress: Progress) -> None:
        """Begin to accompany what is new."""
        for live, task in self._begun:
            if not task.done():
                live.look()
        for episode in progress.episodes:
            if self._is_new(episode):
                live = Live(self._rt, progress, episode, self._ended)
                live.look()
                accompanying = self._accompany(live, self._subflows[episode.kind])
                task = asyncio.get_running_loop().create_task(accompanying, context=self._context.copy())
                self._begun.append((live, task))

    def _is_new(self, episode: Episode) -> bool:
        tasks = [task for live, task in self._begun if live.episode is episode]
        if not tasks:
            return True
        # One that relapsed may try again before its episode is forgotten.
        may_return = episode.kind is EpisodeKind.FAILBACK and not episode.is_over and not self._ended.is_set()
        return may_return and all(task.done() and not task.cancelled() and not task.exception() for task in tasks)

    async def _accompany(self, live: Live, subflow: Subflow) -> None:
        _accompanied.set(live)
        await or_directly(lambda: subflow(live.group, return_state=True), lambda: subflow.fn(live.group))

    async def end(self, progress: Progress) -> None:
        """The delivery is over: let the subflows say how their episodes ended, for a while."""
        self._ended.set()
        self.note(progress)
        await self._wait(WAIT_AT_THE_END_S)

    async def leave(self) -> None:
        """Stop whatever is not over in a moment, and tell of what failed; never raises for it."""
        self._ended.set()
        await self._wait(LEAVE_WITHIN_S)
        for _, task in self._begun:
            task.cancel()
        await self._wait(LEAVE_WITHIN_S)
        for _, task in self._begun:
            if task.done() and (task.cancelled() or task.exception()):
                reason = "cancelled" if task.cancelled() else type(task.exception()).__name__
                logger().warning("a failover or failback could not be shown: %s", reason)

    async def _wait(self, at_most_s: float) -> None:
        if under_way := [task for _, task in self._begun if not task.done()]:
            await asyncio.wait(under_way, timeout=at_most_s)
