"""A failure as a story: what was given, what happened to the records that it is about, and how to see it again."""

from __future__ import annotations

from collections.abc import Iterator

from tests.simulation.plan import Scenario
from tests.simulation.shrink import shrink
from tests.simulation.verdict import Verdict
from tests.simulation.world import run

MOST_LINES = 80


def shortest(scenario: Scenario, *, tries: int = 200) -> tuple[Scenario, Verdict]:
    """The least scenario found that breaks the same promise, and what happens in it."""
    rule = _rule(run(scenario))
    least = shrink(scenario, lambda it: _rule(run(it)) == rule, tries=tries)
    return least, run(least)


def _rule(verdict: Verdict) -> str | None:
    return verdict.failed.rule if verdict.failed else None


def tell(scenario: Scenario, verdict: Verdict) -> str:
    """The story, in lines. Times are virtual seconds."""
    return "\n".join([*_givens(scenario), "", *_lines(verdict)])


def _givens(scenario: Scenario) -> Iterator[str]:
    failover = f"; {', then '.join(scenario.grouped)} as a group" if scenario.grouped else ""
    yield f"{scenario.processes} worker(s), {len(scenario.arrivals)} change(s){failover}"
    for system in scenario.systems:
        means = [word for word in ("lookup", "probe", "void") if getattr(system, f"has_{word}")]
        yield (
            f"  {system.name}: resolve {system.resolve}, {' '.join(means) or 'no lookup, probe or void'}, "
            f"calls of {system.total_s:g} s at most, batches of {system.batch}, {system.concurrency} at once"
        )
    for route in scenario.routes:
        origin = "handed in" if route.is_pushed else "listed"
        yield f"  {route.name} to {route.target}: order {route.order}, {origin}, on_unknown {route.on_unknown}"


def _lines(verdict: Verdict) -> list[str]:
    concerned = set(verdict.failed.records) if verdict.failed else set()
    names = {record: f"r{number}" for number, record in enumerate(sorted(concerned), 1)}
    lines = []
    for line in verdict.history:
        about = [names[record] for record in line.records if record in concerned]
        if about or not line.records:
            lines.append(f"{line.at_s:10.3f}  {' '.join(about):6}  {line.text}")
    if len(lines) <= MOST_LINES:
        return lines
    left_out = len(lines) - MOST_LINES
    return [*lines[: MOST_LINES // 2], f"            ... {left_out} lines ...", *lines[-MOST_LINES // 2 :]]
