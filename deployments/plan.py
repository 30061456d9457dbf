"""What Prefect should hold for a hub: its deployments, as values. Pure but for the look at the flows' parameters."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Literal

from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule, IntervalSchedule
from prefect.utilities.callables import parameter_schema

from tideover.config.models import Cron, Every, Hub, Route
from tideover.config.units import format_duration

TAG = "tideover"
SLUG = "tideover"  # of the one schedule per deployment that is ours
HEARTBEAT_S = 60
HOUSEKEEPING = Cron(cron="17 3 * * *")

FlowName = Literal["sync", "deliver", "failover", "failback", "probe", "replay", "housekeeping"]
FLOWS: tuple[FlowName, ...] = ("sync", "deliver", "failover", "failback", "probe", "replay", "housekeeping")
Schema = dict[str, Any]  # a JSON schema
Schedule = IntervalSchedule | CronSchedule
Parameters = Callable[[FlowName], Schema]


def hub_tag(hub: Hub) -> str:
    """The tag of everything in Prefect that belongs to this hub."""
    return f"hub:{hub.name}"


def entrypoint(flow: FlowName) -> str:
    """Where a worker finds the flow, from the project's root. Dotted: a file path would load the module twice."""
    return f"flows.{flow}.{flow}"


@cache
def flow_parameters(flow: FlowName) -> Schema:
    """The parameters of a flow, as the JSON schema that Prefect checks runs against and draws its form from."""
    module = importlib.import_module(f"flows.{flow}")
    return parameter_schema(getattr(module, flow)).model_dump(exclude_unset=True)  # as `prefect deploy` does


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """One deployment as it should be. `name` is the part after the slash."""

    flow: FlowName
    name: str
    title: str
    text: str
    systems: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str | float], ...] = ()
    schedule: Every | Cron | None = None
    limit: int | None = None
    collision: ConcurrencyLimitStrategy = ConcurrencyLimitStrategy.ENQUEUE

    @property
    def full_name(self) -> str:
        """As Prefect writes it: flow and deployment."""
        return f"{self.flow}/{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs find the project and its hub file, on the machine that runs them."""

    project: Path
    hub_file: Path


def deployments_of(hub: Hub) -> list[Deployment]:
    """Every deployment of a hub: a sync per route, a deliver per target, a failover and a failback per group, a probe
    per system, and two for itself."""
    syncs = [_sync(hub, name, route) for name, route in hub.routes.items()]
    delivers = [_deliver(hub, target) for target in hub.targets]
    probes = [_probe(name) for name, system in hub.systems.items() if system.rest.probe is not None]
    groups = [turn(hub, group) for group in groups_of(hub) for turn in (_failover, _failback)]
    return [*syncs, *delivers, *groups, *probes, _replay(), _housekeeping()]


def groups_of(hub: Hub) -> list[str]:
    """The failover groups that some route delivers to."""
    return [target for target in hub.targets if target in hub.groups]


def _sync(hub: Hub, name: str, route: Route) -> Deployment:
    """Two runs of one route at once are safe, as the cursor moves by compare-and-swap; but the second is in vain."""
    source, target = route.source, route.target
    return Deployment(
        flow="sync",
        name=name,
        title=f"`{source.system}` / {source.stream} → `{target.name}` / {target.operation}",
        text=_table(
            {
                "key": f"`{route.key}`",
                "order": str(route.order),
                "recovery time objective": format_duration(route.rto) if route.rto is not None else "none",
                "recovery point objective": format_duration(route.rpo) if route.rpo is not None else "none",
            }
        ),
        systems=tuple(dict.fromkeys([source.system, *hub.systems_of(target.name)])),
        parameters=(("route", name),),
        schedule=route.schedule,
        limit=1,
    )


def _deliver(hub: Hub, target: str) -> Deployment:
    """A run beyond the limit is cancelled: those that are alive deliver what it would have."""
    routes = ", ".join(f"`{name}`" for name in hub.routes_to(target))
    systems = tuple(hub.systems_of(target))
    return Deployment(
        flow="deliver",
        name=target,
        title=f"Delivers what waits for `{target}`",
        text=_table({"routes": routes, "systems": " → ".join(systems), "stays": format_duration(hub.deliver.linger)}),
        systems=systems,
        parameters=(("target", target), ("linger_s", hub.deliver.linger)),
        schedule=Every.model_validate({"every": format_duration(hub.deliver.every)}),
        limit=hub.deliver.workers,
        collision=ConcurrencyLimitStrategy.CANCEL_NEW,
    )


def _failover(hub: Hub, group: str) -> Deployment:
    systems = tuple(hub.systems_of(group))
    return Deployment(
        flow="failover",
        name=group,
        title=f"Sends everything of `{group}` to another provider",
        text=_table({"order": " → ".join(systems)})
        + "\n\nA group fails over by itself. Run this before maintenance, or when a provider answers and yet does not "
        "do its work. Give the provider as `to`, else it is the next one that is well. It stays so until `failback`.",
        systems=systems,
        parameters=(("group", group),),
        limit=1,
    )


