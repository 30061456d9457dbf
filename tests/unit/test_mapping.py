"""From a source record to what the target takes: fields, functions and keys; and what user code can't do to the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tideover.config.models import Route
from tideover.errors import Refused
from tideover.hub.mapping import MAX_KEY, Mapper
from tideover.model import Broken, NewRecord

CANARY = "canary-55f1"

FUNCTIONS = f'''
import json
from tideover.errors import MappingError


def renamed(record):
    return {{"number": record["no"]}}


def left_out(record):
    return None


def quotes_the_record(record):
    raise ValueError(f"cannot do {{record}}")


def quotes_the_record_as_we_would(record):
    raise MappingError(f"cannot do {{record}}")


def asks_for_a_missing_field(record):
    return record["{CANARY}"]


def calls_a_library(record):
    return json.loads(record["{CANARY[:6]}"])


def ends_the_world(record):
    raise RecursionError(str(record))


def a_list(record):
    return [record]


def a_text(record):
    return "text"


def unspeakable(record):
    return {{"text": chr(0xD800)}}


def numbers_its_fields(record):
    return {{1: "a", 2: "b"}}


def spoils_the_record(record):
    record[1] = record
    raise ValueError("spoilt")


def spoils_the_text(record):
    record["text"] = chr(0xD800)
    raise ValueError("spoilt")


def takes_the_record_apart(record):
    return {{"number": record.pop("no"), "other": record["missing"]}}


def grows_the_record(record):
    record["text"] = "x" * 10_000
    return record


def takes_its_level(record):
    return {{"level": record.pop("level")}}


def vast(record):
    return {{"n": 2**70, "x": float("nan")}}


async def later(record):
    return record


def two(record, other):
    return record
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "user_mappings.py").write_text(FUNCTIONS)
    return tmp_path


def mapper(
    mapping: dict[str, Any] | None = None,
    *,
    key: str = "id",
    priority: int | str = 3,
    max_bytes: int = 1_000,
    folder: Path,
) -> Mapper:
    route = {
        "source": {"system": "crm", "stream": "orders"},
        "target": {"system": "erp", "operation": "take"},
        "key": key,
        "priority": priority,
        "mapping": mapping or {},
    }
    return Mapper(Route.model_validate_json(orjson.dumps(route)), max_bytes, folder)


def by_function(name: str, folder: Path) -> Mapper:
    return mapper({"function": f"user_mappings:{name}"}, folder=folder)


def broken(result: object) -> Broken:
    assert isinstance(result, Broken)
    return result


def test_map_without_a_mapping_passes_the_record_as_it_is(folder: Path) -> None:
    assert mapper(folder=folder).map({"id": "a", "x": 1}) == NewRecord("a", b'{"id":"a","x":1}')


@pytest.mark.parametrize(
    ("name", "kind", "code"),
    [
        ("quotes_the_record", "ValueError", 'raise ValueError(f"cannot'),
        ("asks_for_a_missing_field", "KeyError", f'return record["{CANARY}"]'),
        ("calls_a_library", "JSONDecodeError", "return json.loads("),
        ("ends_the_world", "RecursionError", "raise RecursionError("),
    ],
)
def test_map_when_the_function_raises_says_where_and_quotes_nothing(
    folder: Path, name: str, kind: str, code: str
) -> None:
    line = next(n for n, text in enumerate((folder / "user_mappings.py").read_text().splitlines(), 1) if code in text)
    found = broken(by_function(name, folder).map({"id": "a", "canary": CANARY}))
    assert found.detail == f"the mapping raised {kind} in user_mappings.py, line {line}"


def test_map_when_a_function_without_lines_raises_names_its_kind_only(folder: Path) -> None:
    found = broken(mapper({"function": "operator:index"}, folder=folder).map({"id": "a"}))
    assert found.detail == "the mapping raised TypeError"


def test_map_of_the_same_content_in_another_order_gives_the_same_bytes(folder: Path) -> None:
    it = mapper(folder=folder)
    assert it.map({"id": "a", "x": {"b": 1, "a": 2}}) == it.map({"x": {"a": 2, "b": 1}, "id": "a"})


@pytest.mark.parametrize(
    ("priority", "record", "expected"),
    [
        (1, {}, 1),
        ("level", {"level": 2}, 2),
        ("level", {"level": 0}, 1),
        ("level", {"level": 99.5}, 5),
        ("service == 'express' && `1` || `4`", {"service": "express"}, 1),
        ("service == 'express' && `1` || `4`", {"service": "freight"}, 4),
        ("level", {}, 3),
        ("level", {"level": "urgent"}, 3),
        ("level", {"level": True}, 3),
        ("abs(level)", {"level": "urgent"}, 3),
        ("a[?w > `1`] && `1`", {"a": [{"w": "x"}]}, 3),
        ("to_number(level)", {"level": "nan"}, 3),
    ],
)
def test_map_when_the_route_has_a_priority_gives_it_to_the_record(
    folder: Path, priority: int | str, record: dict[str, Any], expected: int
) -> None:
    found = mapper(priority=priority, folder=folder).map({"id": "a", **record})
    assert isinstance(found, NewRecord)
    assert found.priority == expected


def test_map_when_the_mapping_changes_the_record_takes_the_priority_from_the_source(folder: Path) -> None:
    it = mapper({"function": "user_mappings:takes_its_level"}, priority="level", folder=folder)
    found = it.map({"id": "a", "level": 1})
    assert isinstance(found, NewRecord)
    assert found.priority == 1


def test_map_by_fields_keeps_only_what_is_named(folder: Path) -> None:
    it = mapper({"fields": {"number": "no", "city": "address.city", "none": "nothing"}}, folder=folder)
    found = it.map({"id": "a", "no": 7, "address": {"city": "Bergen"}})
    assert found == NewRecord("a", b'{"city":"Bergen","none":null,"number":7}')


def test_map_when_required_fields_are_missing_names_them_and_keeps_the_source(folder: Path) -> None:
    it = mapper({"fields": {"a": "a", "b": "b", "c": "c"}, "required": ["a", "b"]}, folder=folder)
    found = broken(it.map({"id": "x", "c": CANARY, "b": None}))
    assert (found.key, found.code, found.detail) == ("x", "mapping", "required fields are missing: a, b")
    assert orjson.loads(found.payload) == {"id": "x", "c": CANARY, "b": None}


@pytest.mark.parametrize("value", [0, False, "", []])
def test_map_when_a_required_field_is_empty_but_there_takes_it(folder: Path, value: object) -> None:
    it = mapper({"fields": {"a": "a"}, "required": ["a"]}, folder=folder)
    assert isinstance(it.map({"id": "x", "a": value}), NewRecord)


def test_map_by_function_takes_what_it_returns(folder: Path) -> None:
    assert by_function("renamed", folder).map({"id": "a", "no": 7}) == NewRecord("a", b'{"number":7}')


def test_map_by_function_that_returns_none_leaves_the_record_out(folder: Path) -> None:
    assert by_function("left_out", folder).map({"id": "a"}) is None


@pytest.mark.parametrize("name", ["a_list", "a_text"])
def test_map_by_function_that_returns_no_object_is_broken(folder: Path, name: str) -> None:
    found = broken(by_function(name, folder).map({"id": "a"}))
    assert (found.key, found.code) == ("a", "mapping")


def test_map_by_function_that_returns_numbers_as_field_names_makes_them_text(folder: Path) -> None:
    found = by_function("numbers_its_fields", folder).map({"id": "a"})
    assert isinstance(found, NewRecord)
    assert orjson.loads(found.payload) == {"1": "a", "2": "b"}


@pytest.mark.parametrize(
    "name",
    [
        "quotes_the_record",
        "quotes_the_record_as_we_would",
        "asks_for_a_missing_field",
        "ends_the_world",
        "unspeakable",
        "vast",
    ],
)
def test_map_by_function_that_raises_never_tells_what_the_record_holds(folder: Path, name: str) -> None:
    record = {"id": "a", "secret": CANARY}
    found = broken(by_function(name, folder).map(record))
    assert (found.key, found.code) == ("a", "mapping")
    assert CANARY not in found.detail
    assert orjson.loads(found.payload) == record


@pytest.mark.parametrize("name", ["spoils_the_record", "spoils_the_text", "takes_the_record_apart", "grows_the_record"])
def test_map_by_function_that_changes_the_record_and_fails_parks_the_source_as_it_was(folder: Path, name: str) -> None:
    found = broken(by_function(name, folder).map({"id": "a", "no": 7}))
    assert found.key == "a"
    assert orjson.loads(found.payload) == {"id": "a", "no": 7}


@pytest.mark.parametrize("expression", ["length(x)", "abs(x)", "sort(x)"])
def test_map_when_an_expression_fails_never_tells_what_the_record_holds(folder: Path, expression: str) -> None:
    it = mapper({"fields": {"a": expression}}, folder=folder)
    found = broken(it.map({"id": "k", "x": CANARY if expression != "length(x)" else None, "y": CANARY}))
    assert found.detail.startswith("the mapping raised JMESPath")
    assert CANARY not in found.detail


@pytest.mark.parametrize("name", ["nowhere", "later", "two"])
def test_mapper_when_its_function_can_not_be_used_refuses(folder: Path, name: str) -> None:
    with pytest.raises(Refused, match=name):
        by_function(name, folder)


@pytest.mark.parametrize(
    ("value", "key"), [("a", "a"), (7, "7"), (-1, "-1"), (0, "0"), (" ", " "), ("x" * MAX_KEY, "x" * MAX_KEY)]
)
def test_key_that_is_text_or_a_whole_number_is_taken_as_text(folder: Path, value: object, key: str) -> None:
    found = mapper(folder=folder).map({"id": value})
    assert isinstance(found, NewRecord)
    assert found.key == key


@pytest.mark.parametrize(
    "value",
    [None, "", True, False, 1.5, ["a"], {"a": 1}, "a\x00b", "x" * (MAX_KEY + 1), 10**MAX_KEY],
    ids=["null", "empty", "true", "false", "float", "list", "object", "nul", "long", "long number"],
)
def test_key_of_any_other_kind_is_broken_and_tells_no_content(folder: Path, value: object) -> None:
    found = broken(mapper(folder=folder).map({"id": value, "secret": CANARY}))
    assert (found.key, found.code) == ("", "mapping")
    assert "business key" in found.detail
    assert CANARY not in found.detail


def test_key_that_is_missing_is_broken(folder: Path) -> None:
    assert broken(mapper(folder=folder).map({"x": 1})).key == ""


def test_map_when_the_payload_is_too_large_says_by_how_much(folder: Path) -> None:
    it = mapper(max_bytes=20, folder=folder)
    record = {"id": "a", "x": "y" * 40}
    found = broken(it.map(record))
    assert (found.key, found.code) == ("a", "too_large")
    assert found.detail == f"it has {len(orjson.dumps(record))} bytes, more than the limit of 20"


def test_map_when_the_payload_has_just_the_limit_takes_it(folder: Path) -> None:
    record = {"id": "a", "x": "ø" * 10}
    size = len(orjson.dumps(record))
    assert isinstance(mapper(max_bytes=size, folder=folder).map(record), NewRecord)
    assert isinstance(mapper(max_bytes=size - 1, folder=folder).map(record), Broken)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=9,
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from(["id", "x", "y"]), _JSON, max_size=3))
def test_map_of_any_record_never_raises_and_keeps_json(tmp_path_factory: pytest.TempPathFactory, record: Any) -> None:
    it = mapper({"fields": {"n": "length(x)", "y": "y"}, "required": ["y"]}, folder=tmp_path_factory.getbasetemp())
    found = it.map(record)
    assert found is not None
    orjson.loads(found.payload)
    assert len(found.key) <= MAX_KEY
    assert "\x00" not in found.key
