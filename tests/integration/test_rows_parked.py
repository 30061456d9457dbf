"""Rows of the failure catalogue about what was given up and what a person does with it: 9, 13, 27, 40 to 43, 62."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.clihubs import tideover
from tests.databases import sql
from tests.fakes import FakeSystem
from tests.hubs import hub_config, running
from tests.twinhubs import (
    ORDERS,
    TwinSecrets,
    all_delivered,
    audited,
    deliver,
    deliver_until,
    read,
    twin_hub,
)
from tideover.hub import intake, overview, replay
from tideover.hub.progress import Ending
from tideover.model import SECOND_US, Accepted
from tideover.staging.parking import Selection
from tideover.twins import TwinHost

TICKETS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "tickets"},
    "mapping": {"fields": {"external_id": "id", "subject": "subject"}},
    "target": {"system": "support", "operation": "upsert-ticket"},
    "key": "id",
    "retry": {"base": "20ms", "cap": "200ms"},
}
EVERYTHING = Selection()
CALM = {"breaker": {"failures": 1000, "rejections": 1000, "open_for": "100ms", "max_open": "200ms"}}


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


@pytest.fixture
def secrets(twins: TwinHost) -> TwinSecrets:
    return TwinSecrets(twins.urls)


def holds(twins: TwinHost, name: str) -> tuple[int, int]:
    """Distinct business keys at a twin, and effects done twice."""
    ledger = twins.ledger(name)
    return int(ledger["keys"]), int(ledger["duplicates"])


async def test_f9_corrupt_row_is_parked_and_the_others_of_its_call_are_delivered(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    """The target takes many in one call, which one unreadable payload would spoil for all."""
    async with twin_hub(tmp_path, database_url, secrets, {"tickets": TICKETS}) as rt:
        await twins.seed("tickets", 40)
        await read(rt, "tickets")
        garbage = "x'7b22ff'" if database_url.startswith("sqlite") else r"'\x7b22ff'::bytea"
        await sql(database_url, f"update record set payload = {garbage} where key = 'ticket-000007'")
        await deliver_until(rt, all_delivered(rt, 39, "tickets"), "support")
        [parked] = await rt.store.parked(EVERYTHING)
        assert parked.key == "ticket-000007"
        assert holds(twins, "support") == (39, 0)
        assert (await audited(rt, "tickets")).waiting == 0


@pytest.mark.parametrize(("order", "delivered", "waiting"), [("block", 1, 1), ("skip", 2, 0)])
async def test_f13_poison_at_the_head_is_parked_and_its_lane_goes_on_as_the_route_says(
    tmp_path: Path,
    database_url: str,
    twins: TwinHost,
    secrets: TwinSecrets,
    order: str,
    delivered: int,
    waiting: int,
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": {**ORDERS, "order": order}}) as rt:
        for total in (-5, 5):
            twins.upsert("orders", [{"id": "o-1", "customerId": "c", "total": total}])
            await read(rt)
        twins.upsert("orders", [{"id": "o-2", "customerId": "c", "total": 5}])
        await read(rt)
        await deliver_until(rt, all_delivered(rt, delivered))
        audit = await audited(rt)
        assert (audit.parked, audit.waiting) == (1, waiting)


async def test_f40_record_that_is_too_old_when_its_attempt_fails_is_parked_with_that_reason(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    route = {**ORDERS, "retry": {**ORDERS["retry"], "max_age": "1ms", "max_attempts": 1000}}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": route}, {"erp": CALM}) as rt:
        await twins.seed("orders", 2)
        await read(rt)
        await twins.fault("erp", "error_500", only="writes")
        await deliver(rt)
        assert [parked.code for parked in await rt.store.parked(EVERYTHING)] == ["expired", "expired"]
        assert (await audited(rt)).waiting == 0


async def test_f40_record_whose_deadline_passed_while_its_system_was_down_is_parked_and_not_sent(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    route = {**ORDERS, "retry": {**ORDERS["retry"], "max_age": "1ms"}}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": route}) as rt:
        await twins.seed("orders", 2)
        await read(rt)
        await rt.store.force("erp", "open", "a test")
        await deliver(rt)
        await rt.store.force("erp", "closed", "a test")
        await deliver(rt)
        assert [parked.code for parked in await rt.store.parked(EVERYTHING)] == ["expired", "expired"]
        assert twins.ledger("erp")["effects"] == 0


async def test_f40_expired_record_that_a_person_replays_is_sent(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    route = {**ORDERS, "retry": {**ORDERS["retry"], "max_age": "2s"}}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": route}) as rt:
        await twins.seed("orders", 1)
        await read(rt)
        await asyncio.sleep(2)  # time itself is what is waited for
        await deliver(rt)
        assert [parked.code for parked in await rt.store.parked(EVERYTHING)] == ["expired"]
        await replay.replay(rt, EVERYTHING)
        assert (await deliver(rt)).delivered == 1
        assert twins.ledger("erp")["effects"] == 1


async def test_f41_record_that_is_replayed_twice_takes_effect_once(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        await twins.seed("orders", 1)
        await read(rt)
        await twins.fault("erp", "error_body_200", count=1, only="writes")
        assert (await deliver(rt)).parked == 1
        [parked] = await rt.store.parked(EVERYTHING)
        both = await asyncio.gather(replay.replay(rt, EVERYTHING), replay.replay(rt, EVERYTHING))
        assert sum(done.replayed for done in both) == 1
        await deliver_until(rt, all_delivered(rt, 1))
        assert (await replay.replay(rt, Selection(records=(parked.record,)))).replayed == 0
        await deliver(rt)
        assert holds(twins, "erp") == (1, 0)
        [traced] = await overview.trace(rt, parked.key)
        assert traced.record == parked.record, "it keeps its idempotency key"


async def test_f42_bulk_replay_at_a_dead_system_waits_for_it(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    systems = {"erp": {"breaker": {**CALM["breaker"], "failures": 3}}}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}, systems) as rt:
        await twins.seed("orders", 60)
        await read(rt)
        await twins.fault("erp", "error_body_200", only="writes")
        await deliver(rt)
        assert (await audited(rt)).parked == 60
        await twins.fault("erp", "down")
        assert (await replay.replay(rt, EVERYTHING)).replayed == 60
        progress = await deliver(rt)
        assert (progress.ending, progress.delivered) == (Ending.DOWN, 0)
        audit = await audited(rt)
        assert (audit.parked, audit.waiting) == (0, 60)
        await twins.clear("erp")
        await deliver_until(rt, all_delivered(rt, 60))
        assert holds(twins, "erp") == (60, 0)


async def test_f43_edited_payload_is_a_new_record_that_names_its_parent(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        twins.upsert("orders", [{"id": "o-1", "customerId": "c", "total": -5}])
        await read(rt)
        assert (await deliver(rt)).parked == 1
        [parked] = await rt.store.parked(EVERYTHING)
        await replay.correct(rt, parked.record, {"external_id": "o-1", "customer": "c", "total": 5})
        await deliver_until(rt, all_delivered(rt, 1))
        [corrected] = [found for found in await overview.trace(rt, "o-1") if found.parent]
        assert corrected.parent == parked.record
        assert corrected.record != parked.record
        assert holds(twins, "erp") == (1, 0)


async def test_f62_system_that_is_taken_out_with_a_backlog_is_refused_by_deploy_and_keeps_it_on_the_books(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    both = {"orders": ORDERS, "tickets": TICKETS}
    async with twin_hub(tmp_path, database_url, secrets, both) as rt:
        await twins.seed("orders", 5)
        await read(rt)
    async with twin_hub(tmp_path, database_url, secrets, {"tickets": TICKETS}) as rt:
        await deliver(rt, "support")
        assert (await audited(rt)).waiting == 5
        assert await overview.abandoned(rt) == {"orders": 5}
    home = tmp_path / "prefect"
    refused = await asyncio.to_thread(tideover, "--hub", tmp_path / "hub.yaml", "deploy", prefect_home=home)
    assert refused.code != 0
    assert "orders (5)" in refused.err
    async with twin_hub(tmp_path, database_url, secrets, both) as rt:
        await deliver_until(rt, all_delivered(rt, 5))
        assert holds(twins, "erp") == (5, 0)


async def test_order_that_is_changed_while_records_wait_side_by_side_is_refused_by_deploy(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": {**ORDERS, "order": "none"}}) as rt:
        await twins.seed("orders", 5)
        await read(rt)
        assert await overview.side_by_side(rt) == {}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": {**ORDERS, "order": "block"}}) as rt:
        assert await overview.side_by_side(rt) == {"orders": 5}
        home = tmp_path / "prefect"
        refused = await asyncio.to_thread(tideover, "--hub", tmp_path / "hub.yaml", "deploy", prefect_home=home)
        assert refused.code != 0
        assert "orders (5)" in refused.err
        await deliver_until(rt, all_delivered(rt, 5))
        assert await overview.side_by_side(rt) == {}


async def test_f27_key_past_its_horizon_without_a_look_up_is_held_for_a_person(database_url: str) -> None:
    ahead_us = 0
    erp = FakeSystem(honours_keys=False, loses_answer=True)
    operation = {"path": "/things", "idempotency_header": "Idempotency-Key"}
    systems = {"erp": {"resolve": "key", "key_horizon": "1h", "rest": {"operations": {"take": operation}}}}
    config, fakes = hub_config(systems=systems), {"crm": FakeSystem(), "erp": erp}
    async with running(config, database_url, fakes, clock=lambda now_us: now_us + ahead_us) as rt:
        await intake.stage_records(rt, "orders", [{"id": "a"}])
        await deliver(rt)
        erp.loses_answer, erp.probe_outcome, calls = False, Accepted(), erp.calls
        ahead_us = 2 * 3600 * SECOND_US
        await deliver(rt)
        [parked] = await rt.store.parked(EVERYTHING)
        assert (parked.code, parked.in_doubt) == ("unresolved", True)
        assert erp.calls == calls, "it was sent again although its key is forgotten"
