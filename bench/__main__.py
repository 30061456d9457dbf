"""`python -m bench`: measure, show a table with targets, and write the figures down."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path

from bench import delivering, failover, staging
from bench.figures import Figures, spin
from bench.peers import PEERS
from bench.places import Place, open_place

KINDS = ("sqlite", "postgresql")
BENCHES: dict[str, Callable[[Place], Awaitable[None]]] = {
    "stage": staging.stage,
    "cycle": staging.cycle,
    "delivered": staging.delivered,
    "deliver": delivering.deliver,
    "latency": delivering.latency,
    "isolation": delivering.isolation,
    "failover": failover.failover,
    **PEERS,
}
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="smaller backlogs, medians of three instead of five")
    parser.add_argument("--only", action="append", choices=BENCHES, help="run only this; may be given again")
    parser.add_argument("--database", action="append", choices=KINDS, help="only on this; may be given again")
    given = parser.parse_args()
    figures, noise = Figures(), {}
    began = time.monotonic()
    with open_place(figures, is_quick=given.quick, kinds=given.database or KINDS) as place:
        for name in given.only or BENCHES:
            median, worst = spin()
            noise[name] = {"spin_ms": round(median, 2), "p95_over_median": round(worst / median, 2)}
            print(f"\n{name}: noise {worst / median:.2f} x (spin {median:.2f} ms)", flush=True)
            asyncio.run(BENCHES[name](place))
    _write(figures, noise, took_s=time.monotonic() - began, is_quick=given.quick)


def _write(figures: Figures, noise: dict[str, dict[str, float]], *, took_s: float, is_quick: bool) -> None:
    at = datetime.now(UTC)
    facts = {
        "at": at.isoformat(timespec="seconds"),
        "took_s": round(took_s),
        "is_quick": is_quick,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": [round(x, 1) for x in os.getloadavg()],
        "noise": noise,
    }
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"{at:%Y%m%dT%H%M%SZ}"
    stem.with_suffix(".json").write_text(json.dumps({**facts, "figures": figures.as_json()}, indent=1) + "\n")
    worst = max(n["p95_over_median"] for n in noise.values())
    head = f"Python {facts['python']}, {facts['cores']} cores; worst spin-loop noise {worst:.2f} x; {took_s:.0f} s.\n\n"
    stem.with_suffix(".md").write_text(head + figures.markdown())
    print(f"\n{head}{figures.markdown()}\n{stem}.json, {stem.name}.md")


if __name__ == "__main__":
    main()
