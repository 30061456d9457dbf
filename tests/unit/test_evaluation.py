"""Expressions as functions give what JMESPath gives, for all values and all kinds of expression."""

from __future__ import annotations

from typing import Any

import jmespath
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jmespath.exceptions import JMESPathError

from tideover.config.evaluation import evaluator

NAMES = st.sampled_from(["a", "b", "c", '"odd name"'])
LITERALS = st.sampled_from(["'x'", "''", "`0`", "`1`", "`true`", "`false`", "`null`", "`[]`", "`{}`", "`2.5`", "@"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats(-2, 2) | st.sampled_from(["", "x", "y"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "b", "odd name"]), inner),
    max_leaves=8,
)


def _larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, st.sampled_from(["&&", "||", "==", "!=", "|", "<"]), inner)
    return st.one_of(
        st.tuples(NAMES, inner.filter(lambda text: text[0] in 'abc"')).map(".".join),
        inner.map(lambda text: f"!({text})"),
        pairs.map(lambda three: f"({three[0]}) {three[1]} ({three[2]})"),
        inner.map(lambda text: f"[{text}, a]"),
        inner.map(lambda text: f"not_null({text}, 'none')"),
        st.tuples(NAMES, st.integers(-2, 2)).map(lambda two: f"{two[0]}[{two[1]}]"),
    )


EXPRESSIONS = st.recursive(NAMES | LITERALS, _larger, max_leaves=6)


@given(EXPRESSIONS, VALUES)
def test_function_gives_what_jmespath_gives(expression: str, value: Any) -> None:
    try:
        expected: Any = jmespath.search(expression, value)
    except (JMESPathError, TypeError) as error:
        with pytest.raises(type(error)):
            evaluator(expression)(value)
    else:
        found = evaluator(expression)(value)
        assert (type(found), found) == (type(expected), expected)


@pytest.mark.parametrize(
    "expression", ["a.b.c", "!error", "ok || status == 'done'", "a != `null` && b", "errors[0].code"]
)
def test_common_expressions_walk_no_tree(expression: str) -> None:
    assert getattr(evaluator(expression), "__self__", None) is None  # JMESPath's own would be a bound method
