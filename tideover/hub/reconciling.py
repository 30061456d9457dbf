"""Asking a provider that can be asked again what it has of the records that were sent elsewhere meanwhile.

One case at a time, each under a lease of its own: gentle on a system that has just come back, and a reconciler that
dies holds up one case only. Whatever a step needs of the one before is in the database, so that anybody may go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from tideover.connectors.port import Connector
from tideover.errors import AccessError, HubUnavailable
from tideover.hub.runtime import Runtime
from tideover.model import REFUSED, SECOND_US, LookUp, Outcome, Outgoing, Resolve, Throttled, Unknown, Unsent
from tideover.policy.breaker import Result
from tideover.policy.reconcile import Absent, Adopt, Later, Means, Raise, Verdict, Voided, VoidIt, backoff_s
from tideover.staging.cases import Asked, Case, Undone

LEASE_MARGIN_S = 30.0  # as a delivery's: how much longer a lease lasts than its calls can take
CASES = 20
SPELL_S = 60.0  # how long one visit of the housekeeping stays with one system
_CASES_WITHOUT_CALL = 500


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What a reconciler did: cases that it asked about, and how they ended. `refused`: those that were somebody
    else's meanwhile. `is_well`: False where it stopped as the system can't be asked just now."""

    asked: int = 0
    absent: int = 0
    voided: int = 0
    adopted: int = 0
    raised: int = 0
    later: int = 0
    refused: int = 0
    is_well: bool = True

    def plus(self, other: Reconciled) -> Reconciled:
        """Both together, as well as the later one."""
        return Reconciled(
            self.asked + other.asked,
            self.absent + other.absent,
            self.voided + other.voided,
            self.adopted + other.adopted,
            self.raised + other.raised,
            self.later + other.later,
            self.refused + other.refused,
            other.is_well,
        )


_ENDED: dict[type[Verdict], Reconciled] = {
    Absent: Reconciled(absent=1),
    Voided: Reconciled(voided=1),
    Adopt: Reconciled(adopted=1),
    Raise: Reconciled(raised=1),
    Later: Reconciled(later=1),
}


class Reconciler:
    """Works on the cases of one system. `call_s`: the longest that one call can take."""

    def __init__(self, rt: Runtime, system: str, connector: Connector, call_s: float) -> None:
        self._rt, self._system, self._connector, self._call_s = rt, system, connector, call_s
        self._lease_s = 2 * call_s + LEASE_MARGIN_S  # a look-up and a void
        self._trouble: tuple[Case, Outcome] | None = None
        self._troubles = 0  # in a row
        self._calls = 0  # made, and not counted yet
        self._not_before = 0.0
        self.is_working = False  # `work` has not returned

    @property
    def trouble(self) -> Outcome | None:
        """What stopped the last `work`; None where nothing did."""
        return self._trouble[1] if self._trouble else None

    async def work(self, limit: int = CASES, is_wanted: Callable[[], bool] = lambda: True) -> Reconciled:
        """Ask about up to `limit` cases that are due, the longest due first, each only if `is_wanted` says so then.
        Stops at the first call which says that the system is not well, lets that count for its breaker, and does
        nothing for a while, as long as it asked for or longer with each time in a row.

        Does not look at the breaker: the caller does. May be cancelled: its case is given back, but for one that was
        being undone, which is asked about again when its lease is over. Raises `HubUnavailable`.
        """
        self._trouble = None
        if self._rt.monotonic() < self._not_before:
            return Reconciled(is_well=False)
        self.is_working = True
        try:
            return await self._work(limit, is_wanted)
        finally:
            self.is_working = False

    async def _work(self, limit: int, is_wanted: Callable[[], bool]) -> Reconciled:
        total = Reconciled()
        for _ in range(limit):
            claimed_at = self._rt.monotonic()
            case = await self._claim() if is_wanted() else None
            if case is None:
                break
            total = total.plus(await self._work_off(case, claimed_at + self._lease_s))
            if self._trouble is not None:
                break
        calls, self._calls = self._calls, 0
        await self._rt.store.spend(self._system, self._rt.limit_rule(self._system), calls)
        if total.asked:
            await self._tell()
        return replace(total, is_well=self._trouble is None)

    async def _claim(self) -> Case | None:
        """The next case. Of a claim that is cancelled nobody else would know which one it took."""
        claiming = asyncio.ensure_future(self._rt.store.claim_cases(self._system, int(self._lease_s * SECOND_US)))
        try:
            cases = await asyncio.shield(claiming)
        except asyncio.CancelledError:
            with suppress(HubUnavailable):
                for case in await claiming:
                    await self._rt.store.give_back_case(case)
            raise
        return cases[0] if cases else None

    async def _work_off(self, case: Case, deadline: float) -> Reconciled:
        means, operation = _means(self._rt, case, self._connector)
        record = Outgoing(case.record, case.key, b"")
        try:
            if not means.can_ask:
                return _counted(await self._rt.store.settle_case(case, Asked(None, means)), asked=0)
            if not self._is_in_time(deadline):
                await self._rt.store.give_back_case(case)
                return Reconciled(later=1)
            verdict = await self._ask(case, means, operation, record)
        except asyncio.CancelledError:
            with suppress(HubUnavailable):
                await asyncio.shield(self._rt.store.give_back_case(case))
            raise
        if isinstance(verdict, VoidIt):
            verdict = await self._void(case, operation, record, verdict.reference, deadline)
        return _counted(verdict)

    async def _ask(self, case: Case, means: Means, operation: str, record: Outgoing) -> Verdict | None:
        began = self._rt.monotonic()
        self._calls += 1
        answer = await self._connector.look_up(operation, record)
        self._note_trouble(case, answer)
        took_us = int((self._rt.monotonic() - began) * SECOND_US)
        return await self._rt.store.settle_case(case, Asked(answer, means, took_us, took_us))

    async def _void(
        self, case: Case, operation: str, record: Outgoing, reference: str | None, deadline: float
    ) -> Verdict | None:
        began = self._rt.monotonic()
        if not self._is_in_time(deadline):
            return await self._rt.store.settle_void(case, Undone(Unsent("late", "its lease was nearly over")))
        self._calls += 1
        outcome = await self._connector.void(operation, record, reference, deadline)
        self._note_trouble(case, outcome)
        took_us = int((self._rt.monotonic() - began) * SECOND_US)
        return await self._rt.store.settle_void(case, Undone(outcome, took_us, took_us))

    def _is_in_time(self, deadline: float) -> bool:
        return self._rt.monotonic() + self._call_s < deadline

    def _note_trouble(self, case: Case, answer: LookUp | Outcome) -> None:
        is_refused = isinstance(answer, Unknown) and answer.code == REFUSED  # it is well, and answers
        if isinstance(answer, Throttled | Unsent | Unknown) and not is_refused:
            self._trouble = case, answer

    async def _tell(self) -> None:
        """A failure counts like a delivery's. An answer counts for nothing: whether it books, only a booking tells."""
        store = self._rt.store
        rule = self._rt.breaker_rule(self._system, has_probe=self._connector.has_probe)
        if self._trouble is None:
            self._troubles = 0
            return
        case, outcome = self._trouble
        wait_s = outcome.delay_s if isinstance(outcome, Throttled) else backoff_s(self._troubles)
        self._not_before = self._rt.monotonic() + wait_s
        self._troubles += 1
        if isinstance(outcome, Throttled):
            await store.pause(self._system, outcome.delay_s)
        await store.tell(self._system, Result(case.route, case.lane, outcome), rule)


