"""What an answer tells about a record: yes, no, or nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_http_classify import JSON
from tideover.connectors.http.telling import tells

YES, NO, NOTHING = True, False, None


@pytest.mark.parametrize(
    ("expression", "value", "told"),
    [
        ("total", {"total": 1}, YES),
        ("total", {"total": 0}, NO),
        ("total", {"total": 0.0}, NO),
        ("total", {}, NOTHING),
        ("total", {"total": None}, NO),
        ("total", {"total": False}, NO),
        ("total", {"total": ""}, NO),
        ("total", {"total": []}, NO),
        ("total", {"total": {}}, NO),
        ("total", [], NOTHING),
        ("total", None, NOTHING),
        ("total > `0`", {"total": 0}, NO),
        ("total > `0`", {"total": 2}, YES),
        ("total > `0`", {}, NOTHING),
        ("total > `0`", {"total": None}, NOTHING),
        ("total == `null`", {"total": None}, YES),
        ("length(x)", {"x": {"type": "expref", "children": [{"type": "literal", "value": 1}]}}, YES),
        ("status == 'found'", {"status": "lost"}, NO),
        ("status == 'found'", {"error": "x"}, NOTHING),
        ("total != `0`", {}, NOTHING),
        ("data.order", {"data": {"order": None}}, NO),
        ("data.order", {"data": None, "errors": [1]}, NOTHING),
        ("data.order", {"data": {}}, NOTHING),
        ("items[0]", {"items": []}, NO),
        ("items[0].id", {"items": []}, NO),
        ("items[0].id", {"items": [{}]}, NOTHING),
        ("items[0].id", {"items": None}, NOTHING),
        ("items[-1].id", {"items": [{"id": 3}]}, YES),
        ("items[?ok] | [0].id", {"items": [{"ok": False}]}, NO),
        ("items[?ok] | [0].id", {"items": [{"ok": True, "id": 4}]}, YES),
        ("items[?ok]", {}, NOTHING),
        ("items[?ok]", {"items": {}}, NOTHING),
        ("items[*].id", {"items": [{"id": 1}]}, YES),
        ("items[]", {"items": [[]]}, NO),
        ("by_id.*", {"by_id": {}}, NO),
        ("by_id.*", {"by_id": []}, NOTHING),
        ("length(items)", {"items": []}, NO),
        ("length(items) > `0`", {"items": None}, NOTHING),
        ("length(items)", {}, NOTHING),
        ("items || results", {"results": []}, NO),
        ("items || results", {"items": []}, NO),
        ("items || results", {"error": 1}, NOTHING),
        ("items || results", {"items": [], "results": [1]}, YES),
        ("id && !deleted", {"id": 1, "deleted": False}, YES),
        ("id && !deleted", {"id": 1, "deleted": True}, NO),
        ("id && !deleted", {"id": 1}, NOTHING),
        ("!error", {}, NOTHING),
        ("not_null(a, b)", {"b": 1}, YES),
        ("not_null(a, b)", {"b": None}, NO),
        ("not_null(a, b)", {}, NOTHING),
        ("to_array(items)", {}, NOTHING),
        ("[id, state]", {}, NOTHING),
        ("{a: id}", {"id": 1}, YES),
        ("@", [], NO),
        ("@", [{}], YES),
        ("@", {}, NOTHING),
        ("@", {"error": "x"}, NOTHING),
        ("length(@) > `0`", {}, NOTHING),
        ("length(@) > `0`", [1], YES),
        ("@.id", {"id": 1}, YES),
        ("[0]", [], NO),
        ("[0]", {}, NOTHING),
        ("sort_by(items, &at)[0]", {"items": []}, NO),
        (None, {"id": 1}, NOTHING),
    ],
)
def test_tells_of_an_answer_what_it_says_and_nothing_of_what_it_does_not(
    expression: str | None, value: object, told: bool | None
) -> None:
    assert tells(expression, value) is told


@given(
    st.sampled_from(["id", "ok == 'x'", "length(errors)", "errors[?code].id | [0]", "!x", "id && x", "errors[0].id.*"]),
    JSON,
)
def test_tells_never_raises_and_says_nothing_of_an_answer_without_what_is_asked(expression: str, value: object) -> None:
    told = tells(expression, value)
    if not isinstance(value, dict) or not {"id", "ok", "errors", "x"} & value.keys():
        assert told is None
