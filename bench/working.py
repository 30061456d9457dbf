"""One, two and four workers, each a process of its own, on one PostgreSQL: `workers`. Run as a module it is one worker.

Their sink is a connector that accepts at once without sending, so that only the hub and the database are measured: on a
machine with few cores those are the limit, for one worker as for four. And one whose calls take 50 ms, like those to a
provider far away: there a worker mostly waits, and another one doubles what is under way.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from bench.places import ROUTE, Place, fill, hub_config, nowhere
from tideover.bootstrap import collect_less_often
from tideover.config.models import System
from tideover.connectors.port import Connector
from tideover.hub.delivery import Delivery
from tideover.hub.runtime import Runtime
from tideover.staging.database import open_database
from tideover.staging.store import Store

CALL_S = 0.05
NUMBERS = (1, 2, 4)


async def workers(place: Place) -> None:
    """Records a second by the number of workers, and what a second and a fourth one bring."""
    if "postgresql" not in place.kinds:
        place.figures.missing("workers", "-", "1, 2 and 4 workers", "not measured: needs PostgreSQL")
        return
    for name, call_s, count in (("no-op connector", 0.0, 20_000), (f"calls of {CALL_S * 1000:.0f} ms", CALL_S, 4_000)):
        total = count if place.is_quick else 4 * count
        rates: dict[int, list[float]] = {number: [] for number in NUMBERS}
        for _ in range(place.rounds):
            for number in NUMBERS:
                rates[number].append(total / await _timed(place, number, total, call_s))
        figures = place.figures
        medians = {
            n: figures.add("workers", "postgresql", f"{name}, workers: {n}", r, "records/s") for n, r in rates.items()
        }
        # With no-op calls, workers and database share the cores: it can hold only where there are more of them.
        has_room = call_s > 0 or (os.cpu_count() or 1) > 2 * max(NUMBERS)
        for number in NUMBERS[1:]:
            least = 1.7 if number == 2 and has_room else None
            what = f"{name}, {number} workers against one ({os.cpu_count()} cores)"
            figures.ratio("workers", "postgresql", what, medians[number] / medians[1], at_least=least)


async def _timed(place: Place, number: int, total: int, call_s: float) -> float:
    """The seconds from the word to go until the last worker has found nothing more to do."""
    url = place.new_url("postgresql")
    store = Store(open_database(url))
    await store.migrate()
    await fill(store, 0, total)
    place.settle_down(store)
    await store.close()
    task = json.dumps({"url": url, "call_s": call_s})
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "bench.working",
            task,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(number)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            await process.stdout.readline()
        began = time.monotonic()
        answers = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
        ended = [json.loads(out) for out, _ in answers]
        assert sum(answer["delivered"] for answer in ended) == total, ended
        return max(float(answer["ended"]) for answer in ended) - began
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
                await process.wait()


async def _work(url: str, call_s: float) -> None:
    collect_less_often()

    async def connect(name: str, system: System) -> Connector:
        return nowhere(name, system, call_s)

    rt = Runtime(hub_config({ROUTE: "one"}), Store(open_database(url)), connect)
    try:
        await rt.store.check_schema()
        print("ready", flush=True)
        sys.stdin.readline()
        progress = await Delivery(rt, f"to-{ROUTE}").run()
        print(json.dumps({"delivered": progress.delivered, "ended": time.monotonic()}), flush=True)
    finally:
        await rt.close()


if __name__ == "__main__":
    asyncio.run(_work(**json.loads(sys.argv[1])))
