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
    limits: {response: 10MB, rate: 200/1m}
    rest:
      streams: {s: {path: /s, pagination: {type: cursor, next: next}}}
      operations: {o: {path: /o}}
  erp: {block: a-b/d, rest: {operations: {o: {path: /o}}}}
groups:
  g:
    providers:
      - crm
      - {system: erp, when: a, mapping: {fields: {a: b}}}
    live_share: 2%
    failback: {dwell: 60s, canary: 3, ramp: 0s}
routes:
  r:
    source: {system: crm, stream: s}
    target: {system: crm, operation: o}
    key: id
    schedule: {every: 5m}
    retention: 30d
    priority: 2
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


def test_reference_when_a_model_stands_twice_names_both_places() -> None:
    text = reference_markdown()
    assert text.count("## `routes.<name>.mapping`") == 1
    assert "Also at `groups.<name>.providers[].mapping`." in text
    assert "list of name or [mappings](#groupsnameproviders), at least 2" in text


def test_schema_when_generated_completes_a_provider_as_name_and_as_mapping() -> None:
    schema = json_schema()
    name, mapping = schema["$defs"]["Group"]["properties"]["providers"]["items"]["anyOf"]
    assert name["type"] == "string"
    assert list(schema["$defs"][mapping["$ref"].rpartition("/")[2]]["properties"]) == ["system", "when", "mapping"]


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
        ("- crm", "- {system: crm}", True),
        ("- crm", "- Crm_1", False),
        ("- crm", "- {when: a}", False),
        ("- crm", "- {system: crm, wen: a}", False),
        ("- crm", "- 5", False),
        ("2%", "50%", True),
        ("2%", "0.25%", True),
        ("2%", "51%", False),
        ("2%", "2", False),
        ("canary: 3", "canary: 0", False),
        ("200/1m", "5/s", True),
        ("200/1m", "200", False),
        ("200/1m", "0/m", False),
        ("priority: 2", "priority: rank", True),
        ("priority: 2", "priority: 6", False),
        ("priority: 2", "priority: [2]", False),
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
