"""A deployment that `converge` made is picked up by a worker, finds its code and its hub, and runs."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import PrefectClient

from blocks.apply import apply_blocks
from deployments.converge import converge
from tideover.config.loader import load_hub

ROOT = Path(__file__).parents[2]
WORKER = [
    sys.executable, "-m", "prefect", "worker", "start", "--pool", "tideover", "--type", "process", "--run-once",
]  # fmt: skip


@pytest.mark.prefect
async def test_probe_when_run_by_a_worker_from_elsewhere_finds_hub_and_code(
    prefect: PrefectClient, prefect_env: dict[str, str], tmp_path: Path
) -> None:
    sample = ROOT / "deployments" / "sample"
    hub_file = tmp_path / "hub.yaml"
    hub_file.write_text((sample / "hub.yaml").read_text())
    await apply_blocks(sample / "blocks.yaml", environ={})
    await converge(load_hub(hub_file), hub_file, ROOT)
    away = tmp_path / "away"
    away.mkdir()
    deployment = await prefect.read_deployment_by_name("probe/crm")
    run = await prefect.create_flow_run_from_deployment(deployment.id)
    environment = {k: v for k, v in prefect_env.items() if k != "PYTHONPATH"}
    worker = await asyncio.create_subprocess_exec(
        *WORKER, cwd=away, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await worker.communicate()
    state = (await prefect.read_flow_run(run.id)).state
    assert state is not None
    assert state.is_final(), output.decode()
    assert not state.is_crashed(), output.decode()
    assert (tmp_path / "tideover.db").exists(), f"{state.name}: {state.message}\n{output.decode()}"
