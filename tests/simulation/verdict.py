"""What came of a history: its lines, the promise that it broke, and where it went."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

HARD_PLACES = {  # and by which words of a history they are known
    "asked before it was sent again": "(claim_doubted",
    "sent elsewhere in doubt": "may have it: sent to",
    "taken back by a provider": " takes carrier-",
    "found by a look-up": ": found",
    "missed by a look-up": ": missing",
    "probed with a record": "(claim_probe",
    "breaker half open": "is half_open",
    "hung call": "unknown timeout",
    "throttled": "answers: throttled",
    "put off by its system": "answers: unsent busy",
    "parked": "parked: ",
    "lease taken over": "after its lease ran out",
    "late settle refused": "settles too late",
    "died between commit and answer": "dies after commit",
    "died between call and answer": "dies after send",
    "stood still": "stands still",
    "database away": "database: ",
    "pinned": "a person: pin",
}


@dataclass(frozen=True, slots=True)
class Line:
    """Something that happened. `records`: the ids that it is about; none: it is about everything."""

    at_s: float
    text: str
    records: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """A promise that was broken: `rule` says which, `detail` how, `records` whose."""

    rule: str
    detail: str
    records: tuple[str, ...] = ()


@dataclass
class Verdict:
    """What came of a history. `failed`: the first broken promise; None: all were kept."""

    failed: Failed | None
    history: list[Line] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def reached(self) -> set[str]:
        """Which of the places where promises are hard to keep this history went through."""
        told = {line.text for line in self.history}
        return {name for name, mark in HARD_PLACES.items() if any(mark in text for text in told)}

    @property
    def digest(self) -> str:
        """The same for the same history."""
        told = "\n".join(f"{line.at_s:.6f} {line.text} {' '.join(line.records)}" for line in self.history)
        return hashlib.sha256(told.encode()).hexdigest()
