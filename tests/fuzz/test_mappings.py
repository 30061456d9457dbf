"""Any record through any mapping: an object, or a word on what is wrong with it."""

from __future__ import annotations

import copy
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.budget import budget
from tests.unit.test_mapping import mapper
from tideover.errors import ConfigError, TideoverError
from tideover.model import Broken, NewRecord

# Also what no JSON has: a flow of one's own may stage whatever Python holds.
TEXT = st.text(max_size=9) | st.sampled_from(["\ud83d", "a\udc00b", "\x00"])
NAMES = st.sampled_from("abcdxy") | st.sampled_from([7, None, "\ud83d"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)
RECORDS = st.dictionaries(st.sampled_from(["id", "x", "y", "a", "b"]), VALUES, max_size=5)
PIECES = st.sampled_from(
    """
    x; y; a.b; a[0]; a[*].b; a[::-1]; a[::0]; *; @; x || y; x && y; !x; `1`; 't'; [x, y]; {a: x}; length(x);
    to_number(x); to_string(@); keys(@); sort(x); max(x); sum(x); join(',', x); map(&a, x); sort_by(x, &a); merge(@, a);
    abs(x); x[?a > `1`]; not_null(x, y); type(x); reverse(x); nope(x); a[; x | y; values(a) | [0]; to_array(x)[0].a;
    """.replace("\n", " ").split(";")
).map(str.strip)
EXPRESSIONS = PIECES | st.tuples(PIECES, PIECES).map(" | ".join) | st.tuples(PIECES, PIECES).map(" || ".join)


@budget(400)
@given(st.dictionaries(st.sampled_from("nml"), EXPRESSIONS, min_size=1, max_size=3), RECORDS)
def test_record_is_mapped_or_parked_with_a_reason_and_stays_what_it_was(
    tmp_path_factory: pytest.TempPathFactory, fields: dict[str, str], record: dict[str, Any]
) -> None:
    try:
        it = mapper({"fields": fields}, folder=tmp_path_factory.getbasetemp())
    except (ConfigError, TideoverError, ValueError):
        return  # refused before any record is read
    before = copy.deepcopy(record)
    found = it.map(record)
    assert record == before
    match found:
        case NewRecord(key=key, payload=payload):
            assert isinstance(orjson.loads(payload), dict)
            assert key.encode()
        case Broken(payload=source, detail=detail):
            assert isinstance(orjson.loads(source), dict)
            assert detail
            assert "Traceback" not in detail
