"""Mapping functions: imported from beside the file, and judged without trusting them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tideover.config.functions import NoFunction, check_functions, load_function
from tideover.config.loader import load_hub

MODULE = """\
NUMBER = 5
def to_invoice(record): return record
def needs_two(a, b): return a
def needs_none(): return None
async def later(record): return record
class Mapper:
    def __init__(self, record): pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with mapping modules, which are forgotten afterwards."""
    (tmp_path / "mappings_a.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "mappings_raises.py").write_text("raise RuntimeError('hunter2')\n", encoding="utf-8")
    (tmp_path / "mappings_exits.py").write_text("raise SystemExit(1)\n", encoding="utf-8")
    (tmp_path / "mappings_syntax.py").write_text("\ndef (\n", encoding="utf-8")
    (tmp_path / "mappings_imports.py").write_text("import nothing_of_this_name\n", encoding="utf-8")
    for name in ("mappings_a", "mappings_raises", "mappings_exits", "mappings_syntax", "mappings_imports"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def test_function_when_sound_is_given_and_the_import_path_restored(folder: Path) -> None:
    before = list(sys.path)
    assert load_function("mappings_a:to_invoice", folder)({"a": 1}) == {"a": 1}
    assert sys.path == before


def test_function_whose_module_prints_leaves_standard_output_alone(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "mappings_prints.py").write_text("print('hello')\ndef f(record): return record\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "mappings_prints", raising=False)
    load_function("mappings_prints:f", folder)
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    ("dotted", "words"),
    [
        ("mappings_a:to_invoce", "did you mean `to_invoice`?"), ("mappings_a:zzz", "has no `zzz`"),
        ("mappings_a:NUMBER", "is no function"), ("mappings_a:needs_two", "exactly one record"),
        ("mappings_a:needs_none", "exactly one record"), ("mappings_a:later", "is async"),
        ("mappings_b:f", "there is no module `mappings_b`"), ("mappings_b.c:f", "there is no module `mappings_b.c`"),
        ("mappings_raises:f", "RuntimeError in mappings_raises.py, line 1"), ("mappings_exits:f", "SystemExit"),
        ("mappings_syntax:f", "SyntaxError in line 2"), ("mappings_imports:f", "`nothing_of_this_name`, which is not"),
    ],
)  # fmt: skip
def test_function_when_unusable_says_why_and_shows_no_message(folder: Path, dotted: str, words: str) -> None:
    with pytest.raises(NoFunction) as caught:
        load_function(dotted, folder)
    assert words in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_functions_when_checked_are_named_with_their_lines(folder: Path) -> None:
    hub_file = folder / "hub.yaml"
    route = "    source: {system: crm, stream: s}\n    target: {system: crm, operation: o}\n    key: id\n"
    hub_file.write_text(
        "name: a\nsystems:\n"
        "  crm: {block: a-b/c, rest: {streams: {s: {path: /s}}, operations: {o: {path: /o}}}}\n"
        "routes:\n"
        f"  one:\n{route}    mapping: {{function: mappings_a:nope}}\n"
        f"  two:\n{route}    mapping: {{function: mappings_a:to_invoice}}\n"
        f"  three:\n{route}",
        encoding="utf-8",
    )
    (found,) = check_functions(load_hub(hub_file), hub_file)
    assert (found.line, found.column, found.key) == (9, 25, "routes.one.mapping.function")


def test_check_when_a_provider_s_function_is_missing_names_its_line(folder: Path) -> None:
    hub_file = folder / "hub.yaml"
    hub_file.write_text(
        "name: acme\n"
        "systems:\n"
        "  crm: {block: a-b/c, rest: {streams: {s: {path: /s}}, operations: {o: {path: /o}}}}\n"
        "  erp: {block: a-b/d, rest: {operations: {o: {path: /o}}}}\n"
        "groups:\n"
        "  both:\n"
        "    providers:\n"
        "      - {system: crm, mapping: {function: mappings_a:to_invoice}}\n"
        "      - {system: erp, mapping: {function: mappings_a:nope}}\n"
        "routes:\n"
        "  one: {source: {system: crm, stream: s}, target: {group: both, operation: o}, key: id}\n",
        encoding="utf-8",
    )
    (found,) = check_functions(load_hub(hub_file), hub_file)
    assert (found.line, found.key) == (9, "groups.both.providers[1].mapping.function")
