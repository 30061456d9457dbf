"""Where there is no staging database, commands that look or act say so: an empty new one would prove anything."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from tests.clihubs import CliHub, make_hub, tideover

RECORD = "0" * 32
LOOKING = (
    ("status",),
    ("audit",),
    ("audit", "--deep"),
    ("parked",),
    ("parked", "show", RECORD),
    ("parked", "release", RECORD, "--yes"),
    ("trace", "A-1"),
    ("replay", "--all", "--yes"),
    ("breaker", "erp", "open", "--why", "it is broken"),
    ("failover",),
    ("reconciliation",),
)


@pytest.fixture
def hub(tmp_path: Path) -> CliHub:
    return make_hub(tmp_path, staging={"sqlite": "not/there/tideover.db"})


@pytest.mark.parametrize("command", LOOKING, ids=" ".join)
def test_command_without_a_staging_database_says_so_and_makes_none(hub: CliHub, command: tuple[str, ...]) -> None:
    ran = hub.run(*command)
    assert (ran.code, ran.out) == (3, "")
    assert f"there is no staging database at {hub.file.parent / 'not/there/tideover.db'}" in ran.err
    assert "nothing has run yet" in ran.err
    assert "tideover migrate" in ran.err
    assert not (hub.file.parent / "not").exists()


def test_missing_database_of_a_variable_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = make_hub(tmp_path, staging={"env": "TIDEOVER_STAGING_URL"})
    monkeypatch.setenv("TIDEOVER_STAGING_URL", f"sqlite:///{tmp_path}/not/there.db")
    ran = hub.run("audit")
    assert ran.code == 3
    assert "there is no staging database at" in ran.err
    assert not (tmp_path / "not").exists()


def test_audit_of_an_empty_file_is_no_proof(hub: CliHub) -> None:
    database = hub.file.parent / "not/there/tideover.db"
    database.parent.mkdir(parents=True)
    database.touch()
    assert hub.run("audit").code == 3
    assert database.stat().st_size == 0


def test_audit_of_somebody_elses_database_is_no_proof_and_adds_nothing_to_it(hub: CliHub) -> None:
    database = hub.file.parent / "not/there/tideover.db"
    database.parent.mkdir(parents=True)
    with sqlite3.connect(database) as other:
        other.execute("create table theirs (id integer)")
    other.close()
    ran = hub.run("audit")
    assert ran.code == 3
    assert "has no schema of tideover's" in ran.err
    with sqlite3.connect(database) as other:
        assert other.execute("select name from sqlite_master").fetchall() == [("theirs",)]
    other.close()


def test_folder_in_the_databases_place_is_no_defect(hub: CliHub) -> None:
    (hub.file.parent / "not/there/tideover.db").mkdir(parents=True)
    ran = hub.run("status")
    assert ran.code == 3
    assert "is a folder" in ran.err


def test_migrate_makes_the_database_that_the_others_look_at(hub: CliHub) -> None:
    assert hub.json("migrate")["before"] is None
    assert hub.json("audit")["ok"] is True


@pytest.mark.parametrize("command", ["status", "migrate"])
def test_database_under_a_file_is_refused_with_its_place(tmp_path: Path, command: str) -> None:
    (tmp_path / "file.py").touch()
    hub = make_hub(tmp_path, staging={"sqlite": "file.py/x.db"})
    ran = tideover("--hub", hub.file, command)
    assert ran.code == 3, ran.err
    assert ("file.py" if command == "status" else "`staging.sqlite` of hub.yaml") in ran.err
    assert "defect" not in ran.err


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("postgresql://u:hush@127.0.0.1:99999/x", "port 99999"),
        ("postgresql://u:hush@127.0.0.1:port/x", "can't be read"),
        ("mysql://u:hush@127.0.0.1/x", "can't be mysql"),
        ("hush", "can't be read"),
        ("sqlite://", "must be a file"),
    ],
)
@pytest.mark.parametrize("command", ["status", "migrate"])
def test_bad_url_of_the_database_ends_with_3_and_names_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, why: str, command: str
) -> None:
    hub = make_hub(tmp_path, staging={"env": "TIDEOVER_STAGING_URL"})
    monkeypatch.setenv("TIDEOVER_STAGING_URL", url)
    ran = hub.run(command)
    assert ran.code == 3, ran.err
    assert why in ran.err
    assert "TIDEOVER_STAGING_URL" in ran.err
    assert "hush" not in ran.err
