"""A hub.yaml that something happened to, through the command that people run: sound, or problems with their places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.clihubs import tideover
from tests.fuzz.budget import budget

SAMPLE = (Path(__file__).parents[2] / "deployments" / "sample" / "hub.yaml").read_text(encoding="utf-8")
TOKENS = re.findall(r"\n *|[\w./-]+|[^\w\s]|[^\S\n]+", SAMPLE)
STRAY = st.sampled_from(
    ["\n", "\t", ":", "- ", "{", "}", "[", "&a ", "*a", "!!python/object:x", "---\n", "null", "yes", "0x10", "1e999",
     "9" * 400, "'", '"', "\x00", "\ufeff", "\u2028", "key: ", "?", "|", ">", "%", "@", "é" * 200]
)  # fmt: skip
PLACE = st.integers(0, len(TOKENS) - 1)
DAMAGE = st.one_of(
    st.tuples(st.just("drop"), PLACE, st.integers(1, 12)),
    st.tuples(st.just("repeat"), PLACE, st.integers(1, 12)),
    st.tuples(st.just("swap"), PLACE, PLACE),
    st.tuples(st.just("insert"), PLACE, STRAY),
    st.tuples(st.just("replace"), PLACE, STRAY),
)


def damaged(damages: list[tuple[str, int, int | str]]) -> str:
    """The sample hub after some accidents."""
    tokens = list(TOKENS)
    for kind, place, what in damages:
        at = min(place, len(tokens) - 1)
        if kind == "drop" and isinstance(what, int):
            del tokens[at : at + what]
        elif kind == "repeat" and isinstance(what, int):
            tokens[at:at] = tokens[at : at + what]
        elif kind == "swap" and isinstance(what, int):
            other = min(what, len(tokens) - 1)
            tokens[at], tokens[other] = tokens[other], tokens[at]
        else:
            tokens[at : at + (kind == "replace")] = [str(what)]
        tokens = tokens or [""]
    return "".join(tokens)


@budget(120)
@given(st.lists(DAMAGE, min_size=1, max_size=3))
def test_check_of_a_damaged_hub_says_where_and_what_and_never_breaks(
    tmp_path_factory: pytest.TempPathFactory, damages: list[tuple[str, int, int | str]]
) -> None:
    file = tmp_path_factory.getbasetemp() / "hub.yaml"
    file.write_text(damaged(damages), encoding="utf-8")
    ran = tideover("check", "--json", "--hub", file)
    assert ran.code in (0, 2)
    problems = ran.json["problems"]
    assert bool(problems) == (ran.code == 2)
    lines = file.read_text(encoding="utf-8").count("\n") + 1
    for problem in problems:
        assert problem["what"]
        assert 0 < problem["line"] <= lines + 1
