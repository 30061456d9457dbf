"""What the command line does with the Prefect project around a hub, shown on a project of our own making."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.clihubs import make_hub
from tideover.cli.prefect_project import FOLDERS, find_project, load
from tideover.errors import Refused

CONVERGE = """
from dataclasses import dataclass

@dataclass
class Change:
    kind: str
    name: str
    what: str
    fields: tuple = ()

async def converge(hub, hub_file, project, *, overwrite=False, dry_run=False):
    assert hub.name == "acme" and hub_file.is_absolute() and (project / "flows").is_dir()
    kept = Change("schedule", "sync/orders", "updated" if overwrite else "kept", ("rule",))
    return [Change("deployment", "sync/orders", "created"), kept, Change("work pool", "tideover", "unchanged")]
"""
DECLARED = """
def check_types(hub, hub_file):
    assert hub.name == "acme" and hub_file.is_absolute()

async def missing(hub):
    return ["tideover-bearer/crm"]
"""
SERVER = "http://127.0.0.1:1/api"
APPLY = """
from types import SimpleNamespace

async def apply_blocks(source, *, dry_run=False):
    return [SimpleNamespace(block="tideover-bearer/crm", what="unchanged")]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A hub, and beside it a Prefect project that only says what it would do."""
    for name in FOLDERS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "deployments" / "converge.py").write_text(CONVERGE)
    (tmp_path / "blocks" / "apply.py").write_text(APPLY)
    (tmp_path / "blocks" / "declared.py").write_text(DECLARED)
    make_hub(tmp_path)
    return tmp_path


def _run(folder: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tideover.cli", "--hub", str(folder / "hub.yaml"), *arguments]
    elsewhere = folder / "flows"
    env = os.environ | {"PREFECT_API_URL": SERVER, "PREFECT_HOME": str(folder / "prefect")} | environ
    return subprocess.run(command, cwd=elsewhere, env=env, capture_output=True, text=True, check=False, timeout=60)


def test_deploy_shows_what_changed_and_what_a_person_keeps(project: Path) -> None:
    ended = _run(project, "deploy")
    assert ended.returncode == 0, ended.stderr
    assert [row.split()[0] for row in ended.stdout.splitlines()[1:4]] == ["created", "kept", "unchanged"]
    assert "1 object changed" in ended.stdout
    assert "--overwrite sets them back" in ended.stderr


def test_deploy_as_json_lists_every_object(project: Path) -> None:
    told = json.loads(_run(project, "deploy", "--overwrite", "--dry-run", "--json").stdout)
    assert told["dry_run"] is True
    assert told["changes"][1] == {
        "kind": "schedule",
        "name": "sync/orders",
        "what": "updated",
        "fields": ["rule"],
    }


def test_deploy_tells_where_to_and_which_blocks_are_missing(project: Path) -> None:
    server = "http://somebody:hush@127.0.0.1:1/api"
    ended = _run(project, "deploy", "--json", PREFECT_API_URL=server)
    told = json.loads(ended.stdout)
    assert (told["server"], told["missing_blocks"]) == (SERVER, ["tideover-bearer/crm"])
    assert f"Prefect's API is {SERVER}" in ended.stderr
    assert "Prefect has no block tideover-bearer/crm" in ended.stderr
    assert "tideover blocks apply" in ended.stderr


@pytest.mark.parametrize("command", [("deploy", "--dry-run"), ("blocks", "apply", "blocks.yaml")], ids=" ".join)
def test_command_without_a_prefect_server_is_refused(project: Path, command: tuple[str, ...]) -> None:
    ended = _run(project, *command, PREFECT_API_URL="")
    assert (ended.returncode, ended.stdout) == (6, "")
    assert "PREFECT_API_URL" in ended.stderr
    assert not (project / "tideover.db").exists()


def test_deploy_takes_the_server_of_a_profile(project: Path) -> None:
    (project / "prefect").mkdir()
    profile = f'active = "theirs"\n[profiles.theirs]\nPREFECT_API_URL = "{SERVER}"\n'
    (project / "prefect" / "profiles.toml").write_text(profile)
    command = [
        sys.executable,
        "-m",
        "tideover.cli",
        "--hub",
        str(project / "hub.yaml"),
        "deploy",
        "--dry-run",
        "--json",
    ]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    env["PREFECT_HOME"] = str(project / "prefect")
    ended = subprocess.run(command, cwd=project, env=env, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["server"] == SERVER
    assert not (project / "tideover.db").exists()


def test_blocks_apply_that_changes_nothing_says_so(project: Path) -> None:
    ended = _run(project, "blocks", "apply", "blocks.yaml")
    assert ended.returncode == 0, ended.stderr
    assert "nothing to do" in ended.stdout
    told = json.loads(_run(project, "blocks", "apply", "blocks.yaml", "--json").stdout)
    assert told == {
        "dry_run": False,
        "server": SERVER,
        "blocks": [{"block": "tideover-bearer/crm", "what": "unchanged"}],
    }


def test_project_beside_the_hub_goes_before_any_other(project: Path) -> None:
    assert find_project(project / "hub.yaml") == project


def test_project_that_is_nowhere_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tideover.cli.prefect_project as prefect_project

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prefect_project, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(Refused, match="tideover init"):
        find_project(tmp_path / "hub.yaml")


def test_module_of_the_same_name_from_elsewhere_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(Refused, match="is something in its way"):
        load(project, "json")


def test_prefect_that_does_not_fit_stops_a_deploy_before_it_begins(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.clihubs import CliHub
    from tideover.cli import doctor

    monkeypatch.setattr(doctor, "check_prefect", lambda: ["the server of prefect 3.8.8 does not start"])
    monkeypatch.setitem(os.environ, "PREFECT_API_URL", "")
    ran = CliHub(project / "hub.yaml").run("deploy")
    assert ran.code == 6
    assert "the server of prefect 3.8.8 does not start" in ran.err