def _failback(hub: Hub, group: str) -> Deployment:
    systems = tuple(hub.systems_of(group))
    return Deployment(
        flow="failback",
        name=group,
        title=f"Lets `{group}` decide by itself again, and brings `{systems[0]}` back now",
        text="Undoes `failover`. If the preferred provider is still down, it comes back by itself once it is well.",
        systems=systems,
        parameters=(("group", group),),
        limit=1,
    )


def _probe(system: str) -> Deployment:
    return Deployment(
        flow="probe",
        name=system,
        title=f"Asks whether `{system}` is well",
        text="Sends no record. Run it by hand, before or after work on the system.",
        systems=(system,),
        parameters=(("system", system),),
    )


def _replay() -> Deployment:
    return Deployment(
        flow="replay",
        name="hub",
        title="Gives parked records another try",
        text="Give a route or record ids. Each record keeps its idempotency key, so that replaying twice does nothing.",
    )


def _housekeeping() -> Deployment:
    return Deployment(
        flow="housekeeping",
        name="hub",
        title="Keeps the staging database small",
        text="Removes delivered records and their attempts once their route's retention is over.",
        schedule=HOUSEKEEPING,
        limit=1,
        collision=ConcurrencyLimitStrategy.CANCEL_NEW,
    )


def _table(rows: dict[str, str]) -> str:
    """A Markdown table; a pipe in a cell, as JMESPath has it, doesn't end the cell."""
    cells = [f"| {name} | {value.replace('|', chr(92) + '|')} |" for name, value in rows.items()]
    return "\n".join(["| | |", "| --- | --- |", *cells])


def fields_of(plan: Deployment, hub: Hub, place: Place, schema: Schema) -> dict[str, Any]:
    """The fields of a deployment as Prefect names them, but for its schedules. Any: whatever JSON holds."""
    project = str(place.project)
    return {
        "description": f"**{plan.title}**\n\n{plan.text}\n\nMade by `tideover deploy` from {place.hub_file.name}.",
        "tags": sorted({TAG, hub_tag(hub), *plan.systems}),
        "parameters": dict(plan.parameters),
        "paused": False,
        "work_pool_name": hub.prefect.work_pool,
        "concurrency_limit": plan.limit,
        "concurrency_options": {"collision_strategy": plan.collision.value},
        "enforce_parameter_schema": True,
        "job_variables": {
            "env": {
                "TIDEOVER_HUB": str(place.hub_file),
                "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_S),
            },
            "working_dir": project,
        },
        "entrypoint": entrypoint(plan.flow),
        "path": project,
        "pull_steps": [{"prefect.deployments.steps.set_working_directory": {"directory": project}}],
        "parameter_openapi_schema": schema,
    }


OURS = frozenset({"entrypoint", "path", "pull_steps", "parameter_openapi_schema"})
"""Fields that say which code runs: no form in the UI changes them, so they are always made equal."""


def schedule_of(schedule: Every | Cron) -> Schedule:
    """A schedule as Prefect has it."""
    if isinstance(schedule, Cron):
        return CronSchedule(cron=schedule.cron, timezone=schedule.timezone)
    return IntervalSchedule(interval=timedelta(seconds=schedule.every), timezone="UTC")


def schedule_fields(schedule: object) -> dict[str, object]:
    """What counts in a schedule. Not the anchor of an interval, which is when it was made."""
    if isinstance(schedule, IntervalSchedule):
        return {"rule": f"every {schedule.interval.total_seconds():g}s", "timezone": schedule.timezone}
    if isinstance(schedule, CronSchedule):
        return {"rule": f"cron {schedule.cron}", "timezone": schedule.timezone}
    return {"rule": str(schedule), "timezone": None}


def held_fields(held: DeploymentResponse) -> dict[str, object]:
    """The fields of a deployment as Prefect holds them, named as in `fields_of`."""
    limit, options = held.global_concurrency_limit, held.concurrency_options
    same = ("description", "parameters", "paused", "work_pool_name", "enforce_parameter_schema", "job_variables")
    return {name: getattr(held, name) for name in (*same, *OURS)} | {
        "tags": sorted(held.tags),
        "concurrency_limit": None if limit is None else limit.limit,
        "concurrency_options": None if options is None else {"collision_strategy": options.collision_strategy.value},
    }


def new_schedule(plan: Deployment) -> DeploymentScheduleCreate:
    """The schedule of a deployment that has one, to be made."""
    assert plan.schedule is not None
    return DeploymentScheduleCreate(schedule=schedule_of(plan.schedule), active=True, slug=SLUG)


def schedule_wanted(plan: Deployment) -> dict[str, object]:
    """The fields of the schedule of a deployment that has one."""
    assert plan.schedule is not None
    return {**schedule_fields(schedule_of(plan.schedule)), "active": True}


def schedule_held(held: DeploymentSchedule) -> dict[str, object]:
    """The same fields as Prefect holds them."""
    return {**schedule_fields(held.schedule), "active": held.active}
