"""The store: every use of the staging database, one method each. SQLite and PostgreSQL pass the same contract suite.

All methods raise `HubUnavailable` when the database can't be used, and may then be called again.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from typing import TypeVar
from uuid import uuid4

from tideover.errors import HubUnavailable
from tideover.model import Lease, NewRecord, Order, Staged
from tideover.policy.breaker import Action, BreakerRule, Forced, Result
from tideover.policy.failover import GroupRule, GroupState
from tideover.policy.quota import LimitRule
from tideover.policy.reconcile import Verdict
from tideover.staging import cases as asking
from tideover.staging import (
    events,
    groups,
    leases,
    migrate,
    parking,
    piecemeal,
    quotas,
    reconciliation,
    reports,
    restaging,
    shares,
    systems,
)
from tideover.staging import outlook as ahead
from tideover.staging import settle as settling
from tideover.staging import stage as staging
from tideover.staging.claiming import Claimed, Claiming
from tideover.staging.database import Database, Transaction
from tideover.staging.sealing import Plain, Sealer
from tideover.staging.wishes import Claim

T = TypeVar("T")


class Store:
    """What the hub owes to whom. Safe to use from many tasks at once; one per process."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer | None = None,
        spread: Callable[[], float] = random.random,
        new_name: Callable[[], str] = lambda: uuid4().hex,
    ) -> None:
        """`spread` gives random numbers in [0, 1), `new_name` names that nobody has, in any process."""
        self.database = database
        self._sealer = sealer or Plain()
        self._spread = spread
        self._new_name = new_name
        self._claiming = Claiming(self._sealer)

    # --- schema ---------------------------------------------------------------------------------------------

    async def migrate(self) -> None:
        """Bring the schema to this release's. Safe to run again, at the same time, and after a crash."""
        await self.database.upgrade(migrate.upgrade)

    async def check_any_schema(self) -> None:
        """Raise `SchemaMismatch` where no release of tideover has made a schema yet."""
        await self.database.read(lambda tx: migrate.check_any(tx.conn))

    async def check_schema(self) -> None:
        """Raise `SchemaMismatch` unless the schema is this release's, or a newer one that serves its workers."""
        await self.database.read(lambda tx: migrate.check(tx.conn))

    # --- the hot path ---------------------------------------------------------------------------------------

    async def stage(self, batch: staging.Batch) -> Staged:
        """Stage records and move the cursor, in one transaction; durable when this returns."""
        push = staging.Push(self._new_name())
        staged = await self.database.write(lambda tx: staging.stage(tx, batch, self._sealer, push))
        self.database.wakeups.wake(batch.route)
        return staged

    def on_staged(self, routes: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Have `wake` called when records of these routes are staged or made due, by this process or, on PostgreSQL, by
        any; a hint that may be lost, so poll as well. Returns what ends it."""
        return self.database.wakeups.subscribe(routes, wake)

    async def cursor(self, route: str) -> staging.Cursor:
        return await self.database.read(lambda tx: staging.cursor_of(tx, route))

    async def claim(self, wish: Claim) -> Claimed:
        """Leases on due lanes, for systems whose breaker is closed and that did not ask for a pause.

        Raises `MissingKey` at the beginning, where of the route nothing that is due can be read: once. From then on
        what needs that key waits, as one damaged row would, and the rest goes on.
        """
        return await self._claiming.claim(self.database, wish)

    async def claim_probe(self, wish: Claim, system: str) -> list[Lease]:
        """A lease for the system's prober, whatever its breaker says; none for one that a pin keeps out.

        Of a long backlog that the system may not have, one call looks at a part; the next one goes on behind it.
        """
        return await self._claiming.claim_probe(self.database, wish, system)

    async def claim_doubted(self, wish: Claim, system: str, lanes: int) -> list[Lease]:
        """Leases on lanes pinned to a system, only to ask it what became of them, whatever its breaker says."""
        return await self.database.write(lambda tx: leases.claim_doubted(tx, wish, system, lanes, self._sealer))

    async def settle(self, settlement: settling.Settlement) -> settling.Settled:
        """Write what became of leased records. Doing it again changes nothing."""
        settled = await self.database.write(lambda tx: settling.settle(tx, settlement, self._sealer, self._spread))
        if settled.gate.reason == "contract":
            with suppress(HubUnavailable):  # it is settled; whoever probes the system puts back what is left
                await self.restore_storm(settlement.system)
        return settled

    async def outlook(self, routes: Sequence[str], ready: Sequence[str]) -> ahead.Outlook:
        """What waits on these routes; `ready`: the systems that may be called now."""
        return await self.database.read(lambda tx: ahead.outlook(tx, routes, ready))

    # --- systems --------------------------------------------------------------------------------------------

    async def gate(self, system: str) -> systems.Gate:
        return await self.database.read(lambda tx: systems.load(tx, system).gate(tx.now_us))

    async def take_probe(self, system: str, lease_s: float) -> int | None:
        """The only half-open slot of the cluster, for a while, if it is time to probe and nobody has it."""
        tried: set[systems.Slot] = set()
        return await self.database.write(lambda tx: systems.take_probe(tx, system, lease_s, tried))

    async def end_probe(self, system: str, prober: int, result: Result, rule: BreakerRule) -> systems.Gate:
        return await self.database.write(
            lambda tx: systems.end_probe(tx, system, prober, result, rule, self._spread()).gate(tx.now_us)
        )

    async def release_probe(self, system: str, prober: int) -> systems.Gate:
        """Give the slot back, if it is still this prober's."""
        return await self.database.write(lambda tx: systems.release_probe(tx, system, prober).gate(tx.now_us))

    async def tell(self, system: str, result: Result, rule: BreakerRule) -> systems.Gate:
        """Count a call that carried no record, such as a probe of a system that seems well."""

        def work(tx: Transaction) -> systems.Gate:
            return systems.tell(tx, system, result, rule, self._spread())[0].gate(tx.now_us)

        return await self.database.write(work)

    async def spend(self, system: str, rule: LimitRule | None, calls: int) -> None:
        """Count calls that no claim knew of, such as a probe. Without limits, nothing is counted."""
        if rule is not None and calls:
            await self.database.write(lambda tx: quotas.spend(tx, system, rule, calls))

    async def share(self, ask: shares.Ask) -> int:
        """How many calls a worker may have under way at a system from now on; see `shares`."""
        return await self.database.write(lambda tx: shares.share(tx, ask))

    async def give_up_share(self, system: str, worker: str) -> None:
        await self.database.write(lambda tx: shares.give_up(tx, system, worker))

    async def pause(self, system: str, pause_s: float) -> None:
        """A system asked to be left alone for a while, in a call that carried no record."""

        def work(tx: Transaction) -> None:
            row = systems.load(tx, system, for_update=True)
            systems.apply(tx, row, row.breaker, (), pause_s=pause_s)

        await self.database.write(work)

    async def force(self, system: str, to: str, why: str) -> systems.Gate:
        """An operator opens (`open`), closes (`closed`) or hands back (`auto`) a breaker, cluster-wide."""

        def work(tx: Transaction) -> tuple[systems.Gate, Sequence[Action]]:
            row, actions = systems.tell(tx, system, Forced(to, why), BreakerRule(), 0.0)
            return row.gate(tx.now_us), actions

        return (await self.database.write(work))[0]

    async def hasten(self, system: str, routes: Sequence[str]) -> None:
        """After a restoration, make what backed off due, and note the backlog in the outage."""
        await self.database.write(lambda tx: systems.note_backlog(tx, system, routes))
        await piecemeal.make_due(self.database, routes, system)

    async def end_drain(self, system: str, routes: Sequence[str]) -> bool:
        """Close the system's outage when nothing that waited through it waits any more. It may have to look at all that
        waits, which on SQLite nothing else could be written beside: so it is looked for by a reader first."""
        if not await self.database.read(lambda tx: systems.is_drained(tx, system, routes)):
            return False
        return await self.database.write(lambda tx: systems.end_drain(tx, system, routes))

    async def is_undrained(self, system: str) -> bool:
        return await self.database.read(lambda tx: systems.undrained(tx, system)) is not None

    # --- failover groups ------------------------------------------------------------------------------------

    async def group(self, name: str, rule: GroupRule) -> GroupState:
        """A failover group as it is now."""
        return await self.database.write(lambda tx: groups.look(tx, name, rule))

    async def pin(self, name: str, rule: GroupRule, system: str, *, why: str, author: str) -> GroupState:
        """Send everything of a group to one provider until `unpin`. Raises `Refused` for one that is not in it."""
        return await self.database.write(lambda tx: groups.pin(tx, name, rule, system, why, author))

    async def unpin(self, name: str, rule: GroupRule, *, why: str, author: str) -> GroupState:
        return await self.database.write(lambda tx: groups.unpin(tx, name, rule, why, author))

    async def hurry(self, name: str, rule: GroupRule, system: str) -> GroupState:
        """End the dwell of a provider that is well again: its canary is next."""
        return await self.database.write(lambda tx: groups.hurry(tx, name, rule, system))

    async def note_service(self, name: str, system: str, ago_us: int) -> None:
        """A provider accepted its first record after a failover to it, so long ago."""
        await self.database.write(lambda tx: groups.note_service(tx, name, system, ago_us))

    async def turns(self, name: str, limit: int = 10) -> list[groups.TurnRow]:
        """What happened to a group, newest first."""
        return await self.database.read(lambda tx: groups.turns(tx, name, limit))

    async def make_due(self, routes: Sequence[str]) -> None:
        """Let what backed off be tried now: its way may be free again."""
        await piecemeal.make_due(self.database, routes)

    # --- parked ---------------------------------------------------------------------------------------------

    async def parked(self, selection: parking.Selection) -> list[parking.Parked]:
        return await self.database.read(lambda tx: parking.find(tx, selection))

    async def parked_payload(self, row_id: int) -> bytes:
        return await self.database.read(lambda tx: parking.payload_of(tx, row_id, self._sealer))

    async def replay(self, ids: Sequence[int], latest: Collection[str] = ()) -> int:
        """Put parked records back to waiting; `latest`: the routes whose newer versions make an older one void."""
        return await self.database.write(lambda tx: parking.replay(tx, ids, self._sealer, latest=latest))

    async def compact(self) -> int:
        """Sum the ledger's lines, in short pieces; cheap sums stay cheap. Returns how many fewer there are."""
        return await piecemeal.compact(self.database)

    async def release(self, ids: Sequence[int]) -> int:
        return await self.database.write(lambda tx: parking.release(tx, ids))

    async def restage(self, row_id: int, corrected: NewRecord | None, order: Order = Order.BLOCK) -> bool:
        """Replace a parked record by what a person made of it; `order`: its route's."""
        return await self.database.write(lambda tx: restaging.restage(tx, row_id, corrected, self._sealer, order))

    async def remap(self, row_id: int, mapped: NewRecord | None, order: Order, *, is_named: bool) -> restaging.Remapped:
        """Replace a record parked at intake by what today's mapping makes of it; `is_named`: a person asked for this
        very one."""
        return await self.database.write(
            lambda tx: restaging.remap(tx, row_id, mapped, self._sealer, order, is_named=is_named)
        )

    async def has_storm(self, system: str) -> bool:
        """Whether `restore_storm` would put anything back."""
        return await self.database.read(lambda tx: bool(parking.storm(tx, system)))

    async def restore_storm(self, system: str) -> int:
        return await self.database.write(lambda tx: parking.restore_storm(tx, system, self._sealer))

    # --- reconciliation -------------------------------------------------------------------------------------

    async def has_case(self, system: str) -> bool:
        """Whether a case can be asked about at a system now."""
        return await self.database.read(lambda tx: asking.is_due(tx, system))

    async def claim_cases(self, system: str, lease_us: int, limit: int = 1) -> list[asking.Case]:
        """Leases on the cases that can be asked about at a system now."""
        return await self.database.write(lambda tx: asking.claim(tx, system, lease_us, limit))

    async def settle_case(self, case: asking.Case, asked: asking.Asked) -> Verdict | None:
        """Write what a look-up means for a case. None, and nothing changed, when it is no longer the caller's."""
        return await self.database.write(lambda tx: asking.settle(tx, case, asked))

    async def settle_void(self, case: asking.Case, undone: asking.Undone) -> Verdict | None:
        """Write what a void did for a case. None as in `settle_case`."""
        return await self.database.write(lambda tx: asking.settle_void(tx, case, undone))

    async def give_back_case(self, case: asking.Case) -> None:
        await self.database.write(lambda tx: asking.give_back(tx, case))

    async def cases(self, selection: reconciliation.Selection) -> list[reconciliation.Listed]:
        """Cases that are not closed, those that need a person first."""
        return await self.database.read(lambda tx: reconciliation.find(tx, selection))

    async def settle_case_by_person(self, row_id: int, why: str, author: str) -> bool:
        """Close a case by a person's word. False when it was closed meanwhile."""
        return await self.database.write(lambda tx: reconciliation.settle_by_person(tx, row_id, why, author))

    async def count_cases(self) -> list[reconciliation.Count]:
        return await self.database.read(reconciliation.counts)

    # --- events and reports ---------------------------------------------------------------------------------

    async def unannounced(self, limit: int = 100) -> list[events.Recorded]:
        return await self.database.read(lambda tx: events.unannounced(tx, limit))

    async def mark_announced(self, ids: Sequence[int]) -> None:
        await self.database.write(lambda tx: events.mark_announced(tx, ids))

    async def recent_events(self, limit: int = 20) -> list[events.Recorded]:
        return await self.database.read(lambda tx: events.recent(tx, limit))

    async def report(self, work: Callable[[Transaction], T]) -> T:
        """Run a reading function of `staging.reports` on one snapshot."""
        return await self.database.read(work)

    async def audit(
        self, routes: Sequence[str], on_lanes: Callable[[int], None] = lambda _: None
    ) -> list[reports.RouteAudit]:
        """Conservation of these routes and of every other that the tables know. `on_lanes` hears, on another thread,
        how many lanes were looked at so far."""
        return await self.database.read(lambda tx: reports.audit(tx, routes, on_lanes))

    # --- upkeep ---------------------------------------------------------------------------------------------

    async def purge(self, route: str, retention_us: int, on_rows: Callable[[int], None] = lambda _: None) -> int:
        """Remove what the route's retention no longer asks for, in short pieces. Returns how many rows went; `on_rows`
        hears after each piece how many so far."""
        return await piecemeal.purge(self.database, route, retention_us, on_rows)

    async def tidy(self, retention_us: int) -> int:
        """Compact the ledger, and remove old events, closed parked records and closed cases, in short pieces; then give
        the room that lanes left to new ones. Returns how many rows went."""
        rows = await self.compact() + await piecemeal.purge_closed(self.database, retention_us)
        await self.database.vacuum("lane")
        return rows

    async def close(self) -> None:
        await self.database.close()
