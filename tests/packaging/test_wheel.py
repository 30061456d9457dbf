"""The wheel as a user gets it: what is in it, that it installs into an empty environment, and that the flows of a
clone run against it."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from prefect.client.orchestration import PrefectClient

from tests.flows.live import live_hub

pytestmark = [
    pytest.mark.packaging,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore:.*socket.socket:pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]
ROOT = Path(__file__).parents[2]
PROJECT = ("flows", "tasks", "blocks", "deployments")


def run(*command: object, cwd: Path, env: dict[str, str] | None = None) -> str:
    """A command's output. Fails the test with everything it said."""
    done = subprocess.run([str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=ROOT)
    [built] = folder.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds the wheel, in the exact versions of the constraints, and nothing else."""
    folder = tmp_path_factory.mktemp("empty")
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    versions = folder / "versions.txt"
    pinned = re.findall(r"^([\w.-]+==\S+(?: ; [^\\\n]+)?)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert len(pinned) > 50
    versions.write_text("\n".join(pinned))
    run(python, "-m", "pip", "install", "--quiet", "--constraint", versions, wheel, cwd=folder)
    return python


def test_wheel_holds_the_engine_and_nothing_importable_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"tideover", next(top for top in tops if top.endswith(".dist-info"))}
    for needed in (
        "tideover/py.typed",
        "tideover/staging/migrations/versions/0001_first.py",
        "tideover/connectors/presets/twin-erp.yaml",
        "tideover/cli/template/hub.yaml",
        *(f"tideover/project/{folder}/__init__.py" for folder in PROJECT),
    ):
        assert needed in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


def test_installed_wheel_lays_a_project_that_checks(installed: Path, tmp_path: Path) -> None:
    tideover = installed.parent / "tideover"
    assert "these fit together" in run(tideover, "version", cwd=tmp_path)
    run(tideover, "init", "hub", cwd=tmp_path)
    for name in PROJECT:
        assert (tmp_path / "hub" / name / "__init__.py").exists()
    run(tideover, "check", cwd=tmp_path / "hub")
    origin = run(installed, "-c", "import tideover; print(tideover.__file__)", cwd=tmp_path / "hub")
    assert "site-packages" in origin


async def test_flows_of_a_clone_run_against_the_installed_wheel(
    installed: Path, tmp_path: Path, prefect: PrefectClient, prefect_env: dict[str, str]
) -> None:
    clone = tmp_path / "clone"
    for name in PROJECT:
        shutil.copytree(ROOT / name, clone / name)
    environment = {**prefect_env, "PYTHONPATH": ""}
    async with live_hub(tmp_path, f"sqlite:///{tmp_path / 'hub.db'}") as live:
        await live.twins.seed("orders", 20)
        script = (
            "import asyncio, tideover; from flows.sync import sync\n"
            "assert 'site-packages' in tideover.__file__\n"
            "print('ended', asyncio.run(sync('orders-to-erp', return_state=True)).name)"
        )
        process_env = {**environment, "TIDEOVER_HUB": str(live.file)}
        said = await asyncio.to_thread(run, installed, "-c", script, cwd=clone, env=process_env)
        assert "ended Completed" in said
        assert live.holds("erp") == (20, 0)
