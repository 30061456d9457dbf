"""The resident peak of one process that stages a backlog, drains it in bulk and audits it: `memory`. Run as a module it
is that process; it reads its own peak, `VmHWM` on Linux, after each step.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from bench.places import ROUTE, Place, fill, http_connector, hub_config
from bench.sink import running_sink
from tideover.bootstrap import collect_less_often
from tideover.config.models import System
from tideover.connectors.port import Connector
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Ending
from tideover.hub.runtime import Runtime
from tideover.staging.database import open_database
from tideover.staging.store import Store

LIMIT_MB = 300.0
FLAT = 1.2  # with twice as many records


async def memory(place: Place) -> None:
    """The peak after each step, and that of half the records beside it."""
    count = 100_000 if place.is_quick else 1_000_000
    figures = place.figures
    with running_sink() as url:
        for kind in place.kinds:
            few = await _peaks(place, kind, url, count // 2)
            many = await _peaks(place, kind, url, count)
            for step, peak in many.items():
                figures.add("memory", kind, f"{count:,} records: peak when {step}", [peak], "MB")
            figures.limit("memory", kind, f"{count:,} records: peak", many["audited"], "MB", LIMIT_MB)
            grown = many["audited"] / few["audited"]
            # Few records do not fill SQLite's page cache, so that only many show whether the peak is flat.
            flat = None if place.is_quick else FLAT
            figures.ratio("memory", kind, f"peak, {count:,} records against {count // 2:,}", grown, at_most=flat)


async def _peaks(place: Place, kind: str, url: str, count: int) -> dict[str, float]:
    task = json.dumps({"url": place.new_url(kind), "sink": url, "count": count})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.memory", task, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, f"exit code {process.returncode}"
    peaks: dict[str, float] = json.loads(out)
    return peaks


async def _measure(url: str, sink: str, count: int) -> None:
    async def connect(name: str, system: System) -> Connector:
        return http_connector(name, system, sink)

    collect_less_often()
    rt = Runtime(hub_config({ROUTE: "bulk"}), Store(open_database(url)), connect)
    try:
        await rt.store.migrate()
        peaks = {"started": peak_mb()}
        await fill(rt.store, 0, count, size=1_000)
        peaks["staged"] = peak_mb()
        progress = await Delivery(rt, f"to-{ROUTE}").run()
        assert (progress.delivered, progress.ending) == (count, Ending.DRAINED), progress
        peaks["drained"] = peak_mb()
        audit = await rt.store.audit([ROUTE])
        assert all(route.difference == 0 and not route.faults for route in audit), audit
        peaks["audited"] = peak_mb()
        print(json.dumps(peaks), flush=True)
    finally:
        await rt.close()


def peak_mb() -> float:
    """This process's highest resident size so far."""
    status = Path("/proc/self/status")
    if status.exists():
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes, where there is no /proc


if __name__ == "__main__":
    asyncio.run(_measure(**json.loads(sys.argv[1])))
