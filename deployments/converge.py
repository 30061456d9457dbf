"""Make Prefect equal to `hub.yaml`: work pool, deployments with their schedules, automations. Idempotent.

What a person changed in the UI stays, unless told otherwise; `deployments.changes` has the rule. Prefect has no place
for our notes on a deployment (labels can't be updated, and an upsert deletes schedules), and a variable holds 5,000
characters; so the notes are one block per hub, `tideover-applied/<hub>`, which has no such limit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.actions import DeploymentUpdate, WorkPoolCreate
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyOptions, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation, AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker
from pydantic import ValidationError

from blocks import Applied
from blocks.access import explain
from blocks.system import faults
from deployments import automations as auto
from deployments.changes import Change, changes_of, merge
from deployments.plan import (
    OURS,
    SLUG,
    TAG,
    Deployment,
    Parameters,
    Place,
    deployments_of,
    fields_of,
    flow_parameters,
    held_fields,
    hub_tag,
    new_schedule,
    schedule_held,
    schedule_of,
    schedule_wanted,
)
from tideover.config.models import Hub
from tideover.errors import Refused

PAGE = 200
NOWHERE = UUID(int=0)  # stands, in a dry run, for a deployment that does not exist yet


async def converge(
    hub: Hub,
    hub_file: Path,
    project: Path,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    parameters_of: Parameters = flow_parameters,
) -> list[Change]:
    """Make Prefect equal to the hub; one change per object that should be there, or was and should not.

    `hub_file` and `project` are absolute, as they are on the machines that run the flows. With `overwrite`, what a
    person changed is changed back. With `dry_run`, nothing is written, and the changes are those that would be.

    Raises `Refused` when the deployments are another hub's, which `overwrite` takes over, and when Prefect can't be
    asked or does not accept something; what was done until then stays, and the next call goes on from there.
    """
    try:
        async with get_client() as client:
            run = _Convergence(client, hub, Place(project, hub_file), overwrite, dry_run, parameters_of)
            await run.read()
            try:
                return [c for step in (run.pool, run.deployments, run.automations) for c in await step()]
            finally:
                await run.remember()
    except ValidationError as error:
        raise Refused(f"Prefect does not accept {faults(error)}") from error
    except (httpx.HTTPError, OSError, RuntimeError) as error:
        raise Refused(explain(error)) from error


@dataclass
class _Convergence:
    """One run of `converge`: what Prefect holds, and the notes of what was written."""

    client: PrefectClient
    hub: Hub
    place: Place
    overwrite: bool
    dry_run: bool
    parameters_of: Parameters
    notes: dict[str, dict[str, str]] = field(default_factory=dict)
    noted: dict[str, dict[str, str]] = field(default_factory=dict)
    delivers: dict[str, UUID] = field(default_factory=dict)
    working_dir: bool = True

    async def read(self) -> None:
        """Read the notes of the last time."""
        try:
            saved = await self.client.read_block_document_by_name(self.hub.name, Applied.get_block_type_slug())
        except ObjectNotFound:
            return
        self.notes = Applied(objects=saved.data.get("objects") or {}).objects
        self.noted = {name: dict(fields) for name, fields in self.notes.items()}

    async def remember(self) -> None:
        """Write the notes, if they are new; also after a failure, for what was done until then."""
        if not self.dry_run and self.notes != self.noted:
            await Applied(objects=self.notes).asave(self.hub.name, overwrite=True, client=self.client)

    async def pool(self) -> list[Change]:
        """Make the work pool if it is not there. A pool of any type that is there is used as it is."""
        name = self.hub.prefect.work_pool
        try:
            found = await self.client.read_work_pool(name)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            if not self.dry_run:
                pool = WorkPoolCreate(name=name, type="process", base_job_template=template)
                await self.client.create_work_pool(pool)
            return [Change("work pool", name, "created")]
        variables = found.base_job_template.get("variables", {}).get("properties", {})
        self.working_dir = "working_dir" in variables
        return [Change("work pool", name, "unchanged")]

    async def deployments(self) -> list[Change]:
        """Every deployment of the hub, and none that was."""
        plans = deployments_of(self.hub)
        held = {plan.full_name: await self._held(plan) for plan in plans}
        changes = [change for plan in plans for change in await self._deployment(plan, held[plan.full_name])]
        return [*changes, *await self._remove_deployments({d.id for d in held.values() if d is not None}, plans)]

    async def _held(self, plan: Deployment) -> DeploymentResponse | None:
        try:
            found = await self.client.read_deployment_by_name(plan.full_name)
        except ObjectNotFound:
            return None
        others = [tag for tag in found.tags if tag.startswith("hub:") and tag != hub_tag(self.hub)]
        if others and hub_tag(self.hub) not in found.tags and not self.overwrite:
            raise Refused(
                f"deployment {plan.full_name} belongs to {others[0]}, and one Prefect server serves one hub; "
                "if this is that hub under a new name, deploy with overwrite"
            )
        return found

    async def _deployment(self, plan: Deployment, held: DeploymentResponse | None) -> list[Change]:
        wanted = fields_of(plan, self.hub, self.place, self.parameters_of(plan.flow))
        if not self.working_dir:
            wanted["job_variables"] = {"env": wanted["job_variables"]["env"]}
        if held is None:
            return await self._create(plan, wanted)
        self._found(plan, held.id)
        key = f"deployment {plan.full_name}"
        merged = merge(wanted, held_fields(held), self.notes.get(key, {}), overwrite=self.overwrite, ours=OURS)
        if merged.write and not self.dry_run:
            await self.client.update_deployment(held.id, DeploymentUpdate(**merged.write))
        self.notes[key] = dict(merged.notes)
        return [*changes_of("deployment", plan.full_name, merged), *await self._schedule(plan, held)]

    async def _create(self, plan: Deployment, wanted: dict[str, Any]) -> list[Change]:
        created = NOWHERE
        schedules = [] if plan.schedule is None else [new_schedule(plan)]
        if not self.dry_run:
            flow_id = await self.client.create_flow_from_name(plan.flow)
            options = ConcurrencyOptions(**wanted["concurrency_options"])
            given = {**wanted, "concurrency_options": options, "schedules": schedules}
            created = await self.client.create_deployment(flow_id, plan.name, **given)
        self._found(plan, created)
        self.notes[f"deployment {plan.full_name}"] = dict(merge(wanted, wanted, {}).notes)
        changes = [Change("deployment", plan.full_name, "created")]
        if plan.schedule is not None:
            fresh = schedule_wanted(plan)
            self.notes[f"schedule {plan.full_name}"] = dict(merge(fresh, fresh, {}).notes)
            changes.append(Change("schedule", plan.full_name, "created"))
        return changes

    def _found(self, plan: Deployment, found: UUID) -> None:
        if plan.flow == "deliver":
            self.delivers[plan.name] = found

    async def _schedule(self, plan: Deployment, held: DeploymentResponse) -> list[Change]:
        """Our one schedule among the deployment's; those that people added are none of our business."""
        key, name = f"schedule {plan.full_name}", plan.full_name
        ours = next((s for s in held.schedules if s.slug == SLUG), None)
        notes = self.notes.get(key, {})
        if plan.schedule is None:
            return await self._unschedule(held.id, ours, key, name)
        if ours is None and notes and not self.overwrite:
            return [Change("schedule", name, "kept", ("removed",))]
        if ours is None:
            if not self.dry_run:
                await self.client.create_deployment_schedules(held.id, [new_schedule(plan)])
            fresh = schedule_wanted(plan)
            self.notes[key] = dict(merge(fresh, fresh, {}).notes)
            return [Change("schedule", name, "created")]
        merged = merge(schedule_wanted(plan), schedule_held(ours), notes, overwrite=self.overwrite)
        if merged.write and not self.dry_run:
            rule = schedule_of(plan.schedule) if {"rule", "timezone"} & set(merged.write) else None
            active = True if "active" in merged.write else None
            await self.client.update_deployment_schedule(held.id, ours.id, active=active, schedule=rule)
        self.notes[key] = dict(merged.notes)
        return changes_of("schedule", name, merged)

    async def _unschedule(self, held: UUID, ours: DeploymentSchedule | None, key: str, name: str) -> list[Change]:
        """The file has no schedule: take ours away, unless a person made something of it."""
        notes = self.notes.get(key, {})
        if ours is not None:
            now = schedule_held(ours)
            touched = merge(dict.fromkeys(now), now, notes).kept
            if touched and not self.overwrite:
                return [Change("schedule", name, "kept", touched)]
            if not self.dry_run:
                await self.client.delete_deployment_schedule(held, ours.id)
        self.notes.pop(key, None)
        return [Change("schedule", name, "removed")] if ours is not None else []

    async def _remove_deployments(self, wanted: set[UUID], plans: Iterable[Deployment]) -> list[Change]:
        names = {plan.full_name for plan in plans}
        changes = []
        for found in await self._tagged():
            if found.id in wanted:
                continue
            name = f"{(await self.client.read_flow(found.flow_id)).name}/{found.name}"
            if name in names:  # made in this run
                continue
            if not self.dry_run:
                await self.client.delete_deployment(found.id)
            for key in (f"deployment {name}", f"schedule {name}"):
                self.notes.pop(key, None)
            changes.append(Change("deployment", name, "removed"))
        return changes

    async def _tagged(self) -> list[DeploymentResponse]:
        tags = DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG, hub_tag(self.hub)]))
        found: list[DeploymentResponse] = []
        while page := await self.client.read_deployments(deployment_filter=tags, limit=PAGE, offset=len(found)):
            found += page
        return found

    async def automations(self) -> list[Change]:
        """Every automation of the hub, and none that was."""
        held = await self._automations_held()
        by_name = {automation.name: automation for automation in reversed(held)}
        plans = auto.automations_of(self.hub, self.delivers)
        changes = [change for plan in plans for change in await self._automation(plan, by_name.get(plan.name))]
        names = {plan.name for plan in plans}
        for stale in held:
            if stale.name in names or not {TAG, hub_tag(self.hub)} <= set(stale.tags):
                continue
            if not self.dry_run:
                await self.client.delete_automation(stale.id)
            self.notes.pop(f"automation {stale.name}", None)
            changes.append(Change("automation", stale.name, "removed"))
        return changes

    async def _automations_held(self) -> list[Automation]:
        found: list[Automation] = []
        while page := await self.client.read_automations(limit=PAGE, offset=len(found)):
            found += page
        return found

    async def _automation(self, plan: AutomationCore, held: Automation | None) -> list[Change]:
        key, wanted = f"automation {plan.name}", auto.fields_of(plan)
        if held is None:
            if not self.dry_run:
                await self.client.create_automation(plan)
            self.notes[key] = dict(merge(wanted, wanted, {}).notes)
            return [Change("automation", plan.name, "created")]
        merged = merge(wanted, auto.fields_of(held), self.notes.get(key, {}), overwrite=self.overwrite)
        if merged.write and not self.dry_run:
            fields = auto.fields_of(held) | dict(merged.write)
            await self.client.update_automation(held.id, AutomationCore.model_validate({"name": plan.name, **fields}))
        self.notes[key] = dict(merged.notes)
        return changes_of("automation", plan.name, merged)
