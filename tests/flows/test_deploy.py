"""`converge` on a real Prefect server: it makes everything once, follows the file, and respects people."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import DeploymentScheduleCreate, DeploymentUpdate
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.events.actions import CallWebhook
from prefect.events.schemas.automations import Automation, AutomationCore, EventTrigger, Posture

from deployments.automations import FIELDS
from deployments.changes import Change
from deployments.converge import converge
from deployments.plan import FlowName, deployments_of
from tideover.config.models import Hub
from tideover.errors import Refused

pytestmark = pytest.mark.prefect

PROJECT = Path("/srv/hub")
HUB_FILE = PROJECT / "hub.yaml"
NEEDS: dict[FlowName, dict[str, str]] = {
    "sync": {"route": "string"},
    "deliver": {"target": "string", "linger_s": "number"},
    "failover": {"group": "string", "to": "string"},
    "failback": {"group": "string"},
    "probe": {"system": "string"},
    "replay": {},
    "housekeeping": {},
}


def parameters_of(flow: FlowName) -> dict[str, Any]:
    """The schema of a flow that takes what the hub gives it."""
    properties = {
        name: {"type": kind, "title": name, "position": at} for at, (name, kind) in enumerate(NEEDS[flow].items())
    }
    return {"title": "Parameters", "type": "object", "properties": properties, "definitions": {}}


def a_hub(**changes: object) -> Hub:
    """Two systems, one of them with a probe, and two routes."""
    route = {"source": {"system": "crm", "stream": "orders"}, "target": {"system": "erp", "operation": "create"}}
    tree: dict[str, Any] = {
        "name": "shop",
        "systems": {
            "crm": {"block": "tideover-open/crm"},
            "erp": {"block": "tideover-open/erp", "rest": {"probe": {}}},
        },
        "routes": {
            "orders": {**route, "key": "id || 'none'", "schedule": {"every": "1m"}, "rto": "15m"},
            "bills": {**route, "key": "id", "schedule": {"cron": "5 * * * *", "timezone": "Europe/Berlin"}},
        },
    }
    return Hub.model_validate({**tree, **changes})


def without_schedule() -> Hub:
    """The same hub with one route, which nothing starts by itself."""
    route = {"source": {"system": "crm", "stream": "orders"}, "target": {"system": "erp", "operation": "create"}}
    return a_hub(routes={"orders": {**route, "key": "id || 'none'", "rto": "15m"}})


async def run(hub: Hub, *, overwrite: bool = False, dry_run: bool = False) -> list[Change]:
    return await converge(hub, HUB_FILE, PROJECT, overwrite=overwrite, dry_run=dry_run, parameters_of=parameters_of)


def with_group() -> Hub:
    """The same hub with a route to a failover group instead."""
    route = {"source": {"system": "crm", "stream": "orders"}, "target": {"group": "ship", "operation": "create"}}
    return a_hub(groups={"ship": {"providers": ["erp", "crm"]}}, routes={"orders": {**route, "key": "id"}})


def but(changes: list[Change], what: str) -> list[Change]:
    """The changes other than these."""
    return [change for change in changes if change.what != what]


async def automations(client: PrefectClient) -> dict[str, Automation]:
    return {automation.name: automation for automation in await client.read_automations()}


async def test_converge_when_there_is_nothing_makes_everything_and_then_changes_nothing(
    prefect: PrefectClient,
) -> None:
    first = await run(a_hub())
    assert but(first, "created") in ([], [Change("work pool", "tideover", "unchanged")])
    assert {c.name for c in first if c.kind == "deployment"} == {
        "sync/orders", "sync/bills", "deliver/erp", "probe/erp", "replay/hub", "housekeeping/hub"
    }  # fmt: skip
    second = await run(a_hub())
    assert but(second, "unchanged") == []
    assert {(c.kind, c.name) for c in second} == {(c.kind, c.name) for c in first}


async def test_converge_when_dry_writes_nothing_and_tells_the_same(prefect: PrefectClient) -> None:
    told = await run(a_hub(), dry_run=True)
    assert await prefect.read_deployments() == []
    assert await automations(prefect) == {}
    assert but(await run(a_hub()), "unchanged") == but(told, "unchanged")


async def test_sync_deployment_is_what_the_route_says(prefect: PrefectClient) -> None:
    await run(a_hub())
    found = await prefect.read_deployment_by_name("sync/orders")
    assert found.parameters == {"route": "orders"}
    assert found.entrypoint == "flows.sync.sync"
    assert found.path == str(PROJECT)
    assert found.pull_steps == [{"prefect.deployments.steps.set_working_directory": {"directory": str(PROJECT)}}]
    assert found.job_variables["env"]["TIDEOVER_HUB"] == str(HUB_FILE)
    assert found.job_variables["working_dir"] == str(PROJECT)
    assert {"tideover", "hub:shop", "crm", "erp"} == set(found.tags)
    assert found.work_pool_name == "tideover"
    assert found.global_concurrency_limit is not None
    assert found.global_concurrency_limit.limit == 1
    assert found.concurrency_options is not None
    assert found.concurrency_options.collision_strategy.value == "ENQUEUE"
    [schedule] = found.schedules
    assert isinstance(schedule.schedule, IntervalSchedule)
    assert schedule.schedule.interval == timedelta(minutes=1)
    assert "id \\|\\| 'none'" in (found.description or "")


async def test_deliver_deployment_is_what_the_hub_says(prefect: PrefectClient) -> None:
    await run(a_hub(deliver={"linger": "5m", "every": "2m", "workers": 3}))
    found = await prefect.read_deployment_by_name("deliver/erp")
    assert found.parameters == {"target": "erp", "linger_s": 300.0}
    assert found.global_concurrency_limit is not None
    assert found.global_concurrency_limit.limit == 3
    assert found.concurrency_options is not None
    assert found.concurrency_options.collision_strategy.value == "CANCEL_NEW"
    [schedule] = found.schedules
    assert isinstance(schedule.schedule, IntervalSchedule)
    assert schedule.schedule.interval == timedelta(minutes=2)


async def test_converge_when_the_file_changed_follows_it(prefect: PrefectClient) -> None:
    await run(a_hub())
    changes = await run(a_hub(deliver={"workers": 2, "every": "5m"}))
    assert but(changes, "unchanged") == [
        Change("deployment", "deliver/erp", "updated", ("concurrency_limit",)),
        Change("schedule", "deliver/erp", "updated", ("rule",)),
    ]
    found = await prefect.read_deployment_by_name("deliver/erp")
    assert found.global_concurrency_limit is not None
    assert found.global_concurrency_limit.limit == 2
    assert but(await run(a_hub(deliver={"workers": 2, "every": "5m"})), "unchanged") == []


async def test_converge_when_a_person_changed_a_deployment_keeps_that(prefect: PrefectClient) -> None:
    await run(a_hub())
    found = await prefect.read_deployment_by_name("deliver/erp")
    await prefect.update_deployment(
        found.id, DeploymentUpdate(tags=[*found.tags, "mine"], concurrency_limit=7, paused=True)
    )
    changes = await run(a_hub(deliver={"workers": 2, "linger": "1m"}))
    kept = Change("deployment", "deliver/erp", "kept", ("tags", "paused", "concurrency_limit"))
    assert Change("deployment", "deliver/erp", "updated", ("description", "parameters")) in changes
    assert kept in changes
    now = await prefect.read_deployment_by_name("deliver/erp")
    assert (now.paused, "mine" in now.tags, now.parameters["linger_s"]) == (True, True, 60.0)

    forced = await run(a_hub(deliver={"workers": 2, "linger": "1m"}), overwrite=True)
    assert but(forced, "unchanged") == [
        Change("deployment", "deliver/erp", "updated", ("tags", "paused", "concurrency_limit"))
    ]
    now = await prefect.read_deployment_by_name("deliver/erp")
    assert (now.paused, "mine" in now.tags) == (False, False)
    assert but(await run(a_hub(deliver={"workers": 2, "linger": "1m"})), "unchanged") == []


async def test_converge_when_a_person_paused_our_schedule_or_added_one_leaves_both(prefect: PrefectClient) -> None:
    await run(a_hub())
    found = await prefect.read_deployment_by_name("sync/orders")
    await prefect.update_deployment_schedule(found.id, found.schedules[0].id, active=False)
    mine = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 9 * * 1"), active=True)
    await prefect.create_deployment_schedules(found.id, [mine])
    assert but(await run(a_hub()), "unchanged") == [Change("schedule", "sync/orders", "kept", ("active",))]

    assert but(await run(a_hub(), overwrite=True), "unchanged") == [
        Change("schedule", "sync/orders", "updated", ("active",))
    ]
    now = await prefect.read_deployment_by_name("sync/orders")
    assert sorted((s.slug or "", s.active) for s in now.schedules) == [("", True), ("tideover", True)]


async def test_converge_when_a_person_deleted_our_schedule_does_not_make_it_again(prefect: PrefectClient) -> None:
    await run(a_hub())
    found = await prefect.read_deployment_by_name("sync/orders")
    await prefect.delete_deployment_schedule(found.id, found.schedules[0].id)
    assert but(await run(a_hub()), "unchanged") == [Change("schedule", "sync/orders", "kept", ("removed",))]
    assert but(await run(a_hub(), overwrite=True), "unchanged") == [Change("schedule", "sync/orders", "created")]


async def test_converge_when_the_file_has_no_schedule_any_more_removes_ours(prefect: PrefectClient) -> None:
    await run(a_hub())
    changes = await run(without_schedule())
    assert Change("schedule", "sync/orders", "removed") in changes
    assert (await prefect.read_deployment_by_name("sync/orders")).schedules == []
    assert but(await run(without_schedule()), "unchanged") == []


async def test_converge_when_a_route_is_gone_removes_its_deployment_and_no_other(prefect: PrefectClient) -> None:
    await run(a_hub())
    flow = await prefect.create_flow_from_name("sync")
    await prefect.create_deployment(flow, "by-hand", tags=["tideover"])
    changes = await run(without_schedule())
    assert Change("deployment", "sync/bills", "removed") in changes
    names = {deployment.name for deployment in await prefect.read_deployments()}
    assert "bills" not in names
    assert "by-hand" in names


async def test_converge_when_a_target_is_gone_removes_its_automations(prefect: PrefectClient) -> None:
    await run(a_hub())
    route = {"source": {"system": "erp", "stream": "orders"}, "target": {"system": "crm", "operation": "create"}}
    await run(a_hub(routes={"back": {**route, "key": "id"}}))
    assert set(await automations(prefect)) == {
        "tideover: drain crm on restore", "tideover: hold the line for crm", "tideover: runs without a heartbeat"
    }  # fmt: skip


async def test_automations_run_deliver_when_a_system_of_the_target_changes(prefect: PrefectClient) -> None:
    await run(a_hub())
    deliver = await prefect.read_deployment_by_name("deliver/erp")
    found = await automations(prefect)
    for name, event in (("drain erp on restore", "restored"), ("hold the line for erp", "down")):
        automation = found[f"tideover: {name}"]
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.expect == {f"tideover.system.{event}"}
        assert automation.trigger.match.model_dump() == {"prefect.resource.id": ["tideover.system.erp"]}  # type: ignore[union-attr]
        assert [getattr(action, "deployment_id", None) for action in automation.actions] == [deliver.id]


async def test_heartbeat_automation_waits_for_several_heartbeats(prefect: PrefectClient) -> None:
    await run(a_hub())
    deliver = await prefect.read_deployment_by_name("deliver/erp")
    frequency_s = int(deliver.job_variables["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    trigger = (await automations(prefect))["tideover: runs without a heartbeat"].trigger
    assert isinstance(trigger, EventTrigger)
    assert trigger.posture == Posture.Proactive
    assert trigger.within >= timedelta(seconds=3 * frequency_s)


async def test_converge_when_a_person_switched_an_automation_off_leaves_it(prefect: PrefectClient) -> None:
    await run(a_hub())
    name = "tideover: hold the line for erp"
    await prefect.pause_automation((await automations(prefect))[name].id)
    assert but(await run(a_hub()), "unchanged") == [Change("automation", name, "kept", ("enabled",))]
    assert but(await run(a_hub(), overwrite=True), "unchanged") == [Change("automation", name, "updated", ("enabled",))]
    assert (await automations(prefect))[name].enabled


async def test_converge_when_a_deployment_was_deleted_makes_it_and_points_automations_at_it(
    prefect: PrefectClient,
) -> None:
    await run(a_hub())
    await prefect.delete_deployment((await prefect.read_deployment_by_name("deliver/erp")).id)
    changes = await run(a_hub())
    assert Change("deployment", "deliver/erp", "created") in changes
    assert Change("automation", "tideover: drain erp on restore", "updated", ("actions",)) in changes
    assert but(await run(a_hub()), "unchanged") == []


async def test_converge_when_a_person_edited_an_automation_keeps_that_and_updates_the_rest(
    prefect: PrefectClient,
) -> None:
    await run(a_hub())
    name = "tideover: drain erp on restore"
    held = (await automations(prefect))[name]
    edited = held.model_dump(include={"name", *FIELDS}) | {"description": "Ours."}
    await prefect.update_automation(held.id, AutomationCore.model_validate(edited))
    assert but(await run(a_hub()), "unchanged") == [Change("automation", name, "kept", ("description",))]
    assert (await automations(prefect))[name].description == "Ours."


async def test_converge_when_another_hub_has_the_server_refuses_unless_told(prefect: PrefectClient) -> None:
    await run(a_hub())
    with pytest.raises(Refused, match="belongs to hub:shop"):
        await run(a_hub(name="store"))
    await run(a_hub(name="store"), overwrite=True)
    assert "hub:store" in (await prefect.read_deployment_by_name("deliver/erp")).tags
    assert but(await run(a_hub(name="store")), "unchanged") == []


async def test_converge_when_the_notes_are_lost_takes_differences_for_a_persons(prefect: PrefectClient) -> None:
    await run(a_hub())
    [document] = await prefect.read_block_documents_by_type("tideover-applied")
    await prefect.delete_block_document(document.id)
    changes = await run(a_hub(deliver={"workers": 2}))
    assert but(changes, "unchanged") == [Change("deployment", "deliver/erp", "kept", ("concurrency_limit",))]


def test_deployments_of_a_group_deliver_once_for_all_its_systems() -> None:
    [deliver] = [plan for plan in deployments_of(with_group()) if plan.flow == "deliver"]
    assert (deliver.name, deliver.systems) == ("ship", ("erp", "crm"))


async def test_converge_of_a_group_makes_its_failover_and_failback_and_removes_them_with_it(
    prefect: PrefectClient,
) -> None:
    await run(with_group())
    for flow in ("failover", "failback"):
        found = await prefect.read_deployment_by_name(f"{flow}/ship")
        assert (found.parameters, found.entrypoint) == ({"group": "ship"}, f"flows.{flow}.{flow}")
        assert {"erp", "crm"} < set(found.tags)
        assert found.schedules == []
    assert but(await run(with_group()), "unchanged") == []
    changes = await run(a_hub())
    assert {c.name for c in changes if c.what == "removed"} == {
        "deliver/ship", "failover/ship", "failback/ship", "tideover: drain ship on restore",
        "tideover: hold the line for ship", "tideover: tell when ship fails over",
        "tideover: tell what a person must reconcile",
    }  # fmt: skip


async def test_automations_of_a_group_run_its_deliver_when_any_of_its_providers_changes(prefect: PrefectClient) -> None:
    await run(with_group())
    deliver = await prefect.read_deployment_by_name("deliver/ship")
    found = await automations(prefect)
    for name in ("drain ship on restore", "hold the line for ship"):
        automation = found[f"tideover: {name}"]
        assert isinstance(automation.trigger, EventTrigger)
        assert automation.trigger.match.model_dump() == {  # type: ignore[union-attr]
            "prefect.resource.id": ["tideover.system.erp", "tideover.system.crm"]
        }
        assert [getattr(action, "deployment_id", None) for action in automation.actions] == [deliver.id]


async def test_automations_that_tell_wait_for_a_notification_and_keep_it(prefect: PrefectClient) -> None:
    await run(with_group())
    name = "tideover: tell when ship fails over"
    held = (await automations(prefect))[name]
    assert isinstance(held.trigger, EventTrigger)
    assert held.trigger.expect == {"tideover.group.failover", "tideover.group.relapse"}
    assert held.trigger.match.model_dump() == {"prefect.resource.id": ["tideover.group.ship"]}  # type: ignore[union-attr]
    told = [*held.actions, CallWebhook(block_document_id=uuid4())]
    edited = held.model_dump(include={"name", *FIELDS}) | {"actions": told}
    await prefect.update_automation(held.id, AutomationCore.model_validate(edited))
    assert but(await run(with_group()), "unchanged") == [Change("automation", name, "kept", ("actions",))]
    assert len((await automations(prefect))[name].actions) == 2


async def test_converge_when_prefect_is_away_says_so(prefect_api: str, dead_api: str) -> None:
    with pytest.raises(Refused, match="can't be reached"):
        await run(a_hub())


@pytest.mark.parametrize(("pool", "said"), [("a/b", "does not accept name: "), ("prefect-pool", "answered 403: ")])
async def test_converge_when_prefect_refuses_repeats_what_it_said(prefect: PrefectClient, pool: str, said: str) -> None:
    with pytest.raises(Refused, match=said):
        await run(a_hub(prefect={"work_pool": pool}))
