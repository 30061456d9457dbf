"""What the presets' look-ups take for proof that a record is missing."""

from __future__ import annotations

from importlib.resources import files

import pytest
import yaml

from tideover.connectors.http.expressions import FAULT, find, is_true
from tideover.connectors.http.telling import tells

PRESETS = files("tideover.connectors") / "presets"
FOUND = sorted(
    {
        operation["lookup"]["found"]
        for name in ("carrier-a", "carrier-b", "erp")
        for operation in yaml.safe_load((PRESETS / f"twin-{name}.yaml").read_text())["rest"]["operations"].values()
    }
)


@pytest.mark.parametrize("found", FOUND)
def test_error_body_under_200_does_not_say_that_a_record_is_missing(found: str) -> None:
    for body in ({}, {"errors": [{"message": "try later"}]}, {"items": None, "shipments": None}):
        assert find(found, body) is FAULT
    empty, full = ({"items": listed, "shipments": listed} for listed in ([], [{"id": 1}]))
    assert not is_true(find(found, empty))
    assert is_true(find(found, full))
    assert [tells(found, body) for body in ({}, {"items": None, "shipments": None}, empty, full)] == [
        None,
        None,
        False,
        True,
    ]
