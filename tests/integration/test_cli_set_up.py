"""The commands that set up and try: init, check, deploy, blocks, version, twins."""

from __future__ import annotations

import importlib.resources
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.clihubs import make_hub, tideover
from tideover.cli.demo.processes import free_ports
from tideover.cli.project import FILES, lay_project
from tideover.errors import Refused

LAID = {"flows", "tasks", "blocks", "deployments", "hub.yaml", "blocks.yaml", "mappings.py", ".gitignore"}


def _run(*arguments: object, cwd: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tideover.cli", *(str(a) for a in arguments)]
    env = {k: v for k, v in os.environ.items() if k != "TIDEOVER_HUB"} | environ
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False, timeout=90)


# --- init, check ------------------------------------------------------------------------------------------------


def test_init_then_check_passes(tmp_path: Path) -> None:
    ran = tideover("init", tmp_path / "new")
    assert ran.code == 0
    assert "tideover twins" in ran.out
    assert {path.name for path in (tmp_path / "new").iterdir()} == LAID | {"hub.schema.json"}
    checked = tideover("check", "--hub", tmp_path / "new" / "hub.yaml")
    assert (checked.code, checked.err) == (0, "")
    assert "hub my-hub is sound" in checked.out


def test_init_lays_a_mapping_that_can_be_used(tmp_path: Path) -> None:
    lay_project(tmp_path)
    hub = tmp_path / "hub.yaml"
    before, _, rest = hub.read_text().partition("    mapping:\n")
    hub.write_text(before + '    mapping: {function: "mappings:order"}\n' + rest[rest.index("    target:") :])
    ended = _run("check", "--json", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["ok"] is True


def test_init_where_something_is_refuses_and_lists_it(tmp_path: Path) -> None:
    (tmp_path / "flows").mkdir()
    (tmp_path / "hub.yaml").write_text("mine")
    ran = tideover("init", tmp_path)
    assert ran.code == 6
    assert "has flows, hub.yaml already" in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flows", "hub.yaml"]


def test_init_on_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="is a file"):
        lay_project(tmp_path / "file")


def test_init_in_a_folder_of_too_long_a_name_is_refused(tmp_path: Path) -> None:
    ran = tideover("init", tmp_path / ("a" * 300))
    assert ran.code == 6
    assert "name another folder" in ran.err


def test_init_as_json_lists_what_it_laid(tmp_path: Path) -> None:
    told = tideover("init", tmp_path, "--json").json
    assert set(told["created"]) == LAID | {"hub.schema.json"}


def test_template_is_in_the_package() -> None:
    folder = importlib.resources.files("tideover.cli") / "template"
    assert all((folder / name).is_file() for name in FILES)


def test_check_shows_each_problem_with_its_line_and_a_caret(tmp_path: Path) -> None:
    lay_project(tmp_path)
    hub = tmp_path / "hub.yaml"
    hub.write_text(hub.read_text().replace("{system: erp, ", "{system: erpp, ").replace("every: 1m", "every: 1"))
    ran = tideover("--hub", hub, "check")
    assert (ran.code, ran.out) == (2, "")
    lines = ran.err.splitlines()
    at = next(n for n, line in enumerate(lines) if "{system: erpp," in line)
    assert lines[at + 1].index("^") == lines[at].index("erpp")
    assert "did you mean `erp`?" in ran.err
    assert "has 2 problems" in ran.err


def test_check_as_json_gives_places_and_mends(tmp_path: Path) -> None:
    hub = make_hub(tmp_path, name="Not A Name")
    ran = hub.run("check", "--json")
    assert ran.code == 2
    assert ran.json["ok"] is False
    (problem,) = ran.json["problems"]
    assert (problem["key"], problem["line"] > 0) == ("name", True)


