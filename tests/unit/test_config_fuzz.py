"""Whatever the file holds, the loader gives a hub or problems with places; nothing else ever escapes."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tideover.config.loader import check_document
from tideover.config.outline import all_models
from tideover.config.strict_yaml import parse_yaml
from tideover.errors import ConfigError

HUB: dict[str, Any] = {
    "name": "acme",
    "staging": {"sqlite": "tideover.db"},
    "deliver": {"every": "10m"},
    "systems": {
        "crm": {
            "block": "a-b/c",
            "preset": "none",
            "resolve": "lookup",
            "breaker": {"open_for": "5s", "max_open": "5m"},
            "timeouts": {"total": "60s"},
            "limits": {"record": "1MB", "rate": "200/1m"},
            "rest": {
                "headers": {"Accept": "x"},
                "streams": {"s": {"path": "/s", "pagination": {"type": "cursor", "next": "next"}}},
                "operations": {
                    "o": {"path": "/o/{key}", "lookup": {"path": "/l/{id}"}, "bulk": {"path": "/b", "size": 2}}
                },
                "errors": [{"status": 409, "outcome": "accepted"}],
            },
        },
        "erp": {"block": "a-b/d"},
    },
    "groups": {
        "g": {
            "providers": ["crm", {"system": "erp", "when": "a", "mapping": {"fields": {"a": "b"}}}],
            "live_share": "2%",
            "failback": {"dwell": "60s", "canary": 3},
        }
    },
    "routes": {
        "r": {
            "source": {"system": "crm", "stream": "s"},
            "target": {"group": "g", "operation": "o"},
            "key": "id",
            "mapping": {"fields": {"a": "b"}, "required": ["a"]},
            "schedule": {"cron": "0 0 * * *", "timezone": "UTC"},
            "priority": 2,
            "on_unknown": "reroute",
            "max_hold": "10m",
            "retry": {"base": "1s", "cap": "5m"},
        }
    },
}
KEYS = sorted(
    {key for model in all_models() for key in model.model_fields} | {"[key]", "crm", "every", "Every", "none", "x y"}
)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["", "crm", "5m", "NO", "{{ x }}", "lookup", "cursor", "a-b/c", "9" * 400 + "d", "* * * * *", "(" * 400]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(KEYS), inner, max_size=4)),
    max_leaves=8,
)


def places(value: object, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every path of a value but the root."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, part in items for found in [(*path, key), *places(part, (*path, key))]]


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, Any]:
    """A hub of which a few values were replaced, a few removed, and a few keys added."""
    hub = deepcopy(HUB)
    for _ in range(draw(st.integers(1, 4))):
        *above, last = draw(st.sampled_from(places(hub)))
        parent: Any = hub
        for step in above:
            parent = parent[step]
        act = draw(st.sampled_from(["replace", "remove", "add"]))
        if act == "remove" and len(places(hub)) > 2:
            del parent[last]
        elif act == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(KEYS))] = draw(values)
        else:
            parent[last] = draw(values)
    return hub


def judge(value: object) -> None:
    """Write a value as YAML, whose flow style is JSON, one entry a line, and load it."""
    text = json.dumps(value, indent=1)
    try:
        document = parse_yaml(text.encode(), "hub.yaml")
    except ConfigError:
        return  # `test_config_yaml` judges what the reader refuses
    report = check_document(document)
    assert (report.hub is None) == bool(report.problems)
    lines = text.count("\n") + 1
    for problem in [*report.problems, *report.warnings]:
        assert 0 < problem.line <= lines or problem.file != "hub.yaml"
        assert problem.column > 0
        assert problem.what
        assert "Input should" not in str(problem)
        assert "\n" not in str(problem)


@given(damaged())
def test_hub_when_damaged_gives_problems_with_places(hub: dict[str, Any]) -> None:
    judge(hub)


@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=6))
def test_mapping_when_random_gives_problems_with_places(value: dict[str, Any]) -> None:
    judge(value)
