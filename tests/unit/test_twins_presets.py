from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest
import yaml
from pydantic import TypeAdapter

from tideover.config.rest import Limits, Rest, Timeouts
from tideover.config.units import parse_duration
from tideover.model import Resolve
from tideover.twins import NAMES

OPERATIONS = {
    "crm": set[str](),
    "erp": {"create-order", "create-customer", "create-invoice"},
    "marketing": {"upsert-member"},
    "support": {"upsert-ticket"},
    "carrier-a": {"create-shipment"},
    "carrier-b": {"create-shipment"},
}


def preset(name: str) -> dict[str, Any]:
    text = (files("tideover.connectors") / "presets" / f"twin-{name}.yaml").read_text(encoding="utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@pytest.mark.parametrize("name", NAMES)
def test_preset_of_every_twin_is_valid(name: str) -> None:
    content = preset(name)
    rest = Rest.model_validate(content.pop("rest"))
    assert set(rest.operations) == OPERATIONS[name]
    assert rest.probe is not None
    Timeouts.model_validate(content.pop("timeouts"))
    Limits.model_validate(content.pop("limits", {}))
    TypeAdapter(Resolve).validate_python(content.pop("resolve", "none"))
    parse_duration(content.pop("key_horizon", "1s"))
    assert not content


def test_preset_of_the_source_lists_each_object_by_cursor_and_change() -> None:
    streams = Rest.model_validate(preset("crm")["rest"]).streams
    assert set(streams) == {"orders", "contacts", "tickets"}
    for stream in streams.values():
        assert stream.pagination.type == "cursor"
        assert stream.incremental is not None
        assert stream.incremental.field == "updatedAt"


@pytest.mark.parametrize("name", ["erp", "carrier-a", "carrier-b"])
def test_preset_of_a_target_that_is_no_upsert_can_look_up(name: str) -> None:
    operations = Rest.model_validate(preset(name)["rest"]).operations
    assert all(operation.lookup is not None for operation in operations.values())
