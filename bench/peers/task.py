"""What a peer is asked to do, the records it does it with, and how it answers."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FILLER = "x" * 900
CONCURRENCY = 32  # calls at once, as many as the hub makes


@dataclass(frozen=True, slots=True)
class Task:
    """How many records to stage, to consume without doing anything, and to POST one by one; 0 leaves a part out.

    `dsn`: an empty PostgreSQL database. `sink`: where to POST to. `folder`: for files of the peer's own.
    """

    dsn: str
    sink: str
    folder: str
    consume: int
    post: int


def given() -> Task:
    """The task of the command line."""
    return Task(**json.loads(sys.argv[1]))


def payloads(count: int) -> list[str]:
    """JSON records of about a kilobyte."""
    return [json.dumps({"id": f"k{number}", "n": number, "filler": FILLER}) for number in range(count)]


def thousands(items: list[Any], size: int = 1_000) -> Iterator[list[Any]]:
    """The items, so many at a time."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def answer(**took_s: float) -> None:
    """Say how many seconds each part took. The last line of the output is the answer."""
    print(json.dumps(took_s), flush=True)
