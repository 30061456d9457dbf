"""The main job over real HTTP, on both databases: read, stage, deliver, hold through an outage, drain; and every way in
which the other end can misbehave. What the twins hold is compared with what the hub believes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from tests.twinhubs import (
    HASTY,
    ORDERS,
    TwinSecrets,
    all_delivered,
    audited,
    deliver,
    deliver_until,
    read,
    twin_hub,
)
from tideover.connectors.http.access import ApiKey
from tideover.errors import AccessError, SourceError, SourceLoop
from tideover.hub import intake, overview, replay
from tideover.hub.progress import Ending
from tideover.hub.runtime import Runtime
from tideover.policy.breaker import State
from tideover.staging.parking import Selection
from tideover.twins import TwinHost

CONTACTS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "contacts"},
    "mapping": {"fields": {"key": "id", "email_address": "email", "full_name": "name"}},
    "target": {"system": "marketing", "operation": "upsert-member"},
    "key": "id",
    "order": "latest",
    "retry": {"base": "20ms", "cap": "200ms"},
}
TICKETS: dict[str, Any] = {
    "source": {"system": "crm", "stream": "tickets"},
    "mapping": {"fields": {"external_id": "id", "subject": "subject"}},
    "target": {"system": "support", "operation": "upsert-ticket"},
    "key": "id",
    "retry": {"base": "20ms", "cap": "200ms"},
}
PARCELS: dict[str, Any] = {
    **ORDERS,
    "mapping": {"fields": {"external_shipment_id": "id"}},
    "target": {"system": "carrier-a", "operation": "create-shipment"},
}


@pytest.fixture
async def twins(tmp_path: Path) -> AsyncIterator[TwinHost]:
    async with TwinHost(tmp_path / "twins") as host:
        yield host


@pytest.fixture
def secrets(twins: TwinHost) -> TwinSecrets:
    return TwinSecrets(twins.urls)


@pytest.fixture
async def rt(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, secrets: TwinSecrets
) -> AsyncIterator[Runtime]:
    """Its parameter says what is special about its systems."""
    routes = {"orders": ORDERS, "contacts": CONTACTS, "tickets": TICKETS}
    systems = getattr(request, "param", None)
    async with twin_hub(tmp_path, database_url, secrets, routes, systems) as runtime:
        yield runtime


def holds(twins: TwinHost, name: str) -> tuple[int, int]:
    """Distinct business keys at a twin, and effects done twice."""
    ledger = twins.ledger(name)
    return int(ledger["keys"]), int(ledger["duplicates"])


async def test_sync_reads_stages_and_delivers_everything_once(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 250)
    assert (await read(rt)).staged == 250
    assert (await read(rt)).staged == 0, "what has not changed must not be staged again"
    assert (await deliver(rt)).ending == Ending.DRAINED
    assert holds(twins, "erp") == (250, 0)
    assert (await audited(rt)).delivered == 250


async def test_change_at_the_source_is_delivered_as_a_new_version(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 3)
    await read(rt)
    await deliver(rt)
    twins.upsert("orders", [{"id": "order-1", "customerId": "customer-1", "total": 999}])
    assert (await read(rt)).staged == 1
    assert (await deliver(rt)).delivered == 1


async def test_dead_erp_holds_its_records_while_the_others_go_on_and_drains_by_itself(
    rt: Runtime, twins: TwinHost
) -> None:
    for objects in ("orders", "contacts", "tickets"):
        await twins.seed(objects, 120)
    await twins.fault("erp", "down")
    for route in ("orders", "contacts", "tickets"):
        await read(rt, route)
    down, mail, desk = await asyncio.gather(deliver(rt), deliver(rt, "marketing"), deliver(rt, "support"))
    assert (down.ending, down.delivered) == (Ending.DOWN, 0)
    assert (mail.delivered, desk.delivered) == (120, 120)
    assert (await audited(rt)).waiting == 120
    async with asyncio.TaskGroup() as both:
        both.create_task(deliver_until(rt, all_delivered(rt, 120)))
        both.create_task(twins.clear("erp"))
    assert holds(twins, "erp") == (120, 0)
    [outage] = (await overview.overview(rt)).outages
    assert outage.outage.reason == "unreachable"
    assert outage.outage.backlog == 120


# Faults during which the ERP may have done the work: kind, options.
LOST_ANSWERS = [
    ("commit_then_drop", {}),
    ("commit_then_hang", {}),
    ("truncated", {}),
    ("malformed", {"commit": True}),
    ("error_500", {"commit": True}),
    ("drip", {"interval_s": 0.2}),
    ("huge", {"size_mb": 30}),
    ("gzip_bomb", {"size_mb": 200}),
    *(("broken_http", {"manner": it}) for it in ("no_http", "cut_head", "broken_chunks", "cut_chunks", "endless")),
]


@pytest.mark.parametrize("rt", [{"erp": HASTY}], ids=[""], indirect=True)
@pytest.mark.parametrize(
    ("kind", "options"), LOST_ANSWERS, ids=[options.get("manner", kind) for kind, options in LOST_ANSWERS]
)
async def test_f14_f17_f18_f19_lost_answer_of_an_erp_with_keys_is_one_effect(
    rt: Runtime, twins: TwinHost, kind: str, options: dict[str, Any]
) -> None:
    await twins.seed("orders", 8)
    await read(rt)
    await twins.fault("erp", kind, only="writes", **options)
    await deliver(rt)
    assert (await audited(rt)).parked == 0
    await twins.clear("erp")
    await deliver_until(rt, all_delivered(rt, 8))
    assert holds(twins, "erp") == (8, 0)


async def test_f14_lost_answer_of_a_carrier_without_keys_ships_once(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    async with twin_hub(tmp_path, database_url, secrets, {"orders": PARCELS}) as rt:
        await twins.seed("orders", 12)
        await read(rt)
        await twins.fault("carrier-a", "commit_then_drop", only="writes")
        await deliver(rt, "carrier-a")
        await twins.clear("carrier-a")
        await deliver_until(rt, all_delivered(rt, 12), "carrier-a")
        assert holds(twins, "carrier-a") == (12, 0)


@pytest.mark.parametrize("rt", [{"erp": HASTY}], ids=[""], indirect=True)
@pytest.mark.parametrize("kind", ["hang", "error_500", "unavailable_503", "drop", "redirect"])
async def test_outage_of_any_kind_loses_nothing_and_does_nothing_twice(rt: Runtime, twins: TwinHost, kind: str) -> None:
    await twins.seed("orders", 20)
    await read(rt)
    await twins.fault("erp", kind)
    progress = await deliver(rt)
    assert progress.delivered == 0
    audit = await audited(rt)
    assert (audit.waiting, audit.parked) == (20, 0)
    await twins.clear("erp")
    await deliver_until(rt, all_delivered(rt, 20))
    assert holds(twins, "erp") == (20, 0)
    assert sum(twins.trap.counts().values()) == 0, "a redirect was followed"


async def test_f16_error_body_under_200_is_the_records_fault_not_a_success(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 2)
    await read(rt)
    await twins.fault("erp", "error_body_200")
    assert (await deliver(rt)).delivered == 0
    assert holds(twins, "erp")[0] == 0


@pytest.mark.parametrize("vendor", [False, True])
async def test_f20_throttle_in_any_manner_only_delays(rt: Runtime, twins: TwinHost, vendor: bool) -> None:
    await twins.seed("orders", 10)
    await read(rt)
    await twins.fault("erp", "throttle_429", count=1, retry_after_s=1, vendor=vendor)
    assert (await deliver_until(rt, all_delivered(rt, 10))).delivered == 10
    assert (await overview.overview(rt)).outages == []
    assert holds(twins, "erp") == (10, 0)


async def test_f21_half_delivered_batch_resends_only_what_is_missing(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("tickets", 90)
    await read(rt, "tickets")
    await twins.fault("support", "partial", every=3, count=1)
    assert (await deliver_until(rt, all_delivered(rt, 90, "tickets"), "support")).delivered == 90
    assert holds(twins, "support") == (90, 0)
    assert twins.ledger("support")["received"] == 90


async def test_bulk_with_bad_records_parks_those_and_delivers_the_rest(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("contacts", 60)
    twins.upsert("contacts", [{"id": f"bad-{i}", "name": "x"} for i in range(2)])
    await read(rt, "contacts")
    progress = await deliver(rt, "marketing")
    assert (progress.delivered, progress.parked) == (60, 2)
    assert sorted(p.key for p in await rt.store.parked(Selection())) == ["bad-0", "bad-1"]


async def test_f23_f49_refused_credential_parks_nothing_and_a_rotated_one_is_taken_up(
    rt: Runtime, twins: TwinHost, secrets: TwinSecrets
) -> None:
    await twins.seed("tickets", 30)
    await read(rt, "tickets")
    secrets.changed["support"] = ApiKey("x-api-key", SecretStr("revoked"))
    progress = await deliver(rt, "support")
    assert progress.gate is not None
    assert progress.gate.reason == "credentials"
    assert (await audited(rt, "tickets")).parked == 0
    del secrets.changed["support"]
    await deliver_until(rt, all_delivered(rt, 30, "tickets"), "support")
    assert (await rt.store.gate("support")).state is State.CLOSED
    assert holds(twins, "support") == (30, 0)


async def test_changed_contract_keeps_every_record_until_it_fits_again(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 40)
    await read(rt)
    await twins.fault("erp", "contract")
    progress = await deliver(rt)
    assert progress.gate is not None
    assert progress.gate.reason == "contract"
    audit = await audited(rt)
    assert (audit.parked, audit.waiting) == (0, 40)
    await twins.clear("erp")
    await deliver_until(rt, all_delivered(rt, 40))
    assert holds(twins, "erp") == (40, 0)


async def test_bad_record_is_parked_with_the_vendors_reason_and_replayed_after_mending(
    rt: Runtime, twins: TwinHost
) -> None:
    twins.upsert(
        "orders", [{"id": "o-1", "customerId": "c", "total": -5}, {"id": "o-2", "customerId": "c", "total": 5}]
    )
    await read(rt)
    assert (await deliver(rt)).parked == 1
    [parked] = await rt.store.parked(Selection())
    assert (parked.key, parked.code) == ("o-1", "INVALID_VALUE")
    await replay.correct(rt, parked.record, {"external_id": "o-1", "customer": "c", "total": 5})
    assert (await deliver(rt)).delivered == 1
    assert holds(twins, "erp") == (2, 0)
    assert (await audited(rt)).parked == 0


# --- the source misbehaves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["scalar", "empty"])
async def test_broken_record_of_a_page_is_parked_at_intake_and_the_page_goes_on(
    rt: Runtime, twins: TwinHost, shape: str
) -> None:
    await twins.seed("orders", 30)
    await twins.fault("crm", "broken_record", count=1, shape=shape)
    staged = await read(rt)
    assert staged.parked == 1
    [parked] = await rt.store.parked(Selection())
    assert parked.at_intake
    assert parked.detail
    assert (await deliver(rt)).delivered == staged.staged
    await twins.clear("crm")
    assert (await audited(rt)).faults == ()


@pytest.mark.parametrize("kind", ["repeat_cursor", "loop_pages"])
async def test_source_that_goes_in_circles_is_stopped_and_loses_nothing(
    rt: Runtime, twins: TwinHost, kind: str
) -> None:
    await twins.seed("orders", 500)
    await twins.fault("crm", kind)
    with pytest.raises(SourceLoop, match="crm/orders"):
        await read(rt)
    await twins.clear("crm")
    await read(rt)
    await deliver(rt)
    assert holds(twins, "erp") == (500, 0)


@pytest.mark.parametrize(
    ("kind", "rt"),
    [(kind, {}) for kind in ("malformed", "error_body_200", "truncated", "huge", "error_500", "down")]
    + [("hang", {"crm": HASTY})],
    indirect=["rt"],
    ids=lambda it: it if isinstance(it, str) else "",
)
async def test_source_that_answers_badly_moves_no_cursor_and_says_what_is_wrong(
    rt: Runtime, twins: TwinHost, kind: str
) -> None:
    await twins.seed("orders", 20)
    await twins.fault("crm", kind)
    with pytest.raises(SourceError) as caught:
        await read(rt)
    assert "crm/orders" in str(caught.value)
    assert (await rt.store.cursor("orders")).text is None
    await twins.clear("crm")
    assert (await read(rt)).staged == 20


async def test_source_that_refuses_the_credential_is_an_access_error(rt: Runtime, twins: TwinHost) -> None:
    await twins.fault("crm", "unauthorized_401")
    with pytest.raises(AccessError, match="crm"):
        await read(rt)


async def test_record_over_the_size_limit_is_parked_at_intake_with_its_size(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    systems = {"erp": {"limits": {"record": "2kB"}}}
    route = {**ORDERS, "mapping": {}}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": route}, systems) as rt:
        twins.upsert("orders", [{"id": "big", "note": "x" * 5000}, {"id": "small", "note": "x"}])
        staged = await read(rt)
        assert (staged.staged, staged.parked) == (1, 1)
        [parked] = await rt.store.parked(Selection())
        assert (parked.key, parked.code) == ("big", "too_large")
        assert "2000" in parked.detail


async def test_two_runs_of_one_route_at_once_deliver_everything_once(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 400)

    async def sync() -> None:
        while True:
            try:
                await read(rt)
            except SourceError:  # overtaken by the other run: read on
                continue
            break
        await deliver(rt)

    await asyncio.gather(sync(), sync())
    assert holds(twins, "erp") == (400, 0)
    assert (await audited(rt)).accepted == 400


async def test_parked_at_intake_is_mapped_anew_on_replay(
    tmp_path: Path, database_url: str, twins: TwinHost, secrets: TwinSecrets
) -> None:
    strict = {**ORDERS, "mapping": {"fields": {"external_id": "id", "vat": "vat"}, "required": ["vat"]}}
    async with twin_hub(tmp_path, database_url, secrets, {"orders": strict}) as rt:
        twins.upsert("orders", [{"id": "o-1", "customerId": "c", "total": 5}])
        assert (await read(rt)).parked == 1
        assert (await replay.replay(rt, Selection())).still_broken == 1
    async with twin_hub(tmp_path, database_url, secrets, {"orders": ORDERS}) as rt:
        assert (await replay.replay(rt, Selection())).replayed == 1
        assert (await deliver(rt)).delivered == 1
        assert (await audited(rt)).parked == 0
        assert holds(twins, "erp") == (1, 0)


async def test_extract_of_a_long_listing_goes_on_where_the_last_one_stopped(rt: Runtime, twins: TwinHost) -> None:
    await twins.seed("orders", 350)
    first = await intake.extract(rt, "orders", limit=100)
    assert not first.is_last
    await intake.stage(rt, first)
    rest = await read(rt)
    assert first.read + rest.staged == 350
