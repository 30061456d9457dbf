"""Simulated systems: what each of them did is in its own ledger, whatever its answers say.

A request takes its time to arrive, is decided on at one instant, and its answer takes its time back. Nothing arrives
later than 0.6 of the system's longest call after it began, and what took effect is found by a look-up within 0.9 of it:
that a look-up's miss is final after the longest call is the one thing that the hub has to take on trust.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tests.simulation.plan import Fault, SystemPlan
from tideover.model import (
    CREDENTIALS,
    HUNG,
    Accepted,
    Found,
    LookUp,
    Missing,
    Outcome,
    Outgoing,
    Page,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
)


@dataclass(eq=False)
class Effect:
    """Something that a system did. It can be looked up from `visible_s` on."""

    record: str
    payload: bytes
    at_s: float
    visible_s: float
    reference: str
    is_voided: bool = False


@dataclass(eq=False)
class Call:
    """A request. `is_open`: it may still take effect."""

    process: Any
    system: SimSystem
    batch: Sequence[Outgoing]
    began_s: float
    is_open: bool = True


class Surroundings(Protocol):
    """What systems ask of the world."""

    luck: random.Random

    def now_s(self) -> float: ...

    def outside(self, delay_s: float, act: Callable[..., object], *args: Any) -> object: ...

    def tell(self, text: str, *records: str) -> None:
        """Put a line into the history."""
        ...


class Watcher(Protocol):
    """Who checks what happens."""

    def sends(self, call: Call) -> None: ...

    def took_effect(self, system: SimSystem, effect: Effect) -> None: ...

    def answered(self, system: SimSystem, batch: Sequence[Outgoing], outcomes: Sequence[Any]) -> None: ...

    def probes(self, process: Any, system: SimSystem) -> None:
        """A probe begins."""
        ...


@dataclass(eq=False)
class SimSystem:
    """One target. `calls`: those that may still take effect; `waited_for`: how many somebody waits for."""

    plan: SystemPlan
    faults: Sequence[Fault]
    world: Surroundings
    watch: Watcher
    effects: dict[str, list[Effect]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    count: int = 0
    waited_for: int = 0
    is_mended: bool = False

    def fault(self, *, is_question: bool = False) -> Fault | None:
        """The trouble that this call meets."""
        now = self.world.now_s()
        for fault in () if self.is_mended else self.faults:
            if fault.at_s <= now < fault.until_s and not (is_question and fault.answers_questions):
                return fault if self.world.luck.random() < fault.share else None
        return None

    def standing(self, record: str) -> list[Effect]:
        """What it has of a record now."""
        return [effect for effect in self.effects.get(record, ()) if not effect.is_voided]

    # --- requests -------------------------------------------------------------------------------------------

    def receive(self, call: Call, answer: asyncio.Future[Sequence[Outcome]]) -> None:
        """A request has arrived."""
        if not call.is_open:
            return
        fault = self.fault()
        kind = fault.kind if fault else "well"
        if kind == "hang late" and self.plan.resolve == "natural":
            kind = "hang after"
        if kind == "hang late":
            latest_s = max(call.began_s + 0.6 * self.plan.total_s - self.world.now_s(), 0.0)
            self.world.outside(self.world.luck.uniform(0, latest_s), self._take_late, call)
            return
        outcomes = [self._decide(kind, record) for record in call.batch]
        self.close(call)
        if kind in ("hang", "hang after"):
            return
        delay_s = self.travel_s()
        if kind == "slow":
            delay_s += self.world.luck.uniform(0, 1.3 * self.plan.total_s)
        self.world.outside(delay_s, _give, answer, outcomes)

    def _take_late(self, call: Call) -> None:
        for record in call.batch:
            self._take(record)
        self.close(call)

    def _decide(self, kind: str, record: Outgoing) -> Outcome:
        match kind:
            case "down":
                return Unsent("refused")
            case "credentials":
                return Unsent(CREDENTIALS)
            case "hang":
                return Unknown(HUNG)
            case "fail":
                return Unknown("server_error")
            case "throttle":
                is_asked = self.world.luck.random() < 0.7
                return Throttled(self.world.luck.choice([1.0, 8.0, 45.0]), is_asked=is_asked)
            case "reject":
                return Rejected("contract")
            case "poison" if int(record.id[0], 16) % 3 == 0:
                return Rejected("invalid")
            case "put off" if int(record.id[1], 16) % 4 == 0:
                return Unsent("busy", is_answer=True)
        accepted = self._take(record)
        match kind:
            case "lose":
                return Unknown("reset")
            case "fail after":
                return Unknown("server_error")
        return accepted

    def _take(self, record: Outgoing) -> Accepted:
        """Do it; not again under a key that it remembers."""
        now, plan = self.world.now_s(), self.plan
        known = self.effects.setdefault(record.id, [])
        if plan.resolve == "key" and known and self.remembers(known[0]):
            return Accepted(known[0].reference)
        self.count += 1
        lag_s = 0.0 if self.world.luck.random() < 0.7 else self.world.luck.uniform(0, 0.3 * plan.total_s)
        effect = Effect(record.id, record.payload, now, now + lag_s, f"{plan.name}-{self.count}")
        known.append(effect)
        self.world.tell(f"{plan.name} does it, as {effect.reference}", record.id)
        self.watch.took_effect(self, effect)
        return Accepted(effect.reference)

    def remembers(self, effect: Effect) -> bool:
        """Whether it still knows the key that an effect came under."""
        return self.world.now_s() - effect.at_s < self.plan.horizon_s

    def close(self, call: Call) -> None:
        """It takes no more effect."""
        if call.is_open:
            call.is_open = False
            self.calls.remove(call)

    def travel_s(self) -> float:
        """How long a request or an answer is on its way."""
        return self.world.luck.choice([0.005, 0.02, 0.02, 0.15])

    # --- questions ------------------------------------------------------------------------------------------

    def question(self, answer: asyncio.Future[Any], decide: Callable[[], Any]) -> None:
        """A look-up, a void or a probe has arrived."""
        fault = self.fault(is_question=True)
        outcome = self._trouble(fault.kind) if fault else None
        if outcome is None:
            decided = decide()
            outcome = Unknown("reset") if fault and fault.kind == "lose" else decided
        if not (isinstance(outcome, Unknown) and outcome.code == HUNG):
            self.world.outside(self.travel_s(), _give, answer, outcome)

    def _trouble(self, kind: str) -> Throttled | Unsent | Unknown | None:
        match kind:
            case "down":
                return Unsent("refused")
            case "credentials":
                return Unsent(CREDENTIALS)
            case "hang" | "hang after" | "hang late":
                return Unknown(HUNG)
            case "fail" | "fail after":
                return Unknown("server_error")
            case "throttle":
                return Throttled(5.0)
        return None

    def found(self, record: str) -> LookUp:
        """What a look-up says."""
        now = self.world.now_s()
        seen = [effect for effect in self.standing(record) if effect.visible_s <= now]
        return Found(seen[0].reference) if seen else Missing()

    def void(self, record: str, reference: str | None) -> Outcome:
        """Take back what it did under a reference."""
        for effect in self.effects.get(record, ()):
            if effect.reference == reference and not effect.is_voided:
                effect.is_voided = True
                self.world.tell(f"{self.plan.name} takes {reference} back", record)
        return Accepted()


def _give(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)


class SimConnector:
    """The port to one system from one process; a severed one does nothing."""

    def __init__(self, system: SimSystem, process: Any) -> None:
        self._system, self._process = system, process
        self.pause_s = 0.0
        self.has_probe = system.plan.has_probe

    def batch_size(self, operation: str) -> int:
        return self._system.plan.batch

    async def send(self, operation: str, batch: Sequence[Outgoing], deadline: float | None = None) -> Sequence[Outcome]:
        system, process = self._system, self._process
        if process.is_dead or process.meets("before send"):
            raise asyncio.CancelledError
        if deadline is not None and process.monotonic() >= deadline:
            return [Unsent("late")] * len(batch)
        call = Call(process, system, tuple(batch), system.world.now_s())
        system.watch.sends(call)
        system.calls.append(call)
        answer: asyncio.Future[Sequence[Outcome]] = asyncio.get_running_loop().create_future()
        system.world.outside(system.travel_s(), system.receive, call, answer)
        if process.meets("after send"):
            raise asyncio.CancelledError
        system.waited_for += 1
        try:
            outcomes = await self._within(answer, call)
        finally:
            system.waited_for -= 1
        if process.is_dead or process.meets("answered"):
            raise asyncio.CancelledError
        system.watch.answered(system, batch, outcomes)
        return outcomes

    async def _within(self, answer: asyncio.Future[Sequence[Outcome]], call: Call) -> Sequence[Outcome]:
        try:
            async with asyncio.timeout(self._system.plan.total_s):
                return await answer
        except TimeoutError:
            self._give_up(call)
            return [Unknown(HUNG)] * len(call.batch)
        except asyncio.CancelledError:
            self._give_up(call)
            raise

    def _give_up(self, call: Call) -> None:
        """What is not there yet is taken back from the wire, as far as that can be: of a system where nothing but the
        order of arrival decides, always."""
        if self._system.plan.resolve == "natural":
            self._system.close(call)

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        asked: LookUp = await self._ask(lambda: self._system.found(record.id))
        self._system.world.tell(f"{self._process} asks {self._system.plan.name}: {_word(asked)}", record.id)
        self._system.watch.answered(self._system, [record], [asked])
        return asked

    def can_void(self, operation: str) -> bool:
        return self._system.plan.has_void

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        if not self._system.plan.has_void:
            return Rejected("no_void")
        if deadline is not None and self._process.monotonic() >= deadline:
            return Unsent("late")
        outcome: Outcome = await self._ask(lambda: self._system.void(record.id, reference))
        self._system.watch.answered(self._system, [record], [outcome])
        return outcome

    async def probe(self) -> Outcome:
        system = self._system
        system.watch.probes(self._process, system)
        outcome: Outcome = await self._ask(Accepted)
        system.world.tell(f"{self._process} probes {system.plan.name}: {_word(outcome)}")
        system.watch.answered(system, (), [outcome])
        return outcome

    async def _ask(self, decide: Callable[[], Any]) -> Any:
        system = self._system
        if self._process.is_dead:
            raise asyncio.CancelledError
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        system.world.outside(system.travel_s(), system.question, answer, decide)
        try:
            async with asyncio.timeout(system.plan.total_s):
                return await answer
        except TimeoutError:
            return Unknown(HUNG)

    async def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        raise AssertionError("it is no source")
        yield

    async def close(self) -> None:
        """There is nothing to give back."""


def _word(outcome: object) -> str:
    """An answer, in short."""
    code = getattr(outcome, "code", "")
    return f"{type(outcome).__name__.lower()} {code}".strip()


class SourceConnector:
    """The port to the system that records come from: one listing per route, which only grows."""

    has_probe, pause_s = False, 0.0

    def __init__(self, listings: dict[str, list[dict[str, Any]]], sizes: dict[str, int], process: Any) -> None:
        self._listings, self._sizes, self._process = listings, sizes, process

    async def pages(self, stream: str, cursor: str | None) -> AsyncGenerator[Page, None]:
        at = int(cursor or 0)
        while True:
            await asyncio.sleep(0.02)
            if self._process.is_dead:
                raise asyncio.CancelledError
            found = self._listings[stream][at : at + self._sizes[stream]]
            at += len(found)
            is_last = at >= len(self._listings[stream])
            yield Page([dict(record) for record in found], str(at), is_last)
            if is_last:
                return

    async def close(self) -> None:
        """There is nothing to give back."""
