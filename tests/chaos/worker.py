"""A worker as a process of its own: reads every route's source and delivers to every target, until SIGTERM.

    python -m tests.chaos.worker HUB_FILE '{"crm": "http://127.0.0.1:20001", ...}' --margin-s 1

It does what scheduled runs of `sync` and `deliver` do, without Prefect. What happens is told on stdout, one JSON object
a line: `ready`, `staged`, `delivered` (counts so far), `unavailable` (the database, and after how long), `source`
(a source that could not be read) and `stopped`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import time
from contextlib import suppress
from typing import Any

from tests.twinhubs import TwinSecrets
from tideover.bootstrap import open_hub
from tideover.errors import HubUnavailable, SourceError
from tideover.hub import intake
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Progress
from tideover.hub.runtime import Runtime

READ_EVERY_S = 0.05
AGAIN_AFTER_S = 0.1
LINGER_S = 3600.0


def say(what: str, **facts: Any) -> None:
    print(json.dumps({"what": what, **facts}), flush=True)


class Worker:
    def __init__(self, margin_s: float) -> None:
        self._margin_s = margin_s
        self._stop = asyncio.Event()
        self._totals: dict[str, dict[str, int]] = {}

    async def run(self, file: str, secrets: TwinSecrets) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        began = time.monotonic()
        while not self._stop.is_set():
            try:
                async with open_hub(file, secrets=secrets) as rt:
                    say("ready")
                    await self._work(rt)
            except HubUnavailable as error:
                await self._note_unavailable("start", error, began)
                began = time.monotonic()
        say("stopped")

    async def _work(self, rt: Runtime) -> None:
        async with asyncio.TaskGroup() as group:
            for route in rt.config.routes:
                group.create_task(self._read(rt, route))
            for target in rt.config.targets:
                group.create_task(self._deliver(rt, target))

    async def _read(self, rt: Runtime, route: str) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                staged = await intake.stage(rt, await intake.extract(rt, route))
                if staged.staged:
                    say("staged", route=route, count=staged.staged)
            except HubUnavailable as error:
                await self._note_unavailable("read", error, began)
            except SourceError as error:
                say("source", error=type(error).__name__)
            await self._pause(READ_EVERY_S)

    async def _deliver(self, rt: Runtime, target: str) -> None:
        while not self._stop.is_set():
            before = dict(self._totals.get(target, {}))
            began = time.monotonic()

            def note(progress: Progress, before: dict[str, int] = before) -> None:
                nonlocal began
                began = time.monotonic()
                self._note_progress(progress, before)

            delivery = Delivery(
                rt, target, linger_s=LINGER_S, stop=self._stop, on_progress=note, lease_margin_s=self._margin_s
            )
            try:
                note(await delivery.run())
            except HubUnavailable as error:
                self._note_progress(delivery.progress, before)
                await self._note_unavailable("deliver", error, began)

    def _note_progress(self, progress: Progress, before: dict[str, int]) -> None:
        counts = {name: getattr(progress, name) + before.get(name, 0) for name in ("delivered", "parked", "refused")}
        if self._totals.get(progress.target) != counts:
            self._totals[progress.target] = counts
            say("delivered", target=progress.target, **counts)

    async def _note_unavailable(self, where: str, error: HubUnavailable, began: float) -> None:
        """`after_s`: since the attempt began, or since the delivery last told of itself."""
        say("unavailable", where=where, error=str(error), after_s=round(time.monotonic() - began, 3))
        await self._pause(AGAIN_AFTER_S)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stop.wait(), seconds)


def main() -> None:
    parser = argparse.ArgumentParser("python -m tests.chaos.worker")
    parser.add_argument("file", help="the hub's file")
    parser.add_argument("urls", type=json.loads, help="each twin's address, as JSON")
    parser.add_argument("--margin-s", type=float, required=True, help="how much longer than a call a lease lasts")
    given = parser.parse_args()
    asyncio.run(Worker(given.margin_s).run(given.file, TwinSecrets(given.urls)))


if __name__ == "__main__":
    main()
