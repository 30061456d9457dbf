"""What a chaos run did and what it proved, for people: a JSON file and a table in `docs/proof.md`.

Each test tells of the faults that it injects (`injected`) and of what both ends held in the end (`proved`). With
`CHAOS_REPORT` set, as `make chaos` sets it, the run ends by writing them down.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.databases import sql

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- chaos: written by `make chaos` -->", "<!-- end of chaos -->"


@dataclass
class Story:
    """One test: `lost` and `doubled` count business keys as the systems hold them, `records` those that were fed."""

    test: str
    database: str
    faults: Counter[str] = field(default_factory=Counter)
    records: int = 0
    lost: int = 0
    doubled: int = 0
    longest_stall_s: float = 0.0
    outcome: str = "not run"
    seconds: float = 0.0


class Chronicle:
    """The stories of a run; one is being told."""

    def __init__(self) -> None:
        self.stories: list[Story] = []
        self.now = Story("", "")

    def begin(self, test: str, database: str) -> Story:
        self.now = Story(test, database)
        self.stories.append(self.now)
        return self.now


CHRONICLE = Chronicle()


def injected(fault: str) -> None:
    """A fault was injected, such as `worker killed`."""
    CHRONICLE.now.faults[fault] += 1


async def proved(url: str, expected: Mapping[Any, int], standing: Mapping[Any, int]) -> None:
    """Both ends were compared. `expected`, `standing`: how often each thing should stand at a system, and does."""
    story = CHRONICLE.now
    story.records += sum(expected.values())
    story.lost += sum(max(count - standing.get(key, 0), 0) for key, count in expected.items())
    story.doubled += sum(max(count - expected.get(key, 0), 0) for key, count in standing.items())
    story.longest_stall_s = max(story.longest_stall_s, await longest_stall_s(url))


async def longest_stall_s(url: str) -> float:
    """How long the head of any lane waited at most: since it was staged, or since the one before it was accepted."""
    rows = await sql(
        url,
        "select a.lane, r.staged_us, min(a.began_us + a.took_us) from attempt a"
        " join record r on r.lane = a.lane and r.seq = a.seq where a.outcome = 'accepted'"
        " group by a.lane, a.seq, r.staged_us order by a.lane, a.seq",
    )
    longest_us, lane, free_us = 0, None, 0
    for of_lane, staged_us, accepted_us in rows:
        before_us = max(int(staged_us), free_us) if of_lane == lane else int(staged_us)
        longest_us = max(longest_us, int(accepted_us) - before_us)
        lane, free_us = of_lane, int(accepted_us)
    return round(longest_us / 1_000_000, 2)


def write(settings: Mapping[str, Any]) -> None:
    """The last run, as `docs/proof.json` and in `docs/proof.md`. `settings`: what it was asked for."""
    facts = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
        "machine": f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}",
        "stories": [vars(story) | {"faults": dict(story.faults)} for story in CHRONICLE.stories],
    }
    (DOCS / "proof.json").write_text(json.dumps(facts, indent=1) + "\n")
    page = DOCS / "proof.md"
    old = page.read_text() if page.exists() else "# Proof\n"
    new = f"{BEGIN}\n\n{_markdown(facts, CHRONICLE.stories)}\n{END}"
    if BEGIN in old:
        text = re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: new, old, flags=re.DOTALL)
    else:
        text = f"{old.rstrip()}\n\n## Chaos with real processes\n\n{new}\n"
    page.write_text(text)


def _markdown(facts: Mapping[str, Any], stories: Sequence[Story]) -> str:
    asked = " ".join(f"{name}={value}" for name, value in facts["settings"].items())
    lines = [
        f"`make chaos {asked}`, {facts['at']}, {facts['machine']}.",
        "",
        "| what | database | faults | records | lost | doubled | longest lane stall | result |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for story in stories:
        name = story.test.removeprefix("test_").replace("_", " ")
        faults = ", ".join(f"{count} {what}" for what, count in sorted(story.faults.items())) or "–"
        stall = f"{story.longest_stall_s:g} s" if story.records else "–"
        counts = f"{story.records:,} | {story.lost} | {story.doubled}" if story.records else "– | – | –"
        lines.append(f"| {name} | {story.database} | {faults} | {counts} | {stall} | {story.outcome} |")
    total = Counter[str]()
    for story in stories:
        total += story.faults
    lines.append(
        f"\n**In all:** {sum(total.values()):,} faults, {sum(story.records for story in stories):,} records,"
        f" {sum(story.lost for story in stories)} lost, {sum(story.doubled for story in stories)} doubled.\n"
    )
    return "\n".join(lines)
