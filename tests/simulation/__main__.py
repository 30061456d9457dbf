"""Run histories from seeds, many at a time, or tell one.

    python -m tests.simulation --seeds 20000 [--first 0] [--jobs 2] [--days 30]
    python -m tests.simulation --seed 1132 [--whole]

Both end with exit code 1 when a promise was broken, and tell the shortest story of the first failure that was found
(`--whole`: the whole one). Ctrl-C lets the histories that have begun end, sums up what was run, and exits with 130.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice

from tests.simulation.plan import DAY_S
from tests.simulation.scenario import scenario_of
from tests.simulation.story import shortest, tell
from tests.simulation.verdict import HARD_PLACES, Failed
from tests.simulation.world import run

SLICE = 10  # seeds per piece of work
HOUR_S = 3600.0
INTERRUPTED = 130  # as a shell says of a command that Ctrl-C ended


@dataclass
class Tally:
    """What a number of histories came to. `failed`: by seed; `reached`: how many went through which hard place."""

    seeds: int = 0
    virtual_s: float = 0.0
    records: float = 0
    effects: float = 0
    transactions: float = 0
    failed: dict[int, Failed] = field(default_factory=dict)
    reached: Counter[str] = field(default_factory=Counter)
    was_stopped: bool = False

    def add(self, other: Tally) -> None:
        self.seeds += other.seeds
        self.virtual_s += other.virtual_s
        self.records += other.records
        self.effects += other.effects
        self.transactions += other.transactions
        self.failed.update(other.failed)
        self.reached.update(other.reached)

    def __str__(self) -> str:
        time_told = (
            f"{self.virtual_s / DAY_S:,.1f} days" if self.virtual_s > DAY_S else f"{self.virtual_s / HOUR_S:.1f} h"
        )
        return (
            f"{self.seeds:,} histories, {time_told} of virtual time, {self.records:,.0f} records, "
            f"{self.effects:,.0f} effects, {self.transactions:,.0f} transactions, {len(self.failed)} failed"
        )


def run_seeds(first: int, count: int, days: float | None) -> Tally:
    """The histories of some seeds, one after the other."""
    tally = Tally()
    for seed in range(first, first + count):
        verdict = run(scenario_of(seed, days=days))
        figures = verdict.figures
        failed = {seed: verdict.failed} if verdict.failed else {}
        counted = figures["virtual_s"], figures["records"], figures["effects"], figures["transactions"]
        tally.add(Tally(1, *counted, failed, Counter(verdict.reached)))
    return tally


def run_all(first: int, count: int, jobs: int, days: float | None) -> Tally:
    """The same in several processes, with its progress on standard error."""
    starts = iter(range(first, first + count, SLICE))
    total, began, told_at = Tally(), time.monotonic(), 0.0
    with ProcessPoolExecutor(jobs, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:

        def submit(number: int) -> Iterator[Future[Tally]]:
            for start in islice(starts, number):
                yield pool.submit(run_seeds, start, min(SLICE, first + count - start), days)

        running = set(submit(2 * jobs))
        while running:
            try:
                done, rest = wait(running, return_when=FIRST_COMPLETED)
            except KeyboardInterrupt:
                total.was_stopped = True
                print("stopping; what has begun ends first ...", file=sys.stderr)
                done = {piece for piece in running if not piece.cancel()}
                rest = set()
            for piece in done:
                _count(total, piece.result())
            running = rest | (set() if total.was_stopped else set(submit(len(done))))
            if time.monotonic() - told_at > 5 or not running:
                told_at = time.monotonic()
                _progress(total, count, told_at - began)
    return total


def _count(total: Tally, piece: Tally) -> None:
    total.add(piece)
    for seed, failed in piece.failed.items():
        print(f"seed {seed}: {failed.rule}: {failed.detail}", flush=True)


def _progress(total: Tally, count: int, took_s: float) -> None:
    rest_s = took_s / total.seeds * (count - total.seeds)
    print(f"{total.seeds:,} of {count:,} seeds, {len(total.failed)} failed, {rest_s:.0f} s to go", file=sys.stderr)


def tell_seed(seed: int, days: float | None, *, is_whole: bool) -> bool:
    """Print what happens under a seed. False: a promise is broken."""
    scenario = scenario_of(seed, days=days)
    verdict = run(scenario)
    if verdict.failed is not None and not is_whole:
        print(f"seed {seed} breaks a promise; looking for the shortest story ...", file=sys.stderr)
        scenario, verdict = shortest(scenario)
    print(f"seed {seed}\n{tell(scenario, verdict)}")
    return verdict.failed is None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=300, help="how many histories")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument("--days", type=float, help="how long a history is, instead of minutes to hours")
    parser.add_argument("--seed", type=int, help="tell this one")
    parser.add_argument("--whole", action="store_true", help="tell it as it is, not shortened")
    given = parser.parse_args(arguments)
    if given.seed is not None:
        return 0 if tell_seed(given.seed, given.days, is_whole=given.whole) else 1
    total = run_all(given.first, given.seeds, given.jobs, given.days)
    print(total)
    for place in HARD_PLACES:
        print(f"{total.reached[place]:8,} {place}")
    if total.failed:
        seed = min(total.failed)
        print(f"Seeds that failed: {', '.join(map(str, sorted(total.failed)))}. The first one:\n")
        tell_seed(seed, given.days, is_whole=given.whole)
        days = f" --days {given.days:g}" if given.days else ""
        print(f"\nAgain: python -m tests.simulation --seed {seed}{days}")
    return 1 if total.failed else INTERRUPTED if total.was_stopped else 0


if __name__ == "__main__":
    sys.exit(main())