def _counted(verdict: Verdict | None, asked: int = 1) -> Reconciled:
    return replace(_ENDED[type(verdict)] if verdict is not None else Reconciled(refused=1), asked=asked)


def _means(rt: Runtime, case: Case, connector: Connector) -> tuple[Means, str]:
    """What the configuration lets us do about a case, and the operation that it is about."""
    route = rt.config.routes.get(case.route)
    if route is None:
        return Means(False, False, 0.0, f"route {case.route} is no longer in the configuration"), ""
    operation = route.target.operation
    if operation not in rt.system(case.system).rest.operations:
        return Means(False, False, 0.0, f"{case.system} no longer has the operation {operation}"), ""
    rule = rt.resolve_rule(case.route, case.system)
    can_ask = rule.has_lookup and rule.how is not Resolve.NONE
    return Means(can_ask, connector.can_void(operation), rule.settle_s), operation


async def reconcile(rt: Runtime, spell_s: float = SPELL_S) -> dict[str, Reconciled]:
    """Work on every system's cases at the same time, until nothing is due or `spell_s` is over. Returns what was done
    where there was something to do.

    A system whose breaker is open, that asked for a pause, or whose credentials can't be had is left for the next time.
    The cases of one that is no longer in the configuration are raised to a person. Raises `HubUnavailable`.
    """
    systems = sorted({count.system for count in await rt.store.count_cases() if count.open})
    until = rt.monotonic() + spell_s

    async def visit(system: str) -> Reconciled:
        if system not in rt.config.systems:
            return await _raise_all(rt, system)
        return await _visit(rt, system, until)

    # To the end, whatever becomes of the others: nobody may close the hub under one that has a case under way.
    done = await asyncio.gather(*(visit(system) for system in systems), return_exceptions=True)
    for failed in done:
        if isinstance(failed, BaseException):
            raise failed
    return {
        system: result
        for system, result in zip(systems, done, strict=True)
        if isinstance(result, Reconciled) and result != Reconciled()
    }


async def _visit(rt: Runtime, system: str, until: float) -> Reconciled:
    total = Reconciled()
    with suppress(AccessError):
        connector = await rt.connector(system)
        reconciler = Reconciler(rt, system, connector, rt.system(system).timeouts.total)
        while rt.monotonic() < until and (await rt.store.gate(system)).lets_through:
            done = await reconciler.work()
            total = total.plus(done)
            if done == Reconciled() or not done.is_well:
                break
    return total


async def _raise_all(rt: Runtime, system: str) -> Reconciled:
    means = Means(False, False, 0.0, f"{system} is no longer in the configuration")
    total = Reconciled()
    for case in await rt.store.claim_cases(system, int(LEASE_MARGIN_S * SECOND_US), _CASES_WITHOUT_CALL):
        total = total.plus(_counted(await rt.store.settle_case(case, Asked(None, means)), asked=0))
    return total
