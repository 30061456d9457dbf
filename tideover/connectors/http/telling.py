"""What an expression over an answer tells: yes, no, or nothing at all. Pure.

JMESPath makes null of a field that is not there, and goes on with it: `status == 'found'` is false of `{}`, and of any
error. Here a field that the answer does not have makes the whole expression say nothing, as do a list that is none, and
the answer's object as a whole (`@`), of which an error is one too. An element that is not there, of a list that is, is
a clear no.

| found | tells |
| --- | --- |
| `false`, `null`, `0`, an empty text, list or object | no |
| anything else | yes |
| a field that is not there; a fault, such as `length(null)` | nothing |

Only where the expression begins: within `[?...]` and after `[*]`, JMESPath's own rules hold for each element.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

import jmespath
from jmespath.visitor import TreeInterpreter

from tideover.config.evaluation import is_false
from tideover.connectors.http.expressions import FAULTS, is_zero

Node = Any  # JMESPath's syntax tree: nested dictionaries, whose type is private to its stubs

_ABSENT: Final = object()  # a field that the answer does not have
_NONE: Final = object()  # no element, of a list that the answer does have
_STEPS = ("subexpression", "index_expression", "pipe")
_LISTS = ("projection", "filter_projection", "flatten")


def tells(expression: str | None, value: object) -> bool | None:
    """What the expression tells of a decoded JSON value; `None`: nothing. Never raises for what the value holds."""
    if expression is None:
        return None
    try:
        found = _told(_parsed(expression), value)
    except FAULTS:
        return None
    return None if found is _ABSENT else _is_yes(found)


def _is_yes(found: object) -> bool:
    return not (found is _NONE or is_false(found) or is_zero(found))


@lru_cache(maxsize=1024)
def _parsed(expression: str) -> Node:
    tree: Any = jmespath.compile(expression).parsed
    return tree


def _told(node: Node, value: Any) -> Any:
    kind = node["type"]
    if kind in _STEPS:
        return _steps(node["children"], value)
    if kind in _LISTS:
        return _over(node, value, list)
    if kind == "value_projection":
        return _over(node, value, dict)
    if value is _NONE and kind != "literal":
        return _NONE
    return _TOLD[kind](node, value)


def _steps(children: list[Node], value: Any) -> Any:
    for index, child in enumerate(children):
        is_whole = child["type"] in ("current", "identity") and index + 1 < len(children)
        value = value if is_whole else _told(child, value)
        if value is _ABSENT:
            return _ABSENT
    return value


def _over(node: Node, value: Any, wanted: type) -> Any:
    """Each element of a list or an object, by JMESPath's own rules."""
    base = _steps([node["children"][0], _HERE], value)
    if base is _ABSENT or base is _NONE:
        return base
    if not isinstance(base, wanted):
        return _ABSENT
    return _plain({**node, "children": [_literal(base), *node["children"][1:]]}, value)


def _field(node: Node, value: Any) -> Any:
    return value[node["value"]] if isinstance(value, dict) and node["value"] in value else _ABSENT


def _current(_: Node, value: Any) -> Any:
    return _ABSENT if isinstance(value, dict) else value


def _index(node: Node, value: Any) -> Any:
    if not isinstance(value, list):
        return _ABSENT
    return value[node["value"]] if -len(value) <= node["value"] < len(value) else _NONE


def _slice(node: Node, value: Any) -> Any:
    return _plain(node, value) if isinstance(value, list) else _ABSENT


def _not(node: Node, value: Any) -> Any:
    found = _told(node["children"][0], value)
    return _ABSENT if found is _ABSENT else not _is_yes(found)


def _or(node: Node, value: Any) -> Any:
    left = _told(node["children"][0], value)
    if left is not _ABSENT and _is_yes(left):
        return left
    right = _told(node["children"][1], value)
    return left if right is _ABSENT else right


def _and(node: Node, value: Any) -> Any:
    left = _told(node["children"][0], value)
    return left if left is _ABSENT or not _is_yes(left) else _told(node["children"][1], value)


def _with_children(node: Node, value: Any) -> Any:
    """A comparison, a function or a selection, of which every part has to be there."""
    made: list[Node] = []
    for child in node["children"]:
        found = None if child["type"] == "expref" else _told(child, value)
        if found is _ABSENT:
            return _ABSENT
        made.append(child if child["type"] == "expref" else _literal(found))
    return _plain({**node, "children": made}, value)


def _comparison(node: Node, value: Any) -> Any:
    found = _with_children(node, value)
    return _ABSENT if found is None else found  # what can't be compared, such as `null > 0`


def _one_of(node: Node, value: Any) -> Any:
    """`not_null`: the first of its arguments that is not null."""
    found = [_told(child, value) for child in node["children"]]
    there = [each for each in found if each is not _ABSENT]
    return next((each for each in there if each is not None and each is not _NONE), None if there else _ABSENT)


def _function(node: Node, value: Any) -> Any:
    return _one_of(node, value) if node["value"] == "not_null" else _with_children(node, value)


def _selection(node: Node, value: Any) -> Any:
    """`{a: x, b: y}`: each part is a pair."""
    pairs = node["children"]
    made = _with_children({**node, "type": "multi_select_list", "children": [p["children"][0] for p in pairs]}, value)
    return made if made is _ABSENT else dict(zip((pair["value"] for pair in pairs), made, strict=True))


def _literal(value: Any) -> Node:
    return {"type": "literal", "value": None if value is _NONE else value, "children": []}


def _plain(node: Node, value: Any) -> Any:
    return TreeInterpreter().visit(node, value)


_HERE: Final[dict[str, Any]] = {"type": "here", "children": []}
_TOLD: dict[str, Callable[[Node, Any], Any]] = {
    "field": _field,
    "current": _current,
    "identity": _current,
    "here": lambda _, value: value,
    "index": _index,
    "slice": _slice,
    "literal": lambda node, _: node["value"],
    "not_expression": _not,
    "or_expression": _or,
    "and_expression": _and,
    "comparator": _comparison,
    "function_expression": _function,
    "multi_select_list": _with_children,
    "multi_select_dict": _selection,
}
