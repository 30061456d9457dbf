"""The strict reader: what it takes, what it refuses, and that it always knows the place."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tideover.config.strict_yaml import MAX_BYTES, parse_yaml, read_yaml
from tideover.errors import ConfigError, Problem

ALIAS_BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{new}: &{new} [{','.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


def problems_of(text: str | bytes) -> list[Problem]:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(ConfigError) as caught:
        parse_yaml(raw, "hub.yaml")
    return caught.value.problems


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("true", True), ("false", False), ("null", None), ("", None),
        ("0", 0), ("-12", -12), ("2.5", 2.5), ("1e3", 1000.0), ("9223372036854775807", 2**63 - 1),
        ("NO", "NO"), ("no", "no"), ("on", "on"), ("yes", "yes"), ("y", "y"), ("True", "True"), ("~", "~"),
        ("0x1F", "0x1F"), ("0o17", "0o17"), ("007", "007"), ("1_000", "1_000"), ("+5", "+5"), (".5", ".5"),
        (".inf", ".inf"), (".nan", ".nan"), ("12:30:00", "12:30:00"), ("2024-01-01", "2024-01-01"), ("=", "="),
        ("'true'", "true"), ('"5"', "5"), ("''", ""), ("|\n  a\n  b\n", "a\nb\n"), (">\n  a\n  b\n", "a b\n"),
        ("١٢", "١٢"), ("[1, NO]", [1, "NO"]), ("{b: [c]}", {"b": ["c"]}),
    ],
)  # fmt: skip
def test_f56_scalar_when_read_means_what_it_looks_like(text: str, value: object) -> None:
    found = parse_yaml(f"a: {text}\n".encode(), "hub.yaml").value["a"]
    assert found == value
    assert type(found) is type(value)


def test_keys_when_read_are_text() -> None:
    assert parse_yaml(b"404: a\ntrue: b\n'x y': c\n", "h").value == {"404": "a", "true": "b", "x y": "c"}


def test_document_when_read_knows_every_place() -> None:
    document = parse_yaml("\ufeffa: 1\nb:\n  c: [x,\n    y]\n  d:\n".encode(), "h")
    places = {path: (spot.key, spot.value) for path, spot in document.spots.items()}
    assert places == {
        (): ((1, 1), (1, 1)),
        ("a",): ((1, 1), (1, 4)),
        ("b",): ((2, 1), (3, 3)),
        ("b", "c"): ((3, 3), (3, 6)),
        ("b", "c", 0): ((3, 7), (3, 7)),
        ("b", "c", 1): ((4, 5), (4, 5)),
        ("b", "d"): ((5, 3), (5, 3)),
    }


REFUSED = [
    ("a: &x 1\n", 1, 4, "is an anchor"),
    ("a: 1\nb: *x\n", 2, 4, "is an alias"),
    ("a: !!python/object/apply:os.system [ls]\n", 1, 4, "is a tag"),
    ("a: !!str 1\n", 1, 4, "is a tag"),
    ("a: ! 1\n", 1, 4, "is a tag"),
    ("<<: {a: 1}\n", 1, 1, "merge key"),
    ("a:\n  b: 1\n  c: 2\n  b: 3\n", 4, 3, "is there twice; the first is in line 2"),
    ("a: 1\n'a': 2\n", 2, 1, "is there twice"),
    ("? [a]\n: 1\n", 1, 3, "list or mapping stands where a key"),
    ("a: {{ x }}\n", 1, 5, "list or mapping stands where a key"),
    ("'': 1\n", 1, 1, "has no key"),
    ("a: [1,\n", 2, 1, "file ends where a value"),
    ("a: [,]\n", 1, 5, "value is missing"),
    (f"{'k' * 201}: 1\n", 1, 1, "longer than 200"),
    ("a: 1\n---\nb: 2\n", 2, 1, "second document"),
    ("%YAML 1.1\n---\na: 1\n", 1, 1, "directive"),
    ("a:\n\tb: 1\n", 2, 1, "tab in the indentation"),
    ("a: \tb\n", 1, 4, "tab outside quotes"),
    ("a: b: c\n", 1, 5, "colon"),
    ("a:\n  b: 1\n c: 2\n", 3, 2, "does not line up"),
    ("a: 'x\nb: 2\n", 1, 4, "quote that is never closed"),
    ("a: [1, 2\nb: 3\n", 1, 4, "bracket that is never closed"),
    ("a: @\n", 1, 4, "`@`"),
    ("a: %x\n", 1, 4, "`%`"),
    ('a: "\\q"\n', 1, 6, "no escape"),
    ('a: "\\ud800"\n', 1, 4, "surrogate"),
    ('a: "\\0"\n', 1, 4, "NUL"),
    ("a: \x01\n", 1, 4, "U+0001"),
    ("a: 99999999999999999999\n", 1, 4, "64 bits"),
    ("a: 9223372036854775808\n", 1, 4, "64 bits"),
    (f"a: {'9' * 5000}\n", 1, 4, "64 bits"),
    ("a: 1e999\n", 1, 4, "64 bits"),
    ("[" * 100_000, 1, 33, "levels deep"),
    ("a: " + "{b: " * 40, 1, 125, "levels deep"),
    ("", 1, 1, "is empty"),
    ("# nothing\n---\n", 1, 1, "is empty"),
    ("- a\n", 1, 1, "is no mapping"),
    ("hello\n", 1, 1, "is no mapping"),
]


@pytest.mark.parametrize(("text", "line", "column", "what"), REFUSED)
def test_f55_f56_document_when_not_allowed_is_refused_there(text: str, line: int, column: int, what: str) -> None:
    found = problems_of(text)[0]
    assert (found.line, found.column) == (line, column)
    assert what in found.what
    assert found.mend


def test_bytes_when_not_utf8_are_refused_at_their_place() -> None:
    (found,) = problems_of(b"a: 1\nb: \xff\n")
    assert (found.line, found.column) == (2, 4)
    assert "byte 0xFF" in found.what
    assert problems_of("a: 1".encode("utf-16"))[0].mend == "save the file as UTF-8"


def test_f55_alias_bomb_when_read_is_refused_at_once() -> None:
    started = time.thread_time()
    found = problems_of(ALIAS_BOMB)
    assert time.thread_time() - started < 2
    assert len(found) == 9 + 8 * 9
    assert all("is an a" in p.what for p in found)


def test_bomb_when_huge_is_given_up_early() -> None:
    started = time.thread_time()
    assert len(problems_of("a: [" + "*x," * 300_000 + "]")) == 100
    assert time.thread_time() - started < 2


def test_document_when_several_things_are_wrong_names_them_all_in_order() -> None:
    found = problems_of("a: &x 1\nb: *x\nc: !t 1\nd: [\n")
    assert [p.line for p in found] == [1, 2, 3, 5]


def test_secret_shaped_tag_when_refused_is_cut_short() -> None:
    assert len(problems_of(f"a: !{'s' * 500} 1\n")[0].what) < 100


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.yaml", "no such file"),
        (".", "is a directory"),
        ("a\0b", "can't be read"),
    ],
)
def test_file_when_unreadable_says_why(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(tmp_path / name)
    assert what in caught.value.problems[0].what or "no such file" in caught.value.problems[0].what
    assert str(tmp_path) in str(caught.value)


def test_file_when_it_is_a_device_is_not_said_to_be_missing() -> None:
    with pytest.raises(ConfigError) as caught:
        read_yaml(Path("/dev/null"))
    assert caught.value.problems[0].what == "is no regular file"


def test_file_when_too_large_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "hub.yaml").write_bytes(b"# " + b"x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        read_yaml(tmp_path / "hub.yaml")


@given(st.binary(max_size=300))
def test_bytes_when_random_give_a_document_or_a_config_error(raw: bytes) -> None:
    _read_or_refuse(raw)


# Pieces of YAML are likelier to reach the corners of a scanner than random characters are.
PIECES = ["a", "b: ", "- ", "? ", ": ", "[", "]", "{", "}", ",", "\n", "\n  ", "\n ", "'", '"', "&x", "*x", "!t ", "| ",
          "> ", "#", "%", "---\n", "...\n", "\t", "\\", "<<: ", "0x1F", "NO", "\x85", "\u2028", "\r", "é", "{{",
          "1e9"]  # fmt: skip


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_yaml_when_random_gives_a_document_or_a_config_error(text: str) -> None:
    _read_or_refuse(text.encode())


def _read_or_refuse(raw: bytes) -> None:
    try:
        spots = parse_yaml(raw, "hub.yaml").spots
        places = [place for spot in spots.values() for place in (spot.key, spot.value)]
    except ConfigError as refusal:
        places = [(problem.line, problem.column) for problem in refusal.problems]
    assert places
    assert all(line > 0 and column > 0 for line, column in places)
