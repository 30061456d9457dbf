"""`tideover reconciliation`, and what trace and audit say of it, on a real hub."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.clihubs import CliHub, make_hub, order
from tests.hubs import running
from tideover.config.loader import load_hub
from tideover.hub.runtime import Runtime
from tideover.model import Found, lane_id
from tideover.policy.reconcile import Means
from tideover.staging import reconciliation
from tideover.staging.cases import Asked
from tideover.staging.database import Transaction

NO_VOID = Means(can_ask=True, can_void=False, settle_s=1.0)


def act(hub: CliHub, what: Callable[[Runtime], Awaitable[object]]) -> None:
    async def run() -> None:
        async with running(load_hub(hub.file), f"sqlite:///{hub.file.parent / 'tideover.db'}", {}) as rt:
            await what(rt)

    asyncio.run(run())


def reroute(hub: CliHub, key: str, *systems: str) -> str:
    """A delivered order that may be at other systems too; its id."""
    record = str(hub.json("trace", key)["records"][0]["record"])

    def work(tx: Transaction) -> None:
        for system in systems:
            place = (lane_id("orders", key), 1, record, key)
            reconciliation.begin(tx, "shipping", "orders", system, tx.now_us - 90_000_000, [place])

    act(hub, lambda rt: rt.store.database.write(work))
    return record


def ask(hub: CliHub, system: str) -> None:
    """The system has everything that it may have, and no void."""

    async def work(rt: Runtime) -> None:
        for case in await rt.store.claim_cases(system, 60_000_000, 100):
            await rt.store.settle_case(case, Asked(Found("A-77"), NO_VOID))

    act(hub, work)


@pytest.fixture
def hub(tmp_path: Path) -> CliHub:
    made = make_hub(tmp_path)
    made.happen([order("O-1"), order("O-2"), order("O-3")])
    return made


def test_reconciliation_when_there_is_none_says_so(hub: CliHub) -> None:
    assert "nothing is to be reconciled" in hub.run("reconciliation").out
    assert hub.json("reconciliation") == {"reconciliation": [], "is_complete": True}


def test_reconciliation_lists_raised_first_with_both_references(hub: CliHub) -> None:
    raised = reroute(hub, "O-1", "carrier-a")
    ask(hub, "carrier-a")
    waiting = reroute(hub, "O-2", "carrier-a")
    ran = hub.run("reconciliation")
    assert ran.code == 0
    assert "1 record is being reconciled; 1 needs a person" in ran.out
    assert ran.out.index(raised) < ran.out.index(waiting)
    assert "carrier-a (A-77) and erp (SO-O-1) both have it" in ran.out
    assert "tideover reconciliation settle" in ran.out
    first, second = hub.json("reconciliation")["reconciliation"]
    assert first.pop("since").endswith("Z")
    assert first.pop("id") > 0
    assert first == {
        "record": raised,
        "route": "orders",
        "group": "shipping",
        "key": "O-1",
        "may_be_at": "carrier-a",
        "reference_there": "A-77",
        "has_it": "erp",
        "reference_here": "SO-O-1",
        "state": "raised",
        "detail": "carrier-a (A-77) and erp (SO-O-1) both have it; carrier-a has no void",
    }
    assert (second["state"], second["has_it"], second["reference_there"]) == ("open", "erp", None)


def test_reconciliation_of_a_selection_lists_only_that(hub: CliHub) -> None:
    for key in ("O-1", "O-2"):
        reroute(hub, key, "carrier-a")
    assert [c["key"] for c in hub.json("reconciliation", "--key", "O-2")["reconciliation"]] == ["O-2"]
    assert hub.json("reconciliation", "--route", "orders", "--limit", "1")["is_complete"] is False
    assert "there are more" in hub.run("reconciliation", "--limit", "1").err
    assert hub.run("reconciliation", "--route", "nowhere").code == 6


def test_settle_closes_a_case_and_leaves_a_trace(hub: CliHub) -> None:
    record = reroute(hub, "O-1", "carrier-a")
    ask(hub, "carrier-a")
    told = hub.json("reconciliation", "settle", record, "--why", "label cancelled", "--author", "ann")
    assert told == {
        "settled": True,
        "record": record,
        "system": "carrier-a",
        "why": "label cancelled",
        "author": "ann",
        "has_it": "erp",
    }
    assert hub.json("reconciliation")["reconciliation"] == []
    ran = hub.run("trace", "O-1")
    for words in ("may go elsewhere", "look-up found", "needs a person", "settled by a person", "ann: label cancelled"):
        assert words in ran.out
    assert "delivered" in ran.out


def test_settle_by_default_is_by_the_user_at_work(hub: CliHub) -> None:
    record = reroute(hub, "O-1", "carrier-a")
    assert hub.json("reconciliation", "settle", record, "--why", "x")["author"] == getpass.getuser()


def test_settle_of_what_is_not_there_or_without_a_reason_is_refused(hub: CliHub) -> None:
    record = reroute(hub, "O-1", "carrier-a")
    assert hub.run("reconciliation", "settle", "0" * 32, "--why", "x").code == 6
    assert hub.run("reconciliation", "settle", record, "--why", "  ").code == 6
    assert hub.run("reconciliation", "settle", record).code == 2
    assert len(hub.json("reconciliation")["reconciliation"]) == 1


def test_settle_of_a_record_that_may_be_at_two_systems_wants_to_know_which(hub: CliHub) -> None:
    record = reroute(hub, "O-1", "carrier-a", "carrier-b")
    ran = hub.run("reconciliation", "settle", record, "--why", "x")
    assert ran.code == 6
    assert "carrier-a and carrier-b" in ran.err
    assert hub.run("reconciliation", "settle", record, "--why", "x", "--system", "carrier-b").code == 0
    assert [c["may_be_at"] for c in hub.json("reconciliation")["reconciliation"]] == ["carrier-a"]


def test_audit_counts_what_is_being_reconciled_and_is_no_fault(hub: CliHub) -> None:
    assert "reconciled" not in hub.run("audit").out
    reroute(hub, "O-1", "carrier-a")
    ask(hub, "carrier-a")
    for key in ("O-2", "O-3"):
        reroute(hub, key, "carrier-a")
    ran = hub.run("audit")
    assert ran.code == 0
    assert "2 records are being reconciled; 1 needs a person" in ran.out
    assert hub.json("audit")["reconciliation"] == {"open": 2, "raised": 1}
