"""`docs/failures.md` says what tests show: each row has its tests, on both databases, each numbered test its row."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "failures.md"
COUNT = 68
BOTH, SQLITE, POSTGRESQL, NEITHER = "both", "SQLite", "PostgreSQL", "no database"
NOT_DUE = "not due"
ROW = re.compile(r"^\| (\d+) \|(.+)\|([^|]*)\|$", re.MULTILINE)
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`(?: \((SQLite|PostgreSQL|no database)\))?")
MENTIONED = re.compile(r"(?<![\w/])test_\w*[^\W_](?!\.py|\w)")  # not a file, nor the `test_f14_` of many
NUMBERED = re.compile(r"test_((?:f\d+_)+)")


@dataclass(frozen=True)
class Listed:
    """A test as the page names it."""

    file: str
    name: str
    kind: str


@dataclass(frozen=True)
class Row:
    number: int
    told: str
    last: str

    @property
    def tests(self) -> list[Listed]:
        return [Listed(file, name, kind or BOTH) for file, name, kind in NAMED.findall(self.last)]

    @property
    def is_due(self) -> bool:
        return not self.last.strip().startswith(NOT_DUE)


@cache
def rows() -> list[Row]:
    return [Row(int(number), told, last) for number, told, last in ROW.findall(PAGE.read_text())]


Function = ast.FunctionDef | ast.AsyncFunctionDef


@cache
def functions(file: Path) -> dict[str, Function]:
    """The functions of a module, by name."""
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module([], [])
    return {node.name: node for node in tree.body if isinstance(node, Function)}


def arguments(function: Function) -> list[str]:
    return [argument.arg for argument in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def fixtures_of(file: Path, name: str) -> set[str]:
    """Every fixture that a test asks for, directly or through another."""
    folders = [folder for folder in file.parents if folder.is_relative_to(TESTS)]
    places = [file, *(folder / "conftest.py" for folder in folders), TESTS / "databases.py"]
    found: set[str] = set()
    ahead = [(name, 0)]
    while ahead:
        wanted, first = ahead.pop()
        for place in places[first:]:
            if wanted in functions(place):
                new = [one for one in arguments(functions(place)[wanted]) if one not in found]
                found.update(new)
                ahead += [(one, 0) for one in new]
                break
    return found


def kind_of(test: Listed) -> str:
    """The databases on which a test runs, by its fixtures; of a named kind also by its name."""
    fixtures = fixtures_of(TESTS / test.file, test.name)
    if "database_url" in fixtures:
        return BOTH
    is_postgresql = {"postgres", "server", "postgres_bench"} & fixtures or "postgresql" in test.name
    return POSTGRESQL if is_postgresql and "prefect" not in test.name else test.kind


def numbered_tests() -> Iterator[tuple[int, str, str]]:
    """Number, file and name of each test with a number in its name; one with several comes for each."""
    for file in sorted(TESTS.rglob("test_*.py")):
        for name in functions(file):
            if found := NUMBERED.match(name):
                for number in re.findall(r"\d+", found.group(1)):
                    yield int(number), file.relative_to(TESTS).as_posix(), name


def test_page_has_each_row_once_and_in_order() -> None:
    assert [row.number for row in rows()] == list(range(1, COUNT + 1))
    assert all(cell.strip() for row in rows() for cell in row.told.split("|"))


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"f{row.number}")
def test_row_names_tests_that_are_there_and_run_on_both_databases(row: Row) -> None:
    for test in row.tests:
        assert test.name in functions(TESTS / test.file), f"there is no {test.file}::{test.name}"
        assert f"f{row.number}_" in test.name, f"{test.name} does not bear the row's number"
        assert kind_of(test) == test.kind, f"{test.name} runs on {kind_of(test)}, the page says {test.kind}"
    kinds = {test.kind for test in row.tests}
    if row.is_due:
        assert BOTH in kinds or {SQLITE, POSTGRESQL} <= kinds or kinds == {NEITHER}
    else:
        assert kinds == set()


def test_every_numbered_test_is_on_the_page_in_each_of_its_rows() -> None:
    listed = {(row.number, test.file, test.name) for row in rows() for test in row.tests}
    assert set(numbered_tests()) - listed == set()


def test_every_test_that_a_page_names_is_there() -> None:
    there = {name for file in TESTS.rglob("test_*.py") for name in functions(file)}
    pages = [TESTS.parent / "README.md", *sorted((TESTS.parent / "docs").rglob("*.md"))]
    missing = {str(page): set(MENTIONED.findall(page.read_text())) - there for page in pages}
    assert {page: names for page, names in missing.items() if names} == {}
