"""What is written about the file by machine says what the loader does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from tideover.config.loader import check_hub
from tideover.config.outline import all_models
from tideover.config.presets import preset_names, shipped_presets
from tideover.config.schema import REFERENCE, json_schema, main, reference_markdown
from tideover.config.strict_yaml import parse_yaml

ROOT = Path(__file__).resolve().parents[2]
HUB = """\
name: acme
staging: {sqlite: tideover.db}
systems:
  crm:
    block: a-b/c
    limits: {response: 10MB}
    rest:
      streams: {s: {path: /s, pagination: {type: cursor, next: next}}}
      operations: {o: {path: /o}}
routes:
  r:
    source: {system: crm, stream: s}
    target: {system: crm, operation: o}
    key: id
    schedule: {every: 5m}
    retention: 30d
"""


def test_reference_when_generated_is_the_committed_one() -> None:
    committed = (ROOT / REFERENCE).read_text(encoding="utf-8")
    assert committed == reference_markdown(), "run `python -m tideover.config.schema --markdown`"


def test_reference_when_generated_explains_every_key_in_people_s_units() -> None:
    text = reference_markdown()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(model.model_fields) for model in all_models())
    assert not [row for row in rows if row.rstrip().endswith("|  |")]
    assert "`1d`" in text
    assert "86400" not in text


def test_reference_when_it_links_links_to_a_section() -> None:
    text = reference_markdown()
    titles = [line[3:].lower().replace(" ", "-") for line in text.splitlines() if line.startswith("## ")]
    anchors = {"".join(c for c in title if c.isalnum() or c in "_-") for title in titles}
    assert len(anchors) == len(titles)
    assert {part.split(")")[0] for part in text.split("](#")[1:]} <= anchors


def test_schema_when_generated_is_valid_and_described() -> None:
    schema = json_schema()
    Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    for definition in schema["$defs"].values():
        for name, field in definition.get("properties", {}).items():
            assert field.get("description") or "$ref" in field, name


def test_schema_when_defaults_are_written_validates_them() -> None:
    schema = json_schema()
    for definition in [schema, *schema["$defs"].values()]:
        for name, field in definition.get("properties", {}).items():
            if "default" in field:
                alone = {**{k: v for k, v in field.items() if k != "default"}, "$defs": schema["$defs"]}
                assert Draft202012Validator(alone).is_valid(field["default"]), (name, field["default"])


@pytest.mark.parametrize(
    ("old", "new", "is_valid"),
    [
        ("name: acme", "name: acme", True),
        ("every: 5m", "cron: '0 0 * * *', timezone: UTC", True),
        ("every: 5m", "every: 300", False),
        ("every: 5m", "evry: 5m", False),
        ("10MB", "10", False),
        ("type: cursor", "type: curser", False),
        ("key: id", "kee: id", False),
        ("  crm:", "  Crm_1:", False),
    ],
)
def test_schema_when_applied_agrees_with_the_loader(tmp_path: Path, old: str, new: str, is_valid: bool) -> None:
    text = HUB.replace(old, new, 1)
    path = tmp_path / "hub.yaml"
    path.write_text(text, encoding="utf-8")
    assert (check_hub(path).problems == []) is is_valid
    assert Draft202012Validator(json_schema()).is_valid(parse_yaml(text.encode(), "h").value) is is_valid


def test_command_when_run_writes_what_was_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json_schema()
    target = tmp_path / "deep" / "configuration.md"
    assert main(["--markdown", "--output", str(target)]) == 0
    assert target.read_text(encoding="utf-8") == reference_markdown()


@pytest.mark.parametrize("name", preset_names(shipped_presets()))
def test_preset_when_it_ships_is_sound(tmp_path: Path, name: str) -> None:
    path = tmp_path / "hub.yaml"
    path.write_text(HUB.replace("  crm:\n", f"  vendor: {{preset: {name}, block: a-b/c}}\n  crm:\n"), encoding="utf-8")
    assert [str(p) for p in check_hub(path).problems] == []
