"""Sending the records of some leases: in lane order, unknown outcomes resolved first, one report per lease."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import attrgetter
from typing import NamedTuple

from tideover.connectors.port import Connector
from tideover.errors import MappingError
from tideover.hub.routing import Shape
from tideover.model import (
    INTERRUPTED,
    SECOND_US,
    Accepted,
    Found,
    Lease,
    LeasedRecord,
    LookUp,
    Missing,
    Outcome,
    Outgoing,
    Resolve,
    Throttled,
    Unknown,
    Unsent,
)
from tideover.policy.resolve import ResolveRule, Step, is_miss_final, is_second_miss_final, next_step
from tideover.policy.retry import EXPIRED, is_expired
from tideover.policy.settlement import Attempt, Defer, Kind, LaneReport, Park


@dataclass(slots=True)
class Held:
    """A lease in this worker's hands. After `deadline` (monotonic) nothing more may be sent under it."""

    lease: Lease
    deadline: float
    claimed_at: float
    is_probe: bool = False
    size_bytes: int = 0  # what it counts for of what its line may hold


class Call(NamedTuple):
    """One call about one record; `began` and `ended` are monotonic."""

    record: LeasedRecord
    kind: Kind
    outcome: Outcome | Missing
    began: float
    ended: float


class Run:
    """One lease being worked off. `head`: the record that is next; None once the run is over."""

    __slots__ = ("at", "body", "calls", "head", "held", "honours_keys", "is_cleared", "verdict")

    def __init__(self, held: Held, *, honours_keys: bool = False) -> None:
        """`honours_keys`: its system does a thing once under one idempotency key."""
        self.held, self.honours_keys = held, honours_keys
        self.at = 0
        self.head = held.lease.records[0] if held.lease.records else None
        self.calls: list[Call] = []
        self.is_cleared = False  # the head's doubt is resolved: it was not there
        self.body = b""  # the head as its system wants it
        self.verdict: Defer | Park | None = None

    @property
    def is_corrected(self) -> bool:
        """True while the head is a correction of what was sent before those behind it."""
        return self.held.lease.is_corrected and self.at == 0

    @property
    def needs_resolving(self) -> bool:
        """True while nobody knows whether the head may be sent."""
        head = self.head
        return head is not None and (bool(head.fault) or (head.in_doubt and not self.is_cleared))

    @property
    def met_trouble(self) -> bool:
        """True where the last call says something about the system rather than the record."""
        return bool(self.calls) and isinstance(self.calls[-1].outcome, Throttled | Unsent | Unknown)

    @property
    def first_accepted_at(self) -> float:
        """When the first of its records was accepted, monotonic; 0 while none is."""
        return next((call.ended for call in self.calls if isinstance(call.outcome, Accepted)), 0.0)

    def end(self, verdict: Defer | Park | None = None) -> None:
        self.head, self.verdict = None, verdict

    def note(self, kind: Kind, outcome: Outcome | Missing, began: float, ended: float) -> None:
        """Add a call about the head; go on to the next record if it was accepted, else end the run."""
        records = self.held.lease.records
        self.calls.append(Call(records[self.at], kind, outcome, began, ended))
        if isinstance(outcome, Accepted):
            self.at += 1
            self.head = records[self.at] if self.at < len(records) else None
            self.is_cleared = False
        elif not isinstance(outcome, Missing):
            self.end()

    def report(self, now: float) -> LaneReport:
        """What to settle. A record that was in doubt and not resolved stays in doubt."""
        lease, held = self.held.lease, self.held
        attempts = [
            Attempt(record, kind, outcome, int((now - began) * SECOND_US), int((ended - began) * SECOND_US))
            for record, kind, outcome, began, ended in self.calls
        ]
        is_smooth = self.head is None and self.at == len(lease.records)  # all of it was accepted: by far the most are
        doubt, doubted_us = (0, 0) if is_smooth else self._doubt()
        return LaneReport(
            lease.lane,
            lease.token,
            attempts,
            doubt,
            doubted_us,
            self.verdict,
            held.is_probe,
            lease.is_canary,
            lease.counted,
            lease.given_us,
        )

    def _doubt(self) -> tuple[int, int]:
        """How many records from the first one not accepted on stay in doubt, and since when; 0: since the last call."""
        lease, doubt = self.held.lease, 0
        # Records go out in order: where the head is not there, nothing behind it is, unless it was corrected since.
        if not self.is_cleared or self.is_corrected:
            doubt = sum(1 for _ in takewhile(attrgetter("in_doubt"), lease.records[self.at :]))
        if self.is_cleared and doubt == 1:
            doubt = 0
        last = self.calls[-1] if self.calls else None
        is_new_doubt = last is not None and last.kind is Kind.SEND and isinstance(last.outcome, Unknown)
        # Of a correction that is in doubt as well, as those behind it are, the youngest call says when a miss is final.
        is_older = doubt > 0 and not (is_new_doubt and self.is_cleared and not self.honours_keys)
        return doubt or int(is_new_doubt), lease.doubted_us if is_older else 0


