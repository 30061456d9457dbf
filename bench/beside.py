"""The hub beside other systems that do the same work: the same records, the same PostgreSQL server, the same sink, in
turn in one run, each in a process of its own.

What is compared is not the same promise. The hub keeps order per key, drops what has not changed, moves the source's
cursor in the same transaction and writes each attempt before and after the call; the others do none of that, and DBOS
and Prefect keep a history of each record of their own. `docs/performance.md` says what the ratios mean.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from bench import limits, staging
from bench.delivering import batches_of, through_client
from bench.places import Place, fill, hub_config, running
from bench.sink import running_sink
from tideover.hub.delivery import Delivery
from tideover.hub.progress import Ending

ROOT = Path(__file__).parent.parent
ENVIRONMENT = ROOT / ".venv-bench"
ABSENT = "not installed: make bench installs it"
TOO_LONG_S = 600.0
PARTS = {
    "stage": "stage",
    "store": "claim and settle, by the store alone",
    "consume": "consume, nothing sent",
    "post": "consume, one POST each",
}


@dataclass(frozen=True, slots=True)
class Peer:
    """`consume`, `post`: how many records a quick run gives it; the long run, four times as many. `package`: what has
    to be installed. `has_own_environment`: not the project's. `keeps_database`: one for all rounds, as a new one takes
    it long to set up."""

    name: str
    module: str
    package: str
    consume: int
    post: int
    has_own_environment: bool = True
    keeps_database: bool = False

    @property
    def python(self) -> str:
        return str(ENVIRONMENT / "bin" / "python") if self.has_own_environment else sys.executable

    @property
    def is_runnable(self) -> bool:
        return Path(self.python).exists()


PEERS = (
    Peer("pgqueuer", "pgqueuer", "pgqueuer", 15_000, 4_000),
    Peer("procrastinate", "procrastinate", "procrastinate", 600, 500),
    Peer("DBOS", "dbos", "dbos", 800, 500),
    Peer("Celery on Valkey", "celery", "celery", 2_000, 1_500),
    Peer(
        "a Prefect task per record",
        "prefect",
        "prefect",
        150,
        150,
        has_own_environment=False,
        keeps_database=True,
    ),
)
# part, ours on, the peer, at least: from the project's targets. What peers do with a record that goes nowhere, the hub
# does by a whole delivery with a connector that accepts at once; its store alone does less than a peer's worker.
TARGETS = (
    ("stage", "postgresql", "pgqueuer", 1.0),
    ("stage", "sqlite", "pgqueuer", None),
    ("consume", "postgresql", "pgqueuer", 3.0),
    ("consume", "postgresql", "procrastinate", 60.0),
    ("consume", "postgresql", "DBOS", 60.0),
    ("consume", "postgresql", "Celery on Valkey", None),
    ("consume", "sqlite", "pgqueuer", 2.0),
    ("post", "postgresql", "pgqueuer", 1.5),
    ("post", "sqlite", "pgqueuer", 1.5),
    ("post", "postgresql", "procrastinate", None),
    ("post", "postgresql", "DBOS", None),
    ("post", "postgresql", "Celery on Valkey", None),
    ("post", "postgresql", "a Prefect task per record", 60.0),
    ("post", "sqlite", "a Prefect task per record", 60.0),
    ("post", "postgresql", "bare aiohttp loop", 0.7),
    ("post", "sqlite", "bare aiohttp loop", 0.7),
)
Samples = dict[tuple[str, str], list[float]]  # by part and whose


async def peers(place: Place) -> None:
    """Ours on each database, the floors and each peer, in turn; then the ratios."""
    present = [peer for peer in PEERS if await is_there(place, peer)]
    samples: Samples = defaultdict(list)
    kept: dict[str, str] = {}
    with running_sink() as url:
        for number in range(place.rounds):
            print(f"  round {number + 1} of {place.rounds}", flush=True)
            await _floors(place, url, samples)
            for kind in place.kinds:
                await _ours(place, kind, url, samples)
            for peer in list(present):
                try:
                    await _theirs(place, peer, url, kept, samples)
                except Exception as error:  # noqa: BLE001 - whatever ails a peer, the others go on
                    place.figures.fail("peers", peer.name, str(error))
                    present.remove(peer)
    _show(place, samples)


async def is_there(place: Place, peer: Peer) -> bool:
    """Whether it can be started; says so where it can't."""
    if "postgresql" not in place.kinds:
        place.figures.missing("peers", "-", peer.name, "not measured: needs PostgreSQL")
        return False
    if peer.is_runnable:
        probe = await asyncio.create_subprocess_exec(
            peer.python,
            "-c",
            f"import importlib.metadata as m; print(m.version({peer.package!r}))",
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        version = (await probe.communicate())[0].decode().strip()
        if probe.returncode == 0:
            print(f"  {peer.name} {version}", flush=True)
            place.figures.versions[peer.package] = version
            return True
    place.figures.missing("peers", "-", peer.name, ABSENT)
    return False


async def _floors(place: Place, url: str, samples: Samples) -> None:
    total = 4_000 if place.is_quick else 16_000
    bodies = list(batches_of(total, 1))
    samples["post", "bare aiohttp loop"].append(total / await through_client(url, "one", bodies))
    samples["post", "the sink's limit, one at a time"].append(await limits.posts_per_s(url, 4 * total))
    samples["post", "the sink's limit, pipelined"].append(await limits.posts_per_s(url, 8 * total, ahead=limits.AHEAD))


async def _ours(place: Place, kind: str, url: str, samples: Samples) -> None:
    consume, post = (15_000, 4_000) if place.is_quick else (60_000, 16_000)
    async with place.store(kind) as store:
        samples["stage", kind].append(await staging.stage_all(store, consume))
        place.settle_down(store)
        samples["store", kind].append(await staging.through_store(store, consume))
    for part, count, where in (("consume", consume, None), ("post", post, url)):
        async with running(place, kind, hub_config({"orders": "one"}), where) as rt:
            await fill(rt.store, 0, count)
            place.settle_down(rt.store)
            began = time.perf_counter()
            progress = await Delivery(rt, "to-orders").run()
            samples[part, kind].append(count / (time.perf_counter() - began))
            assert (progress.delivered, progress.ending) == (count, Ending.DRAINED), progress


async def _theirs(place: Place, peer: Peer, url: str, kept: dict[str, str], samples: Samples) -> None:
    dsn = kept.get(peer.name) or place.new_url("postgresql").replace("postgresql+asyncpg", "postgresql")
    if peer.keeps_database:
        kept[peer.name] = dsn
    folder = place.folder / f"peer-{peer.module}-{time.monotonic_ns()}"
    folder.mkdir()
    more = 1 if place.is_quick else 4
    counts = {"consume": peer.consume * more, "post": peer.post * more}
    took = await _run(peer, {"dsn": dsn, "sink": url, "folder": str(folder), **counts})
    for part, took_s in took.items():
        samples[part, peer.name].append(counts["post" if part == "post" else "consume"] / took_s)


async def _run(peer: Peer, task: dict[str, object]) -> dict[str, float]:
    """The seconds that each part took. Raises `RuntimeError` with the end of what it said when it fails."""
    process = await asyncio.create_subprocess_exec(
        peer.python,
        "-m",
        f"bench.peers.{peer.module}",
        json.dumps(task),
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, said = await asyncio.wait_for(process.communicate(), TOO_LONG_S)
    except TimeoutError:
        process.terminate()
        await process.wait()
        raise RuntimeError(f"took longer than {TOO_LONG_S:.0f} s") from None
    if process.returncode != 0 or not out.strip():
        last = said.decode(errors="replace").strip().splitlines()[-3:]
        raise RuntimeError(f"exit code {process.returncode}: {' / '.join(last)}")
    answer: dict[str, float] = json.loads(out.splitlines()[-1])
    return answer


def _show(place: Place, samples: Samples) -> None:
    figures = place.figures
    medians: dict[tuple[str, str], float] = {}
    for part, title in PARTS.items():
        for (of, whose), rates in samples.items():
            if of == part:
                database, what = (whose, "tideover") if whose in place.kinds else ("-", whose)
                medians[part, whose] = figures.add("peers", database, f"{title}: {what}", rates, "records/s")
    for part, kind, peer, at_least in TARGETS:
        ours, theirs = medians.get((part, kind)), medians.get((part, peer))
        if ours and theirs:
            what = f"{PARTS[part]}, against {peer}"
            figures.ratio("peers", kind, what, ours / theirs, at_least=at_least)
