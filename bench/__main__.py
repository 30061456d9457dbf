"""`python -m bench`: measure, show a table with targets, and write the figures down."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import beside, chart, delivering, draining, failover, memory, staging, working
from bench.figures import Figures, spin
from bench.places import Place, open_place

KINDS = ("sqlite", "postgresql")
RESULTS = Path(__file__).parent / "results"
Noise = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True)
class Bench:
    """`quick_s`, `long_s`: about how long it takes on two cores."""

    run: Callable[[Place], Awaitable[None]]
    quick_s: int
    long_s: int


BENCHES = {
    "stage": Bench(staging.stage, 10, 45),
    "cycle": Bench(staging.cycle, 60, 400),
    "delivered": Bench(staging.delivered, 40, 400),
    "held": Bench(staging.held, 15, 90),
    "deliver": Bench(delivering.deliver, 50, 300),
    "latency": Bench(delivering.latency, 15, 45),
    "isolation": Bench(delivering.isolation, 60, 220),
    "failover": Bench(failover.failover, 150, 560),
    "outage": Bench(draining.outage, 40, 600),
    "limited": Bench(draining.limited, 35, 700),
    "latest": Bench(draining.latest, 40, 1_600),
    "workers": Bench(working.workers, 75, 520),
    "memory": Bench(memory.memory, 60, 650),
    "peers": Bench(beside.peers, 180, 750),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what was asked for. Returns 1 where something failed; a target that does not hold is no failure."""
    given = _given(arguments)
    names = list(given.only or BENCHES)
    figures, noise = Figures(), Noise()
    report = Report(datetime.now(UTC), is_quick=given.quick)
    with open_place(figures, is_quick=given.quick, kinds=given.database or KINDS) as place:
        for at, name in enumerate(names):
            print(f"\n[{at + 1}/{len(names)}] {name}: {_outlook(names[at:], given.quick)}", flush=True)
            before = _noise("before")
            try:
                asyncio.run(_run(name, place))
            except Exception as error:  # noqa: BLE001 - the others go on, and the run ends with exit code 1
                traceback.print_exc()
                figures.fail(name, type(error).__name__, str(error))
            noise[name] = max(before, _noise("after"), key=lambda found: found["p95_over_median"])
            report.write(figures, noise)  # each time: a run that is broken off keeps what it has
    print(f"\n{report.head(noise)}\n\n{figures.markdown()}\n{report.stem}.json, .md, .svg")
    return 1 if figures.failures else 0


def _given(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller backlogs, medians of three instead of five")
    parser.add_argument("--only", action="append", choices=BENCHES, help="run only this; may be given again")
    parser.add_argument("--database", action="append", choices=KINDS, help="only on this; may be given again")
    return parser.parse_args(arguments)


async def _run(name: str, place: Place) -> None:
    await BENCHES[name].run(place)


def _noise(when: str) -> dict[str, float]:
    median, worst = spin()
    load = os.getloadavg()[0]
    print(f"  noise {when}: {worst / median:.2f} x, load {load:.1f}", flush=True)
    return {"spin_ms": round(median, 2), "p95_over_median": round(worst / median, 2), "load": round(load, 1)}


def _outlook(names: Sequence[str], is_quick: bool) -> str:
    """How long the next takes, and how long is left with it."""
    took = [BENCHES[name].quick_s if is_quick else BENCHES[name].long_s for name in names]
    return f"about {took[0]} s, about {sum(took) / 60:.0f} min to the end"


@dataclass(frozen=True, slots=True)
class Report:
    """The three files of a run."""

    at: datetime
    is_quick: bool

    @property
    def stem(self) -> Path:
        return RESULTS / f"{self.at:%Y%m%dT%H%M%SZ}"

    def head(self, noise: Noise) -> str:
        worst = max(found["p95_over_median"] for found in noise.values())
        machine = f"Python {platform.python_version()}, {os.cpu_count()} cores, noise {worst:.2f} x"
        return f"{self.at:%Y-%m-%d %H:%M} UTC, {'quick' if self.is_quick else 'long'} run, {machine}"

    def write(self, figures: Figures, noise: Noise) -> None:
        facts = {
            "at": self.at.isoformat(timespec="seconds"),
            "took_s": round((datetime.now(UTC) - self.at).total_seconds()),
            "is_quick": self.is_quick,
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "noise": noise,
            "versions": figures.versions,
            "failures": figures.failures,
            "figures": figures.as_json(),
        }
        RESULTS.mkdir(exist_ok=True)
        head, stem = self.head(noise), self.stem
        stem.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")
        stem.with_suffix(".svg").write_text(chart.svg(f"tideover: {head}", figures.rows))
        stem.with_suffix(".md").write_text(f"# {head}\n\n![chart]({stem.name}.svg)\n\n{figures.markdown()}")


if __name__ == "__main__":
    sys.exit(main())
