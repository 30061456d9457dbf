"""The commands that look, on a real hub: status, audit, trace. Each for people and for machines."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import pytest

from tests.clihubs import CliHub, hangs, make_hub, order, rejects
from tideover.errors import HubUnavailable
from tideover.hub import overview
from tideover.model import Rejected


@pytest.fixture
def hub(tmp_path: Path) -> CliHub:
    return make_hub(tmp_path)


@pytest.fixture
def troubled(hub: CliHub) -> CliHub:
    """Three orders went through, one was rejected and holds its lane, then the ERP hung on two more."""
    hub.happen([order("A-1"), order("A-2"), order("A-3"), order("B-1")], rejects("B-1"))
    hub.happen([order("B-1", 20), order("A-4"), order("A-5")], hangs)
    return hub


# --- status -----------------------------------------------------------------------------------------------------


def test_status_of_a_new_hub_says_that_all_is_well(hub: CliHub) -> None:
    hub.json("migrate")
    ran = hub.run("status")
    assert ran.code == 0
    assert "every system is up; 0 records wait, 0 parked" in ran.out
    assert "erp" in ran.out


def test_status_in_an_outage_says_what_is_down_and_what_waits(troubled: CliHub) -> None:
    ran = troubled.run("status")
    assert "erp is down; 3 records wait, 1 parked" in ran.out
    assert "hung: no answer within 15 s" in ran.out
    assert "tideover parked --route orders" in ran.out


def test_status_as_json_has_every_figure(troubled: CliHub) -> None:
    view = troubled.json("status")
    assert list(view) == ["hub", "at", "systems", "groups", "routes", "forecasts", "outages"]
    erp = next(s for s in view["systems"] if s["system"] == "erp")
    assert (erp["breaker"], erp["reason"], erp["is_forced"]) == ("open", "hung", False)
    assert erp["since_s"] >= 0
    assert erp["next_change_s"] > 0
    (route,) = view["routes"]
    counts = {name: route[name] for name in ("accepted", "delivered", "waiting", "parked", "held_lanes")}
    assert counts == {"accepted": 7, "delivered": 3, "waiting": 3, "parked": 1, "held_lanes": 1}
    assert (route["rto_target_s"], route["rpo_target_s"]) == (3600.0, 300.0)
    (outage,) = view["outages"]
    assert (outage["system"], outage["restored"], outage["down_s"], outage["is_over"]) == ("erp", None, None, False)
    assert datetime.fromisoformat(outage["opened"]).utcoffset() is not None


def test_status_says_when_what_waits_will_be_delivered(troubled: CliHub) -> None:
    assert "erp: not moving: erp is down, next try " in troubled.run("status").out
    (forecast,) = troubled.json("status")["forecasts"]
    assert {"target": "erp", "course": "not moving", "to_go": 3, "bound": "down"}.items() <= forecast.items()
    assert forecast["caught_up"] is None
    assert forecast["text"].startswith("not moving: erp is down, next try ")


def test_status_when_nothing_waits_forecasts_nothing(hub: CliHub) -> None:
    hub.happen([order("A-1")])
    assert "nothing waits" not in hub.run("status").out
    (forecast,) = hub.json("status")["forecasts"]
    assert (forecast["course"], forecast["to_go"], forecast["text"]) == ("idle", 0, "nothing waits")


def test_status_when_piped_has_no_escapes_and_whole_lines(troubled: CliHub) -> None:
    ran = troubled.run("status")
    assert "\x1b" not in ran.out
    row = next(line for line in ran.out.splitlines() if line.startswith("orders"))
    assert row.split()[:4] == ["orders", "erp", "7", "3"]


def test_status_watched_goes_on_until_it_is_interrupted(troubled: CliHub) -> None:
    command = [sys.executable, "-m", "tideover.cli", "--hub", str(troubled.file), "status", "-w", "--interval", "0.2"]
    process = subprocess.Popen(
        [*command, "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(3)]
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130
    assert all(line.startswith('{"hub": "acme"') for line in lines)
    assert "Traceback" not in err


def test_status_watched_while_the_database_is_away_goes_on(hub: CliHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.json("migrate")
    answers: list[BaseException] = [HubUnavailable("it went away"), HubUnavailable("it went away"), KeyboardInterrupt()]

    async def away(*_: object, **__: object) -> None:
        raise answers.pop(0)

    monkeypatch.setattr(overview, "overview", away)
    ran = hub.run("status", "--watch", "--interval", "0.2")
    assert ran.code == 130
    assert ran.err.count("it went away") == 2


# --- audit ------------------------------------------------------------------------------------------------------


def test_audit_when_nothing_is_lost_ends_well(troubled: CliHub) -> None:
    ran = troubled.run("audit")
    assert ran.code == 0
    assert "the books balance: nothing was lost" in ran.out
    assert "total" in ran.out


def test_audit_as_json_shows_the_equation(troubled: CliHub) -> None:
    found = troubled.json("audit", "--deep")
    assert found["ok"] is True
    assert found["total"] == {
        "accepted": 7,
        "delivered": 3,
        "parked": 1,
        "superseded": 0,
        "waiting": 3,
        "difference": 0,
    }
    assert found["payloads"] == {"readable": 1, "unreadable": []}


def test_audit_when_a_record_is_gone_ends_with_7(troubled: CliHub) -> None:
    with sqlite3.connect(troubled.file.parent / "tideover.db") as db:
        db.execute("delete from record where key = 'A-4'")
    db.close()
    ran = troubled.run("audit")
    assert ran.code == 7
    assert "the books do not balance" in ran.out
    assert "fault: orders: 1 waiting records differ" in ran.out
    assert troubled.run("audit", "--json").json["ok"] is False


# --- trace ------------------------------------------------------------------------------------------------------


def test_trace_of_a_delivered_key_tells_when_and_under_which_reference(troubled: CliHub) -> None:
    ran = troubled.run("trace", "A-1")
    assert ran.code == 0
    assert "A-1 on orders, version 1: delivered" in ran.out
    assert "reference SO-A-1" in ran.out


def test_trace_of_a_parked_key_tells_each_version(troubled: CliHub) -> None:
    found = troubled.json("trace", "B-1", "--route", "orders")
    assert [(r["version"], r["state"]) for r in found["records"]] == [(1, "parked"), (2, "waiting")]
    (attempt,) = found["records"][0]["attempts"]
    assert (attempt["kind"], attempt["outcome"], attempt["code"]) == ("send", "rejected", "INVALID_TOTAL")
    assert [p["record"] for p in found["parked"]] == [found["records"][0]["record"]]


def test_trace_by_the_id_of_a_record_finds_it(troubled: CliHub) -> None:
    record = troubled.json("trace", "A-1")["records"][0]["record"]
    assert [r["key"] for r in troubled.json("trace", record)["records"]] == ["A-1"]


def test_trace_of_what_was_parked_at_intake_finds_it(hub: CliHub) -> None:
    hub.happen([order("C-1", None)])
    ran = hub.run("trace", "C-1")
    assert ran.code == 0
    assert "C-1 on orders: parked at intake" in ran.out
    assert "required fields are missing: total" in ran.out


def test_trace_of_an_unknown_key_is_refused_and_says_why(troubled: CliHub) -> None:
    ran = troubled.run("trace", "Z-9")
    assert (ran.code, ran.out) == (6, "")
    assert "nothing is known of 'Z-9'" in ran.err
    error = troubled.run("trace", "Z-9", "--json").json["error"]
    assert (error["kind"], error["exit_code"]) == ("Refused", 6)


def test_trace_on_an_unknown_route_names_those_there_are(troubled: CliHub) -> None:
    ran = troubled.run("trace", "A-1", "--route", "nowhere")
    assert ran.code == 6
    assert "the hub has orders" in ran.err


def test_trace_of_what_a_vendor_wrote_can_not_drive_the_terminal(hub: CliHub) -> None:
    hub.happen([order("E-1")], lambda _: Rejected("BAD", "\x1b[2Jgone [red]x[/red]"))
    ran = hub.run("trace", "E-1")
    assert "\x1b" not in ran.out
    assert "\\x1b[2Jgone [red]x[/red]" in ran.out


# --- without Prefect, and without a database --------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["audit"], ["trace", "A-1"], ["check"], ["parked"], ["failover"], ["reconciliation"], ["--help"]],
)
def test_looking_never_imports_prefect(troubled: CliHub, arguments: list[str]) -> None:
    script = (
        "import sys\n"
        "from tideover.cli.app import app\n"
        "code = 0\n"
        "try: app(sys.argv[1:])\n"
        "except SystemExit as end: code = end.code or 0\n"
        "assert 'prefect' not in sys.modules and 'fastapi' not in sys.modules\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-c", script, "--hub", str(troubled.file), *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("command", ["status", "audit", "parked", "failover", "reconciliation", "migrate"])
def test_a_database_that_refuses_ends_with_3_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    hub = make_hub(tmp_path, staging={"env": "NO_SUCH_DATABASE"})
    monkeypatch.setitem(os.environ, "NO_SUCH_DATABASE", "postgresql://someone:hidden@127.0.0.1:1/hub")
    began = time.monotonic()
    ran = hub.run(command)
    assert ran.code == 3
    assert time.monotonic() - began < 10
    assert "the staging database can't be used" in ran.err
    assert "hidden" not in ran.err


def test_a_database_that_is_not_named_ends_with_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_DATABASE", raising=False)
    ran = make_hub(tmp_path, staging={"env": "NO_SUCH_DATABASE"}).run("status")
    assert ran.code == 3
    assert "NO_SUCH_DATABASE" in ran.err
