"""A system in memory that implements the connector's port, for what real HTTP can't be made to do on cue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field

from tideover.model import (
    Accepted,
    Found,
    JsonObject,
    LookUp,
    Missing,
    Outcome,
    Outgoing,
    Page,
    Rejected,
    Unknown,
    Unsent,
)

Answer = Callable[[Outgoing], Outcome]


@dataclass
class FakeSystem:
    """Takes records, and keeps the effect of each: once per idempotency key where it `honours_keys`.

    `answer` decides on each record; `loses_answer` commits it first. `open` holds every call while it is not set.
    `void_outcome` is what a void is told; `None`: the system has none. `voids` holds the id and reference of each that
    was asked for, `voided` the effects that were taken back.
    """

    answer: Answer = lambda _: Accepted()
    honours_keys: bool = True
    size: int = 1
    probe_outcome: Outcome | None = None
    effects: list[Outgoing] = field(default_factory=list)
    calls: int = 0
    look_ups: int = 0
    pages_left: list[list[JsonObject]] = field(default_factory=list)
    loses_answer: bool = False
    void_outcome: Outcome | None = field(default_factory=Accepted)
    voids: list[tuple[str, str | None]] = field(default_factory=list)
    voided: list[Outgoing] = field(default_factory=list)
    pause_s: float = 0.0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    in_flight: int = 0
    most_in_flight: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    @property
    def has_probe(self) -> bool:
        return self.probe_outcome is not None

    def batch_size(self, operation: str) -> int:
        return self.size

    def count(self) -> Counter[str]:
        """How often each idempotency key took effect."""
        return Counter(effect.id for effect in self.effects)

    def keys_in_order(self) -> list[str]:
        return [effect.key for effect in self.effects]

    def standing(self) -> list[Outgoing]:
        """The effects that were not taken back."""
        gone = {effect.id for effect in self.voided}
        return [effect for effect in self.effects if effect.id not in gone]

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await asyncio.sleep(0)
            await self.open.wait()
            return [self._take(record) for record in batch]
        finally:
            self.in_flight -= 1

    def _take(self, record: Outgoing) -> Outcome:
        outcome = self.answer(record)
        if isinstance(outcome, Accepted) or self.loses_answer:
            known = self.honours_keys and any(effect.id == record.id for effect in self.effects)
            if not known:
                self.effects.append(record)
        return Unknown("timeout") if self.loses_answer else outcome

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        self.look_ups += 1
        return Found("found") if any(e.id == record.id for e in self.standing()) else Missing()

    def can_void(self, operation: str) -> bool:
        return self.void_outcome is not None

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        if self.void_outcome is None:
            return Rejected("no_void")
        self.voids.append((record.id, reference))
        await self.open.wait()
        if isinstance(self.void_outcome, Accepted):
            self.voided += [effect for effect in self.standing() if effect.id == record.id]
        return self.void_outcome

    async def probe(self) -> Outcome:
        return self.probe_outcome or Unsent("no_probe")

    async def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        start = int(cursor or 0)
        for number, records in enumerate(self.pages_left[start:], start + 1):
            yield Page(records, str(number), number >= len(self.pages_left))

    async def close(self) -> None:
        return None
