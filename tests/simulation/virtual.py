"""Virtual time: an event loop that never waits, and runs what is ready in an order that a seed decides.

Nothing is watched but the loop's own queues: when nothing is ready, time jumps to the next timer. So `asyncio.sleep`,
`asyncio.timeout` and `call_later` cost nothing, and a history depends on its seed alone. Each callback belongs to a
process, by the context that it runs in, or to the world around them: what belongs to a frozen process is kept until it
wakes.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

_SPIN = 300_000  # callbacks at one instant: more is a loop that waits for nothing


class Spinning(Exception):
    """So much ran without any time passing that it can't be anything but a busy loop."""


class Place:
    """What callbacks belong to: a process that can be frozen. `tasks`: those that it began."""

    def __init__(self) -> None:
        self.is_frozen = False
        self.kept: list[asyncio.Handle] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._prune_at = 64

    def add(self, task: asyncio.Task[Any]) -> None:
        """Remember a task of this process."""
        self.tasks.append(task)
        if len(self.tasks) > self._prune_at:
            self.tasks = [it for it in self.tasks if not it.done()]
            self._prune_at = 2 * len(self.tasks) + 64


PLACE: ContextVar[Place | None] = ContextVar("place", default=None)


class VirtualLoop(asyncio.BaseEventLoop):
    """See the module's text. `shuffle`: how often what runs next is drawn, instead of what came first; 0 to 1."""

    def __init__(self, luck: random.Random, shuffle: float) -> None:
        super().__init__()
        self._luck, self._shuffle = luck, shuffle
        self._now, self._spun = 0.0, 0
        self._outside = Context()
        self.set_task_factory(_make_task)
        self.set_exception_handler(lambda _loop, _context: None)  # of tasks that died with their process

    def time(self) -> float:
        return self._now

    def outside(self, delay_s: float, act: Callable[..., object], *args: Any) -> asyncio.TimerHandle:
        """Run something that belongs to no process: an answer on its way, a system's own work."""
        return self.call_later(delay_s, act, *args, context=self._outside)

    def thaw(self, place: Place) -> None:
        """Let a frozen process go on where it was."""
        place.is_frozen = False
        self._ready.extend(place.kept)  # type: ignore[attr-defined]
        place.kept = []

    # --- what BaseEventLoop asks of a loop ------------------------------------------------------------------

    def _run_once(self) -> None:
        ready = self._ready  # type: ignore[attr-defined]
        if not ready:
            self._jump()
        handle = self._draw(ready)
        if handle._cancelled:
            return
        place = handle._context.get(PLACE)
        if place is not None and place.is_frozen:
            place.kept.append(handle)
            return
        self._spun += 1
        if self._spun > _SPIN:
            raise Spinning(f"{_SPIN} callbacks ran at {self._now:.3f} s")
        handle._run()

    def _draw(self, ready: Any) -> Any:
        if len(ready) > 1 and self._luck.random() < self._shuffle:
            ready.rotate(-self._luck.randrange(len(ready)))
        return ready.popleft()

    def _jump(self) -> None:
        timers = self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not timers:
            raise Spinning(f"nothing is ready and no timer is set at {self._now:.3f} s")
        if timers[0]._when > self._now:
            self._now, self._spun = timers[0]._when, 0
        while timers and timers[0]._when <= self._now:
            handle = heapq.heappop(timers)
            handle._scheduled = False
            self._ready.append(handle)  # type: ignore[attr-defined]

    def _process_events(self, event_list: object) -> None:
        """There are none: no socket and no file is watched."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


def _make_task(
    loop: asyncio.AbstractEventLoop, coro: Coroutine[Any, Any, Any], context: Context | None = None
) -> asyncio.Task[Any]:
    task = asyncio.Task(coro, loop=loop, context=context)
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    place = PLACE.get() if context is None else context.get(PLACE)
    if place is not None:
        place.add(task)
    return task


@contextmanager
def virtual_time(loop: VirtualLoop, luck: random.Random) -> Iterator[None]:
    """The few clocks and ids that the engine takes from the machine come from the loop and the seed."""
    clock = SimpleNamespace(monotonic=loop.time)
    with (
        mock.patch("tideover.staging.piecemeal.time", clock),
        mock.patch("tideover.staging.floors.time", clock),
        mock.patch("tideover.hub.sharing.uuid4", side_effect=lambda: UUID(int=luck.getrandbits(128))),
    ):
        yield
