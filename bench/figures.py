"""What a run found: figures with their samples and targets, as a table and as JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing. `value` is the median of `samples`; `is_met` is None where there is no target."""

    bench: str
    database: str
    what: str
    value: float
    unit: str
    samples: tuple[float, ...] = ()
    target: str = ""
    is_met: bool | None = None


@dataclass
class Figures:
    """The figures so far; each is shown as it comes."""

    rows: list[Figure] = field(default_factory=list)

    def add(self, bench: str, database: str, what: str, samples: Sequence[float], unit: str) -> float:
        """Keep the median of some samples, and return it."""
        return self._keep(Figure(bench, database, what, statistics.median(samples), unit, tuple(samples)))

    def ratio(
        self,
        bench: str,
        database: str,
        what: str,
        value: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> float:
        """Keep a ratio of two medians of this run, held against its target."""
        target, is_met = "", None
        if at_most is not None:
            target, is_met = f"<= {at_most:g}", value <= at_most
        if at_least is not None:
            target, is_met = f">= {at_least:g}", value >= at_least
        return self._keep(Figure(bench, database, what, value, "x", (), target, is_met))

    def limit(self, bench: str, database: str, what: str, value: float, unit: str, at_most: float) -> float:
        """Keep a value that must not exceed a limit."""
        return self._keep(
            Figure(bench, database, what, value, unit, (value,), f"<= {at_most:g} {unit}", value <= at_most)
        )

    def _keep(self, figure: Figure) -> float:
        self.rows.append(figure)
        print("  " + " | ".join(_cells(figure)), flush=True)
        return figure.value

    def markdown(self) -> str:
        head = ("bench", "database", "what", "median", "unit", "spread", "target", "holds")
        lines = [head, tuple("---" for _ in head), *(_cells(figure) for figure in self.rows)]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(figure) for figure in self.rows]


def _cells(figure: Figure) -> tuple[str, ...]:
    samples = figure.samples
    spread = f"{min(samples):,.4g}–{max(samples):,.4g}" if len(samples) > 1 else ""
    holds = {None: "", True: "yes", False: "**no**"}[figure.is_met]
    value = f"{figure.value:,.0f}" if figure.value >= 1000 else f"{figure.value:.3g}"
    return figure.bench, figure.database, figure.what, value, figure.unit, spread, figure.target, holds


def percentile(samples: Sequence[float], share: float) -> float:
    """The nearest-rank percentile; `share` is in (0, 1]."""
    ordered = sorted(samples)
    return ordered[max(0, round(share * len(ordered)) - 1)]


def spin(times: int = 40) -> tuple[float, float]:
    """The machine's noise: median and 95th percentile of a fixed piece of work, in milliseconds."""
    took = sorted(_spins(times))
    return statistics.median(took), percentile(took, 0.95)


def _spins(times: int) -> Iterator[float]:
    for _ in range(times):
        began = time.perf_counter()
        total = 0
        for number in range(100_000):
            total += number
        yield (time.perf_counter() - began) * 1000
