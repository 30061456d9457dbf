"""The automations of a hub, as values: what Prefect does by itself when something happens.

Prefect fires an automation within seconds of its event. A `deliver` run that is alive needs none: it drains at once.
These are for when no run is alive, for runs that died without a word, and for people to be told: those that tell have
no action of their own, as only people know where they read; a notification that is added in the UI stays there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from uuid import UUID

from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing, RunDeployment
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification

from deployments.plan import FLOWS, HEARTBEAT_S, TAG, groups_of, hub_tag
from tideover.config.models import Hub

RESTORED = "tideover.system.restored"
DOWN = "tideover.system.down"
FAILOVER = "tideover.group.failover"
RELAPSE = "tideover.group.relapse"
RAISED = "tideover.reconciliation.raised"
SILENCE_S = 5 * HEARTBEAT_S  # at least three heartbeats, so that one lost on the way harms nobody
_TERMINAL = ("Completed", "Failed", "Crashed", "Cancelled")

FIELDS = ("description", "enabled", "tags", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")


def automations_of(hub: Hub, delivers: Mapping[str, UUID]) -> list[AutomationCore]:
    """Every automation of a hub. `delivers` holds the id of each target's deliver deployment."""
    per_target = [
        automation
        for target in hub.targets
        for automation in (_drain(hub, target, delivers[target]), _hold_the_line(hub, target, delivers[target]))
    ]
    groups = groups_of(hub)
    told = [*(_tell_of_failover(hub, group) for group in groups), *([_tell_of_raised(hub)] if groups else [])]
    return [*per_target, *told, _silent_runs(hub)]


def fields_of(automation: AutomationCore) -> dict[str, object]:
    """The fields that make an automation what it is. Its name is its identity."""
    held = automation.model_dump(mode="python", include=set(FIELDS))
    return {**held, "tags": sorted(automation.tags)}


def _drain(hub: Hub, target: str, deployment: UUID) -> AutomationCore:
    return AutomationCore(
        name=f"tideover: drain {target} on restore",
        description=f"A system behind {target} is back: deliver what waited for it.",
        tags=_tags(hub),
        trigger=_trigger({RESTORED}, _systems(hub.systems_of(target))),
        actions=[RunDeployment(source="selected", deployment_id=deployment)],
    )


def _hold_the_line(hub: Hub, target: str, deployment: UUID) -> AutomationCore:
    return AutomationCore(
        name=f"tideover: hold the line for {target}",
        description=f"A system behind {target} went down: keep a run alive that probes it, and drains when it is back.",
        tags=_tags(hub),
        trigger=_trigger({DOWN}, _systems(hub.systems_of(target))),
        actions=[RunDeployment(source="selected", deployment_id=deployment)],
    )


def _tell_of_failover(hub: Hub, group: str) -> AutomationCore:
    return AutomationCore(
        name=f"tideover: tell when {group} fails over",
        description=f"Records of {group} go to another provider, or one failed on its way back. Add a notification.",
        tags=_tags(hub),
        trigger=_trigger({FAILOVER, RELAPSE}, [f"tideover.group.{group}"]),
        actions=[DoNothing()],
    )


def _tell_of_raised(hub: Hub) -> AutomationCore:
    return AutomationCore(
        name="tideover: tell what a person must reconcile",
        description="A record is at two providers, or may be, and the hub can't undo one of them: "
        "`tideover reconciliation` lists it. Add a notification.",
        tags=_tags(hub),
        trigger=_trigger({RAISED}, ["tideover.reconciliation.*"]),
        actions=[DoNothing()],
    )


def _silent_runs(hub: Hub) -> AutomationCore:
    """A run whose worker died with it stays `Running` for ever, and keeps its concurrency slot, unless told so."""
    ends = {f"prefect.flow-run.{state}" for state in _TERMINAL}
    return AutomationCore(
        name="tideover: runs without a heartbeat",
        description=f"A run of the hub was silent for {SILENCE_S} s, so its process is gone: mark it as crashed.",
        tags=_tags(hub),
        trigger=EventTrigger(
            posture=Posture.Proactive,
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat", *ends},
            for_each={"prefect.resource.id"},
            match=_specification({"prefect.resource.id": ["prefect.flow-run.*"]}),
            match_related=_specification({"prefect.resource.role": ["flow"], "prefect.resource.name": list(FLOWS)}),
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message="No heartbeat: the process is gone.")],
    )


def _systems(names: Sequence[str]) -> list[str]:
    return [f"tideover.system.{name}" for name in names]


def _trigger(events: set[str], resources: Sequence[str]) -> EventTrigger:
    return EventTrigger(
        posture=Posture.Reactive,
        expect=events,
        match=_specification({"prefect.resource.id": list(resources)}),
        threshold=1,
        within=timedelta(0),
    )


def _specification(labels: dict[str, list[str]]) -> ResourceSpecification:
    return ResourceSpecification.model_validate(labels)


def _tags(hub: Hub) -> list[str]:
    return sorted([TAG, hub_tag(hub)])
