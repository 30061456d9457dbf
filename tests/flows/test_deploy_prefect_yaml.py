"""`prefect deploy --all` with the file that ships: Prefect's own way to the same deployments."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.exceptions import ObjectAlreadyExists
from prefect.workers.process import ProcessWorker

from blocks.apply import read_blocks
from deployments.automations import automations_of
from deployments.plan import Place, deployments_of, fields_of, flow_parameters, schedule_fields, schedule_of
from tideover.config.loader import load_hub

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "deployments" / "sample" / "hub.yaml"
COMMAND = [
    sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all",
    "--prefect-file", "deployments/prefect.yaml",
]  # fmt: skip


def test_sample_blocks_are_those_that_the_sample_hub_names() -> None:
    blocks = read_blocks(ROOT / "deployments" / "sample" / "blocks.yaml", {})
    assert {system.block for system in load_hub(SAMPLE).systems.values()} <= blocks.keys()


@pytest.mark.prefect
async def test_prefect_deploy_makes_what_tideover_deploy_would(
    prefect: PrefectClient, prefect_env: dict[str, str]
) -> None:
    hub = load_hub(SAMPLE)
    template = ProcessWorker.get_default_base_job_template()
    with suppress(ObjectAlreadyExists):
        await prefect.create_work_pool(WorkPoolCreate(name="tideover", type="process", base_job_template=template))
    child = await asyncio.create_subprocess_exec(
        *COMMAND, cwd=ROOT, env=prefect_env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await child.communicate()
    assert child.returncode == 0, output.decode()
    delivers = {}
    for plan in deployments_of(hub):
        found = await prefect.read_deployment_by_name(plan.full_name)
        wanted = fields_of(plan, hub, Place(ROOT, SAMPLE), flow_parameters(plan.flow))
        for field in ("parameters", "entrypoint", "job_variables", "pull_steps", "parameter_openapi_schema"):
            assert getattr(found, field) == wanted[field], f"{plan.full_name}: {field}"
        assert sorted(found.tags) == wanted["tags"]
        assert (found.global_concurrency_limit.limit if found.global_concurrency_limit else None) == plan.limit
        assert [schedule_fields(s.schedule) for s in found.schedules] == [
            schedule_fields(schedule_of(schedule)) for schedule in [plan.schedule] if schedule is not None
        ]
        if plan.flow == "deliver":
            delivers[plan.name] = found.id
    made = {a.name for a in await prefect.read_automations() if a.name.startswith("tideover: ")}
    assert {a.name for a in automations_of(hub, delivers)} - made == {
        "tideover: runs without a heartbeat",
        "tideover: tell when shipping fails over",
        "tideover: tell what a person must reconcile",
    }
