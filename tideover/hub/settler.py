"""Settling in bulk: reports are gathered for a moment, or until there are many, and written in one transaction."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from tideover.errors import HubUnavailable
from tideover.hub.runs import Run
from tideover.hub.runtime import Runtime
from tideover.policy.breaker import BreakerRule
from tideover.policy.settlement import LaneReport, RouteRule
from tideover.staging.settle import Settled, Settlement
from tideover.staging.systems import Gate

BATCH = 1_000
GATHER_S = 0.02
CROWD = 8  # where at least so many come within `GATHER_S`, it waits for more: a commit costs as much as many of them
LONGEST_GATHER_S = 0.1
RETRY_S = 0.5


class Counts(Protocol):
    """Where a settler adds up what it wrote."""

    delivered: int
    parked: int
    refused: int

    def accepted(self, system: str, run: Run) -> None:
        """A run's records that the system accepted are settled."""
        ...


class Settler:
    """The only task of a delivery that writes outcomes."""

    def __init__(
        self,
        rt: Runtime,
        system: str,
        rules: Mapping[str, RouteRule],
        breaker_rule: BreakerRule,
        counts: Counts,
        on_gate: Callable[[Gate], None],
        *,
        group: str = "",
        on_written: Callable[[Sequence[Run]], None] = lambda _: None,
        on_settled: Callable[[], None] = lambda: None,
        pause_s: Callable[[], float] = lambda: 0.0,
        prober: Callable[[], int] = lambda: 0,
    ) -> None:
        """`on_written` gets the runs of a batch that is written; `on_settled` is called after each try. `group`: the
        failover group of the delivery, if any. `pause_s`: for how long the system may not be called, by what its
        answers said of its quota. `prober`: the number of the slot that this line's last probe was made in."""
        self._pause_s, self._prober = pause_s, prober
        self._group, self._on_written, self._on_settled = group, on_written, on_settled
        self._rt, self._system, self._rules, self._breaker_rule = rt, system, rules, breaker_rule
        self._counts, self._on_gate = counts, on_gate
        self._runs: deque[Run] = deque()
        self._under_way = 0  # runs that are being written
        self._writing = asyncio.Lock()
        self._came = asyncio.Event()
        self._settled = asyncio.Event()

    @property
    def is_idle(self) -> bool:
        """True when everything that was put in is written."""
        return not len(self)

    def __len__(self) -> int:
        """How many runs are not written yet."""
        return len(self._runs) + self._under_way

    def put(self, run: Run) -> None:
        """Take a run that is over."""
        self.put_all((run,))

    def put_all(self, runs: Sequence[Run]) -> None:
        """Take runs that are over."""
        if runs:
            self._runs.extend(runs)
            self._came.set()

    async def something_settled(self, at_most_s: float = 0.25) -> None:
        """Wait until a batch is written, or for a moment."""
        self._settled.clear()
        try:
            async with asyncio.timeout(at_most_s):
                await self._settled.wait()
        except TimeoutError:
            return

    async def run(self) -> None:
        """Write what comes, until cancelled."""
        while True:
            await self._came.wait()
            await self._gather()
            self._came.clear()
            await self.flush()

    async def _gather(self) -> None:
        """Wait for company, as long as much comes."""
        for _ in range(round(LONGEST_GATHER_S / GATHER_S)):
            before = len(self._runs)
            if before >= BATCH:
                return
            await asyncio.sleep(GATHER_S)
            if len(self._runs) < before + CROWD:
                return

    async def flush(self) -> None:
        """Write everything put in so far. While the database is away, keep what was learnt for as long as its leases
        last: after that the records are in doubt, and whoever claims them next resolves it."""
        async with self._writing:
            while self._runs:
                batch = [self._runs.popleft() for _ in range(min(len(self._runs), BATCH))]
                self._under_way = len(batch)
                try:
                    await self._write(batch)
                except BaseException:
                    self._runs.extendleft(reversed(batch))  # settling twice is settling once; forgetting is not
                    raise
                finally:
                    self._under_way = 0
                    self._settled.set()
                    self._on_settled()

    async def _write(self, batch: list[Run]) -> None:
        last_call = max(run.held.deadline for run in batch)
        while True:
            now = self._rt.monotonic()
            reports = [self._in_its_slot(run.report(now)) for run in batch]
            settlement = Settlement(
                self._system,
                reports,
                self._rules,
                self._breaker_rule,
                self._group,
                limits=self._rt.limit_rule(self._system),
                pause_s=self._pause_s(),
            )
            settling = asyncio.ensure_future(self._rt.store.settle(settlement))
            try:
                settled = await asyncio.shield(settling)
            except HubUnavailable:
                if self._rt.monotonic() >= last_call:
                    raise
                await self._rt.sleep(RETRY_S)
            except asyncio.CancelledError:
                # It ends all the same, and what it wrote is counted now: written again, it would count for nothing.
                with suppress(HubUnavailable):
                    self._count(batch, await settling)
                    batch.clear()
                raise
            else:
                self._count(batch, settled)
                return

    def _in_its_slot(self, report: LaneReport) -> LaneReport:
        return report._replace(prober=self._prober()) if report.is_probe else report

    def _count(self, batch: Sequence[Run], settled: Settled) -> None:
        self._on_written(batch)
        self._counts.delivered += settled.delivered
        self._counts.parked += settled.parked
        self._counts.refused += len(settled.refused)
        refused = set(settled.refused)
        for run in batch:
            if run.at and not (refused and run.held.lease.lane in refused):
                self._counts.accepted(self._system, run)
        self._on_gate(settled.gate)