@dataclass(slots=True)
class Sender:
    """Sends the leases of one route to one system."""

    connector: Connector
    operation: str
    rule: ResolveRule
    call_s: float  # the longest that one call can take
    monotonic: Callable[[], float]
    shape: Shape | None = None  # None: the system takes records as they are staged
    max_age_s: float | None = None  # of a record; one that is older is parked instead of sent
    moves_on: bool = False  # a record whose call was lost, and is not there, is for another provider to try
    # Told of each call that was answered or failed: its outcomes, when it began and ended (monotonic), and how many
    # records it carried; 0 of a look-up.
    heard: Callable[[Sequence[Outcome | LookUp], float, float, int], None] = lambda *_: None

    async def ask(self, group: Sequence[Held], done: Callable[[Run], None]) -> bool:
        """Only ask what became of what the leases hold, one by one; for a system that may get nothing. False as soon
        as it gave no answer; what was not asked for is then as it was."""
        runs = [Run(held) for held in group]
        try:
            for run in runs:
                await self._resolve([run], lambda: True, asks_only=True)
                self._prepare(run)
                if run.met_trouble:
                    return False
            return True
        finally:
            for run in runs:
                done(run)

    async def work_off(self, group: Sequence[Held], is_wanted: Callable[[], bool], done: Callable[[Run], None]) -> None:
        """Send what the leases hold, heads of different lanes together where the system takes several at a time.

        `is_wanted` is asked before each call; `done` gets each run as soon as it is over. When this is cancelled in the
        middle of a call, what was under way is reported as unknown.
        """
        runs = [Run(held, honours_keys=self.rule.how is Resolve.KEY) for held in group]
        try:
            while runs:
                if doubtful := [run for run in runs if run.needs_resolving]:
                    await self._resolve(doubtful, is_wanted)
                ready: list[Run] = []
                last_call = self.monotonic() + self.call_s
                for run in runs:
                    self._prepare(run)
                    if run.head is not None and last_call < run.held.deadline and is_wanted():
                        ready.append(run)
                    else:
                        done(run)
                runs = ready
                if runs:
                    await self._send(runs)
        except BaseException:
            for run in runs:
                done(run)
            raise

    def _is_in_time(self, run: Run) -> bool:
        return self.monotonic() + self.call_s < run.held.deadline

    async def _send(self, runs: Sequence[Run]) -> None:
        batch = [Outgoing(run.head.id, run.head.key, run.body) for run in runs if run.head is not None]
        began = self.monotonic()
        try:
            # Paired before any is noted: of too few or too many, none can be told whose it is.
            outcomes = await self.connector.send(self.operation, batch, min(run.held.deadline for run in runs))
            answered = list(zip(runs, outcomes, strict=True))
        except BaseException:
            for run in runs:
                run.note(Kind.SEND, Unknown(INTERRUPTED, "the worker was stopped"), began, self.monotonic())
            raise
        ended = self.monotonic()
        self.heard(outcomes, began, ended, len(batch))
        for run, outcome in answered:
            run.note(Kind.SEND, outcome, began, ended)

    def _prepare(self, run: Run) -> None:
        """Give the head the form that its system wants; one that comes too late, or has no such form, ends its run."""
        if (head := run.head) is None:
            return
        if self.max_age_s is not None and self._is_expired(run, head):
            run.end(Park(head, EXPIRED, "its deadline was over before it could be sent"))
        elif self.shape is None:
            run.body = head.payload
        else:
            try:
                run.body = self.shape(head.payload)
            except MappingError as error:
                run.end(Park(head, "mapping", str(error)))

    async def _resolve(self, runs: Sequence[Run], is_wanted: Callable[[], bool], *, asks_only: bool = False) -> None:
        """Find out what became of every head that is in doubt: it may be sent now, or its run is over."""
        for run in runs:
            while run.needs_resolving and (head := run.head) is not None:
                if head.fault:
                    run.end(Park(head, head.fault_code, head.fault))
                    break
                age_s = run.held.lease.doubt_age_s + self.monotonic() - run.held.claimed_at
                step = Step.LOOK_UP if asks_only else next_step(self.rule, age_s)
                if step is Step.RESEND:
                    break
                if step is Step.PARK:
                    run.end(Park(head, "unresolved", "the provider may have processed it and can't be asked"))
                    break
                if not (is_wanted() and self._is_in_time(run)):
                    run.end()
                    break
                await self._look_up(run, head, age_s, is_trusted=not asks_only)

    def _is_expired(self, run: Run, head: LeasedRecord) -> bool:
        """Of one that its system may have, sending it again is how that is resolved, so that it is never too late."""
        lease = run.held.lease
        age_s = (lease.given_us - head.staged_us) / SECOND_US + self.monotonic() - run.held.claimed_at
        return is_expired(self.max_age_s, age_s) and (run.is_cleared or not head.in_doubt)

    async def _look_up(self, run: Run, head: LeasedRecord, age_s: float, *, is_trusted: bool) -> None:
        began = self.monotonic()
        answer = await self.connector.look_up(self.operation, Outgoing(head.id, head.key, head.payload))
        ended = self.monotonic()
        self.heard((answer,), began, ended, 0)
        match answer:
            case Found(reference=reference):
                run.note(Kind.LOOK_UP, Accepted(reference), began, ended)
            case Missing():
                run.note(Kind.LOOK_UP, answer, began, ended)
                if self._is_final(run, age_s, is_trusted=is_trusted):
                    run.is_cleared = True
                    if self.moves_on and run.held.lease.attempts > 0 and not run.is_corrected:
                        run.end()
                else:
                    is_too_young = not is_miss_final(self.rule, age_s)
                    run.end(Defer(self.rule.settle_s - age_s if is_too_young else self.rule.settle_s))
            case Throttled() | Unsent() | Unknown():
                run.note(Kind.LOOK_UP, answer, began, ended)

    def _is_final(self, run: Run, age_s: float, *, is_trusted: bool) -> bool:
        if is_trusted:
            return is_miss_final(self.rule, age_s)
        missed_s = run.held.lease.miss_age_s if run.at == 0 else None  # of later records under the lease nobody knows
        if missed_s is not None:
            missed_s += self.monotonic() - run.held.claimed_at
        return is_second_miss_final(self.rule, age_s, missed_s)
