"""Asking a provider that is back about the records that were sent elsewhere: what is sent to it, and what survives.

The carriers are in memory, the hub's database is real. A record gets into doubt here as the claim leaves it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import pytest

from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import running
from tideover.config.models import Hub, System
from tideover.connectors.port import Connector
from tideover.errors import AccessError
from tideover.hub import upkeep
from tideover.hub.delivery import Delivery
from tideover.hub.reconciling import Reconciled, Reconciler, reconcile
from tideover.hub.runtime import Runtime
from tideover.model import (
    CREDENTIALS,
    HUNG,
    REFUSED,
    SECOND_US,
    Accepted,
    LookUp,
    NewRecord,
    Outcome,
    Outgoing,
    Rejected,
    Throttled,
    Unknown,
    Unsent,
    lane_id,
)
from tideover.policy.breaker import Result
from tideover.policy.breaker import State as BreakerState
from tideover.staging import reconciliation
from tideover.staging.database import Transaction
from tideover.staging.ledger import Entry, enter
from tideover.staging.reconciliation import Selection
from tideover.staging.stage import Batch

A, B = "carrier-a", "carrier-b"
CALL_S = 2.0
LEASE_S = 2 * CALL_S + 30.0


class Died(BaseException):
    """The process is gone: nothing that it would do on its way out is done."""


@dataclass
class Carrier(FakeSystem):
    """A carrier whose look-ups may be answered otherwise, and which may be stopped after a look-up or a void."""

    says: Callable[[Outgoing], LookUp | None] = lambda _: None
    asked: list[str] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    dies_after: str = ""
    on_look_up: Callable[[], None] = lambda: None

    def has(self, *records: str) -> None:
        self.effects += [Outgoing(record, "", b"") for record in records]

    async def look_up(self, operation: str, record: Outgoing) -> LookUp:
        assert operation == "take"
        self.asked.append(record.id)
        await self.open.wait()
        found = await super().look_up(operation, record)
        self.on_look_up()
        self._die("look_up")
        return self.says(record) or found

    async def void(
        self, operation: str, record: Outgoing, reference: str | None, deadline: float | None = None
    ) -> Outcome:
        self.deadlines.append(deadline)
        outcome = await super().void(operation, record, reference, deadline)
        self._die("void")
        return outcome

    def _die(self, where: str) -> None:
        if self.dies_after == where:
            self.dies_after = ""
            raise Died


@dataclass
class Clocks:
    """The database's clock and the process's, both moved by hand."""

    ahead_s: float = 0.0
    base: float = 1000.0

    def database(self, now_us: int) -> int:
        return now_us + int(self.ahead_s * SECOND_US)

    def monotonic(self) -> float:
        return self.base + self.ahead_s

    def move(self, seconds: float) -> None:
        self.ahead_s += seconds


def config(*, resolve: str = "lookup", systems: Sequence[str] = (A, B), routes: Sequence[str] = ("orders",)) -> Hub:
    operation = {"path": "/things", "lookup": {"path": "/things/{key}"}}
    system = {
        "block": "tideover-open/x",
        "resolve": resolve,
        "timeouts": {"connect": "1s", "read": "1s", "total": f"{CALL_S:.0f}s"},
        "breaker": {"failures": 3, "open_for": "5s", "max_open": "10s"},
        "rest": {"operations": {"take": operation}, "streams": {"orders": {"path": "/orders"}}},
    }
    route = {
        "source": {"system": "shop", "stream": "orders"},
        "target": {"group": "shipping", "operation": "take"},
        "key": "id",
        "on_unknown": "reroute",
        "max_hold": "1s",
    }
    return Hub.model_validate_json(
        json.dumps(
            {
                "name": "test",
                "systems": dict.fromkeys(("shop", *systems), system),
                "groups": {"shipping": {"providers": list(systems), "live_share": "0%"}},
                "routes": dict.fromkeys(routes, route),
            }
        )
    )


@dataclass
class Scene:
    rt: Runtime
    carriers: dict[str, Carrier]
    clocks: Clocks
    url: str

    @property
    def a(self) -> Carrier:
        return self.carriers[A]

    def reconciler(self, system: str = A) -> Reconciler:
        return Reconciler(self.rt, system, self.carriers[system], CALL_S)

    async def work(self, limit: int = 20) -> Reconciled:
        return await self.reconciler().work(limit)

    async def rerouted(self, *keys: str, delivered: bool = True, at: str = A, route: str = "orders") -> list[str]:
        """Records that may be at a carrier and were sent to carrier-b; their ids."""
        await self.rt.store.stage(Batch(route, "shop", [NewRecord(key, b"{}") for key in keys]))
        found = []
        for key in keys:
            lane = lane_id(route, key)
            [[record]] = await sql(self.url, f"select id from record where lane = {lane}")
            await self.rt.store.database.write(_rerouting(lane, str(record), key, at, route, delivered=delivered))
            found.append(str(record))
        return found

    async def states(self) -> dict[str, str]:
        return dict(await sql(self.url, "select key, state from reconciliation"))  # type: ignore[arg-type]

    async def audit(self) -> tuple[int, int]:
        """Delivered and waiting, with the books in balance."""
        books = await self.rt.store.audit([])
        assert not any(b.faults or b.difference for b in books)
        return sum(b.delivered for b in books), sum(b.waiting for b in books)


def _rerouting(
    lane: int, record: str, key: str, at: str, route: str, *, delivered: bool
) -> Callable[[Transaction], None]:
    def work(tx: Transaction) -> None:
        reconciliation.begin(tx, "shipping", route, at, tx.now_us - 100 * SECOND_US, [(lane, 1, record, key)])
        if delivered:
            reconciliation.trace(tx, (lane, 1, record, route, B, 1), "send", ("accepted", "", "", "B-1"))
            tx.conn.exec_driver_sql(f"update lane set done_seq = 1, state = 0 where id = {lane}")
            enter(tx, route, Entry(delivered=1))

    return work


@pytest.fixture
async def scene(database_url: str) -> AsyncIterator[Scene]:
    clocks = Clocks()
    carriers = {name: Carrier() for name in ("shop", A, B)}
    async with running(config(), database_url, carriers, clock=clocks.database) as rt:
        rt.monotonic = clocks.monotonic
        yield Scene(rt, carriers, clocks, database_url)


# --- what is done ---------------------------------------------------------------------------------------------


async def test_work_voids_what_both_have_adopts_what_one_has_and_asks_again_for_what_is_missing(scene: Scene) -> None:
    [both] = await scene.rerouted("both")
    [only] = await scene.rerouted("only", delivered=False)
    await scene.rerouted("missing")
    scene.a.has(both, only)
    assert await scene.work() == Reconciled(asked=3, voided=1, adopted=1, later=1)
    assert scene.a.voids == [(both, "found")]
    assert await scene.states() == {"both": "voided", "only": "adopted", "missing": "open"}
    assert await scene.audit() == (3, 0)
    scene.clocks.move(CALL_S)
    assert await scene.work() == Reconciled(asked=1, absent=1)
    assert await scene.work() == Reconciled()


async def test_work_asks_no_more_than_its_limit(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("a", "b", "c"))
    assert (await scene.work(2)).voided == 2
    assert len(scene.a.asked) == 2
    assert (await scene.work(2)).voided == 1


async def test_void_gets_the_lease_as_its_deadline(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    await scene.work()
    assert scene.a.deadlines == [scene.clocks.monotonic() + LEASE_S]


async def test_raised_case_is_never_asked_about_again(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.void_outcome = Rejected("shipped")
    assert (await scene.work()).raised == 1
    scene.clocks.move(1e6)
    assert await scene.work() == Reconciled()
    assert await reconcile(scene.rt) == {}
    assert len(scene.a.asked) == 1


async def test_void_that_the_carrier_does_not_have_is_a_persons(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.void_outcome = None
    assert (await scene.work()).raised == 1
    assert scene.a.voids == []


@pytest.mark.parametrize("wrong", ["route", "operation", "resolve"])
async def test_case_that_can_not_be_asked_about_is_raised_without_a_call(
    database_url: str, wrong: str, scene: Scene
) -> None:
    await scene.rerouted("k")
    scene.rt.config = (
        config(resolve="none") if wrong == "resolve" else config(routes=("other",) if wrong == "route" else ("orders",))
    )
    if wrong == "operation":
        del scene.rt.config.systems[A].rest.operations["take"]
    assert await scene.work() == Reconciled(raised=1)
    assert scene.a.asked == []
    [case] = await scene.rt.store.cases(Selection())
    assert {"route": "orders is no longer", "operation": "no longer has", "resolve": "can't be asked"}[
        wrong
    ] in case.detail
    assert database_url


# --- a system that is not well --------------------------------------------------------------------------------


@pytest.mark.parametrize("answer", [Unsent("refused"), Unknown("server_error"), Throttled(20.0)])
async def test_work_stops_at_the_first_sign_of_trouble_and_leaves_the_rest(scene: Scene, answer: LookUp) -> None:
    await scene.rerouted("a", "b", "c")
    scene.a.says = lambda _: answer
    reconciler = scene.reconciler()
    assert await reconciler.work() == Reconciled(asked=1, later=1, is_well=False)
    assert len(scene.a.asked) == 1
    assert await reconciler.work() == Reconciled(is_well=False)
    assert len(scene.a.asked) == 1, "it is left alone for a while"
    scene.a.says = lambda _: None
    scene.clocks.move(20.0)
    assert await reconciler.work() == Reconciled(asked=3, later=3)


async def test_throttled_look_up_pauses_the_system_for_everybody(scene: Scene) -> None:
    await scene.rerouted("k")
    scene.a.says = lambda _: Throttled(20.0)
    await scene.work()
    assert (await scene.rt.store.gate(A)).is_paused
    assert await reconcile(scene.rt) == {}


@pytest.mark.parametrize("answer", [Unsent(CREDENTIALS), Unknown(HUNG)])
async def test_trouble_counts_for_the_breaker(scene: Scene, answer: LookUp) -> None:
    await scene.rerouted("k")
    scene.a.says = lambda _: answer
    await scene.work()
    assert (await scene.rt.store.gate(A)).state is BreakerState.OPEN


async def test_trouble_in_a_void_stops_as_well(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("a", "b"))
    scene.a.void_outcome = Unknown("reset")
    assert await scene.work() == Reconciled(asked=1, later=1, is_well=False)
    assert len(scene.a.voids) == 1


async def test_question_that_is_refused_is_no_trouble_of_the_system(scene: Scene) -> None:
    await scene.rerouted("a", "b")
    scene.a.says = lambda _: Unknown(REFUSED, "http 410")
    assert await scene.work() == Reconciled(asked=2, later=2)
    assert (await scene.rt.store.gate(A)).state is BreakerState.CLOSED


# --- crashes and others ---------------------------------------------------------------------------------------


async def test_crash_after_the_look_up_is_asked_again_when_the_lease_is_over(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.dies_after = "look_up"
    with pytest.raises(Died):
        await scene.work()
    assert await scene.work() == Reconciled()
    scene.clocks.move(LEASE_S + 1)
    assert await scene.work() == Reconciled(asked=1, voided=1)
    assert len(scene.a.voids) == 1


async def test_cancelled_question_gives_its_case_back_at_once(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))

    def cancel() -> None:
        raise asyncio.CancelledError

    scene.a.on_look_up = cancel
    with pytest.raises(asyncio.CancelledError):
        await scene.work()
    scene.a.on_look_up = lambda: None
    assert await scene.work() == Reconciled(asked=1, voided=1)


@pytest.mark.parametrize("step", ["claim_cases", "settle_case"])
async def test_reconciler_that_is_stopped_at_any_step_before_the_void_gives_its_case_back(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    scene.a.has(*await scene.rerouted("k"))
    method = getattr(scene.rt.store, step)
    working = asyncio.create_task(asyncio.sleep(0))

    async def stopped(*given: object) -> object:
        working.cancel()
        return await method(*given)

    with monkeypatch.context() as patched:
        patched.setattr(scene.rt.store, step, stopped)
        working = asyncio.create_task(scene.work())  # type: ignore[assignment,arg-type]
        with pytest.raises(asyncio.CancelledError):
            await working
    assert scene.a.voids == []
    assert await scene.work() == Reconciled(asked=1, voided=1)


async def lingering(scene: Scene, is_over: Callable[[], Awaitable[bool]]) -> None:
    """A delivery until something is so."""
    stop = asyncio.Event()
    run = asyncio.create_task(Delivery(scene.rt, "shipping", linger_s=600, stop=stop).run())
    async with asyncio.timeout(60):
        while not await is_over():
            await asyncio.sleep(0.02)
    stop.set()
    await run


async def test_case_of_a_system_that_only_a_record_can_tell_of_is_asked_about_although_no_record_comes(
    scene: Scene,
) -> None:
    scene.a.has(*await scene.rerouted("k"))
    await scene.rt.store.tell(A, Result("orders", 1, Unknown(HUNG)), scene.rt.breaker_rule(A, has_probe=False))
    scene.clocks.move(11)

    async def is_voided() -> bool:
        return await scene.states() == {"k": "voided"}

    await lingering(scene, is_voided)
    assert len(scene.a.voids) == 1
    assert (await scene.rt.store.gate(A)).state is not BreakerState.CLOSED, "that it answers does not say that it books"


async def test_case_whose_question_fails_leaves_the_system_alone_for_longer(scene: Scene) -> None:
    await scene.rerouted("k")
    scene.a.says = lambda _: Unknown(HUNG)
    await scene.rt.store.tell(A, Result("orders", 1, Unknown(HUNG)), scene.rt.breaker_rule(A, has_probe=False))
    scene.clocks.move(6)

    async def is_left_alone() -> bool:
        return bool(scene.a.asked) and (await scene.rt.store.gate(A)).wait_s > 5

    await lingering(scene, is_left_alone)
    assert len(scene.a.asked) == 1


async def test_run_without_patience_ends_after_the_case_under_way(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("a", "b", "c"))
    scene.a.open.clear()
    run = asyncio.create_task(Delivery(scene.rt, "shipping", patience_s=0).run())
    async with asyncio.timeout(60):
        while not scene.a.asked:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.0)  # the run is over, but for the case
        assert not run.done()
        scene.a.open.set()
        await run
    assert sorted((await scene.states()).values()) == ["open", "open", "voided"]


async def test_run_that_has_nothing_else_to_do_ends_after_the_cases_that_are_due(scene: Scene) -> None:
    """However short its runs are: none begins a question that its own end cuts off."""
    scene.a.has(*await scene.rerouted("a", "b", "c"))
    scene.a.open.clear()
    run = asyncio.create_task(Delivery(scene.rt, "shipping").run())
    async with asyncio.timeout(60):
        while not scene.a.asked:
            await asyncio.sleep(0.01)
    scene.a.open.set()
    await run
    assert set((await scene.states()).values()) == {"voided"}


async def test_crash_after_the_void_is_known_to_have_worked_by_the_next_look_up(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.dies_after = "void"
    with pytest.raises(Died):
        await scene.work()
    assert await scene.states() == {"k": "voiding"}
    scene.clocks.move(LEASE_S + 1)
    assert await scene.work() == Reconciled(asked=1, voided=1)
    assert len(scene.a.voids) == 1
    assert scene.a.standing() == []


async def test_void_that_did_nothing_is_sent_again_after_a_crash(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.void_outcome, scene.a.dies_after = Unknown("reset"), "void"
    with pytest.raises(Died):
        await scene.work()
    scene.a.void_outcome = Accepted()
    scene.clocks.move(LEASE_S + 1)
    assert await scene.work() == Reconciled(asked=1, voided=1)
    assert len(scene.a.voids) == 2


async def test_reconciler_that_was_frozen_sends_no_void_and_settles_nothing(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.on_look_up = lambda: scene.clocks.move(LEASE_S + 1)
    assert await scene.work(1) == Reconciled(asked=1, refused=1)
    assert scene.a.voids == []
    scene.a.on_look_up = lambda: None
    assert (await scene.work()).voided == 1


async def test_reconciler_with_too_little_time_left_for_the_void_leaves_it_to_the_next_one(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted("k"))
    scene.a.on_look_up = lambda: scene.clocks.move(LEASE_S - 1)
    assert await scene.work(1) == Reconciled(asked=1, later=1)
    assert scene.a.voids == []
    scene.a.on_look_up = lambda: None
    scene.clocks.move(2)
    assert (await scene.work()).voided == 1


async def test_two_reconcilers_at_once_ask_about_each_case_once(scene: Scene) -> None:
    scene.a.has(*await scene.rerouted(*(f"k{n}" for n in range(10))))
    done = await asyncio.gather(scene.work(), scene.work())
    assert done[0].voided + done[1].voided == 10
    assert len(scene.a.asked) == len(set(scene.a.asked)) == 10
    assert len(scene.a.voids) == 10


# --- housekeeping ---------------------------------------------------------------------------------------------


async def test_housekeeping_reconciles_until_nothing_is_due_and_tells(scene: Scene) -> None:
    told: list[str] = []
    scene.rt.announce = lambda recorded: told.append(recorded.event.name)
    scene.a.has(*await scene.rerouted(*(f"k{n}" for n in range(25))))
    await upkeep.housekeeping(scene.rt)
    assert set((await scene.states()).values()) == {"voided"}
    assert told.count("tideover.reconciliation.voided") == 25


async def test_reconcile_leaves_a_system_alone_whose_breaker_is_open_and_works_on_the_others(scene: Scene) -> None:
    await scene.rerouted("a")
    scene.carriers[B].has(*await scene.rerouted("b", at=B, delivered=False))
    await scene.rt.store.force(A, "open", "maintenance")
    assert await reconcile(scene.rt) == {B: Reconciled(asked=1, adopted=1)}
    assert scene.a.asked == []


async def test_reconcile_of_a_system_that_is_not_well_ends(scene: Scene) -> None:
    await scene.rerouted("a", "b")
    scene.a.says = lambda _: Unsent("refused")
    assert await reconcile(scene.rt) == {A: Reconciled(asked=1, later=1, is_well=False)}


async def test_reconcile_without_credentials_leaves_the_cases(scene: Scene) -> None:
    await scene.rerouted("a")

    async def connect(name: str, system: System) -> Connector:
        raise AccessError(name, "no such block")

    scene.rt.connect = connect
    assert await reconcile(scene.rt) == {}
    assert await scene.states() == {"a": "open"}


async def test_reconcile_raises_the_cases_of_a_system_that_is_gone(scene: Scene) -> None:
    await scene.rerouted("a", at="carrier-z")
    assert await reconcile(scene.rt) == {"carrier-z": Reconciled(raised=1)}
    [case] = await scene.rt.store.cases(Selection())
    assert case.detail == "carrier-z is no longer in the configuration"


# --- from end to end ------------------------------------------------------------------------------------------


async def test_order_whose_answer_was_lost_is_rerouted_and_voided_where_it_is_too_many(database_url: str) -> None:
    """Carrier-a ships it, but its answer is lost and it can't be asked; carrier-b ships it too; carrier-a is back."""
    carriers = {name: Carrier() for name in ("shop", A, B)}
    a = carriers[A]
    a.loses_answer, a.probe_outcome, a.says = True, Unsent("refused"), lambda _: Unknown("reset")
    async with running(config(), database_url, carriers) as rt:
        await rt.store.stage(Batch("orders", "shop", [NewRecord("k", b"{}")]))
        stop = asyncio.Event()
        delivery = asyncio.create_task(Delivery(rt, "shipping", linger_s=60, stop=stop).run())
        try:
            async with asyncio.timeout(90):
                while not carriers[B].effects:
                    await asyncio.sleep(0.05)
                a.loses_answer, a.probe_outcome, a.says = False, Accepted(), lambda _: None
                await rt.store.force(A, "auto", "it is back")
                while (await sql(database_url, "select state from reconciliation")) != [("voided",)]:
                    await asyncio.sleep(0.05)
        finally:
            stop.set()
            await delivery
        [books] = await rt.store.audit(["orders"])
        assert (books.delivered, books.waiting, books.faults) == (1, 0, ())
    assert (len(a.effects), a.standing(), len(carriers[B].standing())) == (1, [], 1)