def test_check_imports_mapping_functions(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    content = json.loads(hub.file.read_text())
    content["routes"]["orders"]["mapping"] = {"function": "not_there_at_all:order"}
    hub.file.write_text(json.dumps(content, indent=2))
    ran = hub.run("check")
    assert ran.code == 2
    assert "there is no module `not_there_at_all`" in ran.err
    assert "^" in ran.err


def test_check_covers_what_looks_like_a_secret(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.file.write_text(hub.file.read_text().replace('"block": "tideover-bearer/crm"', '"token": "hush-hush"'))
    ran = hub.run("check")
    assert ran.code == 2
    assert "hush" not in ran.err
    assert "****" in ran.err


@pytest.mark.parametrize("command", ["check", "status", "audit", "deploy"])
def test_hub_file_that_is_not_there_ends_with_2(tmp_path: Path, command: str) -> None:
    ran = tideover(command, "--hub", tmp_path / "none.yaml")
    assert ran.code == 2
    assert "there is no such file" in ran.err
    assert tideover(command, "--hub", tmp_path / "none.yaml", "--json").json


def test_broken_hub_file_stops_every_command_with_its_line(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.file.write_text("name: acme\nsystems: [unclosed\n")
    ran = hub.run("status")
    assert ran.code == 2
    assert "hub.yaml:" in ran.err
    problems = hub.run("status", "--json").json["error"]["problems"]
    assert problems[0]["line"] > 0


def test_check_schema_is_the_json_schema() -> None:
    assert tideover("check", "--schema").json["title"] == "tideover's hub.yaml"


def test_hub_comes_from_the_environment_unless_it_is_given(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        make_hub(tmp_path / name, name=name)
    environ = {"TIDEOVER_HUB": str(tmp_path / "one" / "hub.yaml")}
    assert json.loads(_run("check", "--json", cwd=tmp_path, **environ).stdout)["hub"]["name"] == "one"
    given = _run("--hub", tmp_path / "two" / "hub.yaml", "check", "--json", cwd=tmp_path, **environ)
    assert json.loads(given.stdout)["hub"]["name"] == "two"


# --- deploy, blocks, version ------------------------------------------------------------------------------------


def test_deploy_where_prefect_can_not_be_asked_says_so(tmp_path: Path) -> None:
    lay_project(tmp_path)
    environ = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    ended = _run("deploy", "--dry-run", cwd=tmp_path, **environ, PREFECT_HOME=str(tmp_path / "prefect"))
    assert ended.returncode == 6, ended.stderr
    assert ended.stdout == ""
    assert "Prefect's API can't be reached" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("tideover-bearer/", "tideover-baerer/", ("no block type `tideover-baerer`", "did you mean `tideover-bearer/")),
        ("tideover-bearer/", "tideover-staging-database/", ("does not fit here", "write one of ", "tideover-bearer")),
    ],
)
def test_deploy_of_a_block_that_no_system_can_have_shows_its_line(
    tmp_path: Path, old: str, new: str, told: tuple[str, ...]
) -> None:
    lay_project(tmp_path)
    hub = tmp_path / "hub.yaml"
    assert old in hub.read_text()
    hub.write_text(hub.read_text().replace(old, new, 1))
    environ = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    ended = _run("deploy", "--dry-run", cwd=tmp_path, **environ)
    assert ended.returncode == 2, ended.stderr
    assert all(piece in ended.stderr for piece in (*told, "hub.yaml:", "^", ".block")), ended.stderr


def test_blocks_apply_of_a_wrong_file_ends_with_2_and_shows_no_secret(tmp_path: Path) -> None:
    lay_project(tmp_path)
    text = (tmp_path / "blocks.yaml").read_text()
    (tmp_path / "wrong.yaml").write_text(text.replace("token: {literal: twin-crm-token}", "tokn: hush-hush"))
    environ = {"PREFECT_API_URL": "http://127.0.0.1:1/api", "PREFECT_HOME": str(tmp_path / "prefect")}
    ended = _run("blocks", "apply", "wrong.yaml", cwd=tmp_path, **environ)
    assert ended.returncode == 2, ended.stderr
    assert "is no field of this block" in ended.stderr
    assert "hush" not in ended.stderr + ended.stdout


def test_version_tells_what_is_installed() -> None:
    told = tideover("version", "--json").json
    assert {"tideover", "python", "prefect", "fastapi", "sqlalchemy", "problems"} <= set(told)
    ran = tideover("version")
    assert told["prefect"] in ran.out


def test_help_lists_the_exit_codes() -> None:
    ran = tideover("--help")
    assert ran.code == 0
    assert "the audit found a fault" in ran.out


@pytest.mark.parametrize(
    "command",
    [
        *("status", "audit", "trace", "parked", "parked show", "parked release", "replay", "breaker"),
        *("init", "check", "migrate", "deploy", "blocks apply", "version", "demo"),
        *("twins", "twins status", "twins fault", "twins clear", "twins kinds", "twins seed", "twins ledger"),
    ],
)
def test_help_of_every_command_documents_its_json(command: str) -> None:
    ran = tideover(*command.split(), "--help")
    assert ran.code == 0
    assert "JSON: " in ran.out
    assert "--hub" in ran.out


def test_unknown_command_ends_with_2() -> None:
    assert tideover("statsu").code == 2


# --- twins ------------------------------------------------------------------------------------------------------


def _twins(folder: Path) -> tuple[subprocess.Popen[str], list[dict[str, str]]]:
    """They take ports in a row; where somebody has one of these by then, they say so, and others are tried."""
    only = ["--only", "crm", "--only", "erp"]
    command = [sys.executable, "-m", "tideover.cli", "--json", "twins", "--folder", str(folder), *only]
    for _ in range(10):
        (base,) = free_ports(1)
        process = subprocess.Popen([*command, "--port-base", str(base)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        first = process.stdout.readline()
        if first.rstrip().endswith("}"):
            return process, [json.loads(first), *(json.loads(process.stdout.readline()) for _ in range(2))]
        process.communicate(timeout=60)
    pytest.fail("no row of free ports was found")


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The control address of twins that `tideover twins` runs."""
    process, told = _twins(tmp_path_factory.mktemp("twins"))
    try:
        yield next(one["url"] for one in told if one["name"] == "control")
    finally:
        process.terminate()
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_twin_is_broken_and_mended(control: str) -> None:
    broken = tideover("twins", "fault", "erp", "slow", "--for", "1h", "--set", "delay_s=0.5", "--control", control)
    assert (broken.code, broken.err) == (0, "")
    assert "erp is faulty: slow" in broken.out
    status = tideover("twins", "status", "--json", "--control", control).json["twins"]
    assert next(t["fault"] for t in status if t["name"] == "erp")["for_s"] == 3600.0
    assert "mended" in tideover("twins", "clear", "erp", "--control", control).out
    assert "slow" not in tideover("twins", "status", "--control", control).out


def test_twins_are_seeded_and_show_their_ledger(control: str) -> None:
    seeded = tideover("twins", "seed", "orders", 5, "--control", control, "--json").json
    assert seeded == {"object": "orders", "records": 5}
    assert tideover("twins", "ledger", "erp", "--json", "--control", control).json["duplicates"] == 0
    assert "standing duplicates" in tideover("twins", "ledger", "erp", "--control", control).out


@pytest.mark.parametrize(
    ("arguments", "code", "why"),
    [
        (["fault", "nobody", "slow"], 6, "valid: crm, erp"),
        (["fault", "erp", "tired"], 6, "valid:"),
        (["fault", "erp", "slow", "--for", "soon"], 2, "is not a duration"),
        (["fault", "erp", "slow", "--set", "delay_s"], 2, "NAME=VALUE"),
    ],
)
def test_twins_asked_for_nonsense_say_what_is_valid(control: str, arguments: list[str], code: int, why: str) -> None:
    ran = tideover("twins", *arguments, "--control", control)
    assert ran.code == code
    assert why in ran.err


def test_twins_that_do_not_run_say_how_to_start_them() -> None:
    ran = tideover("twins", "status", "--control", "http://127.0.0.1:1")
    assert ran.code == 1
    assert "start it with `tideover twins`" in ran.err


def test_twins_kinds_lists_what_can_be_broken() -> None:
    assert "commit_then_hang" in tideover("twins", "kinds").out
    assert {k["kind"] for k in tideover("twins", "kinds", "--json").json["kinds"]} >= {"down", "hang"}


def test_twins_whose_folder_can_not_be_made_say_so(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").touch()
    (port,) = free_ports(1)
    for folder in (tmp_path / "hub.yaml", tmp_path / "hub.yaml" / "twins"):
        ran = tideover("twins", "--only", "crm", "--port-base", port, "--folder", folder)
        assert ran.code == 6
        assert "name another folder with --folder" in ran.err


def test_demo_that_can_not_be_laid_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".tideover").touch()
    monkeypatch.chdir(tmp_path)
    ran = tideover("demo")
    assert ran.code == 6
    assert "can't be laid in" in ran.err


class _Stranger(BaseHTTPRequestHandler):
    """An HTTP server that knows nothing of twins."""

    status, content = 200, b"{}"

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "content"), [(200, b"{}"), (200, b"<html>"), (404, b"no"), (404, b"[]"), (200, b"1")]
)
def test_control_of_twins_that_is_another_server_says_so(status: int, content: bytes) -> None:
    handler = type("Handler", (_Stranger,), {"status": status, "content": content})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        for command in ("status",), ("ledger", "erp"):
            ran = tideover("twins", *command, "--control", f"http://127.0.0.1:{server.server_port}")
            assert ran.code == 6
            assert "is no control server of twins" in ran.err
        server.shutdown()
