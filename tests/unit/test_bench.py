"""The bench tells the truth about what it could not measure: a failure, a target, a peer that is not there."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import __main__ as bench
from bench import beside, chart
from bench.figures import Figures
from bench.places import Place


async def _breaks(_: Place) -> None:
    raise ValueError("the disk is full")


async def _measures(place: Place) -> None:
    place.figures.add("sound", "-", "turns", [1.0, 3.0, 2.0], "turns/s")
    place.figures.ratio("sound", "-", "ours & theirs", 0.5, at_least=0.7)
    place.figures.ratio("sound", "-", "size", 1.1, at_most=1.2)


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    benches = {"broken": bench.Bench(_breaks, 1, 1), "sound": bench.Bench(_measures, 1, 1)}
    monkeypatch.setattr(bench, "BENCHES", benches)
    monkeypatch.setattr(bench, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def test_run_when_one_bench_fails_goes_on_and_ends_with_1(results: Path) -> None:
    assert bench.main(["--quick", "--database", "sqlite"]) == 1
    [written] = results.glob("*.json")
    found = json.loads(written.read_text())
    assert found["failures"] == ["broken: ValueError: the disk is full"]
    assert [figure["value"] for figure in found["figures"]] == [2.0, 0.5, 1.1]
    table = written.with_suffix(".md").read_text()
    assert "FAILED: broken" in table
    assert "1 of 2 targets hold" in table


def test_run_when_a_target_does_not_hold_ends_with_0(results: Path) -> None:
    assert bench.main(["--quick", "--database", "sqlite", "--only", "sound"]) == 0
    [picture] = results.glob("*.svg")
    words = [text.text for text in ElementTree.fromstring(picture.read_text()).iter("{http://www.w3.org/2000/svg}text")]
    assert "ours & theirs" in words
    assert "0.5 x (>= 0.7)" in words


def test_chart_without_figures_is_a_picture() -> None:
    ElementTree.fromstring(chart.svg("nothing", []))


async def test_peers_when_not_installed_are_named_and_not_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(beside, "ENVIRONMENT", tmp_path / "none")
    place = Place(Figures(), True, tmp_path, None, ("postgresql",))
    peer = beside.PEERS[0]
    assert not await beside.is_there(place, peer)
    [figure] = place.figures.rows
    assert (figure.what, figure.value, figure.note) == ("pgqueuer", None, "not installed: make bench installs it")
