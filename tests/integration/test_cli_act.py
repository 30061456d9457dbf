"""The commands that act on a hub: parked, replay, breaker, migrate."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.clihubs import CliHub, hangs, make_hub, order, rejects
from tideover.cli.replaying import told
from tideover.hub.replay import Replayed


@pytest.fixture
def hub(tmp_path: Path) -> CliHub:
    """Two orders that the ERP rejected and that hold their lanes, and one that could not be mapped."""
    made = make_hub(tmp_path)
    made.happen([order("A-1"), order("B-1"), order("B-2"), order("C-1", None)], rejects("B-1", "B-2"))
    made.happen([order("B-1", 20)])
    return made


def _ids(hub: CliHub, *arguments: str) -> dict[str, str]:
    return {p["key"]: p["record"] for p in hub.json("parked", *arguments)["parked"]}


# --- parked -----------------------------------------------------------------------------------------------------


def test_parked_lists_what_needs_a_person_without_payloads(hub: CliHub) -> None:
    ran = hub.run("parked")
    assert ran.code == 0
    assert "INVALID_TOTAL" in ran.out
    assert "required fields are missing: total" in ran.out
    assert '"number"' not in ran.out
    assert sum(record in ran.out for record in _ids(hub).values()) == 3


def test_parked_of_a_selection_lists_only_that(hub: CliHub) -> None:
    assert set(_ids(hub, "--code", "INVALID_TOTAL")) == {"B-1", "B-2"}
    assert set(_ids(hub, "--key", "C-1")) == {"C-1"}
    assert set(_ids(hub, "--route", "orders")) == {"B-1", "B-2", "C-1"}


def test_parked_beyond_the_limit_says_that_there_is_more(hub: CliHub) -> None:
    assert hub.json("parked", "--limit", "2")["is_complete"] is False
    assert hub.json("parked", "--limit", "3")["is_complete"] is True
    assert "there are more" in hub.run("parked", "--limit", "1").err


def test_parked_of_an_unknown_route_is_refused(hub: CliHub) -> None:
    assert hub.run("parked", "--route", "nowhere").code == 6


def test_parked_when_nothing_is_says_so(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    hub.json("migrate")
    assert "nothing is parked" in hub.run("parked").out
    assert hub.json("parked") == {"parked": [], "is_complete": True}


def test_parked_record_shows_its_payload_only_when_asked(hub: CliHub) -> None:
    record = _ids(hub)["B-1"]
    assert "payload" not in hub.json("parked", "show", record)
    assert hub.json("parked", "show", record, "--payload")["payload"] == {"number": "B-1", "total": 10}
    assert '"total"' not in hub.run("parked", "show", record).out
    assert '"total": 10' in hub.run("parked", "show", record, "--payload").out


def test_parked_record_that_holds_its_lane_says_what_to_do(hub: CliHub) -> None:
    record = _ids(hub)["B-1"]
    ran = hub.run("parked", "show", record)
    assert "waits for it" in ran.out
    assert f"tideover replay {record}" in ran.out


def test_parked_record_that_is_not_there_is_refused(hub: CliHub) -> None:
    ran = hub.run("parked", "show", "0" * 32)
    assert ran.code == 6
    assert "no open parked record has the id" in ran.err


def test_release_lets_the_lane_go_on_and_keeps_the_books(hub: CliHub) -> None:
    record = _ids(hub)["B-1"]
    assert hub.json("parked", "release", record, "--yes") == {"released": 1}
    hub.happen([])
    assert [r["state"] for r in hub.json("trace", "B-1")["records"]] == ["parked (released)", "delivered"]
    assert hub.json("audit")["ok"] is True
    assert hub.run("parked", "release", record, "--yes").code == 6


def test_release_without_a_terminal_wants_a_yes(hub: CliHub) -> None:
    ran = hub.run("parked", "release", _ids(hub)["B-1"])
    assert ran.code == 6
    assert "--yes" in ran.err
    assert len(_ids(hub)) == 3


# --- replay -----------------------------------------------------------------------------------------------------


def test_replay_tells_what_waits_apart_from_what_had_nothing_to_send() -> None:
    assert told(Replayed(3, unchanged=50)) == "3 records wait to be delivered again, 50 unchanged"
    assert told(Replayed(1, left_out=2, superseded=1)) == (
        "1 record waits to be delivered again, 2 left out by the mapping, 1 superseded by newer versions"
    )


def test_replay_of_records_sends_them_again(hub: CliHub) -> None:
    ids = _ids(hub)
    assert hub.json("replay", ids["B-1"], ids["B-2"], "--yes") == Replayed(2).counts
    hub.happen([])
    assert [r["state"] for r in hub.json("trace", "B-1")["records"]] == ["delivered", "delivered"]


def test_replay_by_code_leaves_the_others(hub: CliHub) -> None:
    ran = hub.run("replay", "--route", "orders", "--code", "INVALID_TOTAL", "--yes")
    assert (ran.code, set(_ids(hub))) == (0, {"C-1"})
    assert "2 records wait to be delivered again" in ran.out


def test_replay_of_all_tells_what_is_still_broken(hub: CliHub) -> None:
    ran = hub.run("replay", "--all", "--yes")
    assert ran.code == 0
    assert "1 record can still not be mapped" in ran.err
    assert set(_ids(hub)) == {"C-1"}


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "say what to replay"),
        (["--all", "--route", "orders"], "leave it out"),
        (["--code", "NO_SUCH", "--yes"], "nothing that fits is parked"),
        (["--route", "nowhere", "--yes"], "the hub has orders"),
        (["f" * 32, "--yes"], "no open parked record"),
        (["--all"], "--yes"),
        (["--payload", "x.json"], "exactly one"),
    ],
)
def test_replay_that_makes_no_sense_is_refused(hub: CliHub, arguments: list[str], why: str) -> None:
    ran = hub.run("replay", *arguments)
    assert ran.code == 6
    assert why in ran.err
    assert len(_ids(hub)) == 3


def test_replay_with_a_payload_puts_a_correction_in_its_place(hub: CliHub, tmp_path: Path) -> None:
    record = _ids(hub)["B-2"]
    corrected = tmp_path / "corrected.json"
    corrected.write_text(json.dumps({"number": "B-2", "total": 12}))
    assert hub.json("replay", record, "--payload", corrected)["replayed"] == 1
    hub.happen([])
    assert [(r["state"], r["parent"]) for r in hub.json("trace", "B-2")["records"]][-1] == ("delivered", record)
    assert f"a correction of {record}" in hub.run("trace", "B-2").out


@pytest.mark.parametrize(("text", "why"), [("{nope", "is not JSON: line 1, column 2"), ("[1]", "holds no JSON object")])
def test_replay_with_a_bad_payload_is_refused_without_quoting_it(
    hub: CliHub, tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "bad.json").write_text(text)
    ran = hub.run("replay", _ids(hub)["B-2"], "--payload", tmp_path / "bad.json")
    assert ran.code == 6
    assert why in ran.err
    assert "nope" not in ran.err


def test_replay_with_a_payload_file_that_is_not_there_is_refused(hub: CliHub, tmp_path: Path) -> None:
    ran = hub.run("replay", _ids(hub)["B-2"], "--payload", tmp_path / "none.json")
    assert ran.code == 6
    assert "can't be read" in ran.err


# --- breaker ----------------------------------------------------------------------------------------------------


def test_breaker_forced_open_keeps_what_comes(hub: CliHub) -> None:
    told = hub.json("breaker", "erp", "open", "--why", "upgrade until four")
    assert told == {
        "system": "erp",
        "breaker": "open",
        "is_forced": True,
        "reason": "operator",
        "detail": "upgrade until four",
        "waiting": 1,
    }
    hub.happen([order("D-1")])
    ran = hub.run("status")
    assert "open (forced)" in ran.out
    assert "operator: upgrade until four" in ran.out
    assert "tideover breaker erp auto" in ran.out
    assert hub.json("trace", "D-1")["records"][0]["state"] == "waiting"


def test_breaker_handed_back_lets_records_through_at_once(hub: CliHub) -> None:
    hub.happen([order("D-1")], hangs)
    hub.run("breaker", "erp", "close", "--why", "it is well")
    assert hub.json("status")["systems"][1]["is_forced"] is True
    told = hub.json("breaker", "erp", "auto", "--why", "over")
    assert (told["breaker"], told["is_forced"]) == ("closed", False)
    hub.happen([])
    assert hub.json("trace", "D-1")["records"][0]["state"] == "delivered"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["nowhere", "open", "--why", "x"], 6),
        (["erp", "open", "--why", " "], 6),
        (["erp", "open"], 2),
        (["erp", "ajar", "--why", "x"], 2),
    ],
)
def test_breaker_that_makes_no_sense_changes_nothing(hub: CliHub, arguments: list[str], code: int) -> None:
    assert hub.run("breaker", *arguments).code == code
    assert all(s["breaker"] == "closed" and not s["is_forced"] for s in hub.json("status")["systems"])


# --- migrate ----------------------------------------------------------------------------------------------------


def test_migrate_of_an_empty_database_makes_the_schema_once(tmp_path: Path) -> None:
    hub = make_hub(tmp_path)
    first, again = hub.json("migrate"), hub.json("migrate")
    assert (first["before"], first["is_changed"]) == (None, True)
    assert (again["before"], again["is_changed"]) == (first["after"], False)
    assert "up to date" in hub.run("migrate").out


def test_migrate_of_a_file_that_is_no_database_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "tideover.db").write_text("this is a letter, and no database at all" * 50)
    ran = make_hub(tmp_path).run("migrate")
    assert ran.code == 3
    assert "the staging database can't be used" in ran.err


def test_error_with_debug_shows_where_it_arose(hub: CliHub) -> None:
    assert "Traceback" not in hub.run("trace", "Z").err
    assert "Traceback" in hub.run("trace", "Z", "--debug").err


def test_defect_is_one_line_without_the_text_of_the_exception(hub: CliHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from tideover.hub import overview

    def broken(*_: object, **__: object) -> None:
        raise KeyError("jane@example.com")

    monkeypatch.setattr(overview, "audit", broken)
    ran = hub.run("audit")
    assert ran.code == 1
    assert "a defect in tideover: KeyError at test_cli_act.py" in ran.err
    assert "jane" not in ran.err


@pytest.mark.parametrize(
    ("payload", "code", "said"),
    [
        (b"\x01\x01k0123456789ab", 7, "is not what was stored"),  # it seems sealed, but can't have been
        (b"\x01\x01k" + bytes(28), 6, "encrypted with key 'k'"),
    ],
)
def test_hub_that_was_altered_by_hand_is_noticed_by_a_deep_audit(
    tmp_path: Path, payload: bytes, code: int, said: str
) -> None:
    hub = make_hub(tmp_path)
    hub.happen([order("B-1")], rejects("B-1"))
    with sqlite3.connect(tmp_path / "tideover.db") as db:
        db.execute("update parked set payload = ?", (payload,))
    db.close()
    ran = hub.run("audit", "--deep")
    assert ran.code == code
    assert said in ran.out + ran.err


# --- what is no text, or has no end -----------------------------------------------------------------------------


def test_payload_without_an_end_is_refused(hub: CliHub) -> None:
    ran = hub.run("replay", _ids(hub)["B-1"], "--payload", "/dev/zero")
    assert ran.code == 6
    assert "is longer than 64 MiB" in ran.err


@pytest.mark.parametrize(
    "command",
    [
        ("trace", "\udcff"),
        ("parked", "--key", "\udcff"),
        ("replay", "a", "\udcff", "--yes"),
        ("breaker", "erp", "open", "--why", "\udcff"),
    ],
    ids=lambda command: command[0],
)
def test_argument_that_is_no_text_is_refused(hub: CliHub, command: tuple[str, ...]) -> None:
    ran = hub.run(*command)
    assert ran.code == 2
    assert "holds bytes that are no text" in ran.err
