"""What a run found: figures with their samples and targets, as a table and as JSON."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured thing. `value` is the median of `samples`, None where nothing could be measured, as `note` says;
    `is_met` is None where there is no target. `bound`: the target as a number."""

    bench: str
    database: str
    what: str
    value: float | None
    unit: str
    samples: tuple[float, ...] = ()
    target: str = ""
    is_met: bool | None = None
    bound: float | None = None
    note: str = ""


@dataclass
class Figures:
    """The figures so far; each is shown as it comes."""

    rows: list[Figure] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)  # of what is measured beside ours

    def missing(self, bench: str, database: str, what: str, why: str) -> None:
        """Keep that something was not measured, and why."""
        self._keep(Figure(bench, database, what, None, "", note=why))

    def fail(self, bench: str, what: str, error: str) -> None:
        """Keep that something went wrong; the run goes on, and ends with exit code 1."""
        self.failures.append(f"{bench}: {what}: {error}")
        print(f"  FAILED {bench}: {what}: {error}", flush=True)

    def add(self, bench: str, database: str, what: str, samples: Sequence[float], unit: str) -> float:
        """Keep the median of some samples, and return it."""
        median = statistics.median(samples)
        self._keep(Figure(bench, database, what, median, unit, tuple(samples)))
        return median

    def ratio(
        self,
        bench: str,
        database: str,
        what: str,
        value: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        samples: Sequence[float] = (),
    ) -> float:
        """Keep a ratio of two medians of this run, held against its target; or a figure of `samples` that is one."""
        target, is_met = "", None
        if at_most is not None:
            target, is_met = f"<= {at_most:g}", value <= at_most
        if at_least is not None:
            target, is_met = f">= {at_least:g}", value >= at_least
        bound = at_least if at_most is None else at_most
        self._keep(Figure(bench, database, what, value, "x", tuple(samples), target, is_met, bound))
        return value

    def limit(self, bench: str, database: str, what: str, value: float, unit: str, at_most: float) -> float:
        """Keep a value that must not exceed a limit."""
        target = f"<= {at_most:g} {unit}"
        self._keep(Figure(bench, database, what, value, unit, (value,), target, value <= at_most, at_most))
        return value

    def _keep(self, figure: Figure) -> None:
        self.rows.append(figure)
        print("  " + " | ".join(_cells(figure)), flush=True)

    @property
    def targets(self) -> list[Figure]:
        """The figures that have a target."""
        return [figure for figure in self.rows if figure.is_met is not None]

    def markdown(self) -> str:
        """The targets, and then everything; what failed comes first."""
        failed = "".join(f"* FAILED: {failure}\n" for failure in self.failures)
        met = sum(bool(figure.is_met) for figure in self.targets)
        head = f"{met} of {len(self.targets)} targets hold.\n\n"
        return f"{failed}{head}{_table(self.targets)}\n## Everything\n\n{_table(self.rows)}"

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(figure) for figure in self.rows]


def _table(figures: Sequence[Figure]) -> str:
    head = ("bench", "database", "what", "median", "unit", "spread", "target", "holds")
    lines = [head, tuple("---" for _ in head), *(_cells(figure) for figure in figures)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cells(figure: Figure) -> tuple[str, ...]:
    if figure.value is None:
        return figure.bench, figure.database, figure.what, figure.note, "", "", "", ""
    samples = figure.samples
    spread = f"{shown(min(samples))}–{shown(max(samples))}" if len(samples) > 1 else ""
    holds = {None: "", True: "yes", False: "**no**"}[figure.is_met]
    value = shown(figure.value)
    return figure.bench, figure.database, figure.what, value, figure.unit, spread, figure.target, holds


def shown(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


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
